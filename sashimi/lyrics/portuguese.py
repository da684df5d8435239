"""How Portuguese words sound, by rules on the spelling: syllables, the stressed one, and what is heard from there on.

The spelling before 1911 (elle, phantasma, mysterio, ninguem) is read as well. Open and closed e and o, which are not
spelled, are not told apart; a final z is an s, as in both countries; a final l and r stay what they are spelled.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

VOWELS = "aeiouáéíóúâêôàãõü"
_ACUTE = "áéíóúâêô"
_WEAK = "me te se lhe lhes nos vos o a os as lo la los las no na nas mo to ma ta mos tos mas tas lho lha lhos lhas"
_CLITICS = frozenset(_WEAK.split())
# Before 1911 they had no accent, and modern typists leave it out: stressed on their last syllable all the same.
_UNMARKED = """tambem porem alguem ninguem alem amen vintem refem contem convem mantem belem jerusalem desdem armazem
parabens porque voce ate atraz"""
_OXYTONES = frozenset(_UNMARKED.split())


@dataclass(frozen=True)
class Sound:
    """Of one word.

    nuclei    the vowels of each syllable, lower case, as spelled
    stressed  which of them, from 0
    perfect   what is heard from the stressed vowel on;   vowels: the vowels alone, diphthongs by their main vowel
    """

    nuclei: tuple[str, ...]
    stressed: int
    perfect: str
    vowels: str


@lru_cache(maxsize=50_000)
def sound(word: str) -> Sound | None:
    """Of a word in lower case, clitics after hyphens with it; None for what has no vowel."""
    parts = [_modern(part) for part in re.split(r"[-'’]", unicodedata.normalize("NFC", word)) if part]
    if not parts:
        return None
    hosts = [i for i, part in enumerate(parts) if part not in _CLITICS] or [len(parts) - 1]
    host = hosts[-1]
    before, after = "".join(parts[:host]), "".join(parts[host + 1 :])
    syllables = _nuclei(parts[host])
    if not syllables:
        return None
    at = _stressed(parts[host], syllables)
    start = syllables[at].start()
    tail = parts[host][start:] + after
    nuclei = [m[0] for m in (*_nuclei(before), *syllables, *_nuclei(after))]
    stressed = len(_nuclei(before)) + at
    return Sound(tuple(nuclei), stressed, _heard(tail), "".join(_main(n) for n in nuclei[stressed:]))


def _modern(word: str) -> str:
    """The older spelling's y, ph, th, double consonants and mute h."""
    word = word.replace("y", "i").replace("ph", "f").replace("th", "t").replace("rh", "r")
    word = re.sub(r"([b-df-hj-np-qtv-z])\1", r"\1", word)
    word = re.sub(r"[cp](?=[tç])", "", word)  # lucto, acção
    word = re.sub(r"(?<![lncaeiou])h|h(?![aeiouáéíóúâêô])|(?<=[lnc])h$", "", word)  # it parts vowels: distrahido
    for pattern, accented in _OLD_ENDINGS:
        word = pattern.sub(accented, word)
    return word


# céo, chapéos; pae, ruina; solitario, existencia, impassivel. Hardly a word of today ends so without an accent.
_OLD_ENDINGS = (
    (re.compile(r"(?<=[áéó])o(?=s?$)"), "u"),
    (re.compile(r"ae(?=s?$)"), "ai"),
    (re.compile(r"(?<=[^qg])ui(?=nas?$)"), "uí"),
    (re.compile(r"a(?=rios?$|nci[ao]s?$|veis$|vel$)"), "á"),
    (re.compile(r"e(?=rios?$|(?<!ve)(?<!perte)nci[ao]s?$)"), "é"),
    (re.compile(r"i(?=ci[ao]s?$|veis$|vel$|[mn]ios?$)"), "í"),
    (re.compile(r"o(?=rios?$|veis$|vel$|[mn]ios?$)"), "ó"),
)

# A vowel; after it, a semivowel that does not begin a syllable of its own. After q, and between g and a vowel, the u is
# no syllable. An i or u does where nh follows, or l, m, n, r or z that ends its syllable: rainha, juiz, cair, ainda.
_OWN = r"(?!nh|u$|[lmnrz](?:[^aeiouáéíóúâêôàãõüh]|$))"
_NUCLEUS = re.compile(rf"(?:ão|ãe|ãi|õe|[aáâàeéêoóôõ][iu]{_OWN}|i(?:u{_OWN})|ui{_OWN}|[aeiouáéíóúâêôàãõü])")
_MUTE_U = re.compile(r"q[uü]|g[uü](?=[aeioáéíóâêôàãõ])")


def _nuclei(word: str) -> list[re.Match[str]]:
    if word in ("ao", "aos"):
        return list(re.finditer("ao", word))
    shielded = _MUTE_U.sub(lambda m: m[0][0] + "w", word)
    found = list(_NUCLEUS.finditer(shielded))
    # história, água, tênue: after an accent, the two vowels at the end are one syllable.
    if len(found) > 2 and re.search(r"[iue][aeo]s?$", shielded) and any(c in _ACUTE for m in found[:-2] for c in m[0]):
        whole = re.compile(r"[iue][aeo](?=s?$)")
        last = whole.search(shielded)
        if last and found[-2].start() == last.start():
            found[-2:] = [last]
    return found


def _stressed(word: str, syllables: list[re.Match[str]]) -> int:
    """The accent says it; else a tilde; else the ending."""
    last = len(syllables) - 1
    for marks in (_ACUTE, "ãõ"):
        at = [i for i, m in enumerate(syllables) if any(c in marks for c in m[0])]
        if at:
            return at[-1]
    if last == 0 or word in _OXYTONES:
        return last
    end = syllables[-1]
    light = len(end[0]) == 1 and end[0] in "aeo" and re.fullmatch(r"s|", word[end.end() :])
    nasal = re.search(r"(?:am|em|ens)$", word)
    return last - 1 if light or nasal else last


_PLAIN = str.maketrans("áéíóúâêôàü", "aeiouaeoau")


def _heard(tail: str) -> str:
    """Letters as sounds, enough to compare two endings; N is a nasal that ends a syllable."""
    tail = re.sub(r"^eo(?=s?$)", "eu", re.sub(r"(?<![lncX])h", "", tail.translate(_PLAIN)))
    for pattern, sound_ in (
        (r"ãe(s?)$", r"eN\1"),  # mãe and também rhyme in Portugal
        (r"õe", "oNi"), (r"ão", "aNu"), (r"ãi", "aNi"), ("ã", "aN"), ("õ", "oN"),
        ("lh", "L"), ("nh", "J"), ("ch", "X"), (r"x", "X"),
        (r"q[u]", "k"), (r"g[u](?=[ei])", "G"), (r"g(?=[ei])", "j"), ("g", "G"),
        (r"sc(?=[ei])|c(?=[ei])|ç|ss|sç", "S"), ("c", "k"),
        (r"(?<=[aeiou])s(?=[aeiou])", "z"), (r"z$", "s"), ("S", "s"),
        (r"[mn](?![aeiou])", "N"), (r"ns$", "Ns"),
        (r"(?<=[^e])o(?=s?$)", "u"), (r"(?<=.)e(?=s?$)", "i"),
    ):  # fmt: skip
        tail = re.sub(pattern, sound_, tail)
    return tail


def _main(nucleus: str) -> str:
    plain = nucleus.translate(_PLAIN).replace("ã", "a").replace("õ", "o")
    return plain[-1] if re.fullmatch(r"[iue][aeo]", plain) else plain[0]
