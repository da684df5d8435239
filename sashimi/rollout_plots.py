"""Pictures of how generated music holds up over time, beside real music. Plain values come in, PNGs go out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from sashimi.files import finished

COLUMNS = 3
REAL_COLOUR = "0.35"

Floats = NDArray[np.float64]


def survival_curves(path: Path, curves: Mapping[str, Mapping[str, Sequence[Any]]], real: str) -> None:
    """seconds, share still inside the band, and low and high of its interval, of every title.

    Those that begin as `real` does are drawn grey.
    """
    figure, axis = plt.subplots(figsize=(9, 4.5), layout="constrained")
    for i, (title, curve) in enumerate(curves.items()):
        share = np.array([np.nan if v is None else v for v in curve["share"]], float)
        style: dict[str, Any] = {"color": REAL_COLOUR, "linestyle": "--"} if title.startswith(real) else {}
        nudge = 0.004 * (i - (len(curves) - 1) / 2)  # lines that lie on each other are all seen
        (line,) = axis.step(curve["seconds"], 100 * (share + nudge), where="post", label=title, linewidth=2, **style)
        low, high = (np.array([np.nan if v is None else v for v in curve[side]], float) for side in ("low", "high"))
        axis.fill_between(
            curve["seconds"], 100 * low, 100 * high, step="post", color=line.get_color(), alpha=0.12, linewidth=0
        )
    axis.set(xlabel="seconds played", ylabel="% of clips that are still music", ylim=(-4, 104), xlim=(0, None))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(path, figure)


def features_over_time(
    path: Path,
    features: Sequence[tuple[str, str]],
    clips: Mapping[str, Mapping[str, tuple[float, Floats]]],
    limits: Mapping[str, tuple[float, float]],
    usual: Mapping[str, tuple[float, float]],
) -> None:
    """Small multiples: of each feature (name, unit) the median and the middle 80% of clips over time.

    clips: by title and feature, seconds from value to value and f64(clips, values). limits: of the band, dashed.
    usual: the middle 90% of real music, grey.
    """
    height = -(-len(features) // COLUMNS)
    figure, axes = plt.subplots(
        height, COLUMNS, figsize=(12, 2.1 * height), sharex=True, layout="constrained", squeeze=False
    )
    for axis, (name, unit) in zip(axes.flat, features, strict=False):
        seen = list(usual.get(name, ()))
        if name in usual:
            axis.axhspan(*usual[name], color="0.85", label="real music, middle 90%")
        for colour, (title, of) in enumerate(clips.items()):
            step, values = of[name]
            at = np.arange(values.shape[1]) * step
            heard = np.isfinite(values).any(axis=0)
            if not heard.any():
                continue
            low, middle, high = np.nanquantile(values[:, heard], (0.1, 0.5, 0.9), axis=0)
            axis.fill_between(at[heard], low, high, color=f"C{colour}", alpha=0.2, linewidth=0)
            axis.plot(at[heard], middle, color=f"C{colour}", linewidth=1.3, label=title)
            seen += [float(low.min()), float(high.max())]
        room = 0.3 * (max(seen) - min(seen)) if seen else 0.0
        for limit in limits.get(name, ()):
            if seen and min(seen) - 2 * room <= limit <= max(seen) + 2 * room:
                axis.axhline(limit, color="0.3", linestyle="--", linewidth=0.9, label="limits of the band")
        axis.set_title(name + (f" ({unit})" if unit else ""), fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(features) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("seconds")
    labels = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(labels.values(), labels.keys(), loc="outside upper center", ncols=4, frameon=False)
    _save(path, figure)


def slopes(
    path: Path, drift: Mapping[str, Mapping[str, Mapping[str, float | None]]], spreads: Mapping[str, float], real: str
) -> None:
    """Drift of each feature with 95% intervals, in widths of real music's middle 90% a minute, a dot a title."""
    names = [name for name, spread in spreads.items() if spread > 0 and any(name in of for of in drift.values())]
    figure, axis = plt.subplots(figsize=(9, 1.5 + 0.42 * len(names)), layout="constrained")
    colour = 0
    for i, (title, of) in enumerate(drift.items()):
        is_real = title.startswith(real)
        places = [k for k, name in enumerate(names) if name in of]
        at = [(of[names[k]]["per minute"] or 0.0) / spreads[names[k]] for k in places]
        error = [1.96 * (of[names[k]]["standard error"] or 0.0) / spreads[names[k]] for k in places]
        y = np.array(places) + 0.5 * ((i + 0.5) / len(drift) - 0.5)
        shade = REAL_COLOUR if is_real else f"C{colour}"
        colour += not is_real
        axis.errorbar(at, y, xerr=error, fmt="s" if is_real else "o", color=shade, markersize=4, label=title)
    axis.axvline(0, color="0.6", linewidth=0.8)
    axis.set(yticks=range(len(names)), yticklabels=names, xlabel="drift a minute, in widths of what real music does")
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(path, figure)


def _save(path: Path, figure: Any) -> None:
    with finished(path) as partial:
        figure.savefig(partial, dpi=110)
    plt.close(figure)
