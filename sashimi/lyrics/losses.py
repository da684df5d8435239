"""The losses of a run by epoch: measured, written to losses.jsonl, shown as a table and drawn."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sashimi.files import finished
from sashimi.lyrics.examples import IGNORED

LOSSES, PLOT = "losses.jsonl", "losses.png"


@dataclass(frozen=True)
class Epoch:
    """epoch 0: before training. train: for epoch 0 measured on as many songs as val, else the mean of the epoch's steps
    as they were taken; val: after it. Both in nats a token."""

    epoch: int
    train: float
    val: float


def best(epochs: Sequence[Epoch]) -> Epoch:
    """The trained epoch with the lowest loss on val, the earliest of equals."""
    return min(epochs[1:], key=lambda e: e.val)


def write(folder: Path, epochs: Sequence[Epoch]) -> None:
    with finished(folder / LOSSES) as partial:
        partial.write_text("".join(json.dumps(asdict(e)) + "\n" for e in epochs), encoding="utf-8")


def measure(trainer: Any, rows: Sequence[dict[str, list[int]]], batch: int, fused: bool) -> float:
    """Mean loss a learnt token, in nats, over `rows`: every token counts the same, whatever its batch.

    fused: whether the trainer is trl's, which gives the model a head that builds no logits.
    The rows are shared out among the processes; every process returns the same figure.
    """
    accelerator, model = trainer.accelerator, trainer.accelerator.unwrap_model(trainer.model)
    mine = rows[accelerator.process_index :: accelerator.num_processes]
    mine = sorted(mine, key=lambda row: len(row["input_ids"]))  # little padding
    total = torch.zeros(2, dtype=torch.float64)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), trainer.compute_loss_context_manager():
            for start in range(0, len(mine), batch):
                inputs = trainer.data_collator(mine[start : start + batch])
                count = int((inputs["labels"][:, 1:] != IGNORED).sum())
                inputs = {key: value.to(accelerator.device) for key, value in inputs.items()}
                if fused:  # without the logits of a whole batch, which may be gigabytes
                    loss = -float(model(**inputs, use_cache=False, fused_lm_head=True).log_probs.sum())
                else:
                    loss = float(model(**inputs, use_cache=False).loss) * count
                total += torch.tensor([loss, count], dtype=torch.float64)
    finally:
        model.train(training)
    # On Macs' GPUs there is no float64: summed in fp32, where the count of a validation set is still exact enough.
    summed = accelerator.reduce(total.to(accelerator.device, torch.float32), "sum").tolist()
    return float(summed[0] / max(summed[1], 1))


def table(epochs: Sequence[Epoch]) -> Any:
    """As the founding document's Tables 4 and 6."""
    from rich.table import Table

    shown = Table("epoch", "training loss", "validation loss", "", title_justify="left")
    for column in shown.columns[:3]:
        column.justify = "right"
    kept = best(epochs) if len(epochs) > 1 else None
    for e in epochs:
        note = "before training" if e.epoch == 0 else "kept" if e == kept else ""
        shown.add_row(str(e.epoch), f"{e.train:.4f}", f"{e.val:.4f}", note)
    return shown


def draw(folder: Path, epochs: Sequence[Epoch], title: str) -> None:
    """losses.png: both curves over the epochs."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    x = [e.epoch for e in epochs]
    axes.plot(x, [e.train for e in epochs], "o-", ms=4, color="#8aa4c8", label="training")
    axes.plot(x, [e.val for e in epochs], "o-", ms=4, color="#c8553d", label="validation")
    if len(epochs) > 1:
        kept = best(epochs)
        axes.annotate(
            f"kept: {kept.val:.3f}", (kept.epoch, kept.val), xytext=(0, 9), textcoords="offset points", ha="center",
            fontsize=9, color="#c8553d",
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch (0: before training)", ylabel="loss, nats a token", title=title)
    axes.margins(y=0.18)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    with finished(folder / PLOT) as partial:
        figure.savefig(partial)
