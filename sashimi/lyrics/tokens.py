"""What models read as a command, and how it is kept out of texts that people wrote.

The rule, for lyrics, titles, names and prompts alike: in a text that went through `neutral` (or `cleaning.clean`)

- a square bracket stands only in a line that is a section marker of ours, such as [Chorus] (see `sections`);
  every other one has become a parenthesis, so that no text can hold [ARTIST], [INST] or [CHORUS];
- nothing that looks like a special token in angle brackets (<s>, </s>, <|eot_id|>, <<SYS>>, <think>) is left: its
  brackets have become ‹ and ›. "<3" and "a < b" stay.

So a program may put control tokens around such a text and know that those are the only ones.
"""

import re

# The founding plan's control tokens, for the step that teaches them. Section markers are their own: [Chorus].
CONTROL_TOKENS = ("[ARTIST]", "[GENRE]", "[THEME]", "[ERA]", "[VERSE]", "[CHORUS]", "[BRIDGE]")

# A name between angle brackets, with the bars, slashes and wide characters that tokenisers use.
_ANGLED = re.compile(r"<<?[|｜/]*([A-Za-z][\w▁ .:/-]{0,40})[|｜/]*>>?")
_BRACKETS = str.maketrans("[]", "()")


def neutral(text: str) -> str:
    """`text` with nothing left in it that a model reads as a control token. The same again for what it returns."""
    return _ANGLED.sub(_quoted, text).translate(_BRACKETS)


def _quoted(match: re.Match[str]) -> str:
    return f"‹{match[1]}›"
