"""Which second of which recording goes where."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from unicodedata import normalize

import numpy as np

from sashimi.audio import Waveform
from sashimi.errors import UserError

SPLITS = ("train", "val", "test")
SHARES = (0.88, 0.06, 0.06)  # the published ones
PART_SECONDS = 5.0  # a shorter val or test part is not worth a gap
REST_SECONDS = 1.0  # a shorter last chunk is dropped


@dataclass(frozen=True)
class Piece:
    """Samples start .. end - 1 of a recording, at the data set's rate."""

    split: str
    start: int
    end: int


def by_time(total: int, rate: int, gap: float, held_out: float | None = None, first: int = 0) -> list[Piece]:
    """88/6/6 of `total` samples of a recording: train, a gap of `gap` seconds that nobody hears, val, a gap, test.

    held_out: seconds of val, and of test, in place of the 6%. Where val or test would be shorter than 5 s, or
    train shorter than both, all of it is train. first: the sample at which it begins.
    """
    hole = round(gap * rate)
    val, test = (round(share * (total - 2 * hole)) for share in SHARES[1:])
    if held_out is not None:
        val = test = round(held_out * rate)
    if min(val, test) < PART_SECONDS * rate or total - 2 * hole < 2 * (val + test):
        return [Piece("train", first, first + total)]
    end = first + total
    return [
        Piece("train", first, end - test - val - 2 * hole),
        Piece("val", end - test - hole - val, end - test - hole),
        Piece("test", end - test, end),
    ]


def by_recording(sources: Iterable[str]) -> dict[str, str]:
    """The split of every recording: in order of name, the first 88% train, then 6% val, 6% test."""
    ordered = sorted(sources, key=PurePath)
    val, test = int(0.88 * len(ordered)), int(0.94 * len(ordered))
    return {s: "train" if i < val else "val" if i < test else "test" for i, s in enumerate(ordered)}


def by_list(listing: Mapping[str, list[str]], sources: Iterable[str]) -> dict[str, str]:
    """The split of every recording as listed by path, file name or stem, whichever fits first.

    Raises UserError for a name that fits no recording, or several, or two splits, and for a recording in no list.
    """
    sources = list(sources)
    chosen: dict[str, str] = {}
    for split, names in listing.items():
        for name in names:
            found = _named(name, sources)
            if not found:
                raise UserError(f"{name!r} in the {split} list is the name of no recording")
            if len(found) > 1:
                raise UserError(f"{name!r} in the {split} list may be {' or '.join(found)}; list the path")
            if chosen.setdefault(found[0], split) != split:
                raise UserError(f"{name!r} is in the {chosen[found[0]]} list and in the {split} list; leave it in one")
    missing = [s for s in sources if s not in chosen]
    if missing:
        raise UserError(f"in no list: {', '.join(missing)}; add each to train, val or test")
    return chosen


def read_list(path: Path, sources: Iterable[str]) -> dict[str, str]:
    """The split of every recording by a file {"train": [names], "val": [names], "test": [names]}.

    Raises UserError, naming the file, for anything else.
    """
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error})") from None
    if not isinstance(lists, dict) or not all(
        split in SPLITS and isinstance(names, list) and all(isinstance(name, str) for name in names)
        for split, names in lists.items()
    ):
        raise UserError(f'{path} must hold {{"train": [names], "val": [names], "test": [names]}}')
    try:
        return by_list(lists, sources)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _named(name: str, sources: list[str]) -> list[str]:
    # Accents come composed or decomposed, depending on who wrote the name.
    wanted = normalize("NFC", name)
    known = {s: PurePath(normalize("NFC", s)) for s in sources}
    for fits in (
        [s for s, path in known.items() if path == PurePath(wanted)],
        [s for s, path in known.items() if path.name == wanted],
        [s for s, path in known.items() if path.stem == wanted],
    ):
        if fits:
            return fits
    return []


def in_chunks(pieces: Iterable[Piece], size: int, least: int) -> list[Piece]:
    """Pieces of at most `size` samples, none across two of `pieces`; a rest under `least` samples is dropped."""
    return [
        Piece(piece.split, start, min(start + size, piece.end))
        for piece in pieces
        for start in range(piece.start, piece.end, size)
        if min(start + size, piece.end) - start >= least
    ]


def cut(blocks: Iterable[Waveform], pieces: list[Piece]) -> Iterator[tuple[Piece, Waveform]]:
    """The samples of each piece, which are in order and do not overlap; fewer pieces where the blocks end early.

    No block after the last piece is asked for: it may be damaged.
    """
    waiting, held, position = pieces[::-1], [], 0
    for block in blocks:
        while waiting and waiting[-1].start < position + len(block):
            piece = waiting[-1]
            held.append(block[max(0, piece.start - position) : piece.end - position])
            if piece.end > position + len(block):
                break
            yield waiting.pop(), np.concatenate(held)
            held = []
        if not waiting:
            return
        position += len(block)
