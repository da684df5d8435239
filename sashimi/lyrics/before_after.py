"""before-after.html: real lyrics, and what the models wrote, side by side for a person to read. One file, no script."""

from html import escape
from pathlib import Path

from sashimi.lyrics import languages
from sashimi.lyrics.evaluation_results import REAL, Column, Results
from sashimi.lyrics.measures import MEASURES
from sashimi.lyrics.rhyme import LANGUAGES, last_word, marks
from sashimi.lyrics.sections import marker

HUES = 8
FIRST = (REAL, "base, described", "fine-tuned, plain")  # as in the founding document; the others below them
BELOW = ("rhymed", "schemes", "syllables", "copied", "rouge_1")

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #777; }
body { font: 15px/1.5 Georgia, serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; border-top: 1px solid var(--line);
padding-top: 1rem; } h3 { font: 600 .8rem system-ui, sans-serif; margin: 0 0 .5rem; }
.songs { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1.5rem; }
p.line { margin: 0; padding-left: 1.2em; text-indent: -1.2em; min-height: 1.5em; overflow-wrap: anywhere; }
.marker, .figures, .note { color: var(--dim); font: .78rem system-ui, sans-serif; } .figures { margin-top: .8rem; }
mark { border-radius: 3px; padding: 0 .12em; color: inherit; } mark sup { font: .65em system-ui, sans-serif; }
details { margin-top: 1rem; } summary { cursor: pointer; font: .8rem system-ui, sans-serif; color: var(--dim); }
"""


def write(folder: Path, results: Results) -> None:
    hues = "\n".join(f".r{i} {{ background: hsl({45 + i * 360 // HUES} 75% 60% / .38); }}" for i in range(HUES))
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{escape(results.base)}, before and after</title><style>{_STYLE}{hues}</style></head><body>",
        f"<h1>{escape(results.base)}, before and after</h1>",
        '<p class="note">Words in one colour and letter rhyme; the same word twice is not marked.</p>',
    ]
    first = [column for name in FIRST if (column := results.column(name))]
    others = [column for column in results.columns if column not in first]
    for i, song in enumerate(results.songs):
        about = ", ".join(filter(None, (song.artist, song.genre, languages.name(song.language))))
        parts.append(f'<section><h2>{escape(song.title or "(no title)")}</h2><p class="note">{escape(about)}</p>')
        parts.append(_row(first, i, song.language))
        if others:
            parts.append(f"<details><summary>{escape('; '.join(c.name for c in others))}</summary>")
            parts.append(_row(others, i, song.language) + "</details>")
        parts.append("</section>")
    parts.append("</body></html>\n")
    (folder / "before-after.html").write_text("\n".join(parts), encoding="utf-8")


def _row(columns: list[Column], i: int, language: str) -> str:
    shown = "".join(f"<article><h3>{escape(c.name)}</h3>{_text(c.texts[i], language)}{_figures(c, i)}</article>"
                    for c in columns)  # fmt: skip
    return f'<div class="songs">{shown}</div>'


def _text(text: str, language: str) -> str:
    if not text.strip():
        return '<p class="marker">(nothing was written)</p>'
    pairs = marks(text, language) if language in LANGUAGES else [(line, None) for line in text.split("\n")]
    return "".join(_line(line, letter) for line, letter in pairs)


def _line(line: str, letter: str | None) -> str:
    if marker(line):
        return f'<p class="line marker">{escape(line)}</p>'
    at = last_word(line)
    if letter is None or at is None:
        return f'<p class="line">{escape(line)}</p>'
    start, end = at
    hue = (ord(letter[0]) - ord("a")) % HUES
    marked = f'<mark class="r{hue}">{escape(line[start:end])}<sup>{letter}</sup></mark>'
    return f'<p class="line">{escape(line[:start])}{marked}{escape(line[end:])}</p>'


def _figures(column: Column, i: int) -> str:
    shown = []
    for name in BELOW if column.name != REAL else BELOW[:-1]:
        value, measure = column.figures[i].get(name), MEASURES[name]
        if value is not None:
            said = f"{100 * value:.0f}%" if measure.percent else f"{value:.{measure.digits}f}"
            shown.append(f"{measure.label} {said}")
    if (copied := column.copied[i]) and copied[0].words >= 8:
        shown.append(f"copied from {copied[1]}: “{copied[0].text}”")
    return f'<p class="figures">{escape("; ".join(shown))}</p>'
