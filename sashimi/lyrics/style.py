"""What can be counted in lyrics: lines, stanzas, sections, what comes again, questions. No judgement."""

import re
from collections import Counter
from dataclasses import dataclass
from statistics import median

from sashimi.lyrics.sections import marker, sung
from sashimi.lyrics.words import words

SOURCE = "measured"


@dataclass(frozen=True)
class Style:
    """Of one text. line_words: the median; sections: names in their order, each once; repeated: lines of which a text
    has the same words before (a refrain, and what is sung twice); questions: lines with a question mark."""

    stanzas: int
    lines: int
    line_words: int
    sections: tuple[str, ...]
    repeated: int
    questions: int

    def __str__(self) -> str:
        parts = [
            _number(self.stanzas, "stanza"),
            _number(self.lines, "line"),
            f"{_number(self.line_words, 'word')} in a middling line",
            f"{_number(self.repeated, 'line')} sung again" if self.repeated else "no line sung again",
            f"{_number(self.questions, 'line')} with a question" if self.questions else "no questions",
        ]
        if self.sections:
            parts.append(f"marked sections: {', '.join(self.sections)}")
        return "; ".join(parts)


def measure(text: str) -> Style:
    """The style of a prepared text. A stanza ends at a blank line or a section marker."""
    lines = sung(text)
    stanzas, inside = 0, False
    for line in text.split("\n"):
        begins = bool(line) and not marker(line)
        stanzas += begins and not inside
        inside = begins
    names = dict.fromkeys(found[0] for line in text.split("\n") if (found := marker(line)))
    same = Counter(" ".join(words(line)) for line in lines)
    return Style(
        stanzas,
        len(lines),
        round(median(len(words(line)) for line in lines)) if lines else 0,
        tuple(names),
        sum(n - 1 for line, n in same.items() if line),
        sum(bool(re.search(r"[?¿？؟]", line)) for line in lines),
    )


def _number(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
