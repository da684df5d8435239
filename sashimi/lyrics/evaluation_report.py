"""report.md with its plots: what was written, beside the real lyrics and beside each other."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sashimi.lyrics import languages
from sashimi.lyrics.evaluation_results import REAL, Column, Results
from sashimi.lyrics.measures import MEASURES, Mean, Measure, difference, mean
from sashimi.lyrics.perplexity import perplexity
from sashimi.lyrics.report import table

OVERLAP = ("bleu", "rouge_1", "rouge_2", "rouge_l", "cosine")
PLOTTED = ("rhymed", "schemes", "unevenness", "stanza_lines", "repeated_lines", "distinct_2", "in_language", "copied")
PER_WORD, PER_TOKEN = "perplexity of the real lyrics, a word", "perplexity of the real lyrics, a token"
# What is compared, ours - theirs; the last is the founding document's comparison.
PAIRS = (
    ("fine-tuned, plain", "base, plain"), ("fine-tuned, described", "base, described"),
    ("fine-tuned, plain", "base, described"),
)  # fmt: skip


def summary(results: Results) -> dict[str, Any]:
    """Every figure with its interval, as plain values."""
    columns: dict[str, Any] = {}
    for column in results.columns:
        found: dict[str, Any] = {name: _plain(mean(column.values(name))) for name in MEASURES}
        found["bleu_of_all"] = column.corpus_bleu
        if column.scored:
            found["perplexity"] = {per: _plain(perplexity(column.scored, per)) for per in ("words", "tokens")}
        columns[column.name] = found
    differences = {
        f"{ours.name} - {theirs.name}": {
            name: _plain(difference(ours.values(name), theirs.values(name))) for name in MEASURES
        }
        for ours, theirs in _pairs(results)
    }
    return {"songs": len(results.songs), "columns": columns, "differences": differences}


def _plain(found: Mean | None) -> dict[str, Any] | None:
    if found is None:
        return None
    values = {"mean": found.value, "low": found.low, "high": found.high, "songs": found.n}
    return {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in values.items()}


def _pairs(results: Results) -> list[tuple[Column, Column]]:
    found = [(results.column(ours), results.column(theirs)) for ours, theirs in PAIRS]
    return [(ours, theirs) for ours, theirs in found if ours and theirs]


# --- tables -------------------------------------------------------------------------------------------


def write(folder: Path, results: Results) -> None:
    """report.md, overlap.png, form.png, and losses.png where the adapter's card has losses."""
    s, card = results.settings, results.card
    spoken = Counter(languages.name(song.language) for song in results.songs)
    parts = [f"# {results.base}" + (f", and {card.get('name') or s.adapter}" if card else "") + "\n"]
    parts.append(
        f"{len(results.songs)} songs of {results.data} ({s.data.split}; "
        + ", ".join(f"{n} {name}" for name, n in spoken.most_common())
        + f"), asked for by {'title' if s.data.request == 'title' else 'title, artist and genre'}. "
        f"Temperature {s.writing.temperature:g}, top-p {s.writing.top_p:g}, at most {s.writing.max_tokens} tokens, "
        f"seed {s.seed}. *Plain* is the request alone, *described* has the task described before it. "
        "In brackets 95% intervals by bootstrap over songs.\n"
    )
    parts += [f"> {note}\n" for note in results.notes]
    parts.append("Texts side by side: [before-after.html](before-after.html).\n")
    if results.column("fine-tuned, plain"):
        parts += _as_founded(results)
    if card and card.get("losses"):
        parts += _losses(folder, card)
    parts += _everything(results) + _differences(results) + _copied(results)
    _plot(folder / "overlap.png", results, OVERLAP, 5, "grey: the real lyrics of another title")
    _plot(folder / "form.png", results, PLOTTED, 4, "grey: the real lyrics of these titles")
    (folder / "report.md").write_text("\n".join(parts), encoding="utf-8")


def _as_founded(results: Results) -> list[str]:
    """The founding document's Tables 5 and 7: the adapted model asked plainly, the base with the task described."""
    ours, theirs = results.column("fine-tuned, plain"), results.column("base, described")
    assert ours
    assert theirs
    columns = [ours, theirs, results.columns[0]]
    rows = [["BLEU, all songs together", *("" if c.corpus_bleu is None else f"{c.corpus_bleu:.4f}" for c in columns)]]
    for name in OVERLAP:
        values = [mean(column.values(name)) for column in columns]
        if any(values):
            rows.append([MEASURES[name].label, *(_shown(v, MEASURES[name]) for v in values)])
    return [
        "## Overlap with the real lyrics\n",
        "![overlap](overlap.png)\n",
        table(["measure", "fine-tuned, plain request", "base, task described", "real lyrics of another title"], rows),
    ]


def _losses(folder: Path, card: dict[str, Any]) -> list[str]:
    from sashimi.lyrics import losses

    epochs = [losses.Epoch(int(e["epoch"]), float(e["train"]), float(e["val"])) for e in card["losses"]]
    losses.draw(folder, epochs, str(card.get("name") or "losses"))
    rows = [[e.epoch, f"{e.train:.4f}", f"{e.val:.4f}"] for e in epochs]
    return [
        "## Loss by epoch\n", f"![losses]({losses.PLOT})\n",
        table(["epoch", "training loss, nats a token", "validation loss, nats a token"], rows),
    ]  # fmt: skip


def _everything(results: Results) -> list[str]:
    rows = []
    for name, measure in MEASURES.items():
        values = [mean(column.values(name)) for column in results.columns]
        if any(values):
            rows.append([measure.label, *(_shown(value, measure) for value in values)])
    if any(column.corpus_bleu is not None for column in results.columns):
        shown = ["" if c.corpus_bleu is None else f"{c.corpus_bleu:.4f}" for c in results.columns]
        rows.append(["BLEU, all songs together", *shown])
    for label, per in ((PER_WORD, "words"), (PER_TOKEN, "tokens")):
        if any(column.scored for column in results.columns):
            found = [perplexity(c.scored, per) if c.scored else None for c in results.columns]
            rows.append([label, *(_shown(value, Measure(label, 1)) for value in found)])
    without = Counter(languages.name(s.language) for s in results.songs if s.language not in ("en", "pt"))
    said = "Rhymes and syllables are known of English and Portuguese"
    said += f"; there is nothing of them for {', '.join(f'{n} songs in {name}' for name, n in without.items())}.\n"
    return [
        "## All measures\n",
        "![form](form.png)\n",
        table(["measure", *(column.name for column in results.columns)], rows),
        "In the column of the real lyrics, BLEU, ROUGE and cosine are of the next title's real lyrics in the same "
        "language: what is reached without knowing the title. What each measure says and cannot say: "
        "docs/lyrics-evaluation.md. " + (said if without else "") + "\n",
    ]


def _differences(results: Results) -> list[str]:
    pairs = _pairs(results)
    if not pairs:
        return []
    rows = []
    for name, measure in MEASURES.items():
        found = [difference(ours.values(name), theirs.values(name)) for ours, theirs in pairs]
        if any(found):
            rows.append([measure.label, *(_bold(value, _shown(value, measure, signed=True)) for value in found)])
    return [
        "## Differences, song by song\n",
        "Paired bootstrap; bold where the 95% interval leaves 0 out. One row in twenty does so by chance.\n",
        table(["measure", *(f"{ours.name} - {theirs.name}" for ours, theirs in pairs)], rows),
    ]


def _bold(value: Mean | None, shown: str) -> str:
    return f"**{shown}**" if value and (value.low > 0 or value.high < 0) else shown


def _copied(results: Results) -> list[str]:
    rows = []
    for column in results.columns:
        longest = max((c for c in column.copied if c), key=lambda c: c[0].words, default=None)
        if longest:
            rows.append([column.name, longest[0].words, _short(longest[0].text), longest[1]])
    head = "## Longest span copied from the training songs\n"
    return [head, table(["column", "words", "span", "song"], rows) if rows else "None of four words or more.\n"]


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:197]}..."


def _shown(found: Mean | None, measure: Measure, signed: bool = False) -> str:
    """0.26 [0.24, 0.28]; 45% [40, 51]."""
    if found is None:
        return ""
    scale = 100 if measure.percent else 1
    values = [scale * v for v in (found.value, found.low, found.high)]
    sign = "+" if signed else ""
    value, low, high = (f"{v:{sign}.{measure.digits}f}" for v in values)
    unit = "%" if measure.percent else ""
    return f"{value}{unit}" if math.isnan(found.low) else f"{value}{unit} [{low}, {high}]"


def show(results: Results, console: Console) -> None:
    """On the terminal: the measures that a person asks for first."""
    from rich import box

    heads = [column.name.replace(", ", "\n") for column in results.columns]
    shown = Table("", *heads, box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for column in shown.columns[1:]:
        column.justify = "right"
    for name in (*OVERLAP, *PLOTTED):
        values = [mean(column.values(name)) for column in results.columns]
        if any(values):
            alone = [Mean(v.value, math.nan, math.nan, v.n) if v else None for v in values]
            shown.add_row(MEASURES[name].label, *(_shown(value, MEASURES[name]) for value in alone))
    if any(column.scored for column in results.columns):
        found = [perplexity(c.scored, "words") if c.scored else None for c in results.columns]
        shown.add_row("perplexity a word", *("" if v is None else f"{v.value:.4g}" for v in found))
    console.print(shown)


def write_understanding(
    folder: Path, base: str, card: dict[str, Any], notes: Sequence[str], sections: Sequence[str]
) -> None:
    """report.md of an adapter that understands lyrics; the sections are Markdown."""
    parts = [f"# {base}, and {card.get('name') or 'its adapter'}\n", *(f"> {note}\n" for note in notes)]
    if card.get("losses"):
        parts += _losses(folder, card)
    (folder / "report.md").write_text("\n".join([*parts, *sections]), encoding="utf-8")


# --- plots --------------------------------------------------------------------------------------------

COLOURS = {REAL: "#666666", "base": "#8aa4c8", "fine-tuned": "#c8553d"}


def _plot(path: Path, results: Results, names: Sequence[str], columns: int, note: str) -> None:
    """Means and their intervals, one panel a measure; the real lyrics' as a grey band over the height."""
    from matplotlib.figure import Figure

    known = [name for name in names if any(mean(column.values(name)) for column in results.columns)]
    if not known:
        return
    rows = -(-len(known) // columns)
    figure = Figure(figsize=(1.4 + 2.3 * columns, 0.5 + 1.75 * rows), dpi=120, layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    written = [column for column in results.columns if column.name != REAL]
    real = results.column(REAL)
    for panel in panels[len(known) :]:
        panel.set_visible(False)
    for panel, name in zip(panels, known, strict=False):
        scale = 100 if MEASURES[name].percent else 1
        if real and (value := mean(real.values(name))):
            if not math.isnan(value.low):
                panel.axvspan(scale * value.low, scale * value.high, color="#cccccc", alpha=0.6, lw=0)
            panel.axvline(scale * value.value, color=COLOURS[REAL], lw=1)
        for place, column in enumerate(written):
            value = mean(column.values(name))
            colour = COLOURS[column.name.partition(",")[0]]
            if value:
                if not math.isnan(value.low):
                    panel.plot([scale * value.low, scale * value.high], [place, place], color=colour, lw=2)
                filled = "plain" in column.name
                panel.plot(scale * value.value, place, "o", ms=6, color=colour, mfc=colour if filled else "white")
        label = MEASURES[name].label + (", %" if MEASURES[name].percent else "")
        panel.set_title(label.replace(" (", "\n("), fontsize=8.5)
        panel.set_yticks(range(len(written)), [column.name for column in written], fontsize=8.5)
        panel.set_ylim(len(written) - 0.5, -0.5)
        panel.tick_params(axis="x", labelsize=8)
        panel.margins(x=0.1)
        panel.grid(axis="x", alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    if real and any(mean(real.values(name)) for name in known):
        figure.supxlabel(note, fontsize=8.5, color="#555555")
    figure.savefig(path)
