"""What has to be known of a whole recording before it is cut: its length, levels, and what the gates judge it by."""

import base64
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from data_tools.dataset import FLOOR_DB
from data_tools.loudness import Loudness
from data_tools.settings import Settings
from data_tools.sources import heard
from sashimi.audio import Waveform
from sashimi.errors import UserError
from sashimi.fingerprints import FRAMES_A_SECOND, Codes, Fingerprinter

DAMAGED_SECONDS = 10.0  # of a recording that ends in damage, are worth having
FLAT = 3  # equal samples in a row
NEAR_PEAK = 0.98  # of the recording's peak: there, flat is clipped


@dataclass(frozen=True)
class Measured:
    """samples    at the data set's rate, up to the damage if there is any
    peak       of the mono mix, 1 is full scale
    damage     why nothing is heard after `samples`
    loudness   LUFS of the mono mix as one channel (EBU R128); None: not asked for, or nothing to measure
    level      dBFS (RMS) of every frame, f16(frames): a frame is a tenth of a second, `hop(rate)` samples
    clipped    share of its samples that are clipped, f16(frames); empty where that cannot be seen
    codes      its fingerprints, u32(frames, 2); empty if not asked for
    """

    samples: int
    peak: float
    damage: str | None
    loudness: float | None
    level: NDArray[np.float16]
    clipped: NDArray[np.float16]
    codes: Codes

    def as_line(self) -> str:
        arrays = {name: _text(getattr(self, name)) for name in ("level", "clipped", "codes")}
        return json.dumps({**asdict(self), **arrays})

    @staticmethod
    def from_line(line: str) -> "Measured":
        found = json.loads(line)
        return Measured(**{**found, **{name: _array(found[name]) for name in ("level", "clipped", "codes")}})


def hop(rate: int) -> int:
    """Samples in a frame."""
    return round(rate / FRAMES_A_SECOND)


def what_for(settings: Settings) -> list[Any]:
    """What a measurement depends on, besides its recording."""
    return [settings.rate, "clipped" in settings.keep, "duplicates" in settings.keep, settings.loudness is not None]


def measure(path: Path, settings: Settings, report: Callable[[float], None]) -> Measured:
    """A whole recording in bounded memory: a few KB a minute are kept of it.

    Raises one of sources.UNREADABLE, with the reason, where less than 10 s can be heard before the damage.
    """
    rate = settings.rate
    samples, peak, damage = 0, 0.0, None
    levels = _Levels(hop(rate))
    fingerprinter = None if "duplicates" in settings.keep else Fingerprinter(rate)
    loudness = None if settings.loudness is None else Loudness(rate)
    try:
        for block in heard(path, rate, report):
            loudest = float(np.abs(block).max())
            if not np.isfinite(loudest):
                raise UserError(f"{path} has samples that are not numbers")
            samples, peak = samples + len(block), max(peak, loudest)
            levels.add(block)
            if fingerprinter:
                fingerprinter.add(block)
            if loudness:
                loudness.add(block)
    except UserError as error:
        if samples < DAMAGED_SECONDS * rate:
            raise
        damage = str(error).removeprefix(f"{path} ")
    return Measured(
        samples,
        peak,
        damage,
        loudness.integrated if loudness else None,
        levels.all(),
        np.zeros(0, np.float16) if "clipped" in settings.keep else clipped(path, hop(rate) / rate),
        fingerprinter.codes() if fingerprinter else np.zeros((0, 2), np.uint32),
    )


class _Levels:
    def __init__(self, size: int) -> None:
        self.size = size
        self.rest: Waveform = np.zeros(0, np.float32)
        self.levels: list[NDArray[np.float16]] = []

    def add(self, block: Waveform) -> None:
        waveform = np.concatenate([self.rest, block])
        whole = len(waveform) // self.size * self.size
        self.rest = waveform[whole:]
        self._append(waveform[:whole].reshape(-1, self.size))

    def all(self) -> NDArray[np.float16]:
        if len(self.rest):
            self._append(self.rest[None])
            self.rest = self.rest[:0]
        return np.concatenate([np.zeros(0, np.float16), *self.levels])

    def _append(self, frames: Waveform) -> None:
        rms = np.sqrt(np.mean(frames**2, axis=1))
        self.levels.append(np.maximum(20 * np.log10(np.maximum(rms, 1e-9)), FLOOR_DB).astype(np.float16))


def clipped(path: Path, frame_seconds: float) -> NDArray[np.float16]:
    """The share of clipped samples in every frame, over all channels: in runs of equal ones at the channel's peak.

    Full scale is the recording's own peak, as masters are often clipped and then made softer. Empty for what
    libsndfile does not read without loss: other encodings do not keep a run of equal samples.
    """
    try:
        with sf.SoundFile(path) as file:
            if file.format in ("MP3", "OGG") or not file.frames:
                return np.zeros(0, np.float16)
            found = [_flat(block) for block in _blocks_of_frames(file, frame_seconds)]
    except sf.LibsndfileError:
        return np.zeros(0, np.float16)
    if not found:
        return np.zeros(0, np.float16)
    peaks, shares = np.concatenate([p for p, _ in found]), np.concatenate([s for _, s in found])
    return np.mean(np.where(peaks >= NEAR_PEAK * peaks.max(axis=0), shares, 0), axis=1).astype(np.float16)


def _blocks_of_frames(
    file: sf.SoundFile, seconds: float
) -> Iterator[tuple[NDArray[np.floating[Any]], NDArray[np.intp]]]:
    """(samples, channels) and where in it frames begin: a hundred of them, whatever the rate. Ends at any damage."""
    number = 0
    while True:
        begins = np.round(np.arange(number, number + 101) * seconds * file.samplerate).astype(np.intp)
        try:
            block = file.read(begins[-1] - begins[0], dtype="float32", always_2d=True)
        except sf.LibsndfileError:
            return
        if not len(block):
            return
        inside = begins[:-1] - begins[0]
        yield block, inside[inside < len(block)]
        number += 100


def _flat(block: tuple[Waveform, NDArray[np.intp]]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Of every frame and channel: the peak, and the share of samples in runs of `FLAT` or more equal ones near it."""
    waveform, begins = block
    height = np.abs(waveform)
    peaks = np.maximum.reduceat(height, begins, axis=0)
    lengths = np.diff(begins, append=len(waveform))
    equal = waveform[1:] == waveform[:-1]
    runs = equal[1:] & equal[:-1]  # three in a row
    flat = np.zeros(waveform.shape, bool)
    for i in range(FLAT):
        flat[i : i + len(runs)] |= runs
    flat &= (height >= NEAR_PEAK * np.repeat(peaks, lengths, axis=0)) & (height > 0)
    return peaks, np.add.reduceat(flat, begins, axis=0, dtype=np.float64) / lengths[:, None]


def _text(array: NDArray[Any]) -> str:
    with io.BytesIO() as file:
        np.save(file, array, allow_pickle=False)
        return base64.b64encode(file.getvalue()).decode()


def _array(text: str) -> NDArray[Any]:
    return np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False)
