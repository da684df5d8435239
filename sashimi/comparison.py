"""Checkpoints side by side: `evaluate.py`'s work from settings to tables and a plot."""

import csv
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sashimi import checkpoint, memory, plots, rollouts, yardsticks
from sashimi.checkpoint import LoadedModel
from sashimi.codec import Codec
from sashimi.config import CodecConfig, EvaluateConfig, EvaluationConfig
from sashimi.data import TokenStore, missing, open_tokens
from sashimi.errors import UserError
from sashimi.evaluation import TOP, carried, carries, cold
from sashimi.files import finished
from sashimi.progress import bar


@dataclass
class Column:
    """One checkpoint: what it is, and its figures by row."""

    title: str
    about: dict[str, str]
    figures: dict[str, float | None] = field(default_factory=dict)
    verdicts: list[str] = field(default_factory=list)


def compare(config: EvaluateConfig, experiment: str | None = None) -> Path:
    """Score every checkpoint on every split, print and save the table, and return the folder.

    Raises UserError and FileNotFoundError for checkpoints and data sets that cannot be used, before any
    of the scoring.
    """
    memory.hold()  # every window takes the same again
    console = Console(highlight=False, soft_wrap=True, markup=False)
    paths = config.checkpoints or [_chosen(config, experiment, console)]
    models = [checkpoint.load(path, backend=config.model.layer.backend) for path in paths]
    folders = [_data_set(config, path, model) for path, model in zip(paths, models, strict=True)]
    stores = [
        {split: open_tokens(folder, split, Codec(model.metadata.codec)) for split in config.evaluation.splits}
        for folder, model in zip(folders, models, strict=True)
    ]
    columns = [
        Column(title, _about(path, model, folder))
        for title, path, model, folder in zip(_titles(paths, models), paths, models, folders, strict=True)
    ]
    _warn(console, models, folders, config.evaluation.window)
    passes = [1 + (config.evaluation.carried and carries(model)) for model in models]
    total = sum(n * store.offsets[-1] for n, of in zip(passes, stores, strict=True) for store in of.values())
    done, began = 0, time.monotonic()
    with bar(console, "scoring") as update:

        def report(tokens: int) -> None:
            nonlocal done
            done += tokens
            rate = done / (time.monotonic() - began)
            update(done / total, f"{rate:,.0f} samples/s", max(total - done, 0) / rate)

        for model, store_of, column in zip(models, stores, columns, strict=True):
            for split, store in store_of.items():
                column.figures |= _score(model, store, split, config, report)
    if config.evaluation.yardstick_minutes != 0:
        for store_of, column in zip(stores, columns, strict=True):
            for split, store in store_of.items():
                _hold_against_yardsticks(column, store, split, config.evaluation, console)
    folder = config.save_dir or Path("evaluations") / time.strftime("%Y%m%d-%H%M%S")
    _print(console, columns)
    _save(folder, columns, config)
    console.print(f"saved in {folder}: evaluation.csv, .json, .md, .png")
    if config.rollout:
        contenders = zip((column.title for column in columns), models, folders, strict=True)
        rollouts.judge(config, folder, [rollouts.Contender(*of) for of in contenders], console)
    return folder


def _chosen(config: EvaluateConfig, experiment: str | None, console: Console) -> Path:
    path, why = checkpoint.choose(None, config.runs_dir, experiment)
    console.print(f"checkpoint  {path} ({why})")
    return path


def _data_set(config: EvaluateConfig, path: Path, model: LoadedModel) -> Path:
    """data.dir, or the data set that a checkpoint says it was trained on. Raises UserError if it is not there."""
    described = model.metadata.provenance.get("data")
    described = described if isinstance(described, dict) else {}
    if config.data.dir is None and "dir" not in described:
        raise UserError(f"{path} does not say what it was trained on; set data.dir=FOLDER")
    folder = config.data.dir or Path(described["dir"])
    if not folder.is_dir():
        raise UserError(missing(folder, described.get("licence")))
    return folder


def _titles(paths: list[Path], models: list[LoadedModel]) -> list[str]:
    """The names that checkpoints give themselves, or their paths where names are not enough."""
    names = [model.metadata.name or path.stem for path, model in zip(paths, models, strict=True)]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _about(path: Path, model: LoadedModel, folder: Path) -> dict[str, str]:
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "checkpoint": str(path),
        "data": str(folder),
        "codec": _codec(model.metadata.codec),
        "blocks": f"{model.config.n_layers} x {model.config.layer.kind.upper()}",
        "parameters": f"{parameters:,}",
    }


def _codec(config: CodecConfig) -> str:
    return f"{config.bits}-bit {config.law}, {config.rate} Hz" + (
        f", windows of {config.window} normalised" if config.normalize == "window" else ""
    )


def _warn(console: Console, models: list[LoadedModel], folders: list[Path], window: int) -> None:
    if len({_codec(model.metadata.codec) for model in models}) > 1:
        console.print("warning: codecs differ, so bits per byte are not of the same tokens", style="yellow")
    if any(model.metadata.codec.window not in (None, window) for model in models if not carries(model)):
        text = f"warning: normalised by evaluation.window={window}, which is not the window of every codec"
        console.print(text, style="yellow")
    if len(set(folders)) > 1:
        console.print("warning: checkpoints are scored on different data sets", style="yellow")


def _score(model: LoadedModel, store: TokenStore, split: str, config: EvaluateConfig, report: Any) -> dict[str, Any]:
    """The rows of the founding table for one split, in its order, and the carried bits per byte."""
    evaluation = config.evaluation
    score = cold(model, store, evaluation.window, evaluation.batch, report)
    figures: dict[str, float | None] = {f"final/{split}/accuracy": score.accuracy()}
    figures |= {f"final/{split}/accuracy@{k}": score.accuracy(k) for k in TOP}
    figures |= {f"final/{split}/bpb": score.bpb, f"final/{split}/loss": score.loss}
    if evaluation.carried:
        run_on = carried(model, store, evaluation.window, report)
        figures[f"final/{split}/bpb carried"] = run_on.bpb if run_on else None
    return figures


def _hold_against_yardsticks(
    column: Column, store: TokenStore, split: str, evaluation: EvaluationConfig, console: Console
) -> None:
    """Adds the rows of what is simple, and says in words whether the model is better."""
    figures = yardsticks.measure(store, evaluation.window, evaluation.yardstick_minutes, console)
    ways = {"cold": column.figures[f"final/{split}/bpb"], "carried": column.figures.get(f"final/{split}/bpb carried")}
    model = {way: bits for way, bits in ways.items() if bits is not None}
    column.figures |= {f"final/{split}/{name}": bits for name, bits in figures.items()}
    minutes, total = evaluation.yardstick_minutes, store.offsets[-1] / store.codec.config.rate / 60
    capped = minutes is not None and minutes < total
    note = f" (linear prediction over {minutes:g} of {total:.0f} minutes, spread evenly)" if capped else ""
    column.verdicts.append(f"{column.title} on {split}: {yardsticks.verdict(model, figures)}{note}")


# --- output -------------------------------------------------------------------------------------------


def _rows(columns: list[Column]) -> list[list[str]]:
    """The table as text: what the checkpoints are, then a row a figure."""
    rows = [[key, *(column.about[key] for column in columns)] for key in columns[0].about]
    for key in columns[0].figures:
        values = [column.figures[key] for column in columns]
        rows.append([key, *("-" if value is None else f"{value:.6f}" for value in values)])
    return rows


def _print(console: Console, columns: list[Column]) -> None:
    table = Table("")
    for column in columns:
        table.add_column(column.title, overflow="fold")
    for key, *values in _rows(columns):
        table.add_row(key, *values, style="bold" if key.endswith("/bpb") else None)
    console.print(table)
    for column in columns:
        for line in column.verdicts:
            console.print(line)


def _save(folder: Path, columns: list[Column], config: EvaluateConfig) -> None:
    header = ["", *(column.title for column in columns)]
    with finished(folder / "evaluation.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *_rows(columns)])
    evaluation = config.evaluation
    saved = {
        "window": evaluation.window,
        "yardstick_minutes": evaluation.yardstick_minutes,
        "checkpoints": [{"title": c.title, **c.about, "figures": c.figures} for c in columns],
    }
    with finished(folder / "evaluation.json") as partial:
        partial.write_text(json.dumps(saved, indent=1, ensure_ascii=False), encoding="utf-8")
    lines = [" | ".join(row) for row in (header, ["---"] * len(header), *_rows(columns))]
    with finished(folder / "evaluation.md") as partial:
        text = "".join(f"| {line} |\n" for line in lines)
        verdicts = "".join(f"- {line}\n" for c in columns for line in c.verdicts)
        text += f"\nWindows of {evaluation.window} tokens, each from nothing.\n" + ("\n" + verdicts if verdicts else "")
        partial.write_text(text, encoding="utf-8")
    bars = {
        f"{split}{kind}": [c.figures.get(f"final/{split}/bpb{kind}") for c in columns]
        for split in evaluation.splits
        for kind in ("", " carried")
    }
    plots.grouped_bars(folder / "evaluation.png", [c.title for c in columns], bars, "bits per byte")
