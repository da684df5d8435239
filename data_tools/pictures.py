"""A data set in one picture."""

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from sashimi.files import finished
from sashimi.progress import clock

if TYPE_CHECKING:
    from data_tools.inspect import Heard

COLOURS = {"train": "tab:blue", "val": "tab:orange", "test": "tab:green"}
POINTS = 300  # of the level, over the whole data set


def draw(path: Path, title: str, splits: dict[str, "Heard"]) -> None:
    """A PNG: durations, level over time, mean spectrum, amplitudes, each by split."""
    figure, axes = plt.subplots(2, 2, figsize=(13, 8), layout="constrained", width_ratios=(2, 3))
    figure.suptitle(title)
    _durations(axes[0, 0], splits)
    _levels(axes[0, 1], splits)
    _amplitudes(axes[1, 0], splits)
    _spectra(axes[1, 1], splits)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    with finished(path) as partial:
        figure.savefig(partial, dpi=110)
    plt.close(figure)


def _durations(axis: Axes, splits: dict[str, "Heard"]) -> None:
    minutes = [heard.samples / heard.rate / 60 for heard in splits.values()]
    bars = axis.bar(list(splits), minutes, color=[COLOURS[split] for split in splits])
    labels = [f"{clock(60 * m)}\n{len(h.recordings)} rec." for m, h in zip(minutes, splits.values(), strict=True)]
    axis.bar_label(bars, labels, fontsize=9, padding=2)
    axis.set(ylabel="minutes", title="how much there is")
    axis.margins(y=0.18)


def _levels(axis: Axes, splits: dict[str, "Heard"]) -> None:
    total = sum(len(heard.level_db) for heard in splits.values())
    begin = 0.0
    for split, heard in splits.items():
        levels = heard.level_db
        if not len(levels):
            continue
        minutes = heard.samples / heard.rate / 60
        groups = np.array_split(levels, min(len(levels), max(4, round(POINTS * len(levels) / total))))
        low, middle, high = np.array([np.percentile(group, (10, 50, 90)) for group in groups]).T
        at = begin + minutes * (np.arange(len(groups)) + 0.5) / len(groups)
        axis.fill_between(at, low, high, color=COLOURS[split], alpha=0.25, linewidth=0)
        axis.plot(at, middle, color=COLOURS[split], linewidth=1, label=split)
        begin += minutes
    axis.set(
        xlabel="minutes, one recording after the other", ylabel="dBFS (RMS of 0.1 s)", ylim=(-70, 5),
        title="level: median, and 10% to 90%",
    )  # fmt: skip
    axis.set_xlim(0, begin or 1)
    axis.legend(frameon=False, ncols=3, loc="upper right")


def _amplitudes(axis: Axes, splits: dict[str, "Heard"]) -> None:
    for split, heard in splits.items():
        if heard.samples:
            edges = np.linspace(-1, 1, len(heard.histogram) + 1)
            axis.stairs(heard.histogram / heard.samples, edges, color=COLOURS[split], label=split)
    axis.set(xlabel="amplitude", ylabel="share of samples", yscale="log", xlim=(-1, 1), title="amplitudes")


def _spectra(axis: Axes, splits: dict[str, "Heard"]) -> None:
    for split, heard in splits.items():
        if heard.samples:
            axis.plot(heard.frequencies[1:], heard.spectrum_db[1:], color=COLOURS[split], linewidth=1, label=split)
            axis.set_xlim(30, heard.rate / 2)
    axis.set(xlabel="Hz", ylabel="dB (a sine of full scale is 0)", xscale="log", title="mean spectrum")
    ticks = [f for f in (50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000) if f < axis.get_xlim()[1]]
    axis.set_xticks(ticks, [f"{f // 1000}k" if f >= 1000 else str(f) for f in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
