"""The page in a real browser. Skipped where there is none."""

import base64
import importlib.util
import io
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import soundfile as sf
from conftest import notes, tiny_model
from test_app import m4a, until

from sashimi import checkpoint
from sashimi.config import EngineConfig, SamplingConfig

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("gradio", reason="the app extra is not installed")
from app.lyrics import Lyrics  # noqa: E402
from app.models import Models  # noqa: E402
from app.server import App, start  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; apt install chromium")
LYRICS = importlib.util.find_spec("peft") is not None  # the extra is installed
RATE = 16000
WAIT = 20_000  # ms, of whatever is waited for: the machine may be busy
LOCAL = ("127.0.0.1", "localhost")


class Paced:
    """An engine that plays at a multiple of real time: how fast a machine is must not decide what is tested."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.speed = engine, 3.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def run(self, state: Any, n: int, sampling: Any, keys: Any) -> Any:
        began = time.perf_counter()
        played = self.engine.run(state, n, sampling, keys)
        while time.perf_counter() - began < n / RATE / self.speed:
            time.sleep(0.005)
        return played


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("app")


@pytest.fixture(scope="module")
def models(folder: Path) -> Models:
    model = tiny_model("s4d")
    model.metadata.metrics["heldout_bpb"] = {"q05": 6.0, "q25": 6.5, "q50": 7.0, "q75": 7.5, "q95": 8.0}
    checkpoint.save(folder / "tiny.safetensors", model, model.metadata)
    model.metadata.name, model.metadata.sampling = "wary", SamplingConfig(1.1, entropy=7.0)
    checkpoint.save(folder / "wary.safetensors", model, model.metadata)
    files = folder / "tiny.safetensors", folder / "wary.safetensors"
    return Models(folder / "runs", files, engine=EngineConfig(threads=1))


@pytest.fixture(scope="module")
def engine(models: Models) -> Paced:
    loaded = models.load(models.known()[0].id)
    loaded.engine = paced = Paced(loaded.engine)  # type: ignore[assignment]
    return paced


@pytest.fixture(scope="module")
def app(models: Models, engine: Paced, folder: Path, request: pytest.FixtureRequest) -> Iterator[App]:
    language_model = str(request.getfixturevalue("tiny_llama")) if LYRICS else None
    running = start(models, folder / "files", lyrics=Lyrics(folder / "runs" / "lyrics", language_model))
    yield running
    running.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as p:
        yield p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


ASKED: list[str] = []  # every address that any page of these tests wanted


@pytest.fixture
def opened(app: App, engine: Paced, browser: Any) -> Iterator[Any]:
    """Opens a page, of a user of its own."""
    engine.speed = 3.0
    contexts = []

    def new(width: int = 1280, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 844}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("request", lambda request: ASKED.append(request.url))
        page.goto(app.url)
        page.wait_for_selector("#play")
        page.get_by_role("spinbutton", name=re.compile("Seconds to play")).fill("5")
        return page

    yield new
    for context in contexts:
        context.close()


def tab(page: Any, name: str) -> None:
    found = page.get_by_role("tab", name=name, exact=True)
    if found.count() and found.first.is_visible():
        found.first.click()
    else:  # a phone has the others behind a button
        page.locator(".overflow-menu > button").first.click()
        page.locator(".overflow-dropdown button", has_text=name).click()


def fill_seconds(page: Any, seconds: int) -> None:
    page.get_by_role("spinbutton", name=re.compile("Seconds to play")).fill(str(seconds))
    page.keyboard.press("Tab")


def key(page: Any) -> str:
    return str(page.locator(".take").first.get_attribute("data-take"))


def test_it_streams_and_does_not_stop(opened: Any, app: App) -> None:
    page = opened()
    page.evaluate(
        """() => { window.seen = [];
        for (const what of ['waiting', 'playing', 'ended'])
        document.addEventListener(what, e => seen.push([what, e.target.currentTime]), true);
        window.buffered = new Set(); setInterval(() => { const a = document.querySelector('.take audio');
        if (a && a.buffered.length && !a.ended) buffered.add(a.buffered.end(0)); }, 50); }"""
    )
    page.click("#play")
    page.wait_for_selector(".take")
    # The same stream once more, piece by piece, as it comes.
    pieces = page.evaluate(
        """async (path) => { const r = (await fetch(path)).body.getReader(), n = []; let all = [];
        for (;;) { const {done, value} = await r.read(); if (done) break; n.push(value.length); all.push(...value); }
        return [n.length, btoa(all.map(c => String.fromCharCode(c)).join(''))]; }""",
        f"sound/takes/{key(page)}/play.wav",
    )
    page.wait_for_function("seen.some(s => s[0] == 'ended')")
    page.wait_for_selector(".take[data-status=whole]")
    seen = page.evaluate("seen")
    playing = [at for what, at in seen if what == "playing"]
    assert playing[0] < 0.3
    assert not [at for what, at in seen if what == "waiting" and 0.05 < at < 4.9], seen
    assert page.evaluate("buffered.size") > 3  # it grew while it was heard
    streamed, _ = sf.read(io.BytesIO(base64.b64decode(pieces[1])), dtype="int32", always_2d=True)
    take = app.service.takes.find(key(page))
    assert pieces[0] > 5
    whole, _ = sf.read(io.BytesIO(page.request.get(f"{app.url}sound/takes/{take.id}/file.wav").body()), dtype="int16")
    assert np.array_equal(streamed[:, 0] >> 16, whole)
    assert take.about.played == 5 * RATE
    assert "bits per sample" in page.locator(".take .state").inner_text()
    pixels = page.evaluate(
        """() => { const c = document.querySelector('.take canvas');
        return new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size; }"""
    )
    assert pixels > 20  # a picture, not a plain field


def test_an_upload_is_continued(opened: Any, app: App, tmp_path: Path) -> None:
    page = opened()
    tab(page, "Prompt")
    page.locator("#upload input[type=file]").set_input_files(m4a(tmp_path / "my song.m4a", notes(4, 1), RATE))
    page.wait_for_selector("#heard audio")
    assert "my song.m4a: 4." in page.locator("#prompt-says").inner_text()
    heard = page.locator("#heard audio").get_attribute("src")
    samples, rate = sf.read(io.BytesIO(page.request.get(f"{app.url}{heard}").body()))
    assert rate == RATE
    assert len(samples) == pytest.approx(4 * RATE, abs=RATE // 5)
    page.locator("#cut button[aria-label*=Trim]").click()
    page.locator("#cut button", has_text="Trim").click()  # to what the waveform proposes
    page.get_by_text("What was recorded or cut").wait_for()
    samples, _ = sf.read(io.BytesIO(page.request.get(app.url + page.get_attribute("#heard audio", "src")).body()))
    assert 0 < len(samples) < 3 * RATE
    page.click("#ask")
    page.wait_for_selector("#advice .verdict")
    assert "bits per byte" in page.locator("#advice").inner_text()
    page.click("#use")
    page.wait_for_selector("#play")
    assert page.get_by_role("radio", name="Continue").is_checked()
    page.click("#play")
    page.wait_for_selector(".take[data-status=whole]")
    take = app.service.takes.find(key(page))
    assert take.about.prompt == len(samples)
    assert take.about.name.startswith("What was recorded or cut")
    page.locator(".take button", has_text="Surprise").click()
    page.wait_for_selector("#chart svg")
    assert "bits per sample" in page.locator("#chart").inner_text()


def test_stopped_halfway_it_can_be_downloaded_and_forked(opened: Any, app: App, engine: Paced) -> None:
    page = opened()
    fill_seconds(page, 60)
    page.click("#play")
    page.wait_for_function("document.querySelector('.take audio')?.currentTime > 0.3")
    page.locator(".take button", has_text="Stop").click()
    page.wait_for_selector(".take[data-status=stopped]")
    take = app.service.takes.find(key(page))
    assert 0 < take.about.played < 60 * RATE
    for kind in ("WAV", "FLAC", "MP3"):
        with page.expect_download() as download:
            page.locator(".files a", has_text=kind).click()
        assert download.value.suggested_filename.endswith(f".{kind.lower()}")
        assert sf.info(download.value.path()).duration == pytest.approx(take.there / RATE, abs=0.15)
    page.locator(".take .forking input").fill("1")
    fill_seconds(page, 5)
    page.locator(".take button", has_text="Fork at").click()
    page.wait_for_selector(".take[data-status=whole]")
    fork = app.service.takes.find(key(page))
    assert fork.about.parent == take.id
    assert np.array_equal(fork.tokens(0, RATE), take.tokens(0, RATE))


def test_what_goes_wrong_is_said_in_a_sentence(opened: Any, app: App, tmp_path: Path) -> None:
    page = opened()
    page.get_by_role("radio", name="Continue").check()
    page.click("#play")
    page.get_by_text("Choose a recording under Prompt first").wait_for()
    tab(page, "Prompt")
    (tmp_path / "broken.mp3").write_bytes(b"ID3" + bytes(range(256)) * 40)
    page.locator("#upload input[type=file]").set_input_files(tmp_path / "broken.mp3")
    page.get_by_text("Broken.mp3 is not a readable recording").wait_for()
    page.get_by_label("Or a link").fill(f"{app.url}gradio_api/file=x.wav")
    page.get_by_role("button", name="Fetch").click()
    page.get_by_text("links may only lead to the public internet").wait_for()


def test_two_hours_are_cropped(opened: Any, tmp_path: Path) -> None:
    with sf.SoundFile(tmp_path / "long.flac", "w", 8000, 1, format="FLAC") as file:
        file.write(notes(1, 1, rate=8000))
        for _ in range(12):
            file.write(np.zeros(8000 * 600, np.int16))
    page = opened()
    tab(page, "Prompt")
    page.locator("#upload input[type=file]").set_input_files(tmp_path / "long.flac")
    page.get_by_text("Only its first 10 minutes are used").wait_for()


def test_a_third_user_waits_and_a_closed_page_stops(opened: Any, app: App, engine: Paced) -> None:
    engine.speed = 0.8
    pages = [opened() for _ in range(3)]
    for page in pages:
        fill_seconds(page, 60)
        page.click("#play")
        page.wait_for_selector(".take")
    for page in pages[:2]:
        page.wait_for_selector(".take[data-status=playing]")
    assert pages[2].locator(".take").get_attribute("data-status") in (None, "waiting")
    pages[2].get_by_text("Next in the queue").wait_for()
    assert len(app.service.playing) == 2
    first = app.service.takes.find(key(pages[0]))
    pages[0].close()
    pages[2].wait_for_selector(".take[data-status=playing]")
    until(lambda: first.about.status == "stopped")
    for page in pages[1:]:
        page.locator(".take button", has_text="Stop").click()
        page.wait_for_selector(".take[data-status=stopped]")


def test_it_fits_a_phone_and_has_names_for_all(opened: Any) -> None:
    page = opened(390, color_scheme="dark")
    assert page.evaluate("document.body.classList.contains('dark')")
    for name in ("Play", "Prompt", "Surprise", "Compare", "Greatest hits", "Lyrics"):
        tab(page, name)
        page.wait_for_timeout(150)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll('button, input, select, textarea, audio, [role=img]')]
            .filter(e => e.checkVisibility() && e.type !== 'file' && !(e.ariaLabel || e.title || e.innerText?.trim()
            || e.labels?.length || e.getAttribute('aria-labelledby') || e.placeholder || e.alt))
            .map(e => e.outerHTML.slice(0, 160))"""
        )
        assert not unnamed, name


@pytest.mark.skipif(not LYRICS, reason="the lyrics extra is not installed")
def test_lyrics_are_written_stopped_and_looked_into(opened: Any, tmp_path: Path) -> None:
    page = opened()
    tab(page, "Lyrics")
    page.click("#write")
    page.get_by_text("Give the song a title first").wait_for()
    page.get_by_label("Title").fill("Night / day")
    page.click("#write")
    page.wait_for_function("document.querySelector('#lyrics-text textarea').value.length > 0")
    page.click("#stop-writing")
    page.locator("#lyrics-says").get_by_text(re.compile("Stopped|Done|Cut off")).wait_for()
    page.locator("#lyrics-text textarea").fill("The river runs\nand I weep")
    with page.expect_download() as download:
        page.click("#save-lyrics")
    assert download.value.suggested_filename == "Night - day.txt"
    assert Path(download.value.path()).read_text(encoding="utf-8") == "The river runs\nand I weep\n"
    page.click("#take-lyrics")
    page.locator("#lyrics-found").get_by_text("English").wait_for()


def test_by_keyboard_alone(opened: Any) -> None:
    page = opened()
    page.focus("[role=tab]")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "play":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector(".take[data-status=whole]")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Keep":
            break
    page.keyboard.press("Enter")
    page.locator(".take button", has_text="Kept").wait_for()


def test_settings_are_those_that_the_model_says(opened: Any) -> None:
    page = opened()
    temperature = page.get_by_role("spinbutton", name=re.compile("Temperature"))
    assert temperature.input_value() == "1"
    page.get_by_label("Model").first.click()
    page.get_by_role("option", name="wary").click()
    playwright.expect(temperature).to_have_value("1.1")
    page.click("#play")
    page.locator(".take", has_text="temperature 1.1 · entropy 7").wait_for()
    tab(page, "Compare")
    for own, said in ((True, "wary · temperature 1.1 · entropy 7"), (False, "tiny · temperature 1.1 · entropy 7")):
        page.get_by_label("Drawn as each says").set_checked(own)
        page.click("#compare")
        page.locator("#compared .take", has_text=said).first.wait_for()


def test_programs_may_call_it(app: App, engine: Paced, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    engine.speed = 50.0
    client = Client(app.url, verbose=False)
    assert client.predict(api_name="/models")[0] == "tiny"
    about = client.predict(seconds=2, seed=5, temperature=0.9, api_name="/generate")
    wav = httpx.get(f"{app.url}{about['files']['wav']}").content
    assert sf.info(io.BytesIO(wav)).frames == 2 * RATE
    assert about["settings"]["seed"] == 5
    assert (about["settings"]["temp"], about["settings"]["entropy"]) == (0.9, 0)
    recording = tmp_path / "tune.wav"
    sf.write(recording, notes(2, 1), RATE)
    on = client.predict(seconds=1, prompt=handle_file(str(recording)), start=0.5, end=1.5, api_name="/generate")
    assert on["settings"]["l_sample"] == 2 * RATE
    stolen = {"path": str(recording), "meta": {"_type": "gradio.FileData"}}
    answer = httpx.post(f"{app.url}gradio_api/call/generate", json={"data": ["", 1, *[None] * 6, 1, stolen, 0, 1]})
    said = httpx.get(f"{app.url}gradio_api/call/generate/{answer.json()['event_id']}", timeout=20).text
    assert "event: error" in said
    with pytest.raises(Exception, match="choose from 1 to 60"):
        client.predict(seconds=0, api_name="/generate")


def test_kept_takes_are_there_after_a_restart(models: Models, app: App, folder: Path, browser: Any) -> None:
    take = app.service.takes.kept("")[0] if app.service.takes.kept("") else None
    if take is None:  # this test alone
        from app.service import Ask
        from sashimi.config import SamplingConfig

        job = app.service.play(Ask("me", models.known()[0].id, 1.0, SamplingConfig(), 1))
        assert job.over.wait(20)
        take = job.takes[0]
        take.change(kept=True)
    again = start(models, folder / "files")
    try:
        page = browser.new_page()
        page.on("request", lambda request: ASKED.append(request.url))
        page.goto(again.url)
        page.wait_for_selector("#play")
        tab(page, "Greatest hits")
        page.wait_for_selector(f"#hits [data-take='{take.id}'][data-status]")
        page.wait_for_function("document.querySelector('#hits audio').readyState > 0")
        page.close()
    finally:
        again.close()


def test_nothing_left_this_machine(app: App) -> None:
    assert ASKED, "the tests above note what pages ask for"
    assert {urlsplit(url).hostname for url in ASKED if url.startswith("http")} <= set(LOCAL)
