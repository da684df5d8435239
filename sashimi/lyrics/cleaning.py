"""Lyrics as people publish them -> plain text with its lines, accents and scripts as they were.

A prepared text is Unicode NFC; lines end in "\\n", have no spaces at their ends, and one blank line at most between
two; section markers are lines such as [Chorus] (`sections`), and nothing else is a control token (`tokens`).
"""

import html
import re
import unicodedata

from sashimi.lyrics.sections import split_marker
from sashimi.lyrics.tokens import neutral

TITLE_LIMIT = 200  # characters
LINE_LIMIT = 400  # above it a text has lost its line breaks

_BREAK = re.compile(r"<\s*br\s*/?\s*>|</\s*(?:p|div)\s*>", re.I)
_TAG = re.compile(r"</?\s*(?:p|b|i|u|em|strong|div|span|font|a)\b[^<>]*>", re.I)
# What the pages of lyrics sites leave in the text.
_PAGE_HEAD = re.compile(r"\A\s*\d*\s*Contributors?[^\n]*?Lyrics(?=\n|\[)")
_PAGE_TAIL = re.compile(r"\d*\s*Embed(?:Share URLCopyEmbedCopy)?\s*\Z")
_PAGE_LINE = re.compile(
    r"\s*(?:you might also like|see .{1,60} live(?:get tickets as low as \$\d+)?"
    r"|\[(?:produced|written|letra|lyrics|paroles|testo|songtext) (?:by|de|von|di|of)\b.*\]|\[\?+\])\s*", re.I,
)  # fmt: skip
# UTF-8 read as Latin-1 or Windows-1252: "Ã£" for "ã", "â€™" for an apostrophe.
_MOJIBAKE = re.compile("[ÃÂ][\u0080-\u00bf\u0152-\u0178\u2013-\u203a\u20ac]|â€")
_UNDECODED = re.compile("[\udc80-\udcff]")  # bytes kept by the reader
_CONTROL = re.compile("[\\x00-\\x08\\x0e-\\x1f]")
_STAY = "\n\u200c\u200d"  # joiners: Persian and the scripts of India need them


def clean(text: str) -> str:
    """The prepared text of lyrics. Nothing that is sung goes."""
    text = _lines(text)
    text = _PAGE_TAIL.sub("", _PAGE_HEAD.sub("", text))
    lines: list[str] = []
    for raw in text.split("\n"):
        line = " ".join(raw.split(" ")).strip()
        line = re.sub(" {2,}", " ", line)
        if _PAGE_LINE.fullmatch(line):
            continue
        found = split_marker(line)
        if found:
            named, rest = found
            lines += ["", named] if lines and lines[-1] else [named]
            lines += [neutral(rest)] if rest else []
        elif line or (lines and lines[-1]):
            lines.append(neutral(line))
    return "\n".join(lines).strip()


def clean_line(text: str | None) -> str | None:
    """A title or a name: one line, None where nothing is left."""
    if text is None:
        return None
    return neutral(" ".join(_lines(text).split())) or None


def _lines(text: str) -> str:
    """Markup and invisible characters out, lines kept."""
    text = _TAG.sub("", _BREAK.sub("\n", html.unescape(text)))
    if "\n" not in text and "\r" not in text and "\\n" in text:  # written out by a program
        text = text.replace("\\r", "").replace("\\n", "\n")
    text = re.sub("\r\n?|[\u2028\u2029\u0085\v\f]", "\n", text)
    text = unicodedata.normalize("NFC", text)
    return text.translate(_VISIBLE)


class _Visible(dict[int, str]):
    """What every character becomes: spaces of all kinds a plain one, what cannot be seen nothing."""

    def __missing__(self, code: int) -> str:
        c = chr(code)
        kind = unicodedata.category(c)
        self[code] = " " if kind == "Zs" or c == "\t" else "" if kind in ("Cc", "Cf") and c not in _STAY else c
        return self[code]


_VISIBLE = _Visible()


def unreadable(text: str) -> str | None:
    """Why a raw text is no text in a known encoding, or None."""
    if _UNDECODED.search(text):
        return "wrong encoding"
    if len(_CONTROL.findall(text)) > 0.01 * len(text):
        return "binary"
    if "\ufffd" in text or len(_MOJIBAKE.findall(text)) > 1:
        return "broken characters"
    return None
