"""The same music again: 64 bits for every tenth of a second, which survive another encoding, and a search among them.

A bit says whether the step in level between two neighbouring bands grew over 0.6 s (after Haitsma and Kalker, "A Highly
Robust Audio Fingerprinting System", ISMIR 2002); a second one, whether it changed enough for the first to be known.
Neither a steady sound nor silence has known bits, so they are like nothing else. Levels are means over 1.2 s, so that a
tenth of a second is fine enough for copies that are shifted by any number of samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sashimi.audio import Waveform

FRAMES_A_SECOND = 10
BANDS, LOWEST, HIGHEST = 33, 200.0, 3000.0  # Hz: what every encoding keeps
SMOOTHED, STEP = 11, 6  # frames
FLOOR = 1e-6  # of a frame's power: a band that is 60 dB under it is empty
SILENCE = -60.0  # dBFS RMS from LOWEST to HIGHEST: what is softer is a codec's or a room's noise, and has no known bits
KNOWN = 0.2  # of the natural logarithm of power: a bit of a smaller change is the first to flip
WINDOW = 50  # frames that are compared as one
KNOWN_BITS = 6  # in a frame of such a window, on average; fewer tell nothing
# Share of the known bits that may differ. Copies that are shifted by half a frame: 2% in the worst of their windows,
# 4% where notes are struck all the time. A loop on which others play as loudly: 13% to 29% of all.
DIFFERENT = 0.05
KEYS = (0x00FFFFFF, 0xFFFFFF00)  # bits by which frames are looked up; in a copy, 6% of them or more are the same
VOTES = 2  # such frames at one shift, for that shift to be looked at
COMMON = 100  # times that a key is found; more often, it tells nothing
SPAN = SMOOTHED + 1 + STEP  # frames that the bits of one depend on

Codes = NDArray[np.uint32]


@dataclass(frozen=True)
class Match:
    """`length` frames of recording `a` from `at_a`, found in recording `b` from `at_b`."""

    a: str
    at_a: int
    b: str
    at_b: int
    length: int


class Fingerprinter:
    """Hears a recording block by block."""

    def __init__(self, rate: int) -> None:
        self.hop = round(rate / FRAMES_A_SECOND)
        self.window = np.hanning(2 * self.hop).astype(np.float32)
        edges = np.geomspace(LOWEST, max(min(HIGHEST, 0.45 * rate), LOWEST + BANDS), BANDS + 1)
        self.edges = np.round(edges * 2 * self.hop / rate).astype(np.intp)
        self.rest: Waveform = np.zeros(0, np.float32)
        self.powers: list[NDArray[np.float32]] = []

    def add(self, block: Waveform) -> None:
        waveform = np.concatenate([self.rest, block])
        count = len(waveform) // self.hop - 1
        self.rest = waveform[max(count, 0) * self.hop :]
        if count > 0:
            frames = np.lib.stride_tricks.sliding_window_view(waveform, 2 * self.hop)[:: self.hop][:count]
            power = np.abs(np.fft.rfft(frames * self.window, axis=1)[:, : self.edges[-1]]) ** 2
            self.powers.append(np.add.reduceat(power, self.edges[:-1], axis=1).astype(np.float32))

    def codes(self) -> Codes:
        """(frames, 2): the bits, and which of them are known. `SPAN - 1` fewer frames than the recording has."""
        power = np.concatenate([np.zeros((0, BANDS), np.float32), *self.powers])
        if len(power) < SMOOTHED + STEP:
            return np.zeros((0, 2), np.uint32)
        weights = np.hanning(SMOOTHED + 2)[1:-1].astype(np.float32)
        smooth = sum(w * power[i : len(power) - SMOOTHED + 1 + i] for i, w in enumerate(weights))
        level = np.log(smooth + FLOOR * smooth.sum(axis=1, keepdims=True) + np.float32(1e-20))
        step = np.diff(level, axis=1)
        growth = step[STEP:] - step[:-STEP]
        # By Parseval, a mean square of 1 that lies in these bands.
        full = self.hop * (self.window**2).sum() * weights.sum()
        heard = smooth.sum(axis=1) > full * 10 ** (SILENCE / 10)
        known = (np.abs(growth) > KNOWN) & (heard[STEP:] & heard[:-STEP])[:, None]
        places = np.uint32(1) << np.arange(BANDS - 1, dtype=np.uint32)
        return np.stack([(growth > 0) @ places, known @ places], axis=1).astype(np.uint32)


def matches(recordings: Mapping[str, Codes]) -> list[Match]:
    """Where a recording holds what another one holds too, for at least `WINDOW` frames; none of one with itself."""
    names = list(recordings)
    found = []
    for a, b, shift in _candidates([recordings[name] for name in names]):
        found += [
            Match(names[a], at, names[b], at + shift, length)
            for at, length in _alike(recordings[names[a]], recordings[names[b]], shift)
        ]
    return found


def _candidates(recordings: list[Codes]) -> list[tuple[int, int, int]]:
    """(a, b, shift), a < b, where some frames of a are about those of b `shift` frames later."""
    owner = np.repeat(np.arange(len(recordings)), [len(codes) for codes in recordings])
    place = np.concatenate([np.zeros(0, np.intp), *(np.arange(len(codes)) for codes in recordings)])
    bits = np.concatenate([np.zeros((0, 2), np.uint32), *recordings])
    usable = np.flatnonzero(np.bitwise_count(bits[:, 1]) >= KNOWN_BITS)
    votes = [np.zeros((0, 3), np.intp)]
    for mask in KEYS:
        keys = bits[usable, 0] & np.uint32(mask)
        order = np.argsort(keys, kind="stable")
        keys, at = keys[order], usable[order]
        begins = np.flatnonzero(np.diff(keys, prepend=~keys[:1]))
        sizes = np.diff(begins, append=len(keys))
        # How many of its kind are before each, or none where there are too many.
        before = np.where(np.repeat(sizes, sizes) <= COMMON, np.arange(len(keys)) - np.repeat(begins, sizes), 0)
        for distance in range(1, COMMON):
            later = np.flatnonzero(before >= distance)
            one, other = at[later - distance], at[later]
            apart = owner[one] != owner[other]
            one, other = one[apart], other[apart]
            votes.append(np.stack([owner[one], owner[other], place[other] - place[one]], axis=1))
    pairs, counts = np.unique(np.concatenate(votes), axis=0, return_counts=True)
    # A copy that is shifted by half a frame is found at one shift and at the next.
    beside = np.all(pairs[1:] - pairs[:-1] == (0, 0, 1), axis=1)
    near = counts.copy()
    near[:-1] += np.where(beside, counts[1:], 0)
    near[1:] += np.where(beside, counts[:-1], 0)
    return [(int(a), int(b), int(shift)) for a, b, shift in pairs[near >= VOTES]]


def _alike(a: Codes, b: Codes, shift: int) -> list[tuple[int, int]]:
    """(first frame of a, frames) of the stretches in which b, `shift` frames later, differs in few known bits."""
    begin, end = max(0, -shift), min(len(a), len(b) - shift)
    if end - begin < WINDOW:
        return []
    one, other = a[begin:end], b[begin + shift : end + shift]
    known = one[:, 1] & other[:, 1]
    counts = np.bitwise_count(np.stack([known & (one[:, 0] ^ other[:, 0]), known])).astype(np.int64)
    sums = np.pad(np.cumsum(counts, axis=1), ((0, 0), (1, 0)))
    different, compared = sums[:, WINDOW:] - sums[:, :-WINDOW]
    alike = (different < DIFFERENT * compared) & (compared >= KNOWN_BITS * WINDOW)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], alike.astype(np.int8), [0]])))
    return [(begin + int(i), int(j - i) + WINDOW - 1) for i, j in zip(changes[::2], changes[1::2], strict=True)]
