"""The longest stretch of words that a text has in common with the songs a model was trained on."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sashimi.lyrics.sections import sung
from sashimi.lyrics.words import words

SHORTEST = 4  # words: below it everybody copies everybody
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Copied:
    """words: how many in a row, across line ends;   text: they, in lower case;   song: number of one that has them."""

    words: int
    text: str
    song: int


class Index:
    """Every group of SHORTEST words of many songs, sorted by hash: 16 bytes a word.

    Raises no error for no songs; nothing is then copied.
    """

    def __init__(self, lyrics: Iterable[str]) -> None:
        self.numbers: dict[str, int] = {}
        numbered, ends = [], [0]
        for text in lyrics:
            found = [self.numbers.setdefault(word, len(self.numbers) + 1) for word in _words(text)]
            numbered.append(np.array([*found, 0], np.int32))  # 0 lies between songs and is no word
            ends.append(ends[-1] + len(found) + 1)
        self.all = np.concatenate(numbered) if numbered else np.zeros(0, np.int32)
        self.ends = np.array(ends)
        hashes = _hashes(self.all)
        self.order = np.argsort(hashes, kind="stable").astype(np.int32 if len(self.all) < 2**31 else np.int64)
        self.hashes = hashes[self.order]

    def longest(self, text: str) -> Copied | None:
        """None where no SHORTEST words in a row are in any song."""
        found = _words(text)
        own = np.array([self.numbers.get(word, -1) for word in found], np.int32)
        hashes = _hashes(own)
        low, high = (np.searchsorted(self.hashes, hashes, side) for side in ("left", "right"))
        best, at, where = 0, 0, 0
        for i in range(len(hashes)):
            if high[i] == low[i] or len(own) - i <= best:
                continue
            places = self.order[low[i] : high[i]].astype(np.int64)
            length = 0
            while i + length < len(own):
                going = places[places + length < len(self.all)]
                going = going[self.all[going + length] == own[i + length]]
                if not len(going):
                    break
                places, length = going, length + 1
            if length > best:
                best, at, where = length, i, int(places[0])
        if best < SHORTEST:
            return None
        song = int(np.searchsorted(self.ends, where, "right")) - 1
        return Copied(best, " ".join(found[at : at + best]), song)


def _words(text: str) -> list[str]:
    return words("\n".join(sung(text)))


def _hashes(numbers: NDArray[np.int32]) -> NDArray[np.uint64]:
    """Of every SHORTEST numbers in a row. Two groups may share one: what is found is compared word by word."""
    n = max(len(numbers) - SHORTEST + 1, 0)
    total = np.zeros(n, np.uint64)
    for i in range(SHORTEST):
        total = (total ^ numbers[i : i + n].astype(np.uint64)) * _ODD
        total ^= total >> np.uint64(29)
    return total
