"""From addresses to data sets: what is fetched, what is remembered, what a killed run leaves."""

import json
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import ROOT
from servers import Page, Server, busy, serving
from test_audio import encode_with_av, frequency
from test_prepare import contents, described, manifest

from data_tools import collect, network
from data_tools import download as tool
from data_tools.hub import HubFiles
from data_tools.items import Asked, Items, Section, identity, section
from sashimi import audio
from sashimi.errors import UserError

Call = Callable[..., tuple[int, str]]
QUIET = ("--allow-local", "--sleep", "0", "--keep", "duplicates")


def sound(
    seconds: float = 3.0, rate: int = 16000, channels: int = 1, hertz: float = 330.0, subtype: str = "PCM_16",
    kind: str = "WAV", level: float = 0.5,
) -> bytes:  # fmt: skip
    t = np.arange(round(seconds * rate)) / rate
    file = BytesIO()
    tones = np.stack([level * np.sin(2 * np.pi * hertz * t)] * channels, axis=1)
    sf.write(file, tones, rate, subtype=subtype, format=kind)
    return file.getvalue()


def encoded(folder: Path, name: str, codec: str, seconds: float = 4.0) -> bytes:
    return encode_with_av(folder / name, codec, 48000, seconds).read_bytes()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nothing waits; what would have been waited for."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], slept: list[float]) -> Call:
    """The command line, in this process: exit status and everything printed."""

    def run(*arguments: object, options: tuple[str, ...] = QUIET) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["download", *options, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            tool.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

    return run


def sources(out: Path) -> dict[str, float]:
    """Seconds in the data set, by source."""
    found: dict[str, float] = {}
    for row in manifest(out):
        found[row["source"]] = found.get(row["source"], 0) + row["samples"] / 16000
    return found


# --- formats ------------------------------------------------------------------------------------------


def test_what_is_linked_to_becomes_a_data_set(tmp_path: Path, server: Server, call: Call) -> None:
    mp3 = sound(4, 44100, kind="MP3", subtype="MPEG_LAYER_III")
    broken = bytes(range(256)) * 2 + mp3[100:]  # no header, and its first frame is not whole
    server.pages |= {
        "/a.m4a": Page(encoded(tmp_path, "a.m4a", "aac"), "audio/mp4"),
        "/b.webm": Page(encoded(tmp_path, "b.webm", "libopus"), "video/webm"),
        "/c.mp3": Page(broken, "audio/mpeg"),
        "/d.wav": Page(sound(4, 96000, 6, subtype="PCM_24"), "audio/x-wav"),
        "/e?id=7": Page(sound(4, 8000, subtype="PCM_U8"), "application/octet-stream"),
    }
    out = tmp_path / "out"
    status, printed = call(*[server.url + path for path in server.pages], "--out", out, "--licence", "CC0")
    assert status == 0, printed
    found = sources(out)
    assert {url.removeprefix(server.url) for url in found} == set(server.pages)
    assert all(3.5 < seconds < 4.5 for seconds in found.values())
    for row in manifest(out):
        wanted = 220 if row["source"].endswith(("m4a", "webm")) else 330
        assert abs(frequency(audio.read(out / row["file"], 16000), 16000) - wanted) < 2
        assert row["about"] == {"url": row["source"]}
    assert described(out)["licence"] == "CC0"
    assert not list(Items(out).files.iterdir()), "originals are gone"
    assert server.paths() == list(server.pages), "one request each"


def test_archives_and_local_files(tmp_path: Path, server: Server, call: Call) -> None:
    for name in ("far.zip", "near.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            file.writestr("disc 1/one.wav", sound(3))
            file.writestr("disc 2/one.wav", sound(4))
            file.writestr("cover.jpg", b"a picture")
    server.pages["/far.zip"] = Page((tmp_path / "far.zip").read_bytes(), "application/zip")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "two.wav").write_bytes(sound(5))
    (tmp_path / "three.wav").write_bytes(sound(6))
    out = tmp_path / "out"
    given = [f"{server.url}/far.zip", tmp_path / "near.zip", tmp_path / "folder", f"file://{tmp_path}/three.wav"]
    assert call(*given, "--out", out)[0] == 0
    wanted = {f"{where}/disc {i}/one.wav": i + 2.0 for where in (given[0], given[1]) for i in (1, 2)}
    assert sources(out) == wanted | {"two.wav": 5.0, str(tmp_path / "three.wav"): 6.0}
    assert (tmp_path / "near.zip").exists()
    before, asked = contents(out), len(server.log)
    status, printed = call("--out", out)
    assert (status, contents(out), len(server.log)) == (0, before, asked), "what was named is remembered"
    assert "nothing to do" in printed

    with zipfile.ZipFile(tmp_path / "near.zip", "w") as file:
        file.writestr("other.wav", sound(7))
    assert call("--out", out)[0] == 0
    assert sources(out)[f"{tmp_path}/near.zip/other.wav"] == 7.0
    assert f"{tmp_path}/near.zip/disc 1/one.wav" not in sources(out)


def test_a_named_data_set_and_its_split(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def hub_files(spec: str, folder: Path, **_: object) -> HubFiles:
        asked.append(spec)
        names = [f"sc09/{digit}/{i}.wav" for digit in ("one", "two") for i in range(4)]
        for i, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(sound(0.5, hertz=300 + 50 * i))
        (folder / "sc09" / "validation_list.txt").write_text("one/0.wav\n")
        (folder / "sc09" / "testing_list.txt").write_text("two/3.wav\none/1.wav\n")
        lists = ["sc09/testing_list.txt", "sc09/validation_list.txt"]
        return HubFiles(folder, sorted(names + lists), "cc-by-4.0", "https://hub/sc09", "abc")

    monkeypatch.setattr(collect, "hub_files", hub_files)
    out = tmp_path / "out"
    status, printed = call("sc09", "--out", out, options=("--sleep", "0"))
    assert status == 0, printed
    splits = {row["source"].removeprefix(f"{asked[0]}/sc09/"): row["split"] for row in manifest(out)}
    assert {name for name, split in splits.items() if split == "val"} == {"one/0.wav"}
    assert {name for name, split in splits.items() if split == "test"} == {"two/3.wav", "one/1.wav"}
    assert len(splits) == 8, "nothing is too short"
    assert described(out)["licence"] == "cc-by-4.0"
    assert manifest(out)[0]["about"] == {"url": "https://hub/sc09", "revision": "abc", "licence": "cc-by-4.0"}
    before = contents(out)
    assert call("--out", out, options=())[0] == 0
    assert (contents(out), len(asked)) == (before, 1)


# --- lists and sections -------------------------------------------------------------------------------


def test_a_list(tmp_path: Path, server: Server, call: Call) -> None:
    for i in (1, 2, 3, 4):
        server.pages[f"/{i}.wav"] = Page(sound(10), "audio/wav")
    (tmp_path / "list.txt").write_text(
        f"# a list\n\n{server.url}/1.wav  # the first\n{server.url}/2.wav 0:02-0:05.5\r\n"
        f"  {server.url}/3.wav#x\n{server.url}/1.wav\n{server.url}/4.wav\n",
        encoding="utf-8",
    )
    out = tmp_path / "out"
    assert call(tmp_path / "list.txt", "--out", out, "--max-items", "4")[0] == 0
    found = {url.removeprefix(server.url): seconds for url, seconds in sources(out).items()}
    assert found == {"/1.wav": 10, "/2.wav#t=2,5.5": 3.5, "/3.wav": 10}

    (tmp_path / "list.txt").write_text("https://127.0.0.1/a.wav 5-3\n", encoding="utf-8")
    status, printed = call(tmp_path / "list.txt", "--out", out)
    assert status == 2
    assert "list.txt, line 1: the section 5-3 ends before it begins" in printed


def test_sections_are_cut_to_the_sample(tmp_path: Path, server: Server, call: Call) -> None:
    ramp = np.linspace(0, 0.9, 20 * 16000)
    file = BytesIO()
    sf.write(file, ramp, 16000, format="FLAC", subtype="PCM_16")
    server.pages["/ramp.flac"] = Page(file.getvalue(), "audio/flac")
    out = tmp_path / "out"
    url = f"{server.url}/ramp.flac"
    arguments = ("--section", "5-8", "--section", "0:00:15-", "--no-trim", "--keep", "silent,clipped,duplicates")
    assert call(url, "--out", out, *arguments)[0] == 0
    rows = {row["source"].partition("#")[2]: row for row in manifest(out)}
    assert {name: row["samples"] for name, row in rows.items()} == {"t=5,8": 48000, "t=15,": 80000}
    assert rows["t=5,8"]["about"] == {"url": url, "section": [5.0, 8.0]}
    heard = audio.read(out / rows["t=5,8"]["file"], 16000) / 10 ** (rows["t=5,8"]["gain_db"] / 20)
    assert np.abs(heard - ramp[80000:128000]).max() < 1e-4

    # Another section of the same recording takes the place of the first ones.
    assert call(url, "--out", out, "--section", "1:00-", *arguments[4:])[0] == 2, "it is not as long as that"
    assert call(url, "--out", out, "--section", "2-4", *arguments[4:])[0] == 0
    assert list(sources(out)) == [f"{url}#t=2,4"]


def test_what_is_louder_than_full_scale_is_not_clipped(tmp_path: Path, server: Server, call: Call) -> None:
    server.pages["/loud.wav"] = Page(sound(5, level=1.6, subtype="FLOAT"), "audio/wav")
    out = tmp_path / "out"
    assert call(f"{server.url}/loud.wav", "--out", out, "--section", "1-4")[0] == 0
    (row,) = manifest(out)
    assert row["rms_dbfs"] == pytest.approx(-1 - 3.01, abs=0.05), "of a sine; a clipped one has more"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("10:00-1:30:00", Section(600, 5400)),
        ("90-120.5", Section(90, 120.5)),
        ("5:00-", Section(300, None)),
        ("-30", Section(0, 30)),
    ],
)
def test_sections_as_people_write_them(text: str, wanted: Section) -> None:
    assert section(text) == wanted
    assert Asked.of(json.loads(json.dumps(Asked((wanted,), 5.0).plain()))) == Asked((wanted,), 5.0)


@pytest.mark.parametrize("text", ["", "10", "a-b", "5-5", "1:2:3:4-5", "nan-inf"])
def test_what_is_no_section(text: str) -> None:
    with pytest.raises(UserError, match="section"):
        section(text)


def test_long_recordings_are_left_out(tmp_path: Path, server: Server, call: Call) -> None:
    server.pages |= {"/long.wav": Page(sound(9), "audio/wav"), "/short.wav": Page(sound(3), "audio/wav")}
    given = [f"{server.url}/long.wav", f"{server.url}/short.wav"]
    status, printed = call(*given, "--out", tmp_path / "out", "--max-duration", "0:05")
    assert (status, "long.wav: it lasts 0:09, longer than --max-duration 0:05" in printed) == (0, True)
    assert sources(tmp_path / "out") == {given[1]: 3}
    asked = len(server.log)
    assert call("--out", tmp_path / "out")[0] == 0
    assert len(server.log) == asked, "that it is too long is remembered"
    assert call(*given, "--out", tmp_path / "out", "--max-duration", "10")[0] == 0
    assert sources(tmp_path / "out") == {given[0]: 9, given[1]: 3}


# --- failures -----------------------------------------------------------------------------------------


def test_one_failure_does_not_stop_the_rest(tmp_path: Path, server: Server, call: Call, slept: list[float]) -> None:
    whole = encoded(tmp_path, "a.webm", "libopus", 8.0)
    server.pages |= {
        "/loop.wav": Page(location="/loop.wav"),
        "/busy.wav": Page(sound(3), "audio/wav", first=busy("7", "0")),
        "/cut.wav": Page(sound(4), "audio/wav", cut=[20000, 50000]),
        "/text.mp3": Page(b"no sound at all " * 100, "audio/mpeg"),
        "/half.webm": Page(whole[: len(whole) // 2], "video/webm"),
        "/list.mp3": Page(b"#EXTM3U\nfile:///etc/passwd\n", "audio/mpeg"),
        "/good.wav": Page(sound(5), "audio/wav"),
    }
    out = tmp_path / "out"
    given = [server.url + path for path in [*server.pages, "/absent.wav"]]
    status, printed = call(*given, "--out", out, "--retries", "3")
    assert status == 1
    found = {url.removeprefix(server.url): seconds for url, seconds in sources(out).items()}
    assert {"/busy.wav", "/cut.wav", "/good.wav"} <= set(found)
    assert not {"/loop.wav", "/text.mp3", "/absent.wav", "/list.mp3"} & set(found)
    assert found["/cut.wav"] == 4.0, "it went on where it was cut"
    assert [r for r in server.ranges() if r], "with a range"
    assert max(slept) >= 7, "as long as the server said"
    lines = [line.strip() for line in printed.splitlines()]
    assert any("/loop.wav: it redirects more than" in line for line in lines)
    assert any("/absent.wav: there is nothing at this address; check it (status 404)" in line for line in lines)
    assert any("/text.mp3: is not a readable recording" in line for line in lines)
    assert "\x1b" not in printed
    assert "report this issue" not in printed

    server.pages["/absent.wav"] = Page(sound(6), "audio/wav")
    asked = len(server.log)
    assert call(*given, "--out", out, "--retries", "0")[0] == 1
    again = {r.path for r in server.log[asked:]}
    assert again == {"/loop.wav", "/list.mp3", "/absent.wav"}, "only what failed to come is fetched again"
    assert sources(out)[f"{server.url}/absent.wav"] == 6.0


def test_private_addresses_are_refused(tmp_path: Path, server: Server, call: Call) -> None:
    server.pages["/a.wav"] = Page(sound(3), "audio/wav")
    (tmp_path / "b.wav").write_bytes(sound(3))
    for url in (
        f"{server.url}/a.wav",
        f"{server.url}/page",
        "http://169.254.169.254/latest",
        "http://localhost:1/x.mp3",
    ):
        status, printed = call(
            url, tmp_path / "b.wav", "--out", tmp_path / "out", "--replace", options=("--sleep", "0")
        )
        assert (status, "is not a public address; add --allow-local" in printed) == (1, True), url
    assert not server.log
    for url in ("ftp://example.com/a.mp3", "data://x", "javascript://x", "https://"):
        status, printed = call(url, "--out", tmp_path / "out2", options=("--sleep", "0"))
        assert status == 2, url
        assert "error:" in printed
        assert not (tmp_path / "out2" / "dataset.yaml").exists()


@pytest.mark.parametrize("path", ["/a.wav", "/page"])
def test_a_redirect_to_a_private_address_is_refused(
    tmp_path: Path, server: Server, call: Call, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(network, "is_public", lambda address: address == "127.0.0.1")  # the server is on the internet
    server.pages[path] = Page(location="http://192.168.7.7/a.wav")
    status, printed = call(f"{server.url}{path}", "--out", tmp_path / "out", options=("--sleep", "0"))
    assert (status, server.paths()) == (2, [path])
    assert "192.168.7.7 is not a public address" in printed


def test_nothing_usable(tmp_path: Path, server: Server, call: Call) -> None:
    status, printed = call(f"{server.url}/none.wav", "--out", tmp_path / "out")
    assert status == 2
    assert "nothing to write" in printed
    assert not (tmp_path / "out" / "dataset.yaml").exists()
    assert call("--out", tmp_path / "empty")[0] == 2
    assert "there is no file or folder absent" in call("absent", "--out", tmp_path / "out")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--section", "x"], "is no section"),
        (["--max-duration", "0"], "is no length of time"),
        (["--max-items", "0"], "--max-items must be at least 1"),
        (["--limit-rate", "fast"], "write it as 500K or 2M"),
        (["--max-disk", "0"], "write it as 20G"),
        (["--sleep", "-1"], "--sleep must be"),
        (["--retries", "-1"], "--retries must be"),
        (["--rate", "5"], "--rate must be from 1000 to 192000"),
        (["--cookies", "absent.txt"], "absent.txt"),
    ],
)
def test_bad_arguments(tmp_path: Path, call: Call, arguments: list[str], message: str) -> None:
    status, printed = call("http://127.0.0.1:9/page", "--out", tmp_path / "out", *arguments)
    assert status == 2
    assert message in printed


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, server: Server, call: Call) -> None:
    (tmp_path / "mine.txt").write_text("x")
    status, printed = call(f"{server.url}/a.wav", "--out", tmp_path)
    assert (status, "has files in it" in printed, server.log) == (2, True, [])
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


# --- again --------------------------------------------------------------------------------------------


def test_again_fetches_nothing(tmp_path: Path, server: Server, call: Call) -> None:
    server.pages |= {f"/{i}.wav": Page(sound(3 + i), "audio/wav") for i in range(3)}
    out, urls = tmp_path / "out", [f"{server.url}/{i}.wav" for i in range(3)]
    assert call(*urls[:2], "--out", out)[0] == 0
    before, asked = contents(out), len(server.log)
    status, printed = call(*urls[:2], "--out", out)
    assert (status, "nothing to do" in printed, len(server.log)) == (0, True, asked)
    assert contents(out) == before

    assert call(urls[2], "--out", out)[0] == 0
    assert sources(out) == {url: 3.0 + i for i, url in enumerate(urls)}, "it is added"
    assert server.paths()[asked:] == ["/2.wav"]

    # A chunk that is lost is made again, for which its original alone is fetched again.
    whole = contents(out)
    (out / next(row["file"] for row in manifest(out) if row["source"] == urls[1])).unlink()
    assert call("--out", out)[0] == 0
    assert contents(out) == whole
    assert server.paths()[asked + 1 :] == ["/1.wav"]

    assert call(urls[0], "--out", out, "--replace")[0] == 0
    assert list(sources(out)) == [urls[0]]


def test_a_changed_split_fetches_what_it_needs(tmp_path: Path, server: Server, call: Call) -> None:
    """Split by recording, a new one may move others to another split, whose originals are gone."""
    names = [f"{i:02}.wav" for i in range(11)]
    server.pages |= {f"/{name}": Page(sound(2, hertz=200 + 10 * i), "audio/wav") for i, name in enumerate(names)}
    urls = [f"{server.url}/{name}" for name in names]
    assert call(*urls[:9], "--out", tmp_path / "a" / "out", "--split", "recording")[0] == 0
    assert call(*urls, "--out", tmp_path / "a" / "out", "--split", "recording")[0] == 0
    assert call(*urls, "--out", tmp_path / "b" / "out", "--split", "recording")[0] == 0
    assert contents(tmp_path / "a" / "out") == contents(tmp_path / "b" / "out")


def test_originals_may_be_kept_and_limited(tmp_path: Path, server: Server, call: Call) -> None:
    server.pages |= {f"/{i}.wav": Page(sound(10, hertz=300 + i), "audio/wav") for i in range(4)}
    urls = [f"{server.url}/{i}.wav" for i in range(4)]
    kept, few = tmp_path / "kept" / "out", tmp_path / "few" / "out"
    status, printed = call(*urls, "--out", kept, "--keep-original")
    assert (status, f"originals: {kept}" in printed) == (0, True)
    assert sorted(p.name for p in Items(kept).files.rglob("*.wav")) == ["0.wav", "1.wav", "2.wav", "3.wav"]

    # 320 kB each: of two at a time, which takes two rounds.
    assert call(*urls, "--out", few, "--max-disk", "700K")[0] == 0
    assert contents(few) == contents(kept)
    assert not list(Items(few).files.iterdir())
    status, printed = call(*urls, "--out", tmp_path / "none", "--max-disk", "100K")
    assert (status, "are more than the limit of 100,000 bytes" in printed) == (2, True)


def test_a_torn_ledger_and_a_damaged_one(tmp_path: Path, server: Server, call: Call) -> None:
    server.pages |= {"/a.wav": Page(sound(3), "audio/wav"), "/b.wav": Page(sound(4), "audio/wav")}
    out, urls = tmp_path / "out", [f"{server.url}/a.wav", f"{server.url}/b.wav"]
    assert call(*urls, "--out", out)[0] == 0
    journal = Items(out).journal
    text, before = journal.read_text(encoding="utf-8"), contents(out)
    journal.write_text(text[:-20], encoding="utf-8")  # as a power cut leaves it
    assert call(*urls, "--out", out)[0] == 0
    assert contents(out) == before
    assert server.paths()[2:] == ["/b.wav"]
    journal.write_text("{}\n" + text, encoding="utf-8")
    status, printed = call(*urls, "--out", out)
    assert (status, "items.jsonl, line 1, is damaged" in printed) == (2, True)


def test_two_at_once_are_refused(tmp_path: Path, server: Server, call: Call) -> None:
    with Items(tmp_path / "out").locked():
        status, printed = call(f"{server.url}/a.wav", "--out", tmp_path / "out")
    assert (status, "another process downloads to" in printed) == (2, True)


def test_ctrl_c(tmp_path: Path, server: Server, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    server.pages["/a.wav"] = Page(sound(3), "audio/wav")
    with monkeypatch.context() as patch:
        patch.setattr(collect, "fetch", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        status, printed = call(f"{server.url}/a.wav", "--out", tmp_path / "out")
    assert (status, "stopped; the same command goes on from here" in printed) == (130, True)
    assert call(f"{server.url}/a.wav", "--out", tmp_path / "out")[0] == 0


def test_secrets_stay_out_of_the_data_set(tmp_path: Path, server: Server, call: Call) -> None:
    server.pages["/a.wav"] = Page(sound(3), "audio/wav")
    host = server.url.removeprefix("http://")
    out = tmp_path / "out"
    for token in ("abcabc", "defdef"):
        url = f"http://me:hidden@{host}/a.wav?id=7&X-Amz-Signature={token}&token={token}#frag"
        status, printed = call(url, "--out", out)
        assert status == 0
        assert "hidden" not in printed
    assert list(sources(out)) == [f"http://{host}/a.wav?id=7"]
    assert len(server.log) == 1, "the same recording, whatever its signature"
    kept = Items(out).folder / "inputs.json"
    assert kept.stat().st_mode & 0o077 == 0
    others = [p for p in out.rglob("*") if p.is_file() and p != kept]
    assert not [p for p in others if b"hidden" in p.read_bytes() or b"abcabc" in p.read_bytes()]
    assert identity("https://a.b/c?v=1&list=x%20y") == "https://a.b/c?v=1&list=x%20y"


# --- killed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("through", ["links", pytest.param("page", marks=pytest.mark.slow)])
def test_killed_and_run_again(tmp_path: Path, server: Server, through: str) -> None:
    """Killed twice at moments drawn at random, run to the end: the data set of an undisturbed run."""
    numbers = range(4)
    server.pages |= {
        f"/{i}.wav": Page(sound(12 + i, 22050, 2, hertz=200 + 50 * i), "audio/wav") for i in numbers
    }  # fmt: skip
    tags = "".join(f'<audio src="/{i}.wav"></audio>' for i in numbers)
    server.pages["/page"] = Page(f"<html><title>Four</title><body>{tags}</body></html>".encode(), "text/html")
    given = [f"{server.url}/{i}.wav" for i in numbers] if through == "links" else [f"{server.url}/page"]

    def command(out: Path) -> list[str]:
        return [sys.executable, "-m", "data_tools.download", *given, "--out", str(out), *QUIET, "--chunk", "2"]

    began = time.monotonic()
    subprocess.run(command(tmp_path / "whole" / "out"), cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    lasted = time.monotonic() - began
    out, seed = tmp_path / "killed" / "out", random.randrange(10**6)
    print(f"seed {seed}")  # pytest shows it when the test fails
    draw = random.Random(seed)
    for _ in range(2):
        process = subprocess.Popen(command(out), cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            process.wait(draw.uniform(0.3, 0.95) * lasted)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.wait()
    ended = subprocess.run(command(out), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert ended.returncode == 0, ended.stdout
    assert contents(out) == contents(tmp_path / "whole" / "out")
    assert len({row["source"] for row in manifest(out)}) == len(numbers)
    assert not list(Items(out).files.iterdir())
