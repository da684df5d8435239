"""What a set of songs is like: report.md with tables, and plots beside it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sashimi.lyrics import languages
from sashimi.lyrics.dataset import Song
from sashimi.lyrics.sections import marker, sung
from sashimi.lyrics.words import STOP_WORDS, words

NONE = "(not stated)"
COMMON = 25  # words of a language
GENRES = 25  # bars of the plot
LICENCES = 20  # in the report; all are in dataset.yaml
PLOTTED = 4  # languages with most songs


@dataclass
class Dropped:
    """How many songs were not used, by reason, and the first few of each."""

    shown: int = 5
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, example: str) -> None:
        self.counts[reason] += 1
        kept = self.examples.setdefault(reason, [])
        if len(kept) < self.shown:
            kept.append(example if len(example) <= 160 else f"{example[:157]}...")

    def described(self) -> dict[str, Any]:
        return {reason: {"songs": n, "examples": self.examples[reason]} for reason, n in self.counts.most_common()}


@dataclass
class Counts:
    """Of the songs that are kept, one at a time."""

    songs: int = 0
    by_split: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    genres: dict[str, Counter[str]] = field(default_factory=dict)  # language -> genre -> songs
    artists: Counter[str] = field(default_factory=Counter)
    words: dict[str, Counter[str]] = field(default_factory=dict)
    lengths: dict[str, list[tuple[int, int]]] = field(default_factory=dict)  # words, lines
    sections: Counter[str] = field(default_factory=Counter)  # songs that have one of its name
    untitled: int = 0

    def add(self, song: Song, split: str) -> None:
        self.songs += 1
        self.by_split[split] += 1
        self.languages[song.language] += 1
        self.genres.setdefault(song.language, Counter())[song.genre or NONE] += 1
        self.artists[song.artist or NONE] += 1
        self.untitled += song.title is None
        lines = sung(song.lyrics)
        found = words("\n".join(lines))
        self.words.setdefault(song.language, Counter()).update(found)
        self.lengths.setdefault(song.language, []).append((len(found), len(lines)))
        named = [marker(line) for line in song.lyrics.split("\n")]
        self.sections.update({one[0] for one in named if one})

    def common(self, language: str) -> list[tuple[str, int]]:
        """The most common words of a language, without its stop words and single letters."""
        stop = STOP_WORDS.get(language, frozenset())
        single = 1 if language in STOP_WORDS else 0
        wanted = ((w, n) for w, n in self.words[language].most_common() if w not in stop and len(w) > single)
        return [pair for pair, _ in zip(wanted, range(COMMON), strict=False)]

    def described(self) -> dict[str, Any]:
        every: Counter[str] = sum(self.genres.values(), Counter())
        return {
            "songs": self.songs, "splits": dict(self.by_split), "artists": len(self.artists),
            "untitled": self.untitled, "languages": dict(self.languages.most_common()),
            "genres": dict(every.most_common()),
        }  # fmt: skip


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Markdown; numbers to the right."""
    lines = [[str(cell) for cell in header]]
    body = [list(row) for row in rows]
    number = [bool(body) and isinstance(body[0][i], (int, float)) for i in range(len(lines[0]))]
    shown = [[f"{c:,}" if isinstance(c, int) else _escaped(str(c)) for c in row] for row in body]
    rule = ["---:" if n else "---" for n in number]
    return "\n".join("| " + " | ".join(row) + " |" for row in [*lines, rule, *shown]) + "\n"


def _escaped(cell: str) -> str:
    return cell.replace("|", r"\|").replace("\n", " / ")


def write(
    folder: Path, title: str, counts: Counts, found: Mapping[str, int], dropped: Dropped, licences: Mapping[str, int]
) -> None:
    """report.md, songs.png, words-LANGUAGE.png, lengths.png.

    found: songs by language in the source, after cleaning; counts: of those kept.
    """
    several = [language for language, _ in counts.languages.most_common()]
    every: Counter[str] = sum(counts.genres.values(), Counter())
    parts = [f"# {title}\n"]
    splits = ", ".join(f"{n:,} {split}" for split, n in counts.by_split.items())
    parts.append(f"{counts.songs:,} songs by {len(counts.artists):,} artists: {splits}.")
    if counts.untitled:
        parts.append(f"{counts.untitled:,} of them have no title in the source.")
    parts.append("\n## Songs by language\n")
    order = sorted(found, key=lambda code: -found[code])
    rows = [[languages.name(code), found[code], counts.languages[code]] for code in order]
    parts.append(table(["language", "in the source", "kept"], rows))
    parts.append(f"## Songs by genre\n\n{len(every):,} genres. ![songs by genre](songs.png)\n")
    genre_rows = [
        [genre, n, *(counts.genres[code][genre] for code in several[:PLOTTED])] for genre, n in every.most_common(100)
    ]
    parts.append(table(["genre", "songs", *map(languages.name, several[:PLOTTED])], genre_rows))
    for code in several[:PLOTTED]:
        left_out = "stop words left out" if code in STOP_WORDS else "no list of stop words for this language"
        parts.append(f"## Most common words, {languages.name(code)}\n\n{left_out}. ![words](words-{code}.png)\n")
        parts.append(table(["word", "times"], counts.common(code)))
    parts.append("## Lengths\n\n![words a song](lengths.png)\n")
    parts.append(table(
        ["language", "words: 5%", "median", "95%", "lines: 5%", "median", "95%"],
        [[languages.name(code), *_percentiles(counts.lengths[code])] for code in several],
    ))  # fmt: skip
    if counts.sections:
        parts.append("## Sections\n")
        parts.append(table(["section", "songs that mark one"], counts.sections.most_common()))
    parts.append("## Left out\n")
    if dropped.counts:
        parts.append(table(
            ["reason", "songs", "examples"],
            [[reason, n, "; ".join(dropped.examples[reason])] for reason, n in dropped.counts.most_common()],
        ))  # fmt: skip
    else:
        parts.append("Nothing.\n")
    parts.append("## Licences\n")
    parts.append(
        table(["licence as stated", "songs"], list(licences.items())[:LICENCES]) if licences else "None was stated.\n"
    )
    (folder / "report.md").write_text("\n".join(parts), encoding="utf-8")
    _plots(folder, counts, several[:PLOTTED], every)


def _percentiles(lengths: list[tuple[int, int]]) -> list[int]:
    low_to_high = np.percentile(np.array(lengths), [5, 50, 95], axis=0).round().astype(int)
    return [int(n) for column in low_to_high.T for n in column]


def _plots(folder: Path, counts: Counts, shown: list[str], every: Counter[str]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    def bars(name: str, title: str, pairs: list[tuple[str, int]], axis: str) -> None:
        fig, ax = plt.subplots(figsize=(7, 1.2 + 0.24 * max(len(pairs), 3)), layout="constrained")
        labels = [_plain(label) for label, _ in pairs][::-1]
        drawn = ax.barh(range(len(pairs)), [n for _, n in pairs][::-1], color="#3b6ea5")
        ax.set_yticks(range(len(pairs)), labels, parse_math=False)
        ax.bar_label(drawn, labels=[f"{n:,}" for _, n in pairs][::-1], padding=3, fontsize=8)
        ax.set(title=title, xlabel=axis)
        ax.margins(x=0.12, y=0.01)
        ax.spines[["top", "right"]].set_visible(False)
        fig.savefig(folder / name, dpi=120)
        plt.close(fig)

    more = f" (the {GENRES} most common of {len(every)})" if len(every) > GENRES else ""
    bars("songs.png", f"Songs by genre{more}", every.most_common(GENRES), "songs")
    for code in shown:
        bars(f"words-{code}.png", f"Most common words, {languages.name(code)}", counts.common(code), "times")
    fig, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
    top = max(float(np.percentile([n for n, _ in counts.lengths[code]], 99)) for code in shown)
    for code in shown:
        lengths = np.array([n for n, _ in counts.lengths[code]])
        share = np.full(len(lengths), 100 / len(lengths))
        label = f"{languages.name(code)} ({len(lengths):,})"
        ax.hist(
            np.minimum(lengths, top),
            np.linspace(0, top, 41).tolist(),
            weights=share,
            histtype="step",
            lw=1.6,
            label=label,
        )
    ax.set(title="Words a song", xlabel="words (the longest 1% in the last bar)", ylabel="% of the language's songs")
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    fig.savefig(folder / "lengths.png", dpi=120)
    plt.close(fig)


def _plain(label: str) -> str:
    return label if len(label) <= 32 else f"{label[:29]}..."
