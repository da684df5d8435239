"""How fast each engine plays: python -m benchmarks.generation [--blocks 2,8] [--kinds s4d,s4] [--batches 1,30]

Models of published sizes with random weights, drawing included. Medians over runs that take turns. Samples are those
of all streams together, also in the ratio to real time. The roofline is what memory allows: the bytes that a step must
touch, amortised over the tiers, at the rate at which as many threads read a buffer as large, walked in the same order,
next to each run. Peak memory is that of the whole process, Python and torch included. --reference times the published
code too: a clone of github.com/state-spaces/s4.
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

from benchmarks import report
from benchmarks.published import published_player
from benchmarks.roofline import bandwidth, sections, step_bytes
from sashimi.cli import reported_errors
from sashimi.config import SamplingConfig
from sashimi.engines.eager import EagerEngine
from sashimi.engines.native import NativeEngine
from sashimi.model import SaShiMi


@dataclass(frozen=True)
class Player:
    """A model and what plays it. seconds: of a run; reference: the clone of the published code."""

    kind: str
    blocks: int
    d_model: int
    batch: int
    engine: str
    precision: str
    threads: int
    seconds: float
    reference: str | None

    @property
    def half(self) -> bool:
        return self.precision == "bf16"


@dataclass(frozen=True)
class Row:
    """What was measured of a player: medians.

    steps, samples  a second, samples of all streams together
    x_eager         samples over those of the eager engine
    x_real_time     samples over those that a second of sound has
    step_bytes      that a step of all streams must touch
    bandwidth       at which they can be read, bytes a second
    roofline        samples a second that this allows; share: of it that is reached
    peak            memory of the process, MB
    """

    player: Player
    steps: float
    samples: float
    x_eager: float
    x_real_time: float
    step_bytes: float
    bandwidth: float
    roofline: float
    share: float
    peak: float


def play(player: Player, model: SaShiMi) -> Callable[[int], None]:
    """Plays n steps, from where the last ones ended."""
    engine: EagerEngine | NativeEngine
    match player.engine:
        case "native":
            engine = NativeEngine(model, half=player.half, threads=player.threads)
        case "eager":
            engine = EagerEngine(model)
        case "published":
            assert player.reference
            torch.set_num_threads(player.threads)
            return published_player(Path(player.reference), model, player.batch)
        case _:
            raise ValueError(player.engine)
    state, keys = engine.start(player.batch), [(0, clip) for clip in range(player.batch)]

    def go_on(n: int) -> None:
        nonlocal state
        _, _, state = engine.run(state, n, SamplingConfig(), keys)
        if n == model.period and isinstance(engine, NativeEngine):
            engine.pace.rates.clear()  # so short a run says nothing about how many threads are faster

    return go_on


def child(player: Player) -> report.Measure:
    """Measures steps a second in runs of about player.seconds, in whole periods of the tiers."""
    model = report.random_model(player.kind, player.blocks, player.d_model)
    steps, rate = play(player, model), 0.0

    def run(n: int) -> float:
        began = time.perf_counter()
        steps(n)
        return n / (time.perf_counter() - began)

    def length() -> int:
        return model.period * max(2, round(rate * player.seconds / model.period))

    def measure() -> dict[str, float]:
        nonlocal rate
        if not rate:
            run(model.period)
            rate = run(model.period)
            for _ in range(2 if player.engine == "native" else 1):  # which has to see how many threads are faster
                rate = run(length())
        rate = run(length())
        return {"rate": rate}

    return measure


def players(model: dict[str, Any], arguments: argparse.Namespace) -> list[Player]:
    """All that play one model, batch by batch."""
    engines = [("eager", "fp32", 1)]
    engines += [("native", precision, threads) for precision in ("fp32", "bf16") for threads in arguments.threads]
    reference = arguments.reference and str(arguments.reference.resolve())
    published = [("published", "fp32", threads) for threads in arguments.threads if reference]
    return [
        Player(**model, batch=batch, engine=e, precision=p, threads=t, seconds=arguments.seconds, reference=reference)
        for batch in arguments.batches
        for e, p, t in [*engines, *(published if batch == 1 else [])]
    ]


def rows(model: SaShiMi, chosen: Sequence[Player], repeats: int) -> list[Row]:
    """Measures all players of one model."""
    touched = [sections(model, p.half, p.batch, p.threads) for p in chosen]

    def beside(i: int) -> dict[str, float]:
        return {"bandwidth": bandwidth(touched[i], chosen[i].batch, chosen[i].threads, chosen[i].seconds / 4)}

    results = report.interleaved("benchmarks.generation", chosen, repeats, beside)
    eager = {p.batch: median(r["rate"]) for p, r in zip(chosen, results, strict=True) if p.engine == "eager"}
    found = []
    for player, result, parts in zip(chosen, results, touched, strict=True):
        rate, read = median(result["rate"]), median(result["bandwidth"])
        size = step_bytes(parts, player.batch, player.threads)
        found.append(
            Row(
                player, rate, rate * player.batch, rate / eager[player.batch], rate * player.batch / report.RATE,
                size, read, read / size * player.batch, rate / (read / size), result["peak"][-1],
            )
        )  # fmt: skip
    return found


def table(name: str, found: Sequence[Row]) -> Table:
    columns = "batch", "engine", "precision", "threads", "steps/s", "samples/s", "x eager", "x real time"
    made = Table(*columns, "GB/s", "roofline", "share", "MB", title=f"Playing {name}")
    for row in found:
        player = row.player
        made.add_row(
            str(player.batch), player.engine, player.precision, str(player.threads), f"{row.steps:,.0f}",
            f"{row.samples:,.0f}", f"{row.x_eager:,.3g}", f"{row.x_real_time:.3g}", f"{row.bandwidth / 1e9:.0f}",
            f"{row.roofline:,.0f}", f"{row.share:.1%}", f"{row.peak:.0f}",
        )  # fmt: skip
    return made


def main(given: Sequence[str] | None = None) -> list[Row]:
    parser = report.command_line("benchmarks.generation", __doc__, repeats=5)
    counts, cores = report.several(report.positive(int)), torch.get_num_threads()
    parser.add_argument("--batches", type=counts, default=[1, 30], help="streams at a time: 1,30")
    parser.add_argument("--threads", type=counts, default=sorted({1, cores}), help=f"one and all: 1,{cores}")
    parser.add_argument("--seconds", type=report.positive(float), default=1.0, help="of a run, about: 1")
    parser.add_argument("--reference", type=Path, metavar="FOLDER", help="a clone of github.com/state-spaces/s4")
    arguments = parser.parse_args(given)

    def measure(model: dict[str, Any]) -> list[Row]:
        return rows(report.random_model(**model), players(model, arguments), arguments.repeats)

    return report.run(arguments, lambda settings: child(Player(**settings)), measure, table)


if __name__ == "__main__":
    with reported_errors():
        main()
