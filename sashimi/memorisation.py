"""How near generated music comes to the training set: its fingerprints against all of the training set's.

The distance of two stretches is the share of known bits that differ. Every window of a clip is compared with every
place of the training set, so nothing is missed but what the fingerprint does not hear (`sashimi/fingerprints.py`).
Alone, a distance says little: the more music there is, the nearer the nearest of it. Held-out music, in excerpts as
long as the clips and through the same codec, says what is usual.

Measured on piano (12 hours to train on) in excerpts of 10 s: 40 of the test split are 0.174 to 0.243 away, their median
0.208. 8 of the training split, off by any number of samples, with noise 20 dB under them, or 20 dB softer and through
the 8-bit codec, are 0.000 to 0.019 away, at their own place or where the piece comes again. The index is made in 1 to 5
minutes (one shared core) and takes 4 MB; a clip of 10 s is looked up in 0.3 s, one of a minute in 1.6 s, in a few MB.
"""

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from sashimi import audio, fingerprints
from sashimi.audio import Waveform
from sashimi.data import TokenStore, cache_path, recordings
from sashimi.files import finished
from sashimi.fingerprints import FRAMES_A_SECOND, KNOWN_BITS, SPAN, Codes, Fingerprinter
from sashimi.progress import bar, clock

WINDOW = 20  # frames that are compared as one
STEP = 5  # frames between two windows of a clip; those of the training set are one apart
SECONDS = (WINDOW + SPAN - 1) / FRAMES_A_SECOND  # 3.7, that a window hears
CONTROL = 40  # excerpts of held-out music, that clips are compared with
BLOCK = 1 << 16  # frames of the training set at a time: what stays in a processor's cache


@dataclass(frozen=True)
class Index:
    """The fingerprints of a split, one recording after another.

    names, starts  of the recordings; starts also holds the end of the last, in frames
    codes          u32(frames, 2)
    rate           that was heard, Hz
    """

    names: list[str]
    starts: NDArray[np.int64]
    codes: Codes
    rate: int


@dataclass(frozen=True)
class Near:
    """The window of a clip that is nearest to the training set, and what it is near to.

    distance           share of known bits that differ, 0 to 1
    at                 where the window begins in the clip, in seconds
    recording, second  where the stretch that it is near to begins
    """

    distance: float
    at: float
    recording: str
    second: float

    def __str__(self) -> str:
        return f"{self.distance:.3f} at {self.at:.1f} s, {self.recording} {clock(self.second)}"


def open_index(folder: Path, split: str = "train", rate: int = 16000, console: Console | None = None) -> Index:
    """The index of a data set's split, made on first use and kept where its tokens are. Shows how far it is.

    Raises UserError as `data.recordings`.
    """
    found = recordings(folder, split)
    heard = {
        name: getattr(fingerprints, name)
        for name in ("BANDS", "LOWEST", "HIGHEST", "SMOOTHED", "STEP", "SILENCE", "KNOWN")
    }
    path = cache_path(folder, split, {"fingerprints": rate, **heard}, found).with_suffix(".npz")
    if not path.is_file():
        codes, began = [], time.monotonic()
        with bar(console or Console(quiet=True), "fingerprints") as update:
            for i, recording in enumerate(found, 1):
                codes.append(_codes((b for file in recording.files for b in audio.stream(file, rate)), rate))
                left = (time.monotonic() - began) * (len(found) / i - 1)
                update(i / len(found), f"{i} of {len(found)} recordings", left)
        with finished(path) as partial:
            np.savez(partial, codes=np.concatenate(codes), lengths=[len(c) for c in codes])
    with np.load(path) as kept:
        starts = np.concatenate([[0], np.cumsum(kept["lengths"])])
        return Index([recording.name for recording in found], starts, kept["codes"], rate)


def nearest(
    index: Index, waveforms: Iterable[Waveform], report: Callable[[int], None] = lambda done: None
) -> list[Near | None]:
    """Of each waveform, f(L) at the index's rate, the window that is nearest to the index.

    `report` is given how many are done. None for one that is shorter than SECONDS, or of which too little is known,
    as of a steady sound.
    """
    found = []
    for waveform in waveforms:
        found.append(look_up(index, _codes([waveform], index.rate)))
        report(len(found))
    return found


def held_out(store: TokenStore, seconds: float, count: int) -> Iterator[Waveform]:
    """At most `count` excerpts of a split, spread evenly, as they sound through its codec.

    What is usual for `nearest`. Nothing where no recording is so long.
    """
    for recording, start in _places(store, seconds, count):
        yield store.codec.decode(store.window(recording, start, round(seconds * store.codec.config.rate)))


def _places(store: TokenStore, seconds: float, count: int) -> list[tuple[int, int]]:
    """(recording, start) of the excerpts of `held_out`."""
    length = round(seconds * store.codec.config.rate)
    places = [(r, start) for r, total in enumerate(store.lengths) for start in range(0, total - length + 1, length)]
    return [places[i] for i in np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int)]


def usual(
    index: Index, store: TokenStore, seconds: float, count: int = CONTROL, console: Console | None = None
) -> list[Near | None]:
    """`nearest` of `held_out`; kept beside the split's tokens, by a name that changes with all it depends on."""
    measure = [WINDOW, STEP, KNOWN_BITS, SPAN, "full windows"]
    described = [measure, asdict(store.codec.config), hashlib.sha256(index.codes.tobytes()).hexdigest(), index.names]
    key = hashlib.sha256(json.dumps([*described, seconds, count]).encode()).hexdigest()[:8]
    path = store.path.with_name(f"{store.path.stem}-nearest-{key}.json") if store.path else None
    if path and path.is_file():
        return [near and Near(**near) for near in json.loads(path.read_text(encoding="utf-8"))]
    excerpts = _places(store, seconds, count)
    began = time.monotonic()
    with bar(console or Console(quiet=True), "held-out music beside the training set") as update:

        def report(done: int) -> None:
            left = (time.monotonic() - began) * (len(excerpts) / done - 1)
            update(done / len(excerpts), f"{done} of {len(excerpts)} excerpts", left)

        found = nearest(index, held_out(store, seconds, count), report)
    if path:
        with finished(path) as partial:
            partial.write_text(json.dumps([near and asdict(near) for near in found]), encoding="utf-8")
    return found


def verdict(clips: Mapping[str, Near | None], control: list[Near | None]) -> list[str]:
    """In words: whether any clip is nearer to the training set than all held-out excerpts, and which.

    clips: by name; control: of excerpts as long as they. One line, and one more for every clip that is nearer.
    """
    known = {name: near for name, near in clips.items() if near}
    usual = sorted(near.distance for near in control if near)
    if not known:
        return ["nearest training window: no clip can be compared"]
    if not usual:
        spread = _spread([near.distance for near in known.values()])
        return [f"nearest training window: clips {spread}; no held-out excerpt can be compared with them"]
    nearer = {name: near for name, near in known.items() if near.distance < usual[0]}
    summary = (
        f"nearest training window: clips {_spread([near.distance for near in known.values()])}, held-out music "
        f"{_spread(usual)}; "
    )
    if nearer:
        summary += f"{len(nearer)} of {len(known)} clips nearer than any of {len(usual)} held-out excerpts"
    else:
        summary += "no clip is nearer to the training set than held-out music is"
    unheard = f" ({len(clips) - len(known)} more are too short or too steady to compare)"
    return [
        summary + (unheard if len(known) < len(clips) else ""),
        *(f"{name}: {near}" for name, near in sorted(nearer.items(), key=lambda item: item[1].distance)),
    ]


def _spread(distances: list[float]) -> str:
    return f"{min(distances):.3f} to {max(distances):.3f} (median {np.median(distances):.3f})"


def _codes(blocks: Iterable[Waveform], rate: int) -> Codes:
    fingerprinter = Fingerprinter(rate)
    for block in blocks:
        fingerprinter.add(block)
    return fingerprinter.codes()


def look_up(index: Index, codes: Codes) -> Near | None:
    """`nearest`, of fingerprints that a Fingerprinter at the index's rate has made block by block."""
    # Where a window of the index lies in one recording.
    whole = np.zeros(max(len(index.codes) - WINDOW + 1, 0), bool)
    for begin, end in zip(index.starts, index.starts[1:], strict=False):
        whole[begin : max(end - WINDOW + 1, begin)] = True
    whole &= _full(index.codes)
    full = _full(codes)
    best, place = 1.0, None
    for begin in range(0, len(whole), BLOCK):
        usable = whole[begin : begin + BLOCK]
        for at, different, compared in _counts(codes, index.codes[begin : begin + len(usable) + WINDOW - 1]):
            if not full[at]:
                continue
            # Two shares of 640 bits or fewer are never so near to each other that fp32 cannot tell them apart.
            nearer = (different < np.float32(best) * compared) & (compared >= KNOWN_BITS * WINDOW) & usable
            if nearer.any():
                places = np.flatnonzero(nearer)
                distances = different[places] / compared[places]
                nearest = int(distances.argmin())
                best, place = float(distances[nearest]), (at, begin + int(places[nearest]))
    if place is None:
        return None
    recording = int(np.searchsorted(index.starts, place[1], side="right")) - 1
    second = float(place[1] - index.starts[recording]) / FRAMES_A_SECOND
    return Near(best, place[0] / FRAMES_A_SECOND, index.names[recording], second)


def _full(codes: Codes) -> NDArray[np.bool_]:
    """Whether each window has known bits in all its frames: the few of one that is partly silent are soon alike."""
    empty = np.concatenate([[0], np.cumsum(codes[:, 1] == 0)])
    return empty[WINDOW:] == empty[:-WINDOW]


def _counts(query: Codes, codes: Codes) -> Iterator[tuple[int, NDArray[np.uint16], NDArray[np.uint16]]]:
    """Of every STEP-th window of the query: its place, and how many known bits it shares with every window of `codes`.

    Of these bits, how many differ comes first. Windows that follow each other share all but STEP frames, so the sums
    over STEP frames are made once; those of 5 frames have at most 160 bits, which a byte holds, those of 20 have 640.
    """
    bits, known = np.ascontiguousarray(codes.T)
    size = len(codes) - WINDOW + 1
    sums: deque[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = deque(maxlen=WINDOW // STEP)
    for at in range(0, len(query) - STEP + 1, STEP):
        length = len(codes) - STEP + 1
        different, compared = np.zeros(length, np.uint8), np.zeros(length, np.uint8)
        for i, (q, k) in enumerate(query[at : at + STEP]):
            both = known[i : i + length] & k
            compared += np.bitwise_count(both)
            different += np.bitwise_count(both & (bits[i : i + length] ^ q))
        sums.append((different, compared))
        if len(sums) == WINDOW // STEP:
            totals = np.zeros((2, size), np.uint16)
            for k, parts in enumerate(sums):
                for total, part in zip(totals, parts, strict=True):
                    total += part[k * STEP : k * STEP + size]
            yield at + STEP - WINDOW, totals[0], totals[1]
