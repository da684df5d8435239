"""Syllables of a line. English: as the dictionary pronounces it. Portuguese: as verse is counted there. Else None.

A Portuguese line counts up to its last stressed syllable, and the vowel that ends a word without stress is one syllable
with the vowel that begins the next: "Que | tre-me e | chora" has no more than its five. Poets do not always do so.
"""

import re
from itertools import pairwise

from sashimi.lyrics import english, portuguese

_TOKEN = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")


def syllables(line: str, language: str) -> int | None:
    """0 for a line without words; None for other languages."""
    tokens = [token.replace("’", "'") for token in _TOKEN.findall(line.casefold())]
    match language:
        case "en":
            return sum(_english(part) for token in tokens for part in token.split("-") if part)
        case "pt":
            return _portuguese(tokens)
        case _:
            return None


def _english(word: str) -> int:
    ways, _ = english.pronunciations(word)
    return sum(phone[-1].isdigit() for phone in ways[0])


def _portuguese(tokens: list[str]) -> int:
    sounds = [(token, s) for token in tokens if (s := portuguese.sound(token))]
    if not sounds:
        return 0
    total = sum(len(sound.nuclei) for _, sound in sounds)
    for (left, first), (right, second) in pairwise(sounds):
        total -= _merge(left, first, right, second)
    last = sounds[-1][1]
    return total - (len(last.nuclei) - 1 - last.stressed)


def _merge(left: str, first: portuguese.Sound, right: str, second: portuguese.Sound) -> bool:
    """Whether the end of a word and the beginning of the next are one syllable."""
    if left[-1] not in "aeoàiu" or right.removeprefix("h")[:1] not in portuguese.VOWELS + "à":
        return False
    return first.stressed < len(first.nuclei) - 1 or left in _ATONIC


_WEAK = "a e o as os de do da que se me te lhe no na ao à em um por pelo pela mo to lho ma ta lha para pra"
_ATONIC = frozenset(_WEAK.split())
