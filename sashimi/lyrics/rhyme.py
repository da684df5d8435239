"""Which lines rhyme, how many, and in what scheme. English and Portuguese; None for other languages.

Two words rhyme *perfectly* where they sound alike from the stressed vowel on (rima consoante), *loosely* where English
words are only spelled so (love, prove) and where Portuguese words share only the vowels (rima toante). The same word
twice is neither: it is *identical*.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from sashimi.lyrics import english, portuguese
from sashimi.lyrics.sections import marker

LANGUAGES = ("en", "pt")
NEAR = 4  # sung lines that may lie between a line and its rhyme's: ABBA CDDC across a blank line still counts
_LAST = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*(?=[\W\d_]*$)")


@dataclass(frozen=True)
class Ending:
    """Of a line: its last word, and the ways in which that may sound and be spelled. known: is it in the dictionary?"""

    word: str
    perfect: frozenset[str]
    loose: frozenset[str]
    known: bool


def last_word(line: str) -> tuple[int, int] | None:
    """From where to where the last word of a line goes."""
    found = _LAST.search(line)
    return found.span() if found else None


@lru_cache(maxsize=50_000)
def ending(line: str, language: str) -> Ending | None:
    """None for a line without a word, and for a language without rules."""
    at = last_word(line)
    if not at or language not in LANGUAGES:
        return None
    word = line[slice(*at)].casefold().replace("’", "'")
    if language == "pt":
        sound = portuguese.sound(word)
        if sound is None:
            return None
        return Ending(word, frozenset([sound.perfect]), frozenset([sound.vowels[0] + sound.vowels[1:][-1:]]), True)
    word = word.rpartition("-")[2]
    ways, known = english.pronunciations(word)
    perfect = frozenset(key for phones in ways for key in _english(phones, word))
    return Ending(word, perfect, _spelled(word), known) if perfect else None


def _english(phones: english.Phones, word: str) -> set[str]:
    """What sounds from the last stressed vowel on; and, two syllables after it, from the last vowel on.

    In verse such a last syllable is stressed as well, and is what its spelling says: memory, sea; happiness, success.
    """
    vowels = [i for i, phone in enumerate(phones) if phone[-1].isdigit()]
    if not vowels:
        return set()
    stressed = [i for i in vowels if phones[i][-1] in "12"]
    start, last = (stressed or vowels)[-1], vowels[-1]
    found = {_sounds(phones[start:])}
    if len([i for i in vowels if i > start]) >= 2:
        full = phones[last]
        letters = re.findall("[aeiouy]", word.removesuffix("e"))
        if full[:-1] in ("AH", "IH") and letters:
            full = {"a": "AE1", "e": "EH1"}.get(letters[-1], full)
        found.add(_sounds((full, *phones[last + 1 :])))
    return found


def _sounds(phones: english.Phones) -> str:
    """Phones from a vowel on that the ear takes for stressed, as far as rhyme hears them.

    AO is AA but before R (lost, cost; not war, far); before R, IY is IH and UW is UH; unstressed IH is AH.
    """
    plain = [phone.rstrip("012") for phone in phones]
    for i, phone in enumerate(plain):
        before_r = plain[i + 1 : i + 2] == ["R"]
        if phone == "AO" and not before_r:
            plain[i] = "AA"
        elif phone in ("IY", "UW") and before_r:
            plain[i] = "IH" if phone == "IY" else "UH"
        elif phone == "IH" and i and not before_r:
            plain[i] = "AH"
    return " ".join(plain)


_TAIL = re.compile(r"[aeiouy]+[^aeiouy]*(?:e[sd]?)?$")


def _spelled(word: str) -> frozenset[str]:
    """The letters from the last vowel on, a mute e not counted as one; none where no consonant is among them."""
    tail = _TAIL.search(re.sub(r"[^a-z]", "", word))
    return frozenset([tail[0]] if tail and re.search("[^aeiouy]", tail[0]) else [])


def relation(a: Ending | None, b: Ending | None) -> str | None:
    """identical, perfect, loose, or None."""
    if a is None or b is None:
        return None
    if a.word == b.word:
        return "identical"
    if a.perfect & b.perfect:
        return "perfect"
    return "loose" if a.loose & b.loose else None


# --- songs --------------------------------------------------------------------------------------------


def stanzas(text: str) -> list[list[str]]:
    """The sung lines of a prepared text, parted by blank lines and section markers."""
    found: list[list[str]] = [[]]
    for line in text.split("\n"):
        if not line.strip() or marker(line):
            found.append([])
        else:
            found[-1].append(line)
    return [lines for lines in found if lines]


@dataclass(frozen=True)
class Density:
    """Shares of sung lines whose best partner at most NEAR lines away rhymes perfectly, loosely, or is the same word.

    known: share of the lines' last words that are in the dictionary (English)
    """

    perfect: float
    loose: float
    identical: float
    known: float


def density(text: str, language: str) -> Density | None:
    """None for other languages, and for a text with no line that ends in a word."""
    ends = [ending(line, language) for lines in stanzas(text) for line in lines]
    heard = [e for e in ends if e]
    if not heard:
        return None
    best = {"perfect": 0, "loose": 0, "identical": 0}
    for i, own in enumerate(ends):
        others = [*ends[max(0, i - NEAR) : i], *ends[i + 1 : i + 1 + NEAR]]
        found = {relation(own, other) for other in others}
        kind = next((kind for kind in ("perfect", "identical", "loose") if kind in found), None)
        if kind:
            best[kind] += 1
    n = len(ends)
    return Density(
        best["perfect"] / n, best["loose"] / n, best["identical"] / n, sum(e.known for e in heard) / len(heard)
    )


def scheme(lines: Sequence[str], language: str) -> str | None:
    """A letter for each line, the same for lines that rhyme perfectly or end in the same word: ABBA.

    A class keeps only the sounds that all its lines share, so that a word of two sounds joins no two classes.
    Letters go on after Z as a, b, ...
    """
    if language not in LANGUAGES:
        return None
    classes: list[tuple[frozenset[str], set[str]]] = []
    letters = []
    for line in lines:
        own = ending(line, language)
        place = len(classes)
        if own:
            for i, (sounds, words) in enumerate(classes):
                if own.word in words or own.perfect & sounds:
                    place = i
                    break
        if place == len(classes):
            classes.append((own.perfect, {own.word}) if own else (frozenset(), set()))
        elif own:
            sounds, words = classes[place]
            classes[place] = (sounds & own.perfect or sounds, words | {own.word})
        letters.append(chr(ord("A") + place) if place < 26 else chr(ord("a") + min(place - 26, 25)))
    return "".join(letters)


NAMED = {
    2: ("AA",),
    3: ("AAA", "ABA"),
    4: ("ABAB", "ABBA", "ABCB", "AABA", "AAAA", "AAAB"),
    5: ("AABBA", "ABAAB", "ABABB", "ABBAB", "ABBAA", "AABAB", "ABCCB", "ABABA"),
    6: ("AABCCB", "ABABCC", "ABABAB", "ABCABC", "AABBCC", "ABACBC", "ABBACC", "ABCBDB", "ABCCBA", "ABCBAC", "ABCACB"),
    7: ("ABABBCC", "ABABCCB"),
    8: ("ABABABCC", "ABBAABBA", "AAABCCCB"),
}  # fmt: skip


def canonical(letters: str) -> str:
    """The scheme of a part of a song, from A on: CDDC is ABBA."""
    order = {letter: chr(ord("A") + i) for i, letter in enumerate(dict.fromkeys(letters))}
    return "".join(order[letter] for letter in letters)


def recognised(letters: str) -> str | None:
    """The named scheme that a stanza has or repeats (ABAB of ABABCDCD); None for none."""
    for size in (len(letters), *NAMED):
        if (names := NAMED.get(size)) and len(letters) % size == 0:
            blocks = {canonical(letters[i : i + size]) for i in range(0, len(letters), size)}
            if len(blocks) == 1 and (found := blocks.pop()) in names:
                return found
    return None


def schemes(text: str, language: str) -> list[tuple[str, str | None]] | None:
    """Scheme of every stanza of a song, and its name. None for other languages.

    Two tercets in a row are judged as one stanza of six, where they make one. A stanza of more than eight lines
    that has no scheme as a whole is judged in quatrains (of a sonnet without blank lines: two, and its sestet).
    Single lines are no stanzas.
    """
    if language not in LANGUAGES:
        return None
    parts: list[str] = []
    given = stanzas(text)
    i = 0
    while i < len(given):
        lines = given[i]
        i += 1
        if len(lines) == 3 and i < len(given) and len(given[i]) == 3:
            both = scheme([*lines, *given[i]], language) or ""
            if recognised(both):
                parts.append(both)
                i += 1
                continue
        letters = scheme(lines, language) or ""
        if len(lines) > 8 and not recognised(letters):
            sestet = len(lines) == 14 and recognised(canonical(letters[8:]))
            cuts = [0, 4, 8, 14] if sestet else [*range(0, len(lines), 4), len(lines)]
            parts += [letters[a:b] for a, b in pairwise(cuts) if b - a > 1]
        elif len(lines) > 1:
            parts.append(letters)
    shown = [canonical(letters) for letters in parts]
    return [(letters, recognised(letters)) for letters in shown]


def marks(text: str, language: str) -> list[tuple[str, str | None]]:
    """Every line of a text with the letter of its rhyme, for showing; None where it has none at most NEAR lines away.

    Lines that share a letter rhyme perfectly; the same word alone makes no rhyme. Letters are of the whole text.
    """
    lines = text.split("\n")
    at = [i for i, line in enumerate(lines) if line.strip() and not marker(line)]
    ends = [ending(lines[i], language) for i in at]
    letters: list[str | None] = [None] * len(lines)
    used = 0
    for place, i in enumerate(at):
        for other in range(max(0, place - NEAR), place):
            if relation(ends[other], ends[place]) == "perfect":
                if letters[at[other]] is None:
                    letters[at[other]] = _letter(used)
                    used += 1
                letters[i] = letters[at[other]]
    return list(zip(lines, letters, strict=True))


def _letter(number: int) -> str:
    return chr(ord("a") + number % 26) + (str(number // 26 + 1) if number >= 26 else "")
