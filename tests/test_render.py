"""MIDI files to data sets: pitch and time of what is played, variations, what is skipped, what a killed run leaves."""

import hashlib
import json
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
import soundfile as sf
from conftest import ROOT
from test_audio import frequency
from test_prepare import contents, described, manifest

from data_tools import midi
from data_tools import render as render_tool
from data_tools.ledger import Ledger
from data_tools.midi import Change, Ranges
from data_tools.render import Collection, Variations, render
from data_tools.settings import Settings
from sashimi import audio
from sashimi.errors import UserError

Call = Callable[..., tuple[int, str]]
Note = tuple[float, float, int]  # second, seconds, key
RATE = 16000
A4 = 69

try:
    import fluidsynth  # noqa: F401

    HAS_LIBRARY = True
except (ImportError, OSError):
    HAS_LIBRARY = False
needs_library = pytest.mark.skipif(not HAS_LIBRARY, reason="the FluidSynth library is not installed")


def chunk(name: str, content: bytes) -> bytes:
    return name.encode() + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def listed(name: str, *chunks: bytes) -> bytes:
    return chunk("LIST", name.encode() + b"".join(chunks))


def named(name: str) -> bytes:
    return name.encode().ljust(20, b"\0")


def write_soundfont(path: Path) -> Path:
    """One preset: a sine that sounds as long as its key is held. SoundFont 2.01, sections 7.1 to 7.10."""
    rate, period, periods = 44000, 100, 20  # 440 Hz
    length = period * periods
    sine = np.round(20000 * np.sin(2 * np.pi * np.arange(length) / period)).astype("<i2")
    samples = np.concatenate([sine, np.zeros(46, "<i2")]).tobytes()
    bags = struct.pack("<4H", 0, 0, 1, 0)
    header = struct.pack("<5IBbHH", 0, length, period, length - period, rate, A4, 0, 0, 1)
    presets = [
        named("Sine") + struct.pack("<3H3I", 0, 0, 0, 0, 0, 0),
        named("EOP") + struct.pack("<3H3I", 0, 0, 1, 0, 0, 0),
    ]
    instruments = [named("Sine") + struct.pack("<H", 0), named("EOI") + struct.pack("<H", 1)]
    played = struct.pack("<HHHH", 54, 1, 53, 0)  # looped; sample 0
    hydra = listed(
        "pdta",
        chunk("phdr", b"".join(presets)),
        chunk("pbag", bags),
        chunk("pmod", bytes(10)),
        chunk("pgen", struct.pack("<HHHH", 41, 0, 0, 0)),  # instrument 0
        chunk("inst", b"".join(instruments)),
        chunk("ibag", struct.pack("<4H", 0, 0, 2, 0)),
        chunk("imod", bytes(10)),
        chunk("igen", played + bytes(4)),
        chunk("shdr", named("Sine") + header + named("EOS") + bytes(26)),
    )
    about = listed(
        "INFO", chunk("ifil", struct.pack("<HH", 2, 1)), chunk("isng", b"EMU8000\0"), chunk("INAM", b"Sine\0\0")
    )
    path.write_bytes(chunk("RIFF", b"sfbk" + about + listed("sdta", chunk("smpl", samples)) + hydra))
    return path


@pytest.fixture(scope="session")
def soundfont(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_soundfont(tmp_path_factory.mktemp("soundfont") / "sine.sf2")


def write_midi(
    path: Path,
    notes: Iterable[Note] = ((0.0, 2.0, A4),),
    extra: Iterable[tuple[float, Any]] = (),
    kind: int = 1,
    velocity: int = 100,
) -> Path:
    """At 120 beats a minute, of 480 ticks. extra: messages at their second."""
    events = list(extra)
    for start, length, key in notes:
        events.append((start, mido.Message("note_on", note=key, velocity=velocity)))
        events.append((start + length, mido.Message("note_off", note=key)))
    ticks = sorted(((round(960 * at), message) for at, message in events), key=lambda event: event[0])
    track, before = mido.MidiTrack(), 0
    for at, message in ticks:
        track.append(message.copy(time=at - before))
        before = at
    file = mido.MidiFile(type=kind, ticks_per_beat=480)
    file.tracks.append(track)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save(path)
    return path


def tempo(bpm: float) -> mido.MetaMessage:
    return mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(bpm))


def heard(path: Path, soundfont: Path, rate: int = RATE, change: Change = Change()) -> np.ndarray:  # noqa: B008
    target = path.with_suffix(".flac")
    midi.render(midi.varied(midi.read(path), change), soundfont, rate, target, lambda seconds: None)
    return audio.read(target, rate)


def onsets(waveform: np.ndarray, rate: int = RATE) -> list[float]:
    """Seconds at which sound begins after silence."""
    loud = np.abs(waveform) > 0.1 * np.abs(waveform).max()
    at = np.flatnonzero(loud)
    return [at[0] / rate, *(b / rate for a, b in pairwise(at) if b - a > 0.05 * rate)]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line, in this process: exit status and everything printed."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["render", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            render_tool.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

    return run


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were played from here on."""
    names: list[str] = []
    true = midi.render

    def counted(score: Any, soundfont: Path, rate: int, path: Path, report: Any) -> None:
        true(score, soundfont, rate, path, report)
        names.append(path.name.rpartition("-")[0])

    monkeypatch.setattr(midi, "render", counted)
    return names


# --- playing ------------------------------------------------------------------------------------------


@needs_library
@pytest.mark.parametrize("rate", [8000, 16000, 44100, 96000])
def test_pitch(tmp_path: Path, soundfont: Path, rate: int) -> None:
    path = write_midi(tmp_path / "a.mid", [(0, 2, A4)])
    sound = heard(path, soundfont, rate)
    assert frequency(sound[rate // 2 : 2 * rate], rate) == pytest.approx(440, abs=1)
    higher = heard(path, soundfont, rate, Change(transpose=2))
    assert frequency(higher[rate // 2 : 2 * rate], rate) == pytest.approx(440 * 2 ** (2 / 12), abs=1)


@needs_library
def test_notes_are_on_time_and_the_ends_are_cut(tmp_path: Path, soundfont: Path) -> None:
    """The first note after 0.2 s, whatever came before; each within FluidSynth's block and a rising edge."""
    starts = [30 + s for s in (0, 0.7, 1.234, 3.001)]
    path = write_midi(tmp_path / "a.mid", [(s, 0.3, A4) for s in starts])
    sound = heard(path, soundfont)
    assert onsets(sound) == pytest.approx([s - 30 + midi.LEAD for s in starts], abs=0.003)
    assert np.abs(sound[: round(0.19 * RATE)]).max() == 0
    assert len(sound) / RATE == pytest.approx(midi.LEAD + 3.301, abs=0.05), "the sine ends with its key"
    faster = heard(path, soundfont, change=Change(tempo=1.25))
    assert onsets(faster) == pytest.approx([(s - 30) / 1.25 + midi.LEAD for s in starts], abs=0.003)


@needs_library
def test_tempo_events_after_the_last_note_are_no_silence(tmp_path: Path, soundfont: Path) -> None:
    path = write_midi(tmp_path / "a.mid", extra=[(60.0 * i, tempo(100 + i)) for i in range(1, 30)])
    assert len(heard(path, soundfont)) / RATE == pytest.approx(midi.LEAD + 2, abs=0.05)


@needs_library
def test_a_pedal_that_stays_down_is_faded_out(tmp_path: Path, soundfont: Path) -> None:
    pedal = mido.Message("control_change", control=64, value=127)
    sound = heard(write_midi(tmp_path / "a.mid", [(0, 1, A4)], [(0.5, pedal)]), soundfont)
    assert len(sound) / RATE == pytest.approx(midi.LEAD + 1 + midi.TAIL, abs=0.01)
    assert np.abs(sound[-RATE:][: RATE // 4]).max() > 0.1 * np.abs(sound).max()
    assert np.abs(sound[-20:]).max() < 0.01 * np.abs(sound).max()

    up = mido.Message("control_change", control=64, value=0)
    sound = heard(write_midi(tmp_path / "b.mid", [(0, 1, A4)], [(0.5, pedal), (2.5, up)]), soundfont)
    assert len(sound) / RATE == pytest.approx(midi.LEAD + 2.5, abs=0.05), "what sounds after the key is heard"


@needs_library
def test_the_tempo_map(tmp_path: Path, soundfont: Path) -> None:
    """Beats 0, 2 and 4 at 120, then 60 from beat 2 on: seconds 0, 1, 3."""
    path = write_midi(tmp_path / "a.mid", [(0, 0.2, A4), (1, 0.2, A4), (2, 0.2, A4)], [(1, tempo(60))])
    assert onsets(heard(path, soundfont)) == pytest.approx([midi.LEAD + s for s in (0, 1, 3)], abs=0.003)
    score = midi.read(path)
    assert (score.start, score.end) == (0, pytest.approx(3.4))
    assert score.labels["bpm"] == 60, "the longer part"


@needs_library
def test_the_same_bytes_again(tmp_path: Path, soundfont: Path) -> None:
    notes = [(0.1 * i, 0.5, 40 + i) for i in range(30)]
    for name in ("a", "b"):
        heard(write_midi(tmp_path / f"{name}.mid", notes), soundfont)
    assert (tmp_path / "a.flac").read_bytes() == (tmp_path / "b.flac").read_bytes()
    info = sf.info(tmp_path / "a.flac")
    assert (info.channels, info.subtype, info.samplerate) == (1, "PCM_16", RATE)


@needs_library
def test_nothing_clips(tmp_path: Path, soundfont: Path) -> None:
    """Sixty keys at once would be far over full scale."""
    soft = np.abs(heard(write_midi(tmp_path / "soft.mid", velocity=100), soundfont)).max()
    sound = heard(write_midi(tmp_path / "loud.mid", [(0, 1, key) for key in range(40, 100)], velocity=127), soundfont)
    assert 60 * soft > 1, "or this tests nothing"
    assert 0.4 < np.abs(sound).max() < 1
    high = np.abs(sound) > 0.99 * np.abs(sound).max()
    assert not np.any((sound[1:] == sound[:-1]) & high[1:])


@needs_library
def test_memory_does_not_grow_with_the_piece(tmp_path: Path, soundfont: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    true = audio.Writer.write

    def watched(self: audio.Writer, waveform: np.ndarray) -> None:
        written.append(len(waveform))
        true(self, waveform)

    monkeypatch.setattr(audio.Writer, "write", watched)
    sound = heard(write_midi(tmp_path / "a.mid", [(0, 60, A4)]), soundfont)
    assert sum(written) == len(sound)
    assert max(written) <= 1.1 * RATE


# --- reading ------------------------------------------------------------------------------------------


def test_labels(tmp_path: Path) -> None:
    extra = [
        (0, mido.MetaMessage("track_name", name="Étude")),
        (0, mido.MetaMessage("key_signature", key="Eb")),
        (0, mido.Message("program_change", program=40)),
        (0, mido.Message("note_on", channel=9, note=38, velocity=90)),
        (1, tempo(90)),
    ]
    labels = midi.read(write_midi(tmp_path / "a.mid", [(0, 4, A4)], extra)).labels
    assert labels == {"title": "Étude", "key_signature": "Eb", "bpm": 90.0, "instruments": ["Drums", "Violin"]}
    assert "key_signature" not in midi.read(write_midi(tmp_path / "b.mid")).labels
    changed = midi.varied_labels(labels, Change(tempo=1.1, transpose=2))
    assert (changed["bpm"], changed["key_signature"]) == (99.0, "F")


@pytest.mark.parametrize(
    ("key", "semitones", "wanted"),
    [
        ("C", 1, "Db"),
        ("C", -1, "B"),
        ("Gb", 0, "Gb"),
        ("Gb", 1, "G"),
        ("Cb", 1, "C"),
        ("Am", 2, "Bm"),
        ("D#m", 1, "Em"),
    ],
)
def test_transposed_keys(key: str, semitones: int, wanted: str) -> None:
    assert midi.transposed(key, semitones) == wanted


def test_every_key_signature_can_be_transposed() -> None:
    keys = set(mido.midifiles.meta._key_signature_decode.values())
    for key in keys:
        assert midi.transposed(midi.transposed(key, 1), 11) in (key, midi.SAME_KEY.get(key))


def test_unplayable_files_say_why(tmp_path: Path) -> None:
    (tmp_path / "junk.mid").write_bytes(b"MThd, or so it says")
    (tmp_path / "empty.mid").touch()
    whole = write_midi(tmp_path / "whole.mid").read_bytes()
    (tmp_path / "cut.mid").write_bytes(whole[:-6])
    frames = write_midi(tmp_path / "frames.mid").read_bytes()
    (tmp_path / "frames.mid").write_bytes(frames[:12] + struct.pack(">bB", -25, 40) + frames[14:])
    write_midi(tmp_path / "silent.mid", [], [(0, tempo(100))])
    write_midi(tmp_path / "apart.mid", kind=2)
    write_midi(tmp_path / "years.mid", [(0, 1, A4), (100_000, 1, A4)])
    reasons = {
        "junk": "not a readable MIDI file", "empty": "not a readable MIDI file", "cut": "not a readable MIDI file",
        "frames": "SMPTE", "silent": "there are no notes in it", "apart": "type 2", "years": "28 hours",
    }  # fmt: skip
    for name, reason in reasons.items():
        with pytest.raises(UserError, match=reason):
            midi.read(tmp_path / f"{name}.mid")


# --- variations ---------------------------------------------------------------------------------------


def test_variations_are_drawn_by_file_seed_and_number() -> None:
    ranges = Ranges((0.9, 1.1), (-2, 2), (0.8, 1.2))
    drawn = [ranges.draw(digest, seed, number) for digest in "ab" for seed in (0, 1) for number in range(1, 100)]
    assert len(set(drawn)) == len(drawn)
    assert {c.transpose for c in drawn} == {-2, -1, 0, 1, 2}
    for values, (low, high) in (([c.tempo for c in drawn], (0.9, 1.1)), ([c.velocity for c in drawn], (0.8, 1.2))):
        assert low <= min(values) < low + 0.01
        assert high - 0.01 < max(values) <= high
    assert ranges.draw("a", 0, 0) == Change(), "the plain one"
    # What was drawn once is drawn for ever, on every machine.
    assert ranges.draw("a", 0, 1) == Change(tempo=1.0541, transpose=2, velocity=0.9829)


def test_what_a_variation_changes(tmp_path: Path) -> None:
    extra = [
        (0, mido.Message("note_on", channel=9, note=38, velocity=120)),
        (1, mido.Message("note_on", note=50, velocity=0)),
    ]
    score = midi.read(write_midi(tmp_path / "a.mid", [(0, 2, 126), (2, 2, 60)], extra))
    changed = midi.varied(score, Change(tempo=2, transpose=2, velocity=1.5))
    found = [(at, m.type, m.channel, m.note, m.velocity) for at, m in changed.events]
    assert found == [
        (0, "note_on", 9, 38, 127), (0, "note_on", 0, 116, 127), (0.5, "note_on", 0, 52, 0),
        (1, "note_off", 0, 116, 64), (1, "note_on", 0, 62, 127), (2, "note_off", 0, 62, 64),
    ]  # fmt: skip
    assert (changed.start, changed.end) == (0, 2)
    assert [m for _, m in midi.varied(score, Change()).events] == [m for _, m in score.events]


@needs_library
def test_only_training_files_vary(tmp_path: Path, soundfont: Path, call: Call) -> None:
    for i, name in enumerate(("a", "b", "c")):
        write_midi(tmp_path / "in" / f"{name}.mid", [(0, 5, 60 + i), (5, 5, 70 + i)])
    (tmp_path / "lists.json").write_text(json.dumps({"train": ["a"], "val": ["b.mid"], "test": ["c"]}))
    arguments = ["--soundfont", soundfont, "--splits", tmp_path / "lists.json", "--variations", 2, "--licence", "CC0"]
    assert call(tmp_path / "in", "--out", tmp_path / "out", *arguments)[0] == 0
    rows = manifest(tmp_path / "out")
    split = {
        "a.mid": "train",
        "a.variation-1.mid": "train",
        "a.variation-2.mid": "train",
        "b.mid": "val",
        "c.mid": "test",
    }
    assert {r["source"]: r["split"] for r in rows} == split
    lengths = {r["source"]: r["samples"] / RATE for r in rows}
    for number in (1, 2):
        row = next(r for r in rows if r["source"] == f"a.variation-{number}.mid")
        digest = hashlib.sha256((tmp_path / "in" / "a.mid").read_bytes()).hexdigest()
        change = Ranges().draw(digest, 0, number)
        stated = {"number": number, "seed": 0, "tempo": change.tempo, "transpose": change.transpose}
        assert row["about"]["variation"] == stated | {"velocity": change.velocity}
        assert row["about"]["bpm"] == pytest.approx(120 * change.tempo, abs=0.01)
        assert lengths[row["source"]] - 0.2 == pytest.approx((lengths["a.mid"] - 0.2) / change.tempo, abs=0.1)
    assert "variation" not in next(r for r in rows if r["source"] == "a.mid")["about"]

    before = contents(tmp_path / "out")
    assert "nothing to do" in call(tmp_path / "in", "--out", tmp_path / "out", *arguments)[1]
    call(tmp_path / "in", "--out", tmp_path / "out", *arguments, "--seed", 1)
    after = contents(tmp_path / "out")
    assert after["train/a-0001.flac"] == before["train/a-0001.flac"]
    assert after["train/a.variation-1-0001.flac"] != before["train/a.variation-1-0001.flac"]


# --- data sets ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def piece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four files."""
    folder = tmp_path_factory.mktemp("pieces")
    for i in range(4):
        keys = np.random.default_rng(i).integers(50, 80, 20)  # melodies enough unlike for the gate for duplicates
        notes = [(0.5 * n, 0.4, int(key)) for n, key in enumerate(keys)]
        write_midi(folder / ("one" if i < 2 else "two") / f"piece {i}.{'midi' if i else 'MID'}", notes)
    return folder


@pytest.fixture(scope="module")
def wanted(piece: Path, soundfont: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an uninterrupted run makes of them."""
    out = tmp_path_factory.mktemp("wanted") / "out"
    render([piece], out, Settings(chunk=5), soundfont)
    return contents(out)


@needs_library
def test_labels_in_the_manifest(tmp_path: Path, piece: Path, soundfont: Path) -> None:
    render([piece], tmp_path / "out", Settings(), soundfont, "CC0")
    rows = {r["source"]: r for r in manifest(tmp_path / "out")}
    assert sorted(rows) == ["one/piece 0.MID", "one/piece 1.midi", "two/piece 2.midi", "two/piece 3.midi"]
    about = rows["one/piece 0.MID"]["about"]
    assert about["bpm"] == 120
    assert about["instruments"] == ["Acoustic Grand Piano"]
    assert about["midi_sha256"] == hashlib.sha256((piece / "one" / "piece 0.MID").read_bytes()).hexdigest()
    assert about["soundfont"] == {"name": "sine.sf2", "sha256": hashlib.sha256(soundfont.read_bytes()).hexdigest()}
    assert about["synthesis"]["program"].startswith("FluidSynth ")
    assert (about["synthesis"]["reverb"], about["synthesis"]["chorus"]) == (False, False)
    assert described(tmp_path / "out")["licence"] == "CC0"


@needs_library
def test_again_plays_nothing(
    tmp_path: Path, piece: Path, soundfont: Path, call: Call, played: list[str], wanted: dict[str, bytes]
) -> None:
    arguments = [piece, "--out", tmp_path / "out", "--soundfont", soundfont, "--chunk", 5]
    assert call(*arguments)[0] == 0
    assert sorted(played) == ["piece-0", "piece-1", "piece-2", "piece-3"]
    assert contents(tmp_path / "out") == wanted
    assert not list((tmp_path / "out").rglob(".prepare/rendered*")), "the recordings are gone"
    status, printed = call(*arguments)
    assert (status, len(played)) == (0, 4)
    assert "up to date: nothing to do" in printed


@needs_library
def test_what_is_new_or_lost_is_played(
    tmp_path: Path, piece: Path, soundfont: Path, played: list[str], wanted: dict[str, bytes]
) -> None:
    out, settings = tmp_path / "out", Settings(chunk=5)
    render([piece / "one"], out, settings, soundfont)
    played.clear()
    extra = write_midi(tmp_path / "extra" / "new.mid", [(0, 3, 80)])
    render([piece / "one", extra], out, settings, soundfont)
    assert played == ["new"]
    (out / "train" / "piece-0-0001.flac").unlink()
    render([piece / "one", extra], out, settings, soundfont)
    assert (out / "train" / "piece-0-0001.flac").read_bytes() == wanted["train/piece-0-0001.flac"]
    write_midi(extra, [(0, 4, 80)])
    played.clear()
    render([piece / "one", extra], out, settings, soundfont)
    assert played == ["new"], "it is another piece now"
    assert sum(r["samples"] for r in manifest(out) if r["recording"] == "new") / RATE == pytest.approx(4.2, abs=0.3)


@needs_library
@pytest.mark.parametrize("after", [0, 2, 4])
def test_interrupted_between_files(
    tmp_path: Path, piece: Path, soundfont: Path, wanted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    out, true, played = tmp_path / "out", midi.render, list[str]()

    def interrupted(score: Any, soundfont: Path, rate: int, path: Path, report: Any) -> None:
        if len(played) == after:
            raise KeyboardInterrupt
        true(score, soundfont, rate, path, report)
        played.append(path.name)

    with monkeypatch.context() as patch:
        patch.setattr(midi, "render", interrupted)
        if after == 4:
            patch.setattr(render_tool, "prepare_sources", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            render([piece], out, Settings(chunk=5), soundfont)
    assert not (out / "dataset.yaml").exists()
    assert len(list(out.rglob("*.flac"))) == after
    again: list[str] = []
    monkeypatch.setattr(midi, "render", lambda *a: (again.append(a[3].name), true(*a)))
    render([piece], out, Settings(chunk=5), soundfont)
    assert len(again) == 4 - after
    assert contents(out) == wanted


@needs_library
def test_killed_and_run_again(tmp_path: Path, piece: Path, soundfont: Path, wanted: dict[str, bytes]) -> None:
    out = tmp_path / "out"
    arguments = [str(piece), "--out", str(out), "--soundfont", str(soundfont), "--chunk", "5", "--jobs", "1"]
    command = [sys.executable, "-m", "data_tools.render", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while not list(out.glob(".prepare/rendered/*.flac")) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was still at work"
    assert not (out / "dataset.yaml").exists()
    ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert (ended.returncode, "is complete" in ended.stdout) == (0, True)
    assert contents(out) == wanted
    assert not [p for p in out.rglob("*") if ".partial" in p.name]


@needs_library
def test_two_at_once_are_refused(tmp_path: Path, piece: Path, soundfont: Path, played: list[str]) -> None:
    with (
        Ledger(tmp_path / "out" / ".prepare" / "rendered").locked(),
        pytest.raises(UserError, match="by another process"),
    ):
        render([piece], tmp_path / "out", Settings(), soundfont)
    assert not played


@needs_library
def test_unplayable_files_are_listed_and_the_others_go_on(tmp_path: Path, soundfont: Path, call: Call) -> None:
    folder = tmp_path / "in"
    write_midi(folder / "good.mid", [(0, 4, A4)])
    write_midi(folder / "short.mid", [(0, 0.1, A4)])
    (folder / "junk.mid").write_bytes(b"nothing")
    (folder / "text.txt").write_text("no MIDI file")
    (folder / ".hidden.mid").write_bytes(b"nothing")
    status, printed = call(folder, "--out", tmp_path / "out", "--soundfont", soundfont)
    assert status == 1
    assert {r["source"] for r in manifest(tmp_path / "out")} == {"good.mid"}
    assert "2 could not be used" in printed
    assert "junk.mid: not a readable MIDI file" in printed
    assert "short.mid: shorter than 1 s" in printed
    assert call(folder, "--out", tmp_path / "out", "--soundfont", soundfont)[0] == 1, "and so the next time"

    status, printed = call(folder / "junk.mid", "--out", tmp_path / "none", "--soundfont", soundfont)
    assert status == 2
    assert "none of these MIDI files can be used" in printed
    assert not (tmp_path / "none").exists()


@needs_library
def test_other_settings_are_refused_before_anything_is_played(
    tmp_path: Path, soundfont: Path, call: Call, played: list[str]
) -> None:
    path = write_midi(tmp_path / "a.mid", [(0, 4, A4)])
    call(path, "--out", tmp_path / "out", "--soundfont", soundfont)
    status, printed = call(path, "--out", tmp_path / "out", "--soundfont", soundfont, "--rate", 8000)
    assert (status, len(played)) == (2, 1)
    assert "rate 16000, not 8000" in printed
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    assert "has files in it" in call(path, "--out", tmp_path / "mine", "--soundfont", soundfont)[1]
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["letter.txt"]


# --- what is not installed ----------------------------------------------------------------------------


def test_a_missing_library_is_named(
    tmp_path: Path, soundfont: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "fluidsynth", raising=False)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    monkeypatch.delenv("HOMEBREW_PREFIX", raising=False)
    status, printed = call(write_midi(tmp_path / "a.mid"), "--out", tmp_path / "out", "--soundfont", soundfont)
    assert status == 2
    for words in ("FluidSynth library is not installed", "apt install libfluidsynth3", "dnf install", "brew install"):
        assert words in printed
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named(
    tmp_path: Path, soundfont: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fluidsynth", None)
    _, printed = call(write_midi(tmp_path / "a.mid"), "--out", tmp_path / "out", "--soundfont", soundfont)
    assert "pyfluidsynth is not installed" in printed


def test_soundfonts(tmp_path: Path, soundfont: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_midi(tmp_path / "a.mid", [(0, 4, A4)])
    monkeypatch.setattr(render_tool, "SOUNDFONTS", [tmp_path / "sf2", tmp_path / "sf3"])
    status, printed = call(path, "--out", tmp_path / "out")
    assert status == 2
    for words in ("no soundfont in the usual places", "apt install musescore-general-soundfont", "fluid-soundfont-gm"):
        assert words in printed
    assert "is no soundfont" in call(path, "--out", tmp_path / "out", "--soundfont", path)[1]
    assert "there is no soundfont absent.sf2" in call(path, "--out", tmp_path / "out", "--soundfont", "absent.sf2")[1]
    assert not (tmp_path / "out").exists()


@needs_library
def test_a_soundfont_is_found(tmp_path: Path, soundfont: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render_tool, "SOUNDFONTS", [tmp_path / "sf2", tmp_path / "sf3"])
    (tmp_path / "sf3").mkdir()
    for name in ("another.sf2", "general.sf2"):
        (tmp_path / "sf3" / name).write_bytes(soundfont.read_bytes())
    (tmp_path / "sf3" / "default-GM.sf3").symlink_to("general.sf2")
    status, printed = call(write_midi(tmp_path / "a.mid", [(0, 4, A4)]), "--out", tmp_path / "out")
    assert status == 0
    assert f"soundfont: {tmp_path / 'sf3' / 'general.sf2'}; there is also {tmp_path / 'sf3' / 'another.sf2'}" in printed

    broken = tmp_path / "broken.sf2"
    broken.write_bytes(soundfont.read_bytes()[:300])
    status, printed = call(tmp_path / "a.mid", "--out", tmp_path / "other", "--soundfont", broken)
    assert status == 2
    assert f"FluidSynth cannot read the soundfont {broken}" in printed


# --- collections --------------------------------------------------------------------------------------


@pytest.fixture
def collection(tmp_path: Path, piece: Path) -> Path:
    files = sorted(p for p in piece.rglob("*") if p.is_file())
    splits = ("train", "train", "val", "test")
    entries = [
        {
            "path": f"composer/work_{i}.mid", "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "split": splits[i], "composer": "A. Composer", "title": f"Work {i}",
        }
        for i, path in enumerate(files)
    ]  # fmt: skip
    stated = {"name": "small", "source": "http://example.org", "licence": "CC BY, A. Maker", "files": entries}
    path = tmp_path / "small.json"
    path.write_text(json.dumps(stated))
    return path


@needs_library
def test_a_collection_is_known_by_its_contents(
    tmp_path: Path, piece: Path, soundfont: Path, collection: Path, call: Call
) -> None:
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for i, path in enumerate(sorted(p for p in piece.rglob("*") if p.is_file())):
        (renamed / f"{3 - i} anything.mid").write_bytes(path.read_bytes())
    write_midi(renamed / "another.mid")
    options = ["--soundfont", soundfont, "--collection", collection]
    assert call(piece, "--out", tmp_path / "a" / "out", *options)[0] == 0
    status, printed = call(renamed, "--out", tmp_path / "b" / "out", *options)
    assert status == 0
    assert "4 of the 4 files of small are there, byte for byte" in printed
    assert "left out: another.mid" in printed
    assert contents(tmp_path / "a" / "out") == contents(tmp_path / "b" / "out")
    rows = {r["source"]: r for r in manifest(tmp_path / "b" / "out")}
    assert {name: row["split"] for name, row in rows.items()} == {
        "composer/work_0.mid": "train", "composer/work_1.mid": "train",
        "composer/work_2.mid": "val", "composer/work_3.mid": "test",
    }  # fmt: skip
    about = rows["composer/work_2.mid"]["about"]
    assert (about["title"], about["composer"]) == ("Work 2", "A. Composer")
    assert (about["source"], about["licence"]) == ("http://example.org", "CC BY, A. Maker")
    assert described(tmp_path / "b" / "out")["licence"] == "CC BY, A. Maker"


@needs_library
def test_files_of_a_collection_that_are_missing_are_named(
    tmp_path: Path, piece: Path, soundfont: Path, collection: Path, call: Call
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    files = sorted(p for p in piece.rglob("*") if p.is_file())
    for i in (0, 1):
        (folder / f"{i}.mid").write_bytes(files[i].read_bytes())
    write_midi(folder / "Work_2.mid", [(0, 3, 90)])
    status, printed = call(folder, "--out", tmp_path / "out", "--soundfont", soundfont, "--collection", collection)
    assert status == 1
    assert "2 of the 4 files" in printed
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "Work_2.mid", files[2], files[3])]
    assert (
        f"composer/work_2.mid: Work_2.mid is another version: its SHA-256 is {digests[0]}, not {digests[1]}" in printed
    )
    assert f"composer/work_3.mid: missing: no file has the SHA-256 {digests[2]}" in printed
    assert {r["source"] for r in manifest(tmp_path / "out")} == {"composer/work_0.mid", "composer/work_1.mid"}

    status, printed = call(folder / "Work_2.mid", "--out", tmp_path / "none", "--collection", collection)
    assert status == 2
    assert not (tmp_path / "none").exists()


def test_the_collections_of_the_project() -> None:
    names = [path.stem for path in render_tool.COLLECTIONS.glob("*.json")]
    assert "piano-midi" in names
    for name in names:
        collection = Collection.read(name)
        assert collection.licence
        for key in ("path", "sha256"):
            assert len({entry[key] for entry in collection.files}) == len(collection.files)
    splits = [entry["split"] for entry in Collection.read("piano-midi").files]
    assert [splits.count(split) for split in ("train", "val", "test")] == [159, 14, 15]
    with pytest.raises(UserError, match="there is no collection violin-midi; there is piano-midi"):
        Collection.read("violin-midi")


# --- command line -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jobs", "0"], "--jobs must be 1 or more"),
        (["--variations", "-1"], "--variations must be 0 or more"),
        (["--variations", "2"], "--variations needs --splits FILE or --collection"),
        (["--variations", "2", "--split", "recording"], "--variations needs"),
        (["--collection", "piano-midi", "--split", "time"], "has its own splits"),
        (["--collection", "absent"], "there is no collection absent"),
        (["--tempo", "1.1-0.9"], "the lower end first"),
        (["--tempo", "fast"], "is no range"),
        (["--transpose=-30..2"], "must be within -24..24"),
        (["--rate", "10"], "--rate must be from"),
    ],
)
def test_bad_arguments(tmp_path: Path, soundfont: Path, call: Call, arguments: list[str], message: str) -> None:
    status, printed = call(
        write_midi(tmp_path / "a.mid"), "--out", tmp_path / "out", "--soundfont", soundfont, *arguments
    )
    assert status == 2
    assert message in printed
    assert not (tmp_path / "out").exists()


def test_ranges(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: Call) -> None:
    seen: list[Variations] = []
    monkeypatch.setattr(render_tool, "render", lambda *a: seen.append(a[5]) or {})
    options = ["--variations", 3, "--seed", 7, "--tempo", "0.95-1.05", "--transpose=-1..3", "--velocity", "1"]
    arguments = ["--out", tmp_path / "o", "--soundfont", "x.sf2", "--collection", "piano-midi", *options]
    assert call(tmp_path, *arguments)[0] == 0
    assert seen == [Variations(3, 7, Ranges((0.95, 1.05), (-1, 3), (1.0, 1.0)))]


def test_it_does_not_load_torch() -> None:
    code = "import sys, data_tools.render; sys.exit('torch' in sys.modules or 'mido' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
