"""MIDI files to sound: what a file says, variations of it, and FluidSynth playing it as fast as it can.

The same notes, soundfont and settings give the same samples. mido and pyfluidsynth are loaded when they are used.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import soxr

from sashimi import audio
from sashimi.audio import Waveform
from sashimi.errors import UserError
from sashimi.files import finished

SUFFIXES = {".mid", ".midi"}
LONGEST = 6 * 3600.0  # seconds: what is damaged may last for years
DRUMS = 9  # the channel whose keys are instruments
KEYS = {
    "": ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"),
    "m": ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B"),
}
SAME_KEY = {"C#": "Db", "Gb": "F#", "Cb": "B", "D#m": "Ebm", "Abm": "G#m", "A#m": "Bbm"}

# FluidSynth plays at 48 kHz, and soxr brings that to the rate of the data set. Played at 16 kHz directly, nothing is
# aliased, but single piano notes have errors of -7 to -14 dB in the top octave (against 96 kHz; from 48 kHz -19 to
# -38), up to 29 dB are missing at 7-8 kHz, and notes begin on a grid of 4 ms in place of 1.3.
RATES = (48000, 96000)
BLOCK = 64  # samples: FluidSynth hears what happens between two blocks
LEAD = 0.2  # seconds before the first note
TAIL = 8.0  # seconds after the last note off, at most
FADE = 0.5  # the end of a tail that still sounds then
AUDIBLE = 1e-3  # of the peak: -60 dB
GAIN = 1.0  # peaks of solo piano are then at -3 to -24 dBFS; halved for music that would clip
# Without an entry for the gain. Reverb and chorus differ between FluidSynth's versions; one core, as cores take turns
# in an order of their own; voices enough that none is cut off for another.
SETTINGS: dict[str, int] = {
    "synth.reverb.active": 0,
    "synth.chorus.active": 0,
    "synth.cpu-cores": 1,
    "synth.polyphony": 1024,
    "synth.dynamic-sample-loading": 1,
    "synth.lock-memory": 0,
}
FIXED = [RATES, LEAD, TAIL, FADE, AUDIBLE, GAIN, SETTINGS]  # what samples depend on and no option changes
NO_LIBRARY = (
    "the FluidSynth library is not installed. Debian, Ubuntu: `apt install libfluidsynth3 musescore-general-soundfont`"
    "; Fedora: `dnf install fluidsynth-libs fluid-soundfont-gm`; macOS: `brew install fluid-synth`"
)


@dataclass(frozen=True)
class Score:
    """What is to be played.

    events  (seconds, mido message), of channels alone, in order;   start, end: the first note on, the last note off
    labels  of what is stated: title, key_signature; bpm: the median by time, instruments
    """

    events: list[tuple[float, Any]] = field(repr=False)
    start: float
    end: float
    labels: dict[str, Any]


@dataclass(frozen=True)
class Change:
    """How a variation is played. transpose: semitones, drums stay;   tempo and velocity: factors."""

    tempo: float = 1.0
    transpose: int = 0
    velocity: float = 1.0


@dataclass(frozen=True)
class Ranges:
    """Of variations: least and most, each drawn evenly."""

    tempo: tuple[float, float] = (0.9, 1.1)
    transpose: tuple[int, int] = (-2, 2)
    velocity: tuple[float, float] = (0.8, 1.2)

    def draw(self, digest: str, seed: int, number: int) -> Change:
        """Variation `number` of the file whose SHA-256 is `digest`: depends on nothing else. 0 is the plain one."""
        if number == 0:
            return Change()

        def even(what: str) -> float:
            drawn = hashlib.sha256(f"{digest} {seed} {number} {what}".encode()).digest()
            return int.from_bytes(drawn[:6]) / 2**48

        def between(low: float, high: float, at: float) -> float:
            return round(low + (high - low) * at, 4)

        low, high = self.transpose
        return Change(
            between(*self.tempo, even("tempo")),
            low + int((high - low + 1) * even("transpose")),
            between(*self.velocity, even("velocity")),
        )


# --- reading ------------------------------------------------------------------------------------------


def read(path: Path) -> Score:
    """Raises UserError with the reason, without the file's name, for what cannot be played."""
    mido = _mido()
    try:
        file = mido.MidiFile(path, clip=True)
    except Exception as error:  # whatever mido meets in a file that is none
        raise UserError(f"not a readable MIDI file ({str(error) or type(error).__name__})") from None
    if file.type == 2:
        raise UserError("its tracks are separate pieces (MIDI type 2); save them as files of their own")
    if file.ticks_per_beat <= 0:
        raise UserError("its time is in frames (SMPTE); save it with time in ticks a beat")

    events: list[tuple[float, Any]] = []
    tempi: list[tuple[float, float]] = [(0.0, 120.0)]
    programs, instruments = [0] * 16, dict[str, None]()
    start, end, now, before, tempo = None, 0.0, 0.0, 0, 500000
    key = title = None
    for ticks, message in _merged(file.tracks):
        now, before = now + mido.tick2second(ticks - before, file.ticks_per_beat, tempo), ticks
        match message.type:
            case "set_tempo":
                tempo = max(message.tempo, 1)
                tempi.append((now, 60e6 / tempo))
            case "key_signature":
                key = key or message.key
            case "track_name":
                title = title or _text(message.name)
            case "program_change":
                programs[message.channel] = message.program
            case "note_on" | "note_off":
                end = now
                if message.type == "note_on" and message.velocity:
                    start = now if start is None else start
                    drums = message.channel == DRUMS
                    instruments["Drums" if drums else INSTRUMENTS[programs[message.channel]]] = None
        if not message.is_meta and hasattr(message, "channel"):
            events.append((now, message))
    if start is None:
        raise UserError("there are no notes in it")
    if end - start > LONGEST:
        raise UserError(f"it says that it lasts {(end - start) / 3600:.0f} hours; the limit is {LONGEST / 3600:.0f}")
    stated = {"title": title, "key_signature": key}
    labels = {name: value for name, value in stated.items() if value}
    return Score(events, start, end, labels | {"bpm": _median(tempi, start, end), "instruments": list(instruments)})


def _merged(tracks: Iterable[list[Any]]) -> list[tuple[int, Any]]:
    """All messages, with their ticks from the beginning. mido.merge_tracks copies each twice, which takes longer."""
    timed = [pair for track in tracks for pair in zip(accumulate(m.time for m in track), track, strict=True)]
    return sorted(timed, key=lambda pair: pair[0])


def _text(text: str) -> str:
    """mido takes all bytes for Latin-1."""
    raw = text.encode("latin-1", "replace").strip(b"\0 \n")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _median(tempi: list[tuple[float, float]], start: float, end: float) -> float:
    """Half of the time from `start` to `end` is at most as fast."""
    times = [*(time for time, _ in tempi[1:]), end]
    lasting = sorted(
        (bpm, max(0.0, min(until, end) - max(since, start)))
        for (since, bpm), until in zip(tempi, times, strict=True)
    )  # fmt: skip
    left = sum(seconds for _, seconds in lasting) / 2
    for bpm, seconds in lasting:
        left -= seconds
        if left <= 0 and seconds:
            return round(bpm, 2)
    return round(tempi[-1][1], 2)


def varied(score: Score, change: Change) -> Score:
    if change == Change():
        return score
    events = []
    for seconds, message in score.events:
        if message.type.startswith("note_"):
            note = message.note
            if message.channel != DRUMS:
                note += change.transpose
                note += 12 if note < 0 else -12 if note > 127 else 0
            velocity = message.velocity
            if message.type == "note_on" and velocity:
                velocity = min(max(round(velocity * change.velocity), 1), 127)
            message = message.copy(note=note, velocity=velocity)
        events.append((seconds / change.tempo, message))
    return replace(score, events=events, start=score.start / change.tempo, end=score.end / change.tempo)


def varied_labels(labels: dict[str, Any], change: Change) -> dict[str, Any]:
    """What is stated of a score, for the variation."""
    changed = labels | {"bpm": round(labels["bpm"] * change.tempo, 2)}
    if "key_signature" in labels:
        changed["key_signature"] = transposed(labels["key_signature"], change.transpose)
    return changed


def transposed(key: str, semitones: int) -> str:
    """Of a key signature as mido names it: Eb, F#m."""
    mode = "m" if key.endswith("m") else ""
    if not semitones:
        return key
    names = KEYS[mode]
    return names[(names.index(SAME_KEY.get(key, key).removesuffix("m")) + semitones) % 12] + mode


# --- playing ------------------------------------------------------------------------------------------


def synthesis() -> dict[str, Any]:
    """All that the sound depends on besides notes and soundfont, for the data set."""
    fluidsynth = _fluidsynth()
    major, minor, micro = (fluidsynth.c_int() for _ in range(3))
    fluidsynth.fluid_version(*map(fluidsynth.byref, (major, minor, micro)))
    version = f"{major.value}.{minor.value}.{micro.value}"
    return {"program": f"FluidSynth {version}", "reverb": False, "chorus": False}


@contextmanager
def loaded(soundfont: Path) -> Iterator[None]:
    """Every piece gets a synthesizer of its own, so that none depends on those before; with another one held open,
    they find the samples decoded (the piano of a large SF3: 0.1 s in place of 1.8).
    """
    synth = _synth(soundfont, RATES[0], GAIN)
    try:
        yield
    finally:
        synth.delete()


def _synth(soundfont: Path, rate: int, gain: float) -> Any:
    """Raises UserError for what is no soundfont."""
    synth = _fluidsynth().Synth(gain, rate, 16, **SETTINGS)
    if synth.sfload(str(soundfont), 1) < 0:
        synth.delete()
        raise UserError(f"FluidSynth cannot read the soundfont {soundfont}")
    return synth


class Player:
    """FluidSynth with a soundfont, playing a score from LEAD seconds before its first note.

    Raises UserError for what is no soundfont.
    """

    def __init__(self, score: Score, soundfont: Path, rate: int, gain: float) -> None:
        fluidsynth = _fluidsynth()
        # pyfluidsynth asks for 16 bits only, and those are dithered with a table of the whole process.
        pointer, number = fluidsynth.c_void_p, fluidsynth.c_int
        arguments = [("synth", pointer), ("length", number)]
        for side in ("left", "right"):
            arguments += [(side, pointer), (f"{side}_from", number), (f"{side}_step", number)]
        self.write = fluidsynth.cfunc("fluid_synth_write_float", number, *((name, kind, 1) for name, kind in arguments))
        self.rate, self.events, self.origin, self.done = rate, deque(score.events), score.start - LEAD, 0
        self.synth = _synth(soundfont, rate, gain)

    def close(self) -> None:
        self.synth.delete()

    def until(self, seconds: float) -> Iterator[Waveform]:
        """The mean of both channels, f32, in blocks of at most a second."""
        while self.events and self.events[0][0] <= seconds:
            at, message = self.events.popleft()
            yield from self._sound(at)
            self._hear(message)
        yield from self._sound(seconds)

    def _sound(self, seconds: float) -> Iterator[Waveform]:
        target = round((seconds - self.origin) * self.rate / BLOCK)
        while self.done < target:
            blocks = min(target - self.done, self.rate // BLOCK)
            sides = np.empty((2, blocks * BLOCK), np.float32)
            left, right = (side.ctypes.data for side in sides)
            self.write(self.synth.synth, blocks * BLOCK, left, 0, 1, right, 0, 1)
            self.done += blocks
            yield sides.mean(axis=0)

    def _hear(self, message: Any) -> None:
        match message.type:
            case "note_on" if message.velocity:
                self.synth.noteon(message.channel, message.note, message.velocity)
            case "note_on" | "note_off":
                self.synth.noteoff(message.channel, message.note)
            case "control_change":
                self.synth.cc(message.channel, message.control, message.value)
            case "program_change":
                self.synth.program_change(message.channel, message.program)
            case "pitchwheel":
                self.synth.pitch_bend(message.channel, message.pitch)


def render(score: Score, soundfont: Path, rate: int, path: Path, report: Callable[[float], None]) -> None:
    """A score as a sound file at `rate`, whole or not at all; `report` is told of seconds done.

    Begins LEAD seconds before the first note and ends where the last one has died away. Notes are on time to the
    64 samples of FluidSynth's blocks.
    """
    gain = GAIN
    with finished(path) as partial:
        while _render(score, soundfont, rate, partial, gain, report) >= 1:
            gain /= 2


def _render(
    score: Score, soundfont: Path, rate: int, path: Path, gain: float, report: Callable[[float], None]
) -> float:
    """The peak of what was written."""
    played_at = min((r for r in RATES if r >= rate), default=RATES[-1])
    resampler = soxr.ResampleStream(played_at, rate, 1, dtype="float32", quality="VHQ")
    player, peak, heard = Player(score, soundfont, played_at, gain), 0.0, 0.0
    try:
        with audio.Writer(path, rate) as file:

            def write(block: Waveform, last: bool = False) -> None:
                nonlocal peak
                out = resampler.resample_chunk(block, last=last)
                if len(out):
                    peak = max(peak, float(np.abs(out).max()))
                    file.write(out)

            for block in player.until(score.end):
                heard = max(heard, float(np.abs(block).max()))
                write(block)
                report(len(block) / played_at)
            write(_audible(np.concatenate(list(player.until(score.end + TAIL))), played_at, heard), last=True)
    finally:
        player.close()
    return peak


def _audible(tail: Waveform, rate: int, peak: float) -> Waveform:
    """What of it is above -60 dB of the peak; faded out where that is all of it."""
    peak = max(peak, float(np.abs(tail).max()))
    (loud,) = np.nonzero(np.abs(tail) >= AUDIBLE * peak)
    end = int(loud[-1]) + 1 if len(loud) else 0
    fade = round(FADE * rate)
    if end > len(tail) - fade:
        tail[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
        return tail
    return tail[:end]


def _mido() -> ModuleType:
    try:
        import mido  # type: ignore[import-untyped, unused-ignore]
    except ModuleNotFoundError:
        raise UserError("the package mido is not installed; `pip install -e '.[data]'` brings it") from None
    return mido  # type: ignore[no-any-return, unused-ignore]


def _fluidsynth() -> ModuleType:
    try:
        import fluidsynth  # type: ignore[import-untyped, unused-ignore]
    except ModuleNotFoundError:
        raise UserError("the package pyfluidsynth is not installed; `pip install -e '.[data]'` brings it") from None
    except (ImportError, OSError):  # of the package itself, when it finds no library, or one that does not load
        raise UserError(NO_LIBRARY) from None
    return fluidsynth  # type: ignore[no-any-return, unused-ignore]


# General MIDI, programs 1 to 128.
INSTRUMENTS = (
    """
Acoustic Grand Piano, Bright Acoustic Piano, Electric Grand Piano, Honky-tonk Piano, Electric Piano 1,
Electric Piano 2, Harpsichord, Clavinet, Celesta, Glockenspiel, Music Box, Vibraphone, Marimba, Xylophone,
Tubular Bells, Dulcimer, Drawbar Organ, Percussive Organ, Rock Organ, Church Organ, Reed Organ, Accordion,
Harmonica, Tango Accordion, Acoustic Guitar (nylon), Acoustic Guitar (steel), Electric Guitar (jazz),
Electric Guitar (clean), Electric Guitar (muted), Overdriven Guitar, Distortion Guitar, Guitar Harmonics,
Acoustic Bass, Electric Bass (finger), Electric Bass (pick), Fretless Bass, Slap Bass 1, Slap Bass 2, Synth Bass 1,
Synth Bass 2, Violin, Viola, Cello, Contrabass, Tremolo Strings, Pizzicato Strings, Orchestral Harp, Timpani,
String Ensemble 1, String Ensemble 2, Synth Strings 1, Synth Strings 2, Choir Aahs, Voice Oohs, Synth Voice,
Orchestra Hit, Trumpet, Trombone, Tuba, Muted Trumpet, French Horn, Brass Section, Synth Brass 1, Synth Brass 2,
Soprano Sax, Alto Sax, Tenor Sax, Baritone Sax, Oboe, English Horn, Bassoon, Clarinet, Piccolo, Flute, Recorder,
Pan Flute, Blown Bottle, Shakuhachi, Whistle, Ocarina, Lead 1 (square), Lead 2 (sawtooth), Lead 3 (calliope),
Lead 4 (chiff), Lead 5 (charang), Lead 6 (voice), Lead 7 (fifths), Lead 8 (bass and lead), Pad 1 (new age),
Pad 2 (warm), Pad 3 (polysynth), Pad 4 (choir), Pad 5 (bowed), Pad 6 (metallic), Pad 7 (halo), Pad 8 (sweep),
FX 1 (rain), FX 2 (soundtrack), FX 3 (crystal), FX 4 (atmosphere), FX 5 (brightness), FX 6 (goblins), FX 7 (echoes),
FX 8 (sci-fi), Sitar, Banjo, Shamisen, Koto, Kalimba, Bagpipe, Fiddle, Shanai, Tinkle Bell, Agogo, Steel Drums,
Woodblock, Taiko Drum, Melodic Tom, Synth Drum, Reverse Cymbal, Guitar Fret Noise, Breath Noise, Seashore,
Bird Tweet, Telephone Ring, Helicopter, Applause, Gunshot
""".replace("\n", " ")
    .strip()
    .split(", ")
)
