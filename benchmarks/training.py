"""How fast models train on this CPU: python -m benchmarks.training [--blocks 2,8] [--kinds s4d,s4] [--shapes 16384x1]

Models of published sizes on random tokens: forward, backward and a step of AdamW, in fp32, each window from nothing;
with --carry from a state. Medians over steps that take turns, each after one to warm up.
Peak memory is that of the whole process, Python and torch included. --reference times the published code too, its own
kernels in plain torch: a clone of github.com/state-spaces/s4.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from benchmarks import report
from benchmarks.published import published_logits
from sashimi import memory
from sashimi.cli import reported_errors
from sashimi.config import BACKENDS, LayerConfig, ModelConfig, OptimizerConfig
from sashimi.learning import parameter_groups
from sashimi.model import SaShiMi


@dataclass(frozen=True)
class Run:
    """What is trained and how. window, batch: samples in a window, windows at a time."""

    kind: str
    blocks: int
    d_model: int
    window: int
    batch: int
    carry: bool
    backend: str
    threads: int
    reference: str | None


@dataclass(frozen=True)
class Row:
    """What was measured of a run: medians.

    samples      a second
    x_preferred  the preferred backend's samples over these
    peak         memory of the process, MB
    """

    run: Run
    samples: float
    x_preferred: float
    peak: float


def stepper(run: Run) -> Callable[[], None]:
    """Takes one step of training."""
    torch.manual_seed(0)
    layer = LayerConfig(kind=run.kind, backend="auto" if run.backend == "published" else run.backend)
    model = SaShiMi(ModelConfig(d_model=run.d_model, n_layers=run.blocks, layer=layer))
    tokens = torch.randint(256, (run.batch, run.window))
    logits: Callable[[Tensor], Tensor]
    if run.backend == "published":
        assert run.reference
        logits, parameters = published_logits(Path(run.reference), model)
        groups: list[dict[str, Any]] = [{"params": parameters}]
    else:
        groups, state = parameter_groups(model, OptimizerConfig()), model.start(run.batch)

        def logits(tokens: Tensor) -> Tensor:
            return model.scan(tokens, state)[0] if run.carry else model(tokens)

    optimizer = torch.optim.AdamW(groups)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits(tokens).flatten(0, 1), tokens.flatten()).backward()
        optimizer.step()

    return step


def child(run: Run) -> report.Measure:
    torch.set_num_threads(run.threads)
    memory.hold()
    step = stepper(run)

    def measure() -> dict[str, float]:
        step()
        began = time.perf_counter()
        step()
        taken = time.perf_counter() - began
        memory.give_back()  # to those that take turns with this process
        return {"rate": run.window * run.batch / taken}

    return measure


def runs(model: dict[str, Any], arguments: argparse.Namespace) -> list[list[Run]]:
    """All ways to train one model; a list for each shape."""
    reference = arguments.reference and str(arguments.reference.resolve())
    backends = [*arguments.backends, *(["published"] if reference else [])]
    return [
        [
            Run(**model, window=window, batch=batch, carry=arguments.carry and backend != "published",
                backend=backend, threads=arguments.threads, reference=reference)
            for backend in backends
        ]
        for window, batch in arguments.shapes
    ]  # fmt: skip


def rows(chosen: Sequence[Run], repeats: int) -> list[Row]:
    """Measures runs that take turns; the first is the preferred one."""
    results = report.interleaved("benchmarks.training", chosen, repeats)
    rates = [median(result["rate"]) for result in results]
    return [
        Row(run, rate, rates[0] / rate, result["peak"][-1])
        for run, rate, result in zip(chosen, rates, results, strict=True)
    ]


def table(name: str, found: Sequence[Row]) -> Table:
    made = Table("window", "batch", "backend", "samples/s", "x slower", "MB", title=f"Training {name}")
    for row in found:
        run = row.run
        made.add_row(
            str(run.window), str(run.batch), f"{run.backend}{', carried' if run.carry else ''}",
            f"{row.samples:,.0f}", f"{row.x_preferred:.3g}", f"{row.peak:,.0f}",
        )  # fmt: skip
    return made


def shape(text: str) -> tuple[int, int]:
    """Reads 16384x1, for argparse."""
    window, batch = (report.positive(int)(part) for part in text.split("x"))
    return window, batch


def main(given: Sequence[str] | None = None) -> list[Row]:
    parser = report.command_line("benchmarks.training", __doc__, repeats=3)
    backends = report.several(report.one_of(BACKENDS))
    parser.add_argument("--shapes", type=report.several(shape), default=[(16384, 1)], help="WINDOWxBATCH: 16384x1")
    parser.add_argument(
        "--backends", type=backends, default=["recurrence", "chunked", "two_level"],
        help="the preferred one first: recurrence,chunked,two_level",
    )  # fmt: skip
    cores = torch.get_num_threads()
    parser.add_argument("--threads", type=report.positive(int), default=cores, help=f"all: {cores}")
    parser.add_argument("--carry", action="store_true", help="from a state, to a state")
    parser.add_argument("--reference", type=Path, metavar="FOLDER", help="a clone of github.com/state-spaces/s4")
    arguments = parser.parse_args(given)

    def measure(model: dict[str, Any]) -> list[Row]:
        return [row for chosen in runs(model, arguments) for row in rows(chosen, arguments.repeats)]

    return report.run(arguments, lambda settings: child(Run(**settings)), measure, table)


if __name__ == "__main__":
    with reported_errors():
        main()
