"""The markers of a song's sections: `Refrão:`, `(Verse 2)`, `[Chorus: Ann & Bob]` all become lines such as [Chorus].

Recognised in English, Portuguese, Spanish, French, Italian and German. Who sings a section is left out.
"""

import re

# What is written in a marker, by its name of ours. The words before the bar are never a line of their own in a song;
# those after it may be ("Solo", "Ponte"), and count only in brackets, with a colon, or with a number.
_WORDS = {
    "Pre-Chorus": ("pre[- ]?chorus", "pr[eé][- ]?refr[aã]o", "pr[eé][- ]?coro", "pr[eé][- ]?estribillo",
                   "pr[eé][- ]?refrain", "|", "build"),
    "Post-Chorus": ("post[- ]?chorus", "p[oó]s[- ]?refr[aã]o", "post[- ]?refrain", "|"),
    "Chorus": ("chorus", "refrain", "refr[aã]o", "estribillo", "ritornello", "kehrreim", "|", "coro", "ref"),
    "Verse": ("verse", "|", "verso", "estrofe", "estrofa", "couplet", "strofa", "strophe", "part", "parte"),
    "Bridge": ("middle eight", "|", "bridge", "ponte", "puente", "pont", "br[uü]cke"),
    "Hook": ("|", "hook", "gancho"),
    "Intro": ("|", "intro", "introdu[cç][aã]o", "introducci[oó]n", "introduction"),
    "Interlude": ("|", "interlude", "interl[uú]dio", "interludio", "break"),
    "Instrumental": ("guitar solo", "solo de guitarra", "|", "instrumental", "solo"),
    "Outro": ("|", "outro", "final", "coda", "ending"),
}  # fmt: skip
NAMES = tuple(_WORDS)

_SAFE = {name: words[: words.index("|")] for name, words in _WORDS.items()}
_ALL = {name: [word for word in words if word != "|"] for name, words in _WORDS.items()}
_NUMBER = r"(?:\s*[#nº°.]*\s*(?P<number>\d{1,2}|[ivx]{1,4}))?"
_TIMES = r"(?:\s*[(\[]?\s*(?:x\s*\d|\d\s*x|\d\s*vezes|bis|repeat|repete)\s*[)\]]?)?"


def _pattern(words: dict[str, list[str]] | dict[str, tuple[str, ...]]) -> str:
    kinds = (f"(?P<{name.replace('-', '_')}>{'|'.join(options)})" for name, options in words.items() if options)
    return f"(?:{'|'.join(kinds)})"


_SINGER = r"(?:[:\-–,/|].*?)"
_BRACKETED = re.compile(
    rf"[\[({{]\s*{_pattern(_ALL)}{_NUMBER}{_TIMES}\s*(?:[:\-–,/|].*?)?[\])}}]\s*:?(?P<rest>.*)", re.I
)
_COLON = re.compile(rf"{_pattern(_ALL)}{_NUMBER}{_TIMES}\s*:\s*(?P<rest>)", re.I)
_COLON_AND_LINE = re.compile(rf"{_pattern(_SAFE)}{_NUMBER}{_TIMES}\s*:\s+(?P<rest>.+)", re.I)
_NUMBERED = re.compile(rf"{_pattern(_ALL)}{_NUMBER}{_TIMES}(?P<rest>)", re.I)
_BARE = re.compile(rf"{_pattern(_SAFE)}{_TIMES}(?P<rest>)", re.I)
_OURS = re.compile(rf"\[(?P<name>{'|'.join(NAMES)})(?: (?P<number>\d+))?\]")
_ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5, "vi": 6, "vii": 7, "viii": 8, "ix": 9, "x": 10}


def split_marker(line: str) -> tuple[str, str] | None:
    """The marker that a line is or begins with, as [Chorus] or [Verse 2], and the rest; None without one."""
    found = _BRACKETED.fullmatch(line) or _COLON.fullmatch(line) or _COLON_AND_LINE.fullmatch(line)
    if not found:
        found = _NUMBERED.fullmatch(line)
        if not found or not (found["number"] or _BARE.fullmatch(line)):
            return None
    name = next(name for name in NAMES if found.groupdict().get(name.replace("-", "_")))
    written = (found["number"] or "").lower() if "number" in found.groupdict() else ""
    number = int(written) if written.isdecimal() else _ROMAN.get(written)
    return (f"[{name} {number}]" if number else f"[{name}]"), found["rest"].strip()


def marker(line: str) -> tuple[str, int | None] | None:
    """Name and number of a section of a prepared text, from its line [Verse 2]; None for a line of another kind."""
    found = _OURS.fullmatch(line)
    return (found["name"], int(found["number"]) if found["number"] else None) if found else None


def sung(text: str) -> list[str]:
    """The lines of a prepared text that are sung: without markers and blank lines."""
    return [line for line in text.split("\n") if line and not marker(line)]
