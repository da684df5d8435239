"""Which chunks teach nothing, or teach what must stay unheard: near-silent, clipped, and heard in another recording.

silent      its RMS is 60 dB under the recording's peak: less than a step of 8 bits, and what fades and pauses leave
clipped     half a percent of its samples or more are in flat runs at the recording's peak
duplicates  three quarters of it are heard in chunks of other recordings that are kept; or any of it, in chunks of
            theirs that come before it in the order test, val, train: so nothing of test is lost or trained on.
            No recording is compared with itself: a chorus or a loop that comes again is how the piece goes.

Measured on a game's soundtrack (4 h, 30 pieces, no two alike but remasters): of clean recordings no minute is clipped
by more than 0.01%, of the same clipped by 6 dB a minute by 0.07% to 2.7%, by 9 dB by 1% to 8%.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from data_tools.measuring import Measured, hop
from data_tools.settings import Settings
from data_tools.sources import Source
from data_tools.splitting import SPLITS, Piece
from sashimi.fingerprints import SPAN, Match, matches
from sashimi.progress import clock

SILENT_DB = -60.0  # of the recording's peak
CLIPPED = 0.005  # of a chunk's samples
AGAIN = 0.75  # of a chunk


@dataclass(frozen=True)
class Dropped:
    """A chunk that is left out. why: of settings.GATES; seconds: start and end in the recording."""

    recording: str
    split: str
    start: float
    end: float
    why: str
    detail: str

    def __str__(self) -> str:
        return f"{self.recording} {clock(self.start)} to {clock(self.end)} ({self.split}): {self.detail}"


def sounding(measured: Measured, rate: int, margin: float = 0.2) -> tuple[int, int]:
    """The samples from the first sound to the last, `margin` seconds more at both ends."""
    loud = np.flatnonzero(measured.level > _decibels(measured.peak) + SILENT_DB)
    if not len(loud):
        return 0, measured.samples
    more = round(margin * rate)
    return max(0, int(loud[0]) * hop(rate) - more), min(measured.samples, (int(loud[-1]) + 1) * hop(rate) + more)


def judge(
    chunks: Mapping[Source, list[Piece]], measured: Mapping[Source, Measured], settings: Settings
) -> tuple[dict[Source, list[Piece]], list[Dropped]]:
    """The chunks of every recording that are kept, and those that are not."""
    rate = settings.rate
    sources = {source.name: source for source in chunks}
    plan = {source.name: pieces for source, pieces in chunks.items()}
    dropped: dict[tuple[str, Piece], Dropped] = {}

    def drop(name: str, piece: Piece, why: str, detail: str) -> None:
        start, end = piece.start / rate, piece.end / rate
        dropped[name, piece] = Dropped(name, piece.split, start, end, why, detail)

    for name, pieces in plan.items():
        for piece in pieces:
            below, share = (
                _below_peak(measured[sources[name]], piece, rate),
                _clipped(measured[sources[name]], piece, rate),
            )
            if "silent" not in settings.keep and below < SILENT_DB:
                drop(name, piece, "silent", f"near-silent, {-below:.0f} dB under the recording's peak")
            elif "clipped" not in settings.keep and share >= CLIPPED:
                drop(name, piece, "clipped", f"clipped, {share:.1%} of its samples")
    if "duplicates" not in settings.keep:
        rest = {name: [p for p in pieces if (name, p) not in dropped] for name, pieces in plan.items()}
        found = matches({name: measured[sources[name]].codes for name in plan})
        for name, piece, other in _heard_elsewhere(rest, found, hop(rate)):
            drop(name, piece, "duplicates", f"heard in {other[0]} {clock(other[1] * hop(rate) / rate)} ({other[2]})")
    kept = {source: [p for p in pieces if (source.name, p) not in dropped] for source, pieces in chunks.items()}
    return kept, [dropped[name, p] for name, pieces in plan.items() for p in pieces if (name, p) in dropped]


def summary(dropped: Iterable[Dropped]) -> dict[str, dict[str, float]]:
    """Chunks and seconds by reason, for dataset.yaml."""
    found: dict[str, dict[str, float]] = {}
    for chunk in dropped:
        so_far = found.setdefault(chunk.why, {"chunks": 0, "seconds": 0.0})
        found[chunk.why] = {
            "chunks": so_far["chunks"] + 1, "seconds": round(so_far["seconds"] + chunk.end - chunk.start, 3)
        }  # fmt: skip
    return found


def _decibels(level: float) -> float:
    return 20 * float(np.log10(level))


def _frames(piece: Piece, size: int) -> slice:
    return slice(piece.start // size, -(-piece.end // size))


def _below_peak(measured: Measured, piece: Piece, rate: int) -> float:
    powers = 10 ** (measured.level[_frames(piece, hop(rate))].astype(np.float64) / 10)
    return float(10 * np.log10(powers.mean())) - _decibels(measured.peak)


def _clipped(measured: Measured, piece: Piece, rate: int) -> float:
    shares = measured.clipped[_frames(piece, hop(rate))]
    return float(np.mean(shares, dtype=np.float64)) if len(shares) else 0.0


def _heard_elsewhere(
    plan: Mapping[str, list[Piece]], found: Iterable[Match], size: int
) -> list[tuple[str, Piece, tuple[str, int, str]]]:
    """The chunks to drop, each with the recording, frame and split where it is heard too."""
    by_recording: dict[str, list[Match]] = {}
    for match in found:
        by_recording.setdefault(match.a, []).append(match)
        by_recording.setdefault(match.b, []).append(Match(match.b, match.at_b, match.a, match.at_a, match.length))
    # Test chunks stay before those of val, and these before those of train: so none of test is lost to train.
    order = sorted(
        ((SPLITS.index(piece.split), number, piece) for number, name in enumerate(plan) for piece in plan[name]),
        key=lambda item: (-item[0], item[1], item[2].start),
    )
    names, kept, dropped = list(plan), dict[str, list[Piece]](), []
    for _, number, piece in order:
        name = names[number]
        again = _again(piece, by_recording.get(name, []), kept, size)
        if again is None:
            kept.setdefault(name, []).append(piece)
        else:
            dropped.append((name, piece, again))
    return dropped


def _again(piece: Piece, found: list[Match], kept: Mapping[str, list[Piece]], size: int) -> tuple[str, int, str] | None:
    """Where enough of a chunk is heard in kept chunks of other recordings."""
    own = _frames(piece, size)
    covered = {leak: np.zeros(own.stop - own.start, bool) for leak in (False, True)}
    most, where = {False: 0, True: 0}, {}
    for match in found:
        if match.at_a >= own.stop or match.at_a + match.length + SPAN - 1 <= own.start:
            continue
        for other in kept.get(match.b, []):
            theirs = _frames(other, size)
            shift = match.at_b - match.at_a
            begin = max(own.start, match.at_a, theirs.start - shift)
            end = min(own.stop, match.at_a + match.length + SPAN - 1, theirs.stop - shift)
            if begin >= end:
                continue
            leak = other.split != piece.split
            covered[leak][begin - own.start : end - own.start] = True
            if end - begin > most[leak]:
                most[leak], where[leak] = end - begin, (match.b, max(own.start, match.at_a) + shift, other.split)
    if covered[True].any():
        return where[True]
    return where[False] if covered[False].sum() >= AGAIN * len(covered[False]) else None
