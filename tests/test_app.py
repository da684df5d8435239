"""The app without its page: what is played, by whose turn, and what is left on disk."""

import io
import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile as sf
import torch
from conftest import ROOT, notes, tiny_model
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app import guide, links, routes, service, shipped, sound
from app.models import Models
from app.prompts import LONGEST, Prompts
from app.routes import Routes
from app.service import Ask, Busy, Job, Service, ranked
from app.takes import DAY, Take, Takes
from sashimi import checkpoint
from sashimi.clips import generate_files
from sashimi.config import EngineConfig, GenerateConfig, SamplingConfig
from sashimi.engines.base import Engine
from sashimi.errors import UserError

RATE = 16000


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("one", "two")):
        model = tiny_model("s4d", seed)
        model.metadata.metrics["heldout_bpb"] = {"q05": 6.0, "q25": 6.5, "q50": 7.0, "q75": 7.5, "q95": 8.0}
        model.metadata.sampling = SamplingConfig(entropy=7.0 * seed)
        checkpoint.save(folder / f"{name}.safetensors", model, model.metadata)
    extra = tuple(sorted(folder.glob("*.safetensors")))
    return Models(folder / "runs", extra, engine=EngineConfig(threads=1))


@pytest.fixture
def band(models: Models, tmp_path: Path) -> Iterator[Service]:
    found = Service(models, Takes(tmp_path / "takes"))
    yield found
    found.close()


def ask(models: Models, user: str = "me", seconds: float = 1.0, seed: int = 3, **changes: Any) -> Ask:
    return Ask(user, models.known()[0].id, seconds, SamplingConfig(0.9), seed, **changes)


def done(job: Job) -> list[Take]:
    assert job.over.wait(20)
    assert not job.error
    return job.takes


class Slow:
    """An engine that waits for `go` before every block, and notes who is played."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.go, self.seeds = engine, threading.Event(), list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def run(self, state: Any, n: int, sampling: Any, keys: Any) -> Any:
        self.seeds.append(keys[0][0])
        assert self.go.wait(20)
        return self.engine.run(state, n, sampling, keys)


@pytest.fixture
def slow(models: Models, monkeypatch: pytest.MonkeyPatch) -> Slow:
    loaded = models.load(models.known()[0].id)
    engine = Slow(loaded.engine)
    monkeypatch.setattr(loaded, "engine", engine)
    return engine


def until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- what is played -----------------------------------------------------------------------------------


def test_a_take_is_the_clip_that_generate_makes(band: Service, models: Models, tmp_path: Path) -> None:
    played = done(band.play(ask(models, takes=2)))
    config = GenerateConfig(
        temp=0.9, seed=3, checkpoint_path=models.known()[0].path, n_samples=2, l_sample=RATE, save_dir=tmp_path / "out"
    )
    folder = generate_files(config)
    rows = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))["clips"]
    for row in rows:
        whole, rate = sf.read(folder / row["file"], dtype="int16")
        take = played[row["clip"]]
        streamed, _ = sf.read(io.BytesIO(sound.wav(take.tokens(), take.about.codec)), dtype="int16")
        assert rate == RATE
        assert np.array_equal(streamed, whole)
        assert take.about.log_likelihood == row["log_likelihood"]
        assert take.bits().mean() == pytest.approx(row["bits_per_byte"], rel=1e-5)
    assert [take.id for take in ranked(played)] == [played[row["clip"]].id for row in reversed(rows)]


def test_its_settings_file_makes_it_again(band: Service, models: Models, tmp_path: Path) -> None:
    prompt = models.load(models.known()[0].id).codec.encode(notes(0.5, 1)[:8000])
    take = done(band.play(ask(models, prompt=prompt, takes=2)))[1]
    folder = generate_files(GenerateConfig(again=take.folder / "again.json", save_dir=tmp_path / "again"))
    (path,) = folder.glob("*.wav")
    samples, _ = sf.read(path, dtype="int16")
    assert np.array_equal(samples.astype("<i2").tobytes(), sound.pcm(take.tokens(), take.about.codec))
    again = done(band.again(take, "me"))[0]
    assert np.array_equal(again.tokens(), take.tokens())


def test_a_fork_goes_on_from_a_saved_state_as_if_nothing_had_happened(
    band: Service, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = done(band.play(ask(models, seconds=5)))[0]
    saved = {int(path.stem) for path in whole.folder.glob("states/*.safetensors")}
    assert saved == {0, 2 * RATE, 4 * RATE, 5 * RATE}
    heard: list[int] = []
    loaded = models.load(models.known()[0].id)
    prefill = loaded.engine.prefill
    monkeypatch.setattr(loaded.engine, "prefill", lambda t, s: heard.append(t.shape[1]) or prefill(t, s))
    at = 3 * RATE + 16
    fork = done(band.play(ask(models, seconds=1, parent=whole.id, at=at)))[0]
    assert sum(heard) == RATE + 16  # of its own tokens, from the state at 2 s
    assert np.array_equal(fork.tokens(), whole.tokens(0, at + RATE))
    other = done(band.play(ask(models, seconds=1, parent=whole.id, at=at, seed=4)))[0]
    assert np.array_equal(other.tokens(0, at), whole.tokens(0, at))
    assert not np.array_equal(other.tokens(), fork.tokens())
    going_on = done(band.play(ask(models, seconds=1, parent=whole.id)))[0]
    assert np.array_equal(going_on.tokens(0, 5 * RATE), whole.tokens())


def test_another_model_goes_on_from_the_sound(band: Service, models: Models) -> None:
    first = done(band.play(ask(models)))[0]
    other = models.known()[1].id
    take = done(band.play(Ask("me", other, 1.0, SamplingConfig(), 1, parent=first.id)))[0]
    assert take.about.model == other
    assert take.there == 2 * RATE


# --- whose turn it is ---------------------------------------------------------------------------------


def test_users_take_turns_and_see_their_place(models: Models, tmp_path: Path, slow: Slow) -> None:
    band = Service(models, Takes(tmp_path), workers=1)
    first = band.play(ask(models, "a", seed=1))
    until(lambda: slow.seeds)
    jobs = [band.play(ask(models, user, seed=seed)) for user, seed in (("a", 2), ("a", 3), ("b", 4), ("c", 5))]
    assert [band.position(job) for job in jobs] == [2, 3, 0, 1]
    slow.go.set()
    for job in (first, *jobs):
        done(job)
    assert list(dict.fromkeys(slow.seeds)) == [1, 4, 5, 2, 3]
    band.close()


def test_limits_of_one_user_and_of_all(models: Models, tmp_path: Path, slow: Slow) -> None:
    band = Service(models, Takes(tmp_path), workers=2, queue=2, per_user=2)
    jobs = [band.play(ask(models, "a")), band.play(ask(models, "b"))]
    until(lambda: len(slow.seeds) == 2)  # two are played at once
    jobs += [band.play(ask(models, "a")), band.play(ask(models, "c"))]
    with pytest.raises(Busy, match="you have 2 plays"):
        band.play(ask(models, "a"))
    with pytest.raises(Busy, match="the queue is full"):
        band.play(ask(models, "d"))
    assert jobs[2].takes[0].about.status == "waiting"
    band.leave("a")
    assert jobs[2].takes[0].about.status == "stopped"
    slow.go.set()
    for job in jobs:
        done(job)
    assert [job.takes[0].about.status for job in jobs] == ["stopped", "whole", "stopped", "whole"]
    assert len(list(tmp_path.glob("*/take.json"))) == 4  # what was refused has left nothing
    band.close()


def test_what_was_played_stays_when_it_is_stopped(band: Service, models: Models, slow: Slow) -> None:
    slow.go.set()
    job = band.play(ask(models, seconds=60))
    until(lambda: job.takes[0].there)
    band.stop(job)
    take = done(job)[0]
    assert take.about.status == "stopped"
    assert 0 < take.about.played < 60 * RATE
    assert take.total == take.there == len(take.tokens())
    assert take.state_before(take.there) is not None
    assert take.state_before(take.there)[0] == take.there  # type: ignore[index]


def test_what_nobody_waits_for_stops(
    band: Service, models: Models, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = band.play(ask(models, seconds=60))
    until(lambda: slow.seeds)
    monkeypatch.setattr(service, "ABANDONED", 0.0)
    slow.go.set()
    assert done(job)[0].about.status == "stopped"


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"seconds": 61}, "choose from"), ({"takes": 5}, "choose from 1 to 4"), ({"seed": -1}, "the seed -1")],
)
def test_what_cannot_be_asked(models: Models, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ask(models, **changes)


def test_a_failure_is_said_and_the_next_is_played(
    band: Service, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = models.load(models.known()[0].id)
    with monkeypatch.context() as broken:
        broken.setattr(loaded.engine, "run", lambda *args: 1 / 0)
        job = band.play(ask(models))
        assert job.over.wait(20)
    assert "report it" in job.error
    assert job.takes[0].about.status == "failed"
    assert done(band.play(ask(models)))[0].about.status == "whole"


# --- what is left on disk -----------------------------------------------------------------------------


def test_kept_takes_outlive_the_app_and_others_go(band: Service, models: Models, tmp_path: Path) -> None:
    kept, old, new = (done(band.play(ask(models, seed=seed)))[0] for seed in (1, 2, 3))
    kept.change(kept=True, made=time.time() - 90 * DAY)
    kept.rename("  a fine\none ")
    old.change(made=time.time() - 8 * DAY)
    new.change(status="playing")  # as a killed program leaves it
    with (new.folder / "tokens.u8").open("ab") as file:
        file.write(b"x")
    after = Takes(tmp_path / "takes")
    assert [take.about.name for take in after.kept("")] == ["a fine one"]
    assert not after.kept("somebody else")
    assert np.array_equal(after.find(kept.id).tokens(), kept.tokens())
    assert after.find(new.id).about.status == "stopped"
    assert after.find(new.id).about.bits == pytest.approx(new.about.bits, rel=1e-5)
    with pytest.raises(UserError, match="not there any more"):
        after.find(old.id)
    small = Takes(tmp_path / "takes", room=1)
    assert [take.id for take in small.kept("")] == [kept.id]
    assert len(list((tmp_path / "takes").iterdir())) == 1
    with pytest.raises(UserError, match="kept takes fill"):
        small.check_room()


def test_models_are_loaded_once_and_leave_when_memory_is_short(models: Models) -> None:
    one, two = (known.id for known in models.known()[:2])
    assert models.load(one) is models.load(one)
    short = Models(models.runs, models.extra, memory=1, engine=models.engine)
    first = short.load(one)
    short.load(two)
    assert list(short.loaded) == [two]
    assert short.load(one) is not first
    with pytest.raises(UserError, match="not there any more"):
        short.load("../../etc/passwd")


# --- prompts ------------------------------------------------------------------------------------------


def m4a(path: Path, waveform: np.ndarray, rate: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=rate)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(waveform[None].astype(np.float32), format="fltp", layout="mono")
        frame.rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return path


def test_recordings_of_any_kind(tmp_path: Path, models: Models) -> None:
    prompts = Prompts(tmp_path / "prompts", tmp_path / "uploads")
    prompt = prompts.add(m4a(tmp_path / "x.m4a", notes(3, 1), RATE), "x.m4a")
    assert prompt.seconds == pytest.approx(3, abs=0.1)
    known = models.known()[0]
    tokens = prompts.tokens(prompt, 1.0, 2.5, known)
    assert len(tokens) == 24000
    assert Prompts(tmp_path / "prompts", tmp_path / "uploads").find(prompt.id) == prompt
    for start, end, message in ((2.0, 1.0, "choose a section"), (1.0, 1.1, "0.25 s or more"), (5.0, 9.0, "choose")):
        with pytest.raises(UserError, match=message):
            prompts.tokens(prompt, start, end, known)
    for key in ("../x", "", "0" * 24):
        with pytest.raises(UserError, match="not there any more"):
            prompts.find(key)


def test_recordings_that_are_none(tmp_path: Path) -> None:
    prompts = Prompts(tmp_path / "prompts", tmp_path / "uploads")
    (tmp_path / "broken.mp3").write_bytes(b"ID3" + bytes(range(256)) * 40)
    with pytest.raises(UserError, match=r"^broken.mp3 is not a readable recording") as error:
        prompts.add(tmp_path / "broken.mp3", "broken.mp3")
    assert str(tmp_path) not in str(error.value)  # where it lies is nobody's business
    sf.write(tmp_path / "hush.flac", np.zeros(8000), 8000)
    with pytest.raises(UserError, match="is silent"):
        prompts.add(tmp_path / "hush.flac", "hush.flac")
    assert not list((tmp_path / "prompts").iterdir())


def test_only_uploads_are_opened(tmp_path: Path) -> None:
    (tmp_path / "uploads" / "x").mkdir(parents=True)
    sf.write(tmp_path / "mine.wav", notes(1, 1), RATE)
    prompts = Prompts(tmp_path / "prompts", tmp_path / "uploads")
    (tmp_path / "uploads" / "link.wav").symlink_to(tmp_path / "mine.wav")
    for path in ("mine.wav", "uploads/../mine.wav", "uploads/link.wav", "uploads/x", "/etc/passwd"):
        with pytest.raises(UserError, match="not an upload"):
            prompts.bring(str(tmp_path / path))
    shutil.copy(tmp_path / "mine.wav", tmp_path / "uploads" / "x")
    assert prompts.bring(str(tmp_path / "uploads" / "x" / "mine.wav")).seconds == 1


def test_of_a_long_recording_the_beginning(tmp_path: Path) -> None:
    with sf.SoundFile(tmp_path / "long.flac", "w", 8000, 1, format="FLAC") as file:
        file.write(notes(1, 1, rate=8000))
        for _ in range(12):
            file.write(np.zeros(8000 * 60, np.int16))
    prompt = Prompts(tmp_path / "prompts", tmp_path / "uploads").add(tmp_path / "long.flac", "long.flac")
    assert prompt.seconds == LONGEST
    assert "first 10 minutes" in prompt.text


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/x.wav", "http://[::1]/x", "http://192.168.1.1/", "file:///etc/hosts"]
)
def test_links_lead_to_the_public_net_only(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match=r"public internet|can be downloaded"):
        links.download(url, tmp_path, 1000, lambda megabytes: None)


# --- the guide ----------------------------------------------------------------------------------------


def test_bits_are_those_of_the_model(models: Models) -> None:
    loaded = models.load(models.known()[0].id)
    tokens = loaded.codec.encode(notes(6.5, 2))
    bits = guide.bits_over_time(loaded, tokens)
    assert len(bits) == 130
    window = torch.from_numpy(tokens[: 5 * RATE].astype(np.int64))[None]
    with torch.inference_mode():
        logits = loaded.model(torch.nn.functional.pad(window[:, :-1], (1, 0), value=loaded.model.start_token))
    exact = -logits.log_softmax(-1).gather(-1, window[..., None])[0, :, 0].numpy() / np.log(2)
    # The player's dense weights are rounded to bfloat16.
    assert bits[:100] == pytest.approx(exact.reshape(100, -1).mean(axis=1), abs=0.02)
    with pytest.raises(UserError, match="less than a second"):
        guide.bits_over_time(loaded, tokens[:100])


def test_advice(models: Models) -> None:
    known = models.known()[0]  # held out: 6 to 8
    bits = np.full(20 * 20, 7.0, np.float32)
    bits[20 * 4 : 20 * 5] = 12
    bits[20 * 8 : 20 * 15] = 5
    said = guide.advise(bits, known)
    assert said.hardest == (4, 12.0)
    assert said.best == (8, 15, 5)
    assert said.level == "known"
    levels = [guide.judge(mean, known.heldout)[0] for mean in (3.0, 5.0, 7.0, 9.0, 11.0)]
    assert levels == ["easy", "known", "known", "odd", "foreign"]
    assert guide.judge(7.0, {})[0] == "unknown"
    marks = np.full(20 * 20, 7.0, np.float32)
    marks[200:] = 9  # five seconds are above 8 on average once more than half of them are 9
    (mark,) = guide.outside(marks, known.heldout)
    assert mark == (pytest.approx(10, abs=0.1), 20.0, "above")
    assert not guide.outside(marks, {})


# --- routes -------------------------------------------------------------------------------------------


@pytest.fixture
def client(band: Service, tmp_path: Path) -> TestClient:
    app: Any = Starlette(routes=Routes(band, Prompts(tmp_path / "prompts", tmp_path / "uploads")).all())
    app.auth, app.tokens, app.cookie_id = None, {}, "x"
    return TestClient(app)


def test_a_take_over_http(client: TestClient, models: Models, band: Service) -> None:
    values = {"user": "me", "model": models.known()[0].id, "seconds": 2, "seed": 9, "temp": 0.8}
    answer = client.post("/sound/play", json=values)
    assert answer.status_code == 200
    (key,) = answer.json()["takes"]
    streamed = client.get(f"/sound/takes/{key}/play.wav").content  # while it is played
    take = band.takes.find(key)
    done_, rate = sf.read(io.BytesIO(client.get(f"/sound/takes/{key}/file.wav").content), dtype="int16")
    found, _ = sf.read(io.BytesIO(streamed), dtype="int32", always_2d=True)
    assert rate == RATE
    assert len(done_) == 2 * RATE
    assert np.array_equal(found[:, 0] >> 16, done_)
    flac, _ = sf.read(io.BytesIO(client.get(f"/sound/takes/{key}/file.flac").content), dtype="int16")
    assert np.array_equal(flac, done_)
    with av.open(io.BytesIO(client.get(f"/sound/takes/{key}/file.mp3").content)) as mp3:
        assert mp3.streams.audio[0].codec_context.name in ("mp3", "mp3float")
        assert mp3.duration / av.time_base == pytest.approx(2, abs=0.2)
    part = client.get(f"/sound/takes/{key}/play.wav", headers={"Range": "bytes=44-47"})
    assert part.status_code == 206
    assert part.content == done_[:2].astype("<i2").tobytes()
    assert client.get(f"/sound/takes/{key}/play.wav", headers={"Range": "bytes=999999-"}).status_code == 416
    (view,) = client.get(f"/sound/look?take={key}:0").json()
    assert (view["status"], view["played"], view["settings"]["temp"]) == ("whole", 2 * RATE, 0.8)
    assert len(view["pixels"]) == -(-view["columns"] * view["mels"] // 3) * 4
    assert client.post(f"/sound/takes/{key}/keep", json={}).json()["kept"]
    assert client.get("/sound/kept").json() == [key]
    assert client.post(f"/sound/takes/{key}/rename", json={"name": "<b>x</b>"}).json()["name"] == "<b>x</b>"
    assert client.post(f"/sound/takes/{key}/remove", json={}).status_code == 200
    assert not take.folder.exists()


def test_shipped_clips_say_where_they_are_from(client: TestClient) -> None:
    found = shipped.clips()
    assert found
    for i, clip in enumerate(found):
        assert "CC BY-SA 3.0" in clip.provenance
        assert client.get(f"/sound/shipped/{i}").content == clip.path.read_bytes()
    assert client.get(f"/sound/shipped/{len(found)}").status_code == 400


@pytest.mark.parametrize(
    ("chosen", "drawn"), [({}, (1.0, 7.0)), ({"temp": 0.8}, (0.8, 7.0)), ({"entropy": "0", "temp": None}, (1.0, 0.0))]
)
def test_a_take_is_drawn_as_its_model_says_unless_asked(
    client: TestClient, models: Models, chosen: dict[str, Any], drawn: tuple[float, float]
) -> None:
    values = {"user": "me", "model": models.known()[1].id, "seconds": 1, **chosen}
    (take,) = client.post("/sound/play", json=values).json()["takes"]
    (view,) = client.get(f"/sound/look?take={take}:0").json()
    assert (view["settings"]["temp"], view["settings"]["entropy"]) == drawn


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seconds": 999}, "choose from 1 to 60"), ({"seconds": "x"}, "not a number"), ({"temp": -1}, "temp"),
        ({"model": "?"}, "choose another"), ({"top_p": 0}, "top_p"), ({"takes": 9}, "1 to 4"),
        ({"parent": "../.."}, "not there any more"), ({"prompt": {"id": "/etc/passwd"}}, "not there any more"),
        ({"seconds": float("1e400")}, "choose from"), ({"prompt": "x"}, "a prompt"),
    ],
)  # fmt: skip
def test_nonsense_is_answered_with_a_sentence(
    client: TestClient, models: Models, values: dict[str, Any], message: str
) -> None:
    content = json.dumps({"user": "me", "model": models.known()[0].id, **values})
    answer = client.post("/sound/play", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_only_the_page_itself_may_ask(client: TestClient) -> None:
    assert client.post("/sound/play", content="{}", headers={"Content-Type": "text/plain"}).status_code == 400
    assert client.post("/sound/play", json={}, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    client.app.auth = lambda user, password: False  # type: ignore[attr-defined]
    assert client.get("/sound/kept").status_code == 401
    client.app.tokens["t"] = "ann"  # type: ignore[attr-defined]
    assert client.get("/sound/kept", cookies={"access-token-x": "t"}).status_code == 200


def test_a_stream_begins_when_it_can_go_on(models: Models, band: Service, slow: Slow) -> None:
    job = band.play(ask(models, seconds=10))
    take = job.takes[0]
    until(lambda: slow.seeds)
    take.about = replace(take.about, played=RATE)
    job.done = RATE
    for rate, ready in ((2 * RATE, True), (RATE, True), (RATE // 2, False)):
        job.rate = rate
        assert routes.ready(take, job) is ready
    job.done = 6 * RATE  # 4 s are left to make in 8, and 10 are left to be heard
    assert routes.ready(take, job)
    slow.go.set()
    band.stop(job)


def test_nothing_imports_the_app() -> None:
    for package in ("sashimi", "data_tools", "checkpoints"):
        for path in (ROOT / package).rglob("*.py"):
            assert "from app" not in path.read_text(encoding="utf-8")
