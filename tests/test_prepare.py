"""Recordings to data sets: which second goes where, what is skipped, what a killed run leaves."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import yaml
from conftest import ROOT
from rich.console import Console
from test_audio import encode_with_av, frequency

from data_tools import prepare as prepare_tool
from data_tools import splitting
from data_tools.ledger import Ledger
from data_tools.prepare import Settings, prepare
from data_tools.report import pace
from data_tools.sources import unique_ids
from data_tools.splitting import Piece
from sashimi import audio, data
from sashimi.errors import UserError

Call = Callable[..., tuple[int, str]]


def tone(
    path: Path, seconds: float = 100.0, rate: int = 16000, channels: int = 1, level: float = 0.5, hertz: float = 330.0
) -> Path:
    t = np.arange(round(seconds * rate)) / rate
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, np.stack([level * np.sin(2 * np.pi * hertz * t)] * channels, axis=1), rate)
    return path


def ramp(path: Path, seconds: float, rate: int = 16000) -> Path:
    """The value says the time: from 0.1 at the beginning to 0.9 at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, np.linspace(0.1, 0.9, round(seconds * rate)), rate, subtype="FLOAT")
    return path


def manifest(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def described(out: Path) -> dict[str, Any]:
    return yaml.safe_load((out / "dataset.yaml").read_text(encoding="utf-8"))


def contents(out: Path) -> dict[str, bytes]:
    """All files that belong to the data set."""
    files = [p for split in splitting.SPLITS for p in (out / split).glob("*")]
    return {str(p.relative_to(out)): p.read_bytes() for p in [*files, out / "dataset.yaml", out / "manifest.jsonl"]}


def splits_of(out: Path) -> dict[str, str]:
    return {row["source"]: row["split"] for row in manifest(out)}


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line, in this process: exit status and everything printed."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["prepare", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            prepare_tool.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

    return run


# --- sound --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg", "a.aiff", "a.m4a", "a.webm"])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (48000, 2)])
def test_any_recording_becomes_mono_at_the_rate(tmp_path: Path, name: str, rate: int, channels: int) -> None:
    path = tmp_path / name
    if path.suffix in (".m4a", ".webm"):
        encode_with_av(path, {".m4a": "aac", ".webm": "libopus"}[path.suffix], 48000, 3.0)
    else:
        tone(path, 3.0, rate, channels, hertz=220)
    prepare([path], tmp_path / "out", Settings(chunk=60))
    (row,) = manifest(tmp_path / "out")
    chunk = tmp_path / "out" / row["file"]
    info = sf.info(chunk)
    assert (info.samplerate, info.channels, info.subtype, info.format) == (16000, 1, "PCM_16", "FLAC")
    assert info.frames == row["samples"]
    assert abs(info.frames - 48000) < 1600
    assert abs(frequency(audio.read(chunk, 16000), 16000) - 220) < 2


@pytest.mark.parametrize("channels", [3, 6])
@pytest.mark.parametrize("rate", [11025, 96000])
def test_more_channels_and_other_rates(tmp_path: Path, channels: int, rate: int) -> None:
    path = tone(tmp_path / "many.wav", 2.0, rate, channels)
    prepare([path], tmp_path / "out", Settings(rate=22050, format="wav"))
    (row,) = manifest(tmp_path / "out")
    waveform, found = sf.read(tmp_path / "out" / row["file"])
    assert (found, waveform.ndim) == (22050, 1)
    assert abs(len(waveform) - 44100) <= 1
    assert abs(frequency(waveform, found) - 330) < 2


def test_one_gain_per_recording(tmp_path: Path) -> None:
    rate, soft, loud = 16000, 0.02, 0.4
    t = np.arange(40 * rate) / rate
    envelope = np.where(t < 20, soft, loud)
    sf.write(tmp_path / "a.wav", envelope * np.sin(2 * np.pi * 440 * t), rate, subtype="FLOAT")
    tone(tmp_path / "b.wav", 10, level=0.1)
    prepare([tmp_path], tmp_path / "out", Settings(chunk=10))
    rows = {r["file"]: r for r in manifest(tmp_path / "out")}
    a = [rows[f"train/a-{i:04}.flac"] for i in (1, 2, 3, 4)]
    assert {r["gain_db"] for r in a} == {a[0]["gain_db"]}
    assert a[0]["gain_db"] == pytest.approx(-1 - 20 * np.log10(loud), abs=0.01)
    assert rows["train/b-0001.flac"]["gain_db"] == pytest.approx(-1 + 20, abs=0.01)
    assert a[3]["peak_dbfs"] == pytest.approx(-1, abs=0.02)
    assert a[0]["peak_dbfs"] == pytest.approx(-1 + 20 * np.log10(soft / loud), abs=0.02)
    assert a[3]["rms_dbfs"] == pytest.approx(-1 - 3.01, abs=0.02)
    heard = audio.read(tmp_path / "out" / a[3]["file"], rate)
    assert 20 * np.log10(np.abs(heard).max()) == pytest.approx(-1, abs=0.01)


# --- splits -------------------------------------------------------------------------------------------


def test_no_second_of_val_or_test_is_trained_on(tmp_path: Path) -> None:
    seconds, gap = 200.0, 4.0
    ramp(tmp_path / "in" / "a.wav", seconds)
    ramp(tmp_path / "in" / "b.wav", seconds + 30)
    prepare([tmp_path / "in"], tmp_path / "out", Settings(chunk=7, gap=gap))
    for recording, total in (("a", seconds), ("b", seconds + 30)):
        times: dict[str, list[np.ndarray]] = {split: [] for split in splitting.SPLITS}
        for row in manifest(tmp_path / "out"):
            if row["recording"] == recording:
                waveform = audio.read(tmp_path / "out" / row["file"], 16000) / 10 ** (row["gain_db"] / 20)
                heard_at = (waveform - 0.1) / 0.8 * total
                assert heard_at[0] == pytest.approx(row["start"], abs=0.05)
                assert heard_at[-1] == pytest.approx(row["start"] + row["samples"] / 16000, abs=0.05)
                times[row["split"]].append(heard_at)
        ends = {split: (min(map(np.min, t)), max(map(np.max, t))) for split, t in times.items()}
        assert ends["train"][0] < 0.1
        assert ends["val"][0] - ends["train"][1] >= gap - 0.1
        assert ends["test"][0] - ends["val"][1] >= gap - 0.1
        kept = total - 2 * gap
        lengths = {split: sum(map(len, t)) / 16000 for split, t in times.items()}
        for split, share in (("train", 0.88), ("val", 0.06), ("test", 0.06)):
            assert lengths[split] == pytest.approx(share * kept, abs=1.01), "less than a second is dropped"


def test_seconds_held_out_in_place_of_shares() -> None:
    assert [(p.split, p.start, p.end) for p in splitting.by_time(300, 1, 5, 30)] == [
        ("train", 0, 230), ("val", 235, 265), ("test", 270, 300),
    ]  # fmt: skip
    assert splitting.by_time(125, 1, 5, 30) == [splitting.Piece("train", 0, 125)], (
        "too little would be left to train on"
    )


@pytest.mark.parametrize("seed", range(30))
def test_parts_are_disjoint_and_chunks_stay_in_them(seed: int) -> None:
    draw = random.Random(seed)
    rate, gap = draw.choice([1000, 16000, 44100]), draw.choice([0, 0.3, 5, 20])
    total, size = round(draw.uniform(1, 500) * rate), round(draw.uniform(1, 70) * rate)
    parts = splitting.by_time(total, rate, gap)
    assert parts[0].start == 0
    assert parts[-1].end == total
    assert [p.split for p in parts] in (["train"], ["train", "val", "test"])
    for a, b in pairwise(parts):
        assert b.start - a.end == round(gap * rate)
    for part in parts[1:]:
        assert part.end - part.start >= 5 * rate
    chunks = splitting.in_chunks(parts, size, rate)
    for chunk in chunks:
        (inside,) = [p for p in parts if p.start <= chunk.start and chunk.end <= p.end]
        assert inside.split == chunk.split
        assert rate <= chunk.end - chunk.start <= size
    for part in parts:
        kept = sum(c.end - c.start for c in chunks if c.split == part.split)
        assert 0 <= part.end - part.start - kept < rate


@pytest.mark.parametrize("seed", range(10))
def test_cutting_is_slicing(seed: int) -> None:
    draw = random.Random(seed)
    whole = np.arange(1000, dtype=np.float32)
    blocks = np.split(whole, sorted(draw.sample(range(1, 1000), draw.randint(1, 20))))
    edges = sorted(draw.sample(range(1000), 2 * draw.randint(1, 20)))
    pieces = [Piece("train", a, b) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    found = list(splitting.cut(blocks, pieces))
    assert [piece for piece, _ in found] == pieces
    for piece, values in found:
        assert np.array_equal(values, whole[piece.start : piece.end])
    assert len(list(splitting.cut(blocks[:-1], [Piece("train", 0, 1000)]))) == 0, "the blocks end early"


def test_a_short_recording_is_for_training(tmp_path: Path, call: Call) -> None:
    tone(tmp_path / "short song.wav", 20)
    tone(tmp_path / "long song.wav", 120)
    status, printed = call(tmp_path, "--out", tmp_path / "out", "--licence", "CC0")
    assert status == 0
    assert {r["split"] for r in manifest(tmp_path / "out") if r["recording"] == "short-song"} == {"train"}
    assert {r["split"] for r in manifest(tmp_path / "out") if r["recording"] == "long-song"} == set(splitting.SPLITS)
    assert "Too short to be split by time, so all of it is for training: short song.wav" in printed


def test_splitting_by_recording_is_the_published_rule(tmp_path: Path) -> None:
    for i in range(20):
        tone(tmp_path / "in" / f"song {i:02}.wav", 1.5)
    prepare([tmp_path / "in"], tmp_path / "out", Settings(split="recording"))
    splits = splits_of(tmp_path / "out")
    published = {
        split: [r.name for r in data.recordings(tmp_path / "in", split)] for split in splitting.SPLITS
    }  # the same folder, not prepared
    assert [len(published[split]) for split in splitting.SPLITS] == [17, 1, 2]
    for split, names in published.items():
        assert sorted(name for name, found in splits.items() if found == split) == names


def test_splitting_by_a_file(tmp_path: Path, call: Call) -> None:
    for name in ("one.wav", "sub/two.wav", "three [live], a=b.flac", "other/one.flac"):
        tone(tmp_path / "in" / name, 1.5)
    lists = tmp_path / "splits.json"
    out = tmp_path / "out"

    def run(**names: list[str]) -> tuple[int, str]:
        lists.write_text(json.dumps(names))
        return call(tmp_path / "in", "--out", out, "--splits", lists)

    status, printed = run(train=["one.wav", "two"], val=["three [live], a=b"], test=["other/one.flac"])
    assert (status, "No licence was stated" in printed) == (0, True)
    assert splits_of(out) == {
        "one.wav": "train", "sub/two.wav": "train", "three [live], a=b.flac": "val", "other/one.flac": "test",
    }  # fmt: skip

    # Another list moves recordings, and leaves nothing where they were.
    assert run(train=["one.wav", "other/one.flac"], val=["three [live], a=b"], test=["two"])[0] == 0
    assert splits_of(out)["sub/two.wav"] == "test"
    assert sorted(p.name for p in out.glob("*/*.flac")) == sorted(Path(r["file"]).name for r in manifest(out))

    for names, message in (
        ({"train": ["one.wav", "two", "three [live], a=b"]}, "in no list: other/one.flac"),
        ({"train": ["one.wav", "nobody"]}, "'nobody' in the train list is the name of no recording"),
        ({"train": ["one"]}, "'one' in the train list may be one.wav or other/one.flac"),
        ({"train": ["two"], "test": ["two.wav"]}, "'two.wav' is in the train list and in the test list"),
        ({"training": ["two"]}, '"train"'),
        ({"train": "two"}, '"train"'),
    ):
        status, printed = run(**names)
        assert status == 2
        assert message in printed
        assert "splits.json" in printed
    assert (out / "dataset.yaml").is_file(), "a bad list leaves what was there"
    lists.write_text("{")
    assert "is not JSON" in call(tmp_path / "in", "--out", out, "--splits", lists)[1]


# --- the data set -------------------------------------------------------------------------------------


def test_manifest_and_description(tmp_path: Path) -> None:
    tone(tmp_path / "in" / "a.wav", 130)
    tone(tmp_path / "in" / "deep" / "er" / "b.ogg", 4)
    tone(tmp_path / "in" / ".hidden" / "c.wav", 4)
    out = tmp_path / "data" / "mine"
    prepare([tmp_path / "in"], out, Settings(chunk=30), licence="public domain, recorded 1923")
    rows = manifest(out)
    assert rows == sorted(rows, key=lambda r: (r["recording"], r["start"]))
    assert list(rows[0]) == [
        "file", "split", "recording", "source", "start", "samples", "gain_db", "peak_dbfs", "rms_dbfs", "sha256",
    ]  # fmt: skip
    assert {r["source"] for r in rows} == {"a.wav", "deep/er/b.ogg"}
    assert [r["start"] for r in rows[:4]] == [0, 30, 60, 90]
    said = described(out)
    assert (said["name"], said["rate"], said["format"], said["split"]) == ("mine", 16000, "flac", "time")
    assert said["licence"] == "public domain, recorded 1923"
    for split in splitting.SPLITS:
        own = [r for r in rows if r["split"] == split]
        assert said["splits"][split] == {
            "recordings": len({r["recording"] for r in own}),
            "chunks": len(own),
            "seconds": pytest.approx(sum(r["samples"] for r in own) / 16000, abs=1e-3),
        }
    # The trainer hears the chunks of a part as one recording again.
    assert [len(r.files) for r in data.recordings(out, "train")] == [4, 1]
    assert not list(out.rglob("*.partial*"))


def test_equal_names_do_not_collide(tmp_path: Path) -> None:
    names = ["song.wav", "song.flac", "x/song.wav", "x/Song.wav", "canção (live) a=b, c.wav", "日本.wav", "中国.wav"]
    for i, name in enumerate(names):
        tone(tmp_path / "in" / name, 2, hertz=200 + 50 * i)
    tone(tmp_path / "other" / "song.wav", 2, hertz=1000)
    prepare([tmp_path / "in", tmp_path / "other", tmp_path / "in" / "song.wav"], tmp_path / "out", Settings())
    rows = manifest(tmp_path / "out")
    assert len(rows) == len(names) + 1, "what is given twice is taken once"
    assert len({r["recording"].lower() for r in rows}) == len({r["source"] for r in rows}) == len(rows)
    assert all(r["file"].isascii() and " " not in r["file"] for r in rows)
    heard = {r["source"]: frequency(audio.read(tmp_path / "out" / r["file"], 16000), 16000) for r in rows}
    for i, name in enumerate(names):
        name = str(tmp_path / "in" / name) if name == "song.wav" else name
        assert abs(heard[name] - (200 + 50 * i)) < 1
    assert abs(heard[str(tmp_path / "other" / "song.wav")] - 1000) < 1


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    """Also those that mean something to what prints them."""
    tone(tmp_path / "in" / "[bold]x[" / "b] 50% {y}.wav", 3)
    tone(tmp_path / "in" / "[red]brief.wav", 0.5)
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, color_system=None, width=150, markup=False, highlight=False)
    prepare([tmp_path / "in"], tmp_path / "out", Settings(), console=console)
    assert "  [red]brief.wav: shorter than" in terminal.getvalue()
    assert [r["source"] for r in manifest(tmp_path / "out")] == ["[bold]x[/b] 50% {y}.wav"]
    with pace(console, "reading", 10) as report:
        report("[bold]x[/b] 50% {y}.wav")(3.0)
        time.sleep(0.3)  # the bar is drawn ten times a second
    assert "[bold]x[/b] 50% {y}.wav, " in terminal.getvalue()


def test_names_become_safe() -> None:
    ids = unique_ids(["a/Übung #3: [x]=1.mp3", "../..wav", "b/" + "long " * 100 + ".mp3", "-rf.wav"])
    assert ids["a/Übung #3: [x]=1.mp3"] == "Ubung-3-x-1"
    assert ids["-rf.wav"] == "rf"
    assert all(0 < len(i) <= 100 and not i.startswith(".") for i in ids.values())


def test_what_cannot_be_used_is_listed(tmp_path: Path, call: Call) -> None:
    folder = tmp_path / "in"
    tone(folder / "good.wav", 3)
    tone(folder / "silent.wav", 3, level=0.0005)
    tone(folder / "brief.wav", 0.8)
    (folder / "zero.mp3").touch()
    (folder / "text.ogg").write_text("no sound " * 100)
    (folder / "cover.jpg").write_bytes(b"a picture")
    half = tone(folder / "half.flac", 30)
    half.write_bytes(half.read_bytes()[:-2000])
    sf.write(folder / "nan.wav", np.full(48000, np.nan), 16000, subtype="FLOAT")
    (tmp_path / "nothing").mkdir()
    status, printed = call(folder, tmp_path / "nothing", "--out", tmp_path / "out")
    assert status == 1
    lines = {line.strip() for line in printed.splitlines()}
    assert "6 could not be used:" in lines
    assert "silent.wav: silent: its peak is -66 dBFS" in lines
    assert "brief.wav: shorter than 1 s (0.80 s)" in lines
    assert "zero.mp3: is empty (0 bytes)" in lines
    assert "nan.wav: has samples that are not numbers" in lines
    assert f"{tmp_path / 'nothing'}: there are no recordings in this folder" in lines
    assert any(line.startswith("text.ogg: is not a readable recording") for line in lines)
    assert "1 could be used in part:" in lines
    assert any(line.startswith("half.flac: used until 0:20, then is damaged") for line in lines)
    assert "cover" not in printed
    assert [(r["source"], r["samples"]) for r in manifest(tmp_path / "out")] == [
        ("good.wav", 48000), ("half.flac", 320000),
    ]  # fmt: skip
    assert "Nothing is in val and test" in printed
    assert call(folder, "--out", tmp_path / "out")[0] == 1, "also when there is nothing left to do"


def test_nothing_usable(tmp_path: Path, call: Call) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "zero.wav").touch()
    status, printed = call(tmp_path / "in", "--out", tmp_path / "out")
    assert status == 2
    assert "none of these recordings can be used" in printed
    assert "zero.wav: is empty" in printed
    assert not (tmp_path / "out").exists()

    # Nor is a data set given up because its sources have gone, as with a disk that is not there.
    path = tone(tmp_path / "in" / "a.wav", 3)
    assert call(tmp_path / "in", "--out", tmp_path / "out")[0] == 1
    before = contents(tmp_path / "out")
    path.unlink()
    assert call(tmp_path / "in", "--out", tmp_path / "out")[0] == 2
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.wav"], "there is no file or folder absent.wav"),
        (["--rate", "10"], "--rate must be from 1000 to 192000"),
        (["--chunk", "0.5"], "--chunk must be from 1 to 600"),
        (["--chunk", "nan"], "--chunk must be from 1 to 600"),
        (["--gap", "-1"], "--gap must be 0 or more"),
        (["--gap", "3", "--split", "recording"], "--gap is for --split time"),
        (["--held-out", "30", "--split", "recording"], "--held-out is for --split time"),
        (["--held-out", "1"], "--held-out must be at least 5"),
        (["--split", "time", "--splits", "x.json"], "not allowed with"),
        (["--splits", "absent.json"], "absent.json"),
        (["--format", "mp3"], "invalid choice"),
    ],
)
def test_bad_arguments(tmp_path: Path, call: Call, arguments: list[str], message: str) -> None:
    status, printed = call(tone(tmp_path / "a.wav", 2), *arguments, "--out", tmp_path / "out")
    assert status == 2
    assert message in printed
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, call: Call) -> None:
    path = tone(tmp_path / "in" / "a.wav", 2)
    status, printed = call(path, "--out", tmp_path / "in")
    assert status == 2
    assert "has files in it" in printed
    assert [p.name for p in (tmp_path / "in").iterdir()] == ["a.wav"]
    assert "is a file" in call(path, "--out", path)[1]


# --- again --------------------------------------------------------------------------------------------


def test_again_does_nothing(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    tone(tmp_path / "in" / "a.wav", 110)
    out = tmp_path / "in" / "out"  # inside of what it is made of
    call(tmp_path / "in", "--out", out, "--licence", "CC0")
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in out.rglob("*") if p.is_file() and p.name != "lock"}

    def unwanted(*_: object) -> None:
        raise AssertionError("nothing has to be read")

    monkeypatch.setattr(audio, "stream", unwanted)
    status, printed = call(tmp_path / "in", "--out", out)
    assert status == 0
    assert "up to date: nothing to do" in printed
    assert "No licence" not in printed, "it was stated the first time"
    after = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in out.rglob("*") if p.is_file() and p.name != "lock"}
    assert after == before

    content = described(out)["content_hash"]
    assert call(tmp_path / "in", "--out", out, "--licence", "CC BY")[0] == 0
    assert (described(out)["licence"], described(out)["content_hash"]) == ("CC BY", content)


@pytest.mark.parametrize(
    ("arguments", "difference"),
    [
        (["--rate", "8000"], "rate 16000, not 8000"),
        (["--format", "wav"], "format flac, not wav"),
        (["--chunk", "30"], "chunk 60.0, not 30.0"),
        (["--split", "recording"], "split time, not recording"),
        (["--gap", "2"], "gap 5.0, not 2.0"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, call: Call, arguments: list[str], difference: str) -> None:
    path, out = tone(tmp_path / "a.wav", 2), tmp_path / "out"
    call(path, "--out", out)
    before = contents(out)
    status, printed = call(path, "--out", out, *arguments)
    assert status == 2
    assert difference in printed
    assert "another --out" in printed
    assert contents(out) == before


def test_sources_come_change_and_go(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    tone(folder / "a.wav", 100, hertz=300)
    tone(folder / "b.wav", 100, hertz=400)
    out, settings = tmp_path / "out", Settings(chunk=20)
    prepare([folder], out, settings)
    first = contents(out)
    tone(folder / "c.wav", 100, hertz=500)
    prepare([folder], out, settings)
    assert {r["recording"] for r in manifest(out)} == {"a", "b", "c"}
    (folder / "c.wav").unlink()
    prepare([folder], out, settings)
    assert contents(out) == first, "stale chunks are gone"
    tone(folder / "b.wav", 30, hertz=450)
    prepare([folder], out, settings)
    assert len([r for r in manifest(out) if r["recording"] == "b"]) == 2
    assert sorted(f"{p.parent.name}/{p.name}" for p in out.glob("*/*.flac")) == sorted(r["file"] for r in manifest(out))

    # A chunk that was deleted is made again.
    whole = contents(out)
    (out / "train" / "a-0002.flac").unlink()
    prepare([folder], out, settings)
    assert contents(out) == whole


def test_an_interrupted_change_that_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of another version of a recording are not taken for those of the older note."""
    path, out = tone(tmp_path / "a.wav", 6, hertz=300), tmp_path / "out"
    prepare([path], out, Settings())
    before, status, old = contents(out), path.stat(), path.read_bytes()
    tone(path, 6, hertz=900)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "keep_chunks", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare([path], out, Settings())
    assert not (out / "dataset.yaml").exists()
    with pytest.raises(UserError, match="unfinished"):
        data.recordings(out, "train")
    path.write_bytes(old)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    prepare([path], out, Settings())
    assert contents(out) == before


def test_a_first_run_that_was_interrupted_is_no_folder_of_recordings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tone(tmp_path / "a.wav", 110)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "keep_chunks", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare([path], tmp_path / "out", Settings())
    assert list((tmp_path / "out").glob("*/*.flac"))
    with pytest.raises(UserError, match="unfinished"):
        data.recordings(tmp_path / "out", "train")


# --- killed -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def killed_sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """Four recordings and what an uninterrupted run makes of them."""
    folder = tmp_path_factory.mktemp("killed")
    for i in range(4):
        tone(folder / "in" / f"song {i}.wav", 100, 22050, 2, hertz=200 + 100 * i)
    prepare([folder / "in"], folder / "out", Settings(chunk=2, gap=3.0))
    return folder / "in", contents(folder / "out")


@pytest.mark.parametrize("when", ["measuring", "writing"])
def test_killed_and_run_again(killed_sources: tuple[Path, dict[str, bytes]], tmp_path: Path, when: str) -> None:
    """While writing it is killed twice, at numbers of chunks drawn at random."""
    folder, wanted = killed_sources
    out = tmp_path / "out"
    arguments = [str(folder), "--out", str(out), "--chunk", "2", "--gap", "3"]
    command = [sys.executable, "-m", "data_tools.prepare", *arguments]
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # pytest shows it when the test fails
    total = sum(name.endswith(".flac") for name in wanted)
    if when == "measuring":
        pattern, counts = ".prepare/measured/*.txt", [2]
    else:
        pattern, counts = "*/*.flac", sorted(random.Random(seed).sample(range(1, total - 20), 2))
    for count in counts:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        while len(list(out.glob(pattern))) < count and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was still at work"
        assert not (out / "dataset.yaml").exists()
    ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert (ended.returncode, "is complete" in ended.stdout) == (0, True)
    assert contents(out) == wanted
    assert not [p for p in out.rglob("*") if ".partial" in p.name]


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    path = tone(tmp_path / "a.wav", 2)
    with Ledger(tmp_path / "out").locked(), pytest.raises(UserError, match="by another process"):
        prepare([path], tmp_path / "out", Settings())
    prepare([path], tmp_path / "out", Settings())


# --- light --------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    rate, path = 8000, tmp_path / "half an hour.wav"
    minute = 0.5 * np.sin(np.arange(60 * rate) / 10)
    with sf.SoundFile(path, "w", rate, 2) as file:
        for _ in range(30):
            file.write(np.stack([minute, minute], axis=1))
    tracemalloc.start()
    prepare([path], tmp_path / "out", Settings(rate=rate))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6  # half an hour is 58 MB, and twice that in stereo
    assert sum(r["samples"] for r in manifest(tmp_path / "out")) / rate == pytest.approx(1790, abs=3)


def test_data_tools_do_not_load_torch() -> None:
    code = "import sys, data_tools.prepare, data_tools.inspect, data_tools.pictures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
