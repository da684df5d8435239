"""evaluate.py rollout=true: tiny models played, measured and held against small recordings."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import yaml
from conftest import ROOT, tiny_model
from rich.console import Console
from signals import music

from sashimi import checkpoint, real_music, rollouts
from sashimi.codec import Codec
from sashimi.comparison import compare
from sashimi.config import CodecConfig, DataConfig, EngineConfig, EvaluateConfig, EvaluationConfig, SurvivalConfig
from sashimi.fingerprints import Fingerprinter
from sashimi.rollouts import Contender

RATE = 4000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 17 recordings one is val and two are test."""
    data = tmp_path_factory.mktemp("real")
    for i in range(17):
        sf.write(data / f"{i:02}.wav", music(12 if i > 12 else 1, seed=i, rate=RATE), RATE)
    return data


def model_at(path: Path, codec: CodecConfig | None = None, **provenance: object) -> Path:
    model = tiny_model("s4d")
    model.metadata.codec = codec or CodecConfig(rate=RATE)
    model.metadata.provenance = dict(provenance)
    checkpoint.save(path, model, model.metadata)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_at(tmp_path_factory.mktemp("model") / "tiny.safetensors")


def settings(model: Path, folder: Path, out: Path, **changes: object) -> EvaluateConfig:
    survival = SurvivalConfig(**{"clips": 2, "seconds": 10, **changes})  # type: ignore[arg-type]
    evaluation, engine = EvaluationConfig(splits=[]), EngineConfig(threads=1)
    return EvaluateConfig(
        checkpoints=[model], data=DataConfig(folder), evaluation=evaluation, rollout=True, survival=survival,
        engine=engine, save_dir=out,
    )  # fmt: skip


def test_the_command_line(
    model: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    """In this process: another one would take longer to load its libraries than for all else."""
    command = [str(ROOT / "evaluate.py"), f"checkpoints=[{model}]", f"data.dir={folder}"]
    asked = [
        "rollout=true",
        "survival.clips=2",
        "survival.seconds=10",
        "survival.continued=1",
        "survival.prompt=1",
        "survival.entropy=3",
    ]
    more = ["survival.keep=true", "evaluation.splits=[]", "engine.threads=1", f"save_dir={tmp_path}/out"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [*command, *asked, *more])
    runpy.run_path(command[0], run_name="__main__")
    printed = capfd.readouterr()
    assert "left after, median (s)" in printed.out
    assert "tiny: nearest training window: " in printed.out
    assert "tiny: drawn with temp=1 entropy=3\n" in printed.out
    rows = printed.out[: printed.out.index("tiny: drawn")].splitlines()[-24:]
    assert max(map(len, rows)) <= 80
    assert "Warning" not in printed.err
    assert not recwarn.list
    out = tmp_path / "out"
    for name in ("survival", "features", "drift"):
        assert (out / f"rollout-{name}.png").read_bytes()[:4] == b"\x89PNG"
    table = (out / "rollout.md").read_text(encoding="utf-8")
    assert table.startswith("|  | real music | tiny | tiny, continuing |\n")
    assert "| Frechet distance to test |" in table
    saved = json.loads((out / "rollout.json").read_text(encoding="utf-8"))
    assert saved["survival"]["clips"] == 2
    assert saved["band"]["kept"] == 1
    real, free, continuing = saved["groups"]
    assert real["title"] == "real music"
    assert "bits" not in real["features"]
    # A tiny untrained model plays noise, nearly all 256 levels alike, and is sorted out at once.
    assert free["survival"] == {"8": 0.0}
    assert free["survival, 95% interval"] == {"8": [0, pytest.approx(0.658, abs=0.001)]}
    assert "- tiny: nearest training window: " in table
    assert len(free["memorisation"]["clips"]) == 2
    assert free["causes"] == {"noise": 2}
    assert [clip["seconds"] for clip in free["clips"]] == [0, 0]
    assert 6 < free["features"]["bits"]["q50"] < 9
    assert free["frechet"]["to test"] > real["frechet"]["to test"]
    assert continuing["clips"][0]["played"] == 10, "the beginning is not measured"
    assert set(free["drift"]["level"]) == {"per minute", "standard error"}
    kept = {path.name: sf.info(path).frames for path in (out / "rollout").iterdir()}
    assert kept == {"tiny-00.flac": 40000, "tiny-01.flac": 40000, "tiny-continuing-00.flac": 44000}


def test_the_same_seed_gives_the_same_clips(model: Path, folder: Path, tmp_path: Path) -> None:
    """Each a function of its number, however many are played beside it."""
    contender = Contender("tiny", checkpoint.load(model), folder)
    config = settings(model, folder, tmp_path, seconds=8)
    one, three = (rollouts.play(config, tmp_path, contender, count, False, Console())[0] for count in (1, 3))
    for name in ("short", "long", "patches"):
        np.testing.assert_array_equal(getattr(one[0], name), getattr(three[0], name))
    assert not np.array_equal(three[0].short, three[1].short)
    config.seed = 1
    ((other,), _) = rollouts.play(config, tmp_path, contender, 1, False, Console())
    assert not np.array_equal(one[0].short, other.short)


def test_another_codec_has_its_own_recordings(
    model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that normalises by window, too."""
    normalised = model_at(tmp_path / "other.safetensors", CodecConfig(rate=RATE, normalize="window", window=8000))
    config = settings(model, folder, tmp_path / "out", clips=1, seconds=8)
    config.checkpoints.append(normalised)
    saved = json.loads((compare(config) / "rollout.json").read_text(encoding="utf-8"))
    first, second = str(model), str(normalised)
    assert [group["title"] for group in saved["groups"]] == ["real music", first, f"real music of {second}", second]
    levels = [group["features"]["level"]["q50"] for group in saved["groups"]]
    assert levels[2] > levels[0] + 6, "as loud as the codec makes it"
    assert "a codec of its own" in capsys.readouterr().out


def test_an_error_leaves_clips_marked_partial(
    model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = rollouts.generation.generate

    def failing(*arguments: object, **options: object) -> object:
        yield next(run(*arguments, **options))  # type: ignore[arg-type]
        raise ValueError("its weights are damaged")

    monkeypatch.setattr(rollouts.generation, "generate", failing)
    loaded = checkpoint.load(model)
    config = settings(model, folder, tmp_path, keep=True)
    with pytest.raises(ValueError, match="weights are damaged"):
        rollouts.play(config, tmp_path, Contender("tiny", loaded, folder), 1, False, Console())
    assert [path.name for path in (tmp_path / "rollout").iterdir()] == ["tiny-00_partial.flac"]


def test_a_clip_of_the_training_set_is_told(model: Path, folder: Path, tmp_path: Path) -> None:
    codec, config = Codec(CodecConfig(rate=RATE)), settings(model, folder, tmp_path)
    fingerprinters = Fingerprinter(RATE), Fingerprinter(RATE)
    for fingerprinter, sound in zip(fingerprinters, (music(12, 13, RATE)[RATE:], music(12, 99, RATE)), strict=True):
        for block in np.array_split(sound, 7):
            fingerprinter.add(block)
    codes = [of.codes() for of in fingerprinters]
    found = rollouts.look_up(folder, codec, config, codes, Console())
    assert "1 of 2 clips nearer" in found["verdict"][0]
    assert found["verdict"][1].startswith("clip 00: 0.0")
    assert "13.wav" in found["verdict"][1]
    assert len(found["held out"]) == 2
    again = rollouts.look_up(folder, codec, config, codes, Console())
    assert again == found, "what was kept of held-out music is the same"


def test_without_a_training_split_nothing_is_looked_up(model: Path, tmp_path: Path) -> None:
    (tmp_path / "dataset.yaml").write_text(f"rate: {RATE}\n")
    (tmp_path / "manifest.jsonl").write_text("")
    config = settings(model, tmp_path, tmp_path)
    found = rollouts.look_up(tmp_path, Codec(CodecConfig(rate=RATE)), config, [], Console())
    (line,) = found["verdict"]
    assert "not looked up in the training set" in line
    assert "nothing in its train split" in line


def test_real_music_is_heard_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless another codec changes how it sounds, or the measures change."""
    heard: list[int] = []
    run = real_music._listen
    monkeypatch.setattr(real_music, "_listen", lambda store, update: heard.append(1) or run(store, update))
    data = tmp_path / "data"
    data.mkdir()
    for i in range(17):
        (data / f"{i:02}.wav").write_bytes((folder / f"{i:02}.wav").read_bytes())
    first, second = (real_music.listen(data, Codec(CodecConfig(rate=RATE)), Console()) for _ in range(2))
    assert len(heard) == 2, "val and test"
    for a, b in zip([*first.val, *first.test], [*second.val, *second.test], strict=True):
        for name in ("short", "long", "patches"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert first.band == second.band
    real_music.listen(data, Codec(CodecConfig(rate=RATE, law="linear")), Console())
    assert len(heard) == 4
    monkeypatch.setattr(real_music.inspect, "getsource", lambda module: "other measures")
    real_music.listen(data, Codec(CodecConfig(rate=RATE)), Console())
    assert len(heard) == 6


def test_prompts_that_are_not_there(model: Path, folder: Path, tmp_path: Path) -> None:
    config = settings(model, folder, tmp_path, continued=1, clips=0, prompt=100)
    with pytest.raises(ValueError, match=r"no beginning of 100 s; lower survival.prompt"):
        rollouts.play(config, tmp_path, Contender("tiny", checkpoint.load(model), folder), 1, True, Console())


def test_a_missing_data_set_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    (listed,) = (ROOT / "data_tools" / "collections").glob("piano-midi.json")
    licence = json.loads(listed.read_text(encoding="utf-8"))["licence"]
    data = {"dir": str(tmp_path / "gone" / "piano"), "name": "piano", "licence": licence}
    path = model_at(tmp_path / "piano.safetensors", data=data)
    config = settings(path, tmp_path / "other", tmp_path)
    expected = r"data_tools.render SOURCE --collection piano-midi --out .*other`"
    with pytest.raises(ValueError, match=rf"no data set .*other.*{expected}"):
        compare(config)
    config.data.dir = None
    with pytest.raises(ValueError, match=r"no data set .*gone/piano; .* --collection piano-midi"):
        compare(config)
    plain = model_at(tmp_path / "plain.safetensors", data={"dir": str(tmp_path / "gone")})
    with pytest.raises(ValueError, match=r"data_tools.prepare"):
        compare(EvaluateConfig(checkpoints=[plain], rollout=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clips": 0}, "leave nothing to play"),
        ({"clips": -1}, "survival.clips=-1"),
        ({"seconds": 5}, "survival.seconds=5"),
        ({"prompt": 0}, "survival.prompt=0"),
        ({"temp": -1}, "temp=-1"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SurvivalConfig(**changes)  # type: ignore[arg-type]
    assert yaml.safe_load((ROOT / "configs/evaluate.yaml").read_text(encoding="utf-8"))["rollout"] is False
