"""The tables and the plot of `understanding_evaluation`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sashimi.files import finished
from sashimi.lyrics.report import table

_TITLES = {
    "artist": "Artist", "genre": "Genre or form", "era": "Era", "themes": "Themes and emotions",
    "similar": "Similar songs",
}  # fmt: skip
_COLOURS = {"before": "#9a9a9a", "after": "#3b6ea5", "after, temperature fitted": "#d1702f"}


def section(found: Mapping[str, Any], goals: Mapping[str, float]) -> str:
    """Markdown of all tasks. goals: of the founding plan, printed beside."""
    parts = [
        "## Understanding\n",
        f"Songs of {found['split']} in {found['data']}; brackets are 95% intervals (Wilson).",
    ]
    for task, result in found["tasks"].items():
        asked = f"{result['songs']:,} songs" + (f", {result['answers']} answers" if "answers" in result else "")
        goal = f"; the plan's goal is {goals[task]:.0%}" if task in goals else ""
        parts.append(f"\n### {_TITLES[task]}\n\n{asked}{goal}.\n")
        match task:
            case "themes":
                parts.append(_themes(result["systems"]))
            case "similar":
                parts.append(_similar(result["systems"]))
            case _:
                parts.append(_closed(result["systems"]))
    if any("bins" in system for result in found["tasks"].values() for system in result["systems"].values()):
        parts.append("\n![reliability](reliability.png)\n")
    return "\n".join(parts)


def _closed(systems: Mapping[str, Any]) -> str:
    rows = []
    for name, s in systems.items():
        error = f"{s['calibration_error']:.3f}" if "calibration_error" in s else ""
        if "after_temperature" in s:
            error += f" → {s['after_temperature']['calibration_error']:.3f} (T = {s['temperature']:.2f})"
        rows.append([_named(name), f"{s['accuracy']:.1%}", _interval(s), f"{s['macro_f1']:.3f}", error])
    text = table(["", "accuracy", "95%", "macro-F1", "calibration error"], rows)
    for name, s in systems.items():
        if "threshold" in s:
            sure = (
                f"four answers in five were right on val from a probability of {s['threshold']:.2f} on"
                if s["threshold"] is not None
                else "no probability was found on val from which four answers in five were right"
            )
            text += f"\n{_named(name).capitalize()}: {sure} (temperature and this from {s['fitted_on']} songs of val)."
    return text


def _themes(systems: Mapping[str, Any]) -> str:
    rows = [
        [_named(name), f"{s['jaccard']:.1%}", f"{s['micro_f1']:.3f}", f"{s['exact']:.1%}", _interval(s)]
        for name, s in systems.items()
    ]
    return (
        "Truth is the word list, not people: the plan's goal was overlap with what people said, which this does not "
        "measure. The list itself would score 100%.\n\n"
        + table(["", "overlap (Jaccard)", "micro-F1", "all labels right", "95%"], rows)
    )


def _similar(systems: Mapping[str, Any]) -> str:
    rows = [[name, f"{s['accuracy']:.1%}", _interval(s), f"{s['chance']:.1%}"] for name, s in systems.items()]
    return (
        "The nearest song of train by shared words, without a model. Whether people like what is recommended (the "
        "plan's 70%) needs people.\n\n" + table(["the nearest has the same", "share", "95%", "any song"], rows)
    )


def _named(system: str) -> str:
    return {"before": "model before training", "after": "model after training"}.get(system, system)


def _interval(values: Mapping[str, float]) -> str:
    return f"[{values['low']:.1%}, {values['high']:.1%}]"


def plot(path: Path, results: Mapping[str, Any]) -> None:
    """A panel for each closed task: accuracy against confidence. Nothing where no model was asked."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = {
        task: {name: s for name, s in result["systems"].items() if "bins" in s}
        for task, result in results.items()
        if any("bins" in s for s in result["systems"].values())
    }
    if not shown:
        return
    fig, axes = plt.subplots(1, len(shown), figsize=(3.6 * len(shown) + 0.6, 4.2), layout="constrained", squeeze=False)
    for ax, (task, systems) in zip(axes[0], shown.items(), strict=True):
        ax.plot([0, 1], [0, 1], color="black", lw=0.8, ls=":")
        lines = {name: s["bins"] for name, s in systems.items()}
        if "after_temperature" in systems.get("after", {}):
            lines["after, temperature fitted"] = systems["after"]["after_temperature"]["bins"]
        for name, bins in lines.items():
            x, y = [b["confidence"] for b in bins], [b["accuracy"] for b in bins]
            spread = [[b["accuracy"] - b["low"] for b in bins], [b["high"] - b["accuracy"] for b in bins]]
            ax.errorbar(
                x, y, spread, marker="o", ms=4, lw=1.2, elinewidth=0.6, color=_COLOURS[name], label=f"{name} training"
                if name in ("before", "after") else name,
            )  # fmt: skip
        ax.set(title=_TITLES[task], xlabel="probability of the answer", xlim=(0, 1.02), ylim=(-0.02, 1.02))
        ax.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("share that was right")
    axes[0][0].legend(frameon=False, loc="upper left", fontsize=8)
    with finished(path) as partial:
        fig.savefig(partial, dpi=120)
    plt.close(fig)
