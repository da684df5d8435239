"""What rollouts found, for people: a table on the console and in Markdown, JSON, and plots."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from sashimi import rollout_plots, survival
from sashimi.config import EvaluateConfig, SamplingConfig
from sashimi.files import finished
from sashimi.metrics import BITS, SHORT, Floats, Track
from sashimi.real_music import Real
from sashimi.settings import plain
from sashimi.survival import JUDGED, End

MARKS = (8, 30, 60, 300)  # seconds at which the survival curve is told
REAL = "real music"


@dataclass(frozen=True)
class Group:
    """Clips that were played, or recordings: tracks, what became of each, and the figures of their column."""

    title: str
    played: bool
    tracks: list[Track]
    ends: list[End]
    figures: dict[str, Any]


def rows(groups: Sequence[Group], seconds: float, ranges: bool) -> list[list[str]]:
    """The table as text: what happens to the clips, how they sound, how far they are from test recordings.

    ranges: from 5% to 95% of a feature, beside its median.
    """

    def row(name: str, values: Sequence[str]) -> list[str]:
        return [name, *values]

    figures = [group.figures for group in groups]
    marks = [mark for mark in MARKS if mark <= seconds]
    found = [row("clips", [str(len(group.tracks)) for group in groups])]
    for m in map(str, marks):
        shares = [_sure(f["survival"][m], f["survival, 95% interval"][m]) for f in figures]
        found.append(row(f"still music after {m} s", shares))
    found += [row(f"left: {c}", [str(f["causes"].get(c, 0)) for f in figures]) for c in survival.CAUSES]
    left = [[end.seconds for end in group.ends if end.seconds is not None] for group in groups]
    found.append(row("left after, median (s)", [f"{np.median(of):.1f}" if of else "-" for of in left]))
    for feature in (*JUDGED, BITS):
        name = f"{feature.name}{f' ({feature.unit})' if feature.unit else ''}"
        values = [f["features"].get(feature.name) for f in figures]
        found.append(row(name, [_quantity(v, ranges) for v in values]))
    for key, name in (("to test", "Frechet distance to test"), ("at infinity", "without its size bias")):
        found.append(row(name, [f"{f['frechet'][key]:.1f}" if f["frechet"] else "-" for f in figures]))
    name = "last part to the first"
    found.append(row(name, [f"{f['parts']['to the first'][-1]:.1f}" if f["parts"] else "-" for f in figures]))
    return found


def said(groups: Sequence[Group]) -> list[str]:
    """How each was drawn, what was found in the training set, and each clip that is nearer than held-out music."""
    lines = []
    for group in groups:
        if "sampling" in group.figures:
            lines.append(f"{group.title}: drawn with {SamplingConfig(**group.figures['sampling'])}")
        verdict = group.figures.get("memorisation", {}).get("verdict", [])
        lines += [f"{group.title}: {line}" for line in verdict]
    return lines


def _quantity(of: dict[str, float] | None, ranges: bool) -> str:
    if of is None:
        return "-"
    return number(of["q50"]) + (f" ({number(of['q05'])} to {number(of['q95'])})" if ranges else "")


def number(value: float) -> str:
    """Three digits, and no powers of ten for what is large."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _sure(share: float | None, between: tuple[float, float] | None) -> str:
    """A share, and between what it lies with 95% confidence."""
    return "-" if share is None or between is None else f"{_percent(share)} ({between[0]:.0%}-{between[1]:.0%})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


NOTES = """
Clips count as music until a feature has been outside what held-out recordings (val) do for 4 s in a row; \
{kept:.1%} of their 60-s excerpts stay inside, and {test} of those of test ("real music", excerpts every 12 s). In \
brackets: between what the share lies with 95% confidence. Features: median (5% to 95%) over all windows. \
Frechet distances of log-mel patches, lower is nearer; under real \
music stands the floor, val to test at as many patches. See docs/metrics.md.
"""


def show(console: Console, groups: Sequence[Group], seconds: float) -> None:
    """The table, in as many parts as it takes for each to fit in the console's width, and what is to be said.

    Each part begins with the first group, real music.
    """
    text = rows(groups, seconds, ranges=False)
    first = max(len(name) for name, *_ in text) + 2
    widths = [max(len(row[i]) for row in text) + 3 for i in range(1, len(groups) + 1)]
    parts: list[list[int]] = [[0]]
    for i in range(1, len(groups)):
        if len(parts[-1]) > 1 and first + sum(widths[k] for k in [*parts[-1], i]) + 2 > console.width:
            parts.append([0])
        parts[-1].append(i)
    for part in parts:
        table = Table("", box=box.SIMPLE_HEAD)
        for i in part:
            table.add_column(groups[i].title, overflow="fold", max_width=widths[i] - 2)
        for name, *values in text:
            style = "bold" if name.startswith("still music") else None
            table.add_row(name, *(values[i] for i in part), style=style)
        console.print(table)
    for line in said(groups):
        console.print(line)


def save(
    folder: Path, groups: Sequence[Group], saved: list[dict[str, Any]], real: Real, config: EvaluateConfig
) -> None:
    """rollout.json, rollout.md and the three plots. saved: what the JSON holds of each group."""
    band = {"low": real.band.low, "high": real.band.high, "kept": real.band.kept}
    described = {"survival": plain(asdict(config.survival)), "seed": config.seed, "band": band, "groups": saved}
    with finished(folder / "rollout.json") as partial:
        partial.write_text(json.dumps(_finite(described), indent=1, ensure_ascii=False), encoding="utf-8")
    header = ["", *(group.title for group in groups)]
    lines = [header, ["---"] * len(header), *rows(groups, config.survival.seconds, ranges=True)]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    last = list(groups[0].figures["survival"].values())[-1]
    with finished(folder / "rollout.md") as partial:
        text += NOTES.format(kept=real.band.kept, test=_percent(last))
        text += "".join(["\n", *(f"- {line}\n" for line in said(groups))]) if said(groups) else ""
        partial.write_text(text, encoding="utf-8")
    curves = {group.title: group.figures["curve"] for group in groups}
    rollout_plots.survival_curves(folder / "rollout-survival.png", curves, REAL)
    rollout_plots.features_over_time(
        folder / "rollout-features.png",
        [(f.name, f.unit) for f in (*JUDGED, BITS)],
        {group.title: _over_time(group.tracks) for group in groups if group.played},
        {f.name: (real.band.low[f.name], real.band.high[f.name]) for f in JUDGED},
        {name: (q["q05"], q["q95"]) for name, q in groups[0].figures["features"].items() if q},
    )
    spreads = {name: q["q95"] - q["q05"] for name, q in groups[0].figures["features"].items() if q}
    rollout_plots.slopes(
        folder / "rollout-drift.png", {group.title: group.figures["drift"] for group in groups}, spreads, REAL
    )


def _over_time(tracks: Sequence[Track]) -> dict[str, tuple[float, Floats]]:
    """Each feature as (seconds from value to value, f64(clips, values))."""
    every = [survival.series(track) for track in tracks]
    found = {f.name: (every[0][f.name][0], np.stack([of[f.name][1] for of in every])) for f in JUDGED}
    return found | {BITS.name: (SHORT, np.stack([track.short[:, -1] for track in tracks]))}


def _finite(value: Any) -> Any:
    """As JSON can hold it: infinities (a side of the band without limit) as null."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
