"""How English words sound: the CMU Pronouncing Dictionary, and rules on the spelling for words that it lacks.

The dictionary is github.com/cmusphinx/cmudict at 0f8072f, unchanged, in `cmudict/` with its licence (two-clause BSD).
It speaks General American; its phones are ARPAbet, vowels end in their stress (1 primary, 2 secondary, 0 none).
"""

import gzip
import re
from functools import cache, lru_cache
from importlib.resources import files

Phones = tuple[str, ...]


@cache
def _dictionary() -> dict[str, list[str]]:
    """Word -> its pronunciations, as written. Some 0.2 s and 40 MB."""
    found: dict[str, list[str]] = {}
    packed = files("sashimi.lyrics").joinpath("cmudict", "cmudict.dict.gz").read_bytes()
    for line in gzip.decompress(packed).decode("utf-8").splitlines():
        word, _, phones = line.partition(" #")[0].partition(" ")
        found.setdefault(word.partition("(")[0], []).append(phones)
    return found


@lru_cache(maxsize=50_000)
def pronunciations(word: str) -> tuple[tuple[Phones, ...], bool]:
    """Those of a word in lower case with straight apostrophes; whether the dictionary has it, or what it is made of.

    Never empty for a word with a letter: without an entry, one pronunciation is read off the spelling.
    """
    listed = _listed(word)
    return (listed, True) if listed else ((_spelled(word),), False)


def _listed(word: str) -> tuple[Phones, ...]:
    # The apostrophe at a word's edge is lost where words are found: 'tis, singin'.
    for entry in (word, f"'{word}", f"{word}'"):
        if entry in _dictionary():
            return tuple(tuple(phones.split()) for phones in _dictionary()[entry])
    if word in _POETIC:
        return (tuple(_POETIC[word].split()),)
    # What poets and songs make of words that are listed.
    for pattern, stem, ending in _MADE_OF:
        if (matched := re.fullmatch(pattern, word)) and (found := _listed(matched[1] + stem)):
            return tuple(_joined(phones, ending) for phones in found)
    # unsought, moonlit: both parts are listed, the second is heard at the end.
    for cut in range(len(word) - 3, 1, -1):
        first, second = word[:cut], word[cut:]
        if second in _dictionary() and (first in _PREFIXES or (cut > 2 and first in _dictionary())):
            ways = _dictionary()[second]
            before = _PREFIXES.get(first) or _dictionary()[first][0]
            return tuple((*before.split(), *phones.split()) for phones in ways)
    return ()


_POETIC = {
    "o'er": "AO1 R", "e'er": "EH1 R", "ne'er": "N EH1 R", "e'en": "IY1 N", "thro": "TH R UW1", "tho": "DH OW1",
    "saith": "S EH1 TH", "alway": "AO1 L W EY2", "hie": "HH AY1", "poesy": "P OW1 AH0 Z IY2",
}  # fmt: skip
_PREFIXES = {
    "un": "AH0 N", "be": "B IH0", "re": "R IY0", "dis": "D IH0 S", "mis": "M IH0 S", "en": "EH0 N", "o'er": "AO2 R",
    "fore": "F AO2 R", "af": "AH0", "ad": "AH0 D",
}  # fmt: skip

# word, what its stem is called in the dictionary, and what sounds after it
_MADE_OF = (
    (r"(.+[^s])'s", "", "S"), (r"(.+s)'s", "", "IH0 Z"), (r"(.+s)'", "", ""),
    (r"(.+)'d", "ed", ""), (r"(.+e)'d", "d", ""), (r"(.+)'st", "", "S T"), (r"(.+v)'n", "en", ""),
    (r"(.+)'ring", "ering", ""), (r"(.+)'ry", "ery", ""),
    (r"(.+in)", "g", "IN"), (r"(.+)iness", "y", "N AH0 S"), (r"(.+)ily", "y", "L IY0"), (r"(.+)iest", "y", "IH0 S T"),
    (r"(.+)eth", "", "IH0 TH"), (r"(.+)eth", "e", "IH0 TH"),
    (r"(.+[^e])est", "", "IH0 S T"), (r"(.+)est", "e", "IH0 S T"),
    (r"(.+)ies", "y", "S"), (r"(.+[sxz]|.+[cs]h)es", "", "IH0 Z"), (r"(.+[^s])s", "", "S"),
    (r"(.+e)d", "", "D"), (r"(.+)ed", "", "D"), (r"(.+)less", "", "L AH0 S"), (r"(.+)ness", "", "N AH0 S"),
    (r"(.+)ful", "", "F AH0 L"), (r"(.+)ly", "", "L IY0"), (r"(.+)ing", "", "IH0 NG"), (r"(.+)ing", "e", "IH0 NG"),
)  # fmt: skip
_VOICELESS = {"P", "T", "K", "F", "TH", "S", "SH", "CH"}


def _joined(stem: Phones, ending: str) -> Phones:
    """A plural's s and a past's d sound by what they follow; IN is -ing that has lost its g."""
    last = stem[-1]
    match ending:
        case "IN":
            return (*stem[:-1], "N")
        case "S":
            end = "IH0 Z" if last in ("S", "Z", "SH", "ZH", "CH", "JH") else "S" if last in _VOICELESS else "Z"
        case "D":
            end = "IH0 D" if last in ("T", "D") else "T" if last in _VOICELESS else "D"
        case _:
            end = ending
    return (*stem, *end.split())


# --- spelling -----------------------------------------------------------------------------------------

# Spellings of vowels and consonants, longest first; the words that need them are rare, old, invented or foreign.
_SPELLINGS = {
    "eigh": "EY", "igh": "AY", "ought": "AO T", "ough": "OW", "aught": "AO T", "augh": "AO",
    "tion": "SH AH N", "sion": "ZH AH N", "cious": "SH AH S",
    "tious": "SH AH S", "ture": "CH ER", "eau": "OW", "air": "EH R", "are": "EH R", "ear": "IH R", "eer": "IH R",
    "ire": "AY ER", "ore": "AO R", "oor": "AO R", "our": "AW ER", "ure": "Y UH R", "ai": "EY", "ay": "EY", "ea": "IY",
    "ee": "IY", "ei": "IY", "ey": "IY", "ie": "IY", "oa": "OW", "oe": "OW", "oi": "OY", "oo": "UW", "ou": "AW",
    "ow": "OW", "oy": "OY", "ue": "UW", "ui": "UW", "au": "AO", "aw": "AO", "ew": "UW", "ar": "AA R", "er": "ER",
    "ir": "ER", "or": "AO R", "ur": "ER", "yr": "ER", "all": "AO L", "tch": "CH", "sch": "SK", "ch": "CH", "ck": "K",
    "dge": "JH", "ah": "AA", "eh": "EY", "oh": "OW", "uh": "AH", "gh": "",
    "gn": "N", "kn": "N", "wr": "R", "ng": "NG", "ph": "F", "qu": "K W", "sh": "SH", "th": "TH",
    "wh": "W", "mb": "M", "a": "AE", "e": "EH", "i": "IH", "o": "AA", "u": "AH", "y": "IH", "b": "B", "c": "K",
    "d": "D", "f": "F", "g": "G", "h": "HH", "j": "JH", "k": "K", "l": "L", "m": "M", "n": "N", "p": "P", "r": "R",
    "s": "S", "t": "T", "v": "V", "w": "W", "x": "K S", "z": "Z",
}  # fmt: skip
_UNITS = re.compile("|".join(sorted(_SPELLINGS, key=len, reverse=True)))
_LONG = {"AE": "EY", "EH": "IY", "IH": "AY", "AA": "OW", "AH": "UW"}  # before a consonant and a silent e
_VOWELS = {"AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"}
_PLAIN = str.maketrans("àáâãäåçèéêëìíîïñòóôõöùúûüýÿæœ", "aaaaaaceeeeiiiinooooouuuuyyae")


def _spelled(word: str) -> Phones:
    """A guess at how a word sounds: the last but one of its vowels is stressed, or the only one."""
    letters = re.sub(r"[^a-z]", "", word.translate(_PLAIN))
    silent = len(letters) > 3 and letters.endswith("e") and letters[-2] not in "aeiouy"
    if silent:
        letters = letters[:-1]
    elif len(letters) > 3 and letters.endswith("ed") and letters[-3] not in "aeioutd":
        letters = letters[:-2] + "d"
    letters = re.sub(r"c(?=[eiy])", "s", re.sub(r"([b-df-hj-np-tv-z])\1", r"\1", letters))
    phones = " ".join(_SPELLINGS[unit] for unit in _UNITS.findall(letters)).split()
    if letters.endswith("y") and phones and phones[-1] == "IH":
        phones[-1] = "IY" if any(p in _VOWELS for p in phones[:-1]) else "AY"
    places = [i for i, phone in enumerate(phones) if phone in _VOWELS]
    if silent and len(phones) >= 2 and places and places[-1] == len(phones) - 2:
        phones[places[-1]] = _LONG.get(phones[places[-1]], phones[places[-1]])
    if not places:
        return ("AH1",) if letters else ()
    stressed = places[-1] if len(places) == 1 or silent else places[-2]
    return tuple(f"{p}{int(i == stressed)}" if i in places else p for i, p in enumerate(phones))
