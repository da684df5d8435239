"""What is not taken into a data set: silence, clipping, music that is there already; and what else is told of it."""

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile as sf
import soxr
from conftest import ROOT, notes
from rich.console import Console
from test_prepare import Call, call, contents, described, manifest, tone

from data_tools.gates import Dropped, sounding
from data_tools.ledger import Ledger
from data_tools.loudness import Loudness
from data_tools.measuring import Measured, clipped
from data_tools.prepare import prepare, prepare_sources
from data_tools.settings import GATES, Settings
from data_tools.sources import discover
from sashimi import audio

RATE = 16000
__all__ = ["call"]  # the fixture


def save(path: Path, waveform: np.ndarray, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, waveform, rate)
    return path


def save_mp3(path: Path, waveform: np.ndarray) -> Path:
    """64 kbit/s at 44.1 kHz."""
    sound = soxr.resample(waveform, RATE, 44100).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libmp3lame", rate=44100, layout="mono", bit_rate=64000)
        size = 1152
        for at in range(0, len(sound), size):
            frame = av.AudioFrame.from_ndarray(sound[None, at : at + size], format="fltp", layout="mono")
            frame.rate, frame.pts = 44100, at
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def quietly(given: Path, out: Path, **settings: object) -> dict[str, str]:
    return prepare([given], out, Settings(**settings), "CC0", Console(quiet=True))  # type: ignore[arg-type]


def kept(out: Path) -> list[tuple[str, str, float]]:
    return [(row["source"], row["split"], row["start"]) for row in manifest(out)]


# --- duplicates ---------------------------------------------------------------------------------------


def test_another_encoding_of_the_same_music(tmp_path: Path, call: Call) -> None:
    music, other = notes(40, 1), notes(40, 2)
    save(tmp_path / "in" / "a.wav", music)
    save(tmp_path / "in" / "b.wav", other)
    save_mp3(tmp_path / "in" / "c.mp3", 0.3 * music[round(7.33 * RATE) :])
    status, printed = call(tmp_path / "in", "--out", tmp_path / "out", "--chunk", 10, "--licence", "CC0")
    assert status == 0
    assert {source for source, _, _ in kept(tmp_path / "out")} == {"a.wav", "b.wav"}
    assert described(tmp_path / "out")["dropped"]["duplicates"]["chunks"] == 4
    assert "c.mp3 0:10 to 0:20 (train): heard in a.wav 0:17 (train)" in printed
    before = contents(tmp_path / "out")
    status, printed = call(tmp_path / "in", "--out", tmp_path / "out", "--chunk", 10)
    assert "up to date" in printed
    assert "c.mp3 0:10 to 0:20" in printed, "what is dropped is said each time"
    assert contents(tmp_path / "out") == before


def test_of_a_copy_nothing_in_test_or_val_is_trained_on(tmp_path: Path) -> None:
    music = notes(150, 3)
    save(tmp_path / "in" / "a.wav", music)
    save(tmp_path / "in" / "b.wav", -0.6 * music[round(12.34 * RATE) :])  # begins later, so its splits do too
    quietly(tmp_path / "in", tmp_path / "out", chunk=4, gap=2)
    times: dict[str, list[tuple[float, float]]] = {"train": [], "val": [], "test": []}
    for row in manifest(tmp_path / "out"):
        start = row["start"] + (12.34 if row["source"] == "b.wav" else 0)
        times[row["split"]].append((start, start + row["samples"] / RATE))
    assert times["train"]
    assert times["val"]
    assert times["test"]
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        for a, b in times[one]:
            assert all(b <= c + 0.2 or d <= a + 0.2 for c, d in times[other]), f"{a} to {b} of {one} is in {other}"
    alone = sum(b - a for a, b in times["train"])
    assert alone > 100, "what is in neither is trained on, once"


def test_what_repeats_in_a_recording_stays(tmp_path: Path) -> None:
    loop = notes(8, 4)
    save(tmp_path / "in" / "loops.wav", np.tile(loop, 8))
    quietly(tmp_path / "in", tmp_path / "out", chunk=8)
    assert len(kept(tmp_path / "out")) == 8


def test_a_loop_with_others_playing_is_other_music(tmp_path: Path) -> None:
    loop = np.tile(notes(8, 5), 4)
    save(tmp_path / "in" / "a.wav", loop)
    save(tmp_path / "in" / "b.wav", loop + notes(32, 6))
    save(tmp_path / "in" / "c.wav", loop)
    quietly(tmp_path / "in", tmp_path / "out", chunk=16)
    assert {source for source, _, _ in kept(tmp_path / "out")} == {"a.wav", "b.wav"}, "the same loop exported twice"


def test_copies_come_and_go(tmp_path: Path) -> None:
    """A data set is the same, in whatever order its recordings came; a recording is not read again to drop of it."""
    music = notes(20, 7)
    save(tmp_path / "in" / "b.wav", music)
    save(tmp_path / "in" / "c.wav", notes(20, 8))
    out = tmp_path / "out"
    quietly(tmp_path / "in", out, chunk=10)
    only_b = contents(out)
    sources, _ = discover([tmp_path / "in"], out)
    a = save(tmp_path / "in" / "a.wav", 0.5 * music)
    (tmp_path / "in" / "b.wav").unlink()
    added = [s for s in discover([tmp_path / "in"], out)[0] if s.name == "a.wav"]
    prepare_sources([*added, *sources], {}, out, Settings(chunk=10), console=Console(quiet=True))
    assert {source for source, _, _ in kept(out)} == {"a.wav", "c.wav"}
    a.unlink()
    save(tmp_path / "in" / "b.wav", music)
    quietly(tmp_path / "in", out, chunk=10)
    assert contents(out) == only_b


def test_duplicates_can_be_kept(tmp_path: Path) -> None:
    music = notes(12, 9)
    save(tmp_path / "in" / "a.wav", music)
    save(tmp_path / "in" / "b.wav", music)
    quietly(tmp_path / "in", tmp_path / "out", keep=("duplicates",))
    assert len(kept(tmp_path / "out")) == 2
    assert described(tmp_path / "out")["keep"] == ["duplicates"]
    assert described(tmp_path / "out")["dropped"] == {}


# --- silence and clipping -----------------------------------------------------------------------------


def test_near_silent_chunks(tmp_path: Path, call: Call) -> None:
    hum = 0.5 * 10 ** (-66 / 20) * np.sin(np.arange(10 * RATE))
    faint = 0.5 * 10 ** (-50 / 20) * np.sin(np.arange(10 * RATE))
    save(tmp_path / "a.wav", np.concatenate([notes(10, 1), hum, faint, notes(10, 2)]))
    arguments = (tmp_path / "a.wav", "--chunk", 10, "--out")
    status, printed = call(*arguments, tmp_path / "out")
    assert (status, [start for _, _, start in kept(tmp_path / "out")]) == (0, [0, 20, 30])
    assert "Dropped as silent: 1 chunk, 0:10" in printed
    assert f"{tmp_path / 'a.wav'} 0:10 to 0:20 (train): near-silent, 69 dB under the recording's peak" in printed
    assert described(tmp_path / "out")["dropped"] == {"silent": {"chunks": 1, "seconds": 10.0}}
    files = [row["file"] for row in manifest(tmp_path / "out")]
    assert files == ["train/a-0001.flac", "train/a-0003.flac", "train/a-0004.flac"]
    assert call(*arguments, tmp_path / "all", "--keep", "silent")[0] == 0
    assert len(kept(tmp_path / "all")) == 4


def test_clipped_chunks(tmp_path: Path, call: Call) -> None:
    """Also where it was made softer afterwards, and in one channel only."""
    clean, loud = notes(10, 1, rate=44100), notes(10, 2, rate=44100)
    hard = 0.7 * np.clip(6 * loud, -1, 1)
    save(
        tmp_path / "in" / "a.wav",
        np.stack([0.5 * np.concatenate([clean, loud]), np.concatenate([clean, hard])], 1),
        44100,
    )
    save(tmp_path / "in" / "b.wav", notes(10, 3, rate=44100), 44100)
    status, printed = call(tmp_path / "in", "--chunk", 10, "--out", tmp_path / "out")
    assert (status, kept(tmp_path / "out")) == (0, [("a.wav", "train", 0), ("b.wav", "train", 0)])
    assert "a.wav 0:10 to 0:20 (train): clipped, " in printed
    assert call(tmp_path / "in", "--chunk", 10, "--out", tmp_path / "all", "--keep", "clipped,silent")[0] == 0
    assert len(kept(tmp_path / "all")) == 3


@pytest.mark.parametrize("rate", [8000, 11025, 44100])
def test_the_share_that_is_clipped(tmp_path: Path, rate: int) -> None:
    t = np.arange(20 * rate) / rate
    wave = np.where(t < 10, np.clip(2 * np.sin(2 * np.pi * 100.3 * t), -1, 1), 0.99 * np.sin(2 * np.pi * 100.3 * t))
    found = clipped(save(tmp_path / "a.flac", 0.6 * wave, rate), 0.1)
    assert len(found) == 200
    assert np.mean(found[:100]) == pytest.approx(2 / 3, abs=0.05)
    assert np.mean(found[100:]) < 0.05
    assert len(clipped(save(tmp_path / "a.ogg", 0.6 * wave, rate), 0.1)) == 0, "no runs are left in it"


def test_clean_music_is_not_clipped() -> None:
    shares = clipped(ROOT / "data_tools" / "sample" / "reclamation.flac", 0.1)
    assert len(shares) == 2400
    assert np.max(shares) < 1e-3


def test_nothing_left(tmp_path: Path, call: Call) -> None:
    save(tmp_path / "a.wav", np.clip(20 * notes(5, 1), -1, 1))
    status, printed = call(tmp_path / "a.wav", "--out", tmp_path / "out")
    assert status == 2
    assert "every chunk was dropped" in printed
    assert not (tmp_path / "out" / "dataset.yaml").exists()


# --- trim ---------------------------------------------------------------------------------------------


def test_silence_at_both_ends_is_cut_off(tmp_path: Path) -> None:
    music = notes(9.75, 1)  # a multiple of the notes' length, so that none ends in a decay
    whole = np.concatenate([np.zeros(3 * RATE), music, np.zeros(RATE), music, 1e-5 * np.ones(4 * RATE)])
    path = save(tmp_path / "a.wav", whole)
    quietly(path, tmp_path / "out")
    (row,) = manifest(tmp_path / "out")
    assert row["start"] == pytest.approx(2.8, abs=0.11)
    assert row["samples"] / RATE == pytest.approx(20.9, abs=0.21)
    heard = audio.read(tmp_path / "out" / row["file"], RATE) / 10 ** (row["gain_db"] / 20)
    first = round(row["start"] * RATE)
    assert np.abs(heard - whole[first : first + len(heard)]).max() < 1e-3, "start is in the recording as it was"
    quietly(path, tmp_path / "all", trim=False)
    assert manifest(tmp_path / "all")[0]["samples"] == len(whole)


def test_sounding() -> None:
    level = np.full(100, -100, np.float16)
    nothing = np.zeros(0, np.float16)
    codes = np.zeros((0, 2), np.uint32)
    assert sounding(Measured(100 * 800 - 7, 0.5, None, None, level, nothing, codes), 8000) == (0, 79993)
    level[[0, 99]] = -20
    assert sounding(Measured(100 * 800 - 7, 0.5, None, None, level, nothing, codes), 8000) == (0, 79993)


# --- loudness -----------------------------------------------------------------------------------------


def sine(seconds: float, dbfs: float, rate: int = 48000) -> np.ndarray:
    return (10 ** (dbfs / 20) * np.sin(2 * np.pi * 1000 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_loudness_of_known_signals(rate: int) -> None:
    """EBU Tech 3341: in two channels, a 1 kHz sine of -23 dBFS is -23 LUFS, so in one 3.01 less; and its gates."""

    def loudness(*parts: np.ndarray) -> float:
        meter = Loudness(rate)
        for block in np.array_split(np.concatenate(parts), 70):
            meter.add(block)
        assert meter.integrated is not None
        return meter.integrated

    assert loudness(sine(20, -23, rate)) == pytest.approx(-26.01, abs=0.1)
    assert loudness(sine(20, -33, rate)) == pytest.approx(-36.01, abs=0.1)
    steps = sine(10, -36, rate), sine(60, -23, rate), sine(10, -36, rate)  # its test 3: the outer ones are gated
    assert loudness(*steps) == pytest.approx(-26.01, abs=0.1)


def test_one_loudness_for_all(tmp_path: Path, call: Call) -> None:
    for name, level in (("loud", 1.8), ("soft", 0.2)):
        save(tmp_path / "in" / f"{name}.wav", level * notes(10, 1))
    peaky = 0.02 * notes(10, 2)
    peaky[5 * RATE] = 0.9
    save(tmp_path / "in" / "peaky.wav", peaky)
    save(tmp_path / "in" / "brief.wav", notes(0.3, 3))
    arguments = ("--loudness", -23, "--keep", "duplicates", "--shortest", 0.1)
    status, printed = call(tmp_path / "in", "--out", tmp_path / "out", *arguments)
    assert status == 0
    assert described(tmp_path / "out")["loudness"] == -23
    rows = {row["recording"]: row for row in manifest(tmp_path / "out")}
    for name in ("loud", "soft"):
        meter = Loudness(RATE)
        meter.add(audio.read(tmp_path / "out" / rows[name]["file"], RATE))
        assert meter.integrated == pytest.approx(-23, abs=0.1)
    assert rows["loud"]["rms_dbfs"] == pytest.approx(rows["soft"]["rms_dbfs"], abs=0.03)
    assert rows["peaky"]["peak_dbfs"] == rows["brief"]["peak_dbfs"] == pytest.approx(-1, abs=0.01)
    assert "2 of 4 recordings stay under -23 LUFS" in printed
    assert "brief.wav, peaky.wav" in printed


# --- damage, short recordings, former data sets -------------------------------------------------------


def test_a_recording_is_used_until_its_damage(tmp_path: Path, call: Call) -> None:
    music, other = notes(60, 1), notes(60, 2)
    whole = save(tmp_path / "in" / "a.flac", music)
    content = bytearray(whole.read_bytes())
    middle = len(content) * 35 // 60
    content[middle : middle + 3000] = bytes(3000)
    whole.write_bytes(content)
    for name, at in (("b", 9), ("c", 25)):
        broken = other.copy()
        broken[at * RATE] = np.nan
        sf.write(tmp_path / "in" / f"{name}.wav", broken, RATE, subtype="FLOAT")
    arguments = (tmp_path / "in", "--out", tmp_path / "out", "--chunk", 10, "--no-trim")
    status, printed = call(*arguments)
    assert status == 1
    rows = {row["file"]: row for row in manifest(tmp_path / "out")}
    assert list(rows) == [f"train/{name}.flac" for name in ("a-0001", "a-0002", "a-0003", "c-0001", "c-0002")]
    assert {row["samples"] for row in rows.values()} == {10 * RATE}
    for name, start, waveform in (("a-0003", 20, music), ("c-0002", 10, other)):
        row = rows[f"train/{name}.flac"]
        heard = audio.read(tmp_path / "out" / row["file"], RATE) / 10 ** (row["gain_db"] / 20)
        assert np.abs(heard - waveform[start * RATE : (start + 10) * RATE]).max() < 1e-3
    assert "2 could be used in part:\n  a.flac: used until 0:30, then is damaged after 0:30" in printed
    assert "  c.wav: used until 0:20, then has samples that are not numbers" in printed
    assert "1 could not be used:\n  b.wav: has samples that are not numbers" in printed
    before = contents(tmp_path / "out")
    status, printed = call(*arguments)
    assert (status, "up to date" in printed, "used until 0:30" in printed) == (1, True, True)
    assert contents(tmp_path / "out") == before


def test_recordings_shorter_than_a_second(tmp_path: Path, call: Call) -> None:
    tone(tmp_path / "in" / "a.wav", 0.7)
    tone(tmp_path / "in" / "b.wav", 0.3, hertz=500)
    status, printed = call(tmp_path / "in", "--out", tmp_path / "out", "--shortest", 0.5)
    assert (status, "b.wav: shorter than 0.5 s (0.30 s)" in printed) == (1, True)
    assert [(row["source"], row["samples"]) for row in manifest(tmp_path / "out")] == [("a.wav", 11200)]


def test_a_data_set_of_a_former_version(tmp_path: Path, call: Call) -> None:
    """It is not made anew in silence; with what it was made with, it goes on, and nothing of it is written again."""
    save(tmp_path / "in" / "a.wav", np.concatenate([notes(15, 1), np.zeros(5 * RATE)]))
    out = tmp_path / "out"
    former = ("--no-trim", "--keep", ",".join(GATES))
    assert call(tmp_path / "in", "--out", out, "--chunk", 5, *former)[0] == 0
    file = Ledger(out).settings_file
    settings = json.loads(file.read_text())
    settings["settings"] = {n: v for n, v in settings["settings"].items() if n not in ("trim", "keep", "shortest")}
    file.write_text(json.dumps(settings))
    chunks = {path: path.stat().st_mtime_ns for path in out.glob("*/*.flac")}
    status, printed = call(tmp_path / "in", "--out", out, "--chunk", 5)
    assert status == 2
    assert "trim False, not True" in printed
    assert "--no-trim --keep silent,clipped,duplicates" in printed
    assert call(tmp_path / "in", "--out", out, "--chunk", 5, *former)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*.flac")} == chunks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep", "loud"], "loud: choose from silent, clipped, duplicates"),
        (["--loudness", "3"], "--loudness must be from -70 to 0"),
        (["--shortest", "0"], "--shortest must be more than 0"),
    ],
)
def test_bad_arguments(tmp_path: Path, call: Call, arguments: list[str], message: str) -> None:
    status, printed = call(tone(tmp_path / "a.wav", 2), *arguments, "--out", tmp_path / "out")
    assert (status, message in printed) == (2, True)


def test_a_dropped_chunk_says_what_it_is() -> None:
    chunk = Dropped("a.mp3", "val", 65.0, 125.0, "clipped", "clipped, 1.5% of its samples")
    assert str(chunk) == "a.mp3 1:05 to 2:05 (val): clipped, 1.5% of its samples"


def test_the_gates_load_no_heavy_library() -> None:
    code = (
        "import sys, data_tools.prepare; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'librosa', 'scipy', 'numba')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
