"""How fast a prompt is heard: python -m benchmarks.prefill [--seconds 1,10,60] [--blocks 2,8] [--kinds s4d,s4]

Models of published sizes with random weights; medians over runs that take turns. Peak memory is that of the whole
process, Python and torch included. The difference is that of the state from the one that playing leaves behind, after
hearing what was played, for a second or the length of a shorter prompt: of each layer relative to its largest value,
the largest.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks import report
from sashimi.cli import reported_errors
from sashimi.config import SamplingConfig
from sashimi.engines.eager import EagerEngine
from sashimi.engines.native import NativeEngine
from sashimi.model import SaShiMi, State

ENGINES = {"eager": EagerEngine, "native": NativeEngine}


@dataclass(frozen=True)
class Prompt:
    """A prompt of some seconds, the model, and the engine that hears it."""

    kind: str
    blocks: int
    d_model: int
    engine: str
    seconds: float


@dataclass(frozen=True)
class Row:
    """What was measured of a prompt.

    taken        seconds until it is heard: median
    x_real_time  the prompt's seconds over these
    difference   of the state from that after stepping, relative
    peak         memory of the process, MB
    """

    prompt: Prompt
    taken: float
    x_real_time: float
    difference: float
    peak: float


def difference(model: SaShiMi, state: State, stepped: State) -> float:
    """The largest difference between parts of two states, relative to the part's largest value in the second."""
    parts = zip(model.unpack(state).values(), model.unpack(stepped).values(), strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in parts if b.any())


def child(prompt: Prompt) -> report.Measure:
    """Measures the seconds until a prompt is heard."""
    model = report.random_model(prompt.kind, prompt.blocks, prompt.d_model)
    engine, length = ENGINES[prompt.engine](model), max(model.period, round(prompt.seconds * report.RATE))
    tokens = np.random.default_rng(0).integers(0, model.config.vocab, (1, length), np.uint8)
    start = engine.start(1)
    played, _, stepped = NativeEngine(model).run(start, min(length, report.RATE), SamplingConfig(), [(0, 0)])
    differs = difference(model, engine.prefill(played, start), stepped)

    def measure() -> dict[str, float]:
        began = time.perf_counter()
        engine.prefill(tokens, start)
        return {"taken": time.perf_counter() - began, "difference": differs}

    return measure


def rows(prompts: Sequence[Prompt], repeats: int) -> list[Row]:
    """Measures all prompts of one model."""
    found = []
    for prompt, result in zip(prompts, report.interleaved("benchmarks.prefill", prompts, repeats), strict=True):
        taken = median(result["taken"])
        found.append(Row(prompt, taken, prompt.seconds / taken, result["difference"][-1], result["peak"][-1]))
    return found


def table(name: str, found: Sequence[Row]) -> Table:
    columns = "engine", "prompt, s", "heard in, s", "x real time", "difference from stepping", "MB"
    made = Table(*columns, title=f"Hearing a prompt: {name}")
    for row in found:
        made.add_row(
            row.prompt.engine, f"{row.prompt.seconds:g}", f"{row.taken:.3g}", f"{row.x_real_time:.3g}",
            f"{row.difference:.1e}", f"{row.peak:.0f}",
        )  # fmt: skip
    return made


def main(given: Sequence[str] | None = None) -> list[Row]:
    parser = report.command_line("benchmarks.prefill", __doc__, repeats=3)
    lengths = report.several(report.positive(float))
    parser.add_argument("--seconds", type=lengths, default=[1, 10, 60], help="of prompts: 1,10,60")
    names = report.several(report.one_of(ENGINES))
    parser.add_argument("--engines", type=names, default=list(ENGINES), help="that hear them: " + ",".join(ENGINES))
    arguments = parser.parse_args(given)

    def measure(model: dict[str, Any]) -> list[Row]:
        prompts = [Prompt(**model, engine=engine, seconds=s) for engine in arguments.engines for s in arguments.seconds]
        return rows(prompts, arguments.repeats)

    return report.run(arguments, lambda settings: child(Prompt(**settings)), measure, table)


if __name__ == "__main__":
    with reported_errors():
        main()
