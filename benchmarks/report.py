"""What the benchmarks share: their models, their command lines, a process for each configuration, tables and JSON."""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from sashimi.cli import reported_errors
from sashimi.config import LAYER_KINDS, LayerConfig, ModelConfig
from sashimi.errors import UserError
from sashimi.files import finished
from sashimi.model import SaShiMi
from sashimi.progress import bar

ROOT = Path(__file__).parents[1]
RATE = 16000  # samples in a second of sound

T = TypeVar("T")
Measure = Callable[[], dict[str, float]]  # figures of one run, by name


def random_model(kind: str, blocks: int, d_model: int) -> SaShiMi:
    """The published model with random weights."""
    torch.manual_seed(0)
    return SaShiMi(ModelConfig(d_model=d_model, n_layers=blocks, layer=LayerConfig(kind=kind))).eval()


# --- command lines ------------------------------------------------------------------------------------


def several(convert: Callable[[str], T]) -> Callable[[str], list[T]]:
    """Reads `2,8` into a list, for argparse."""

    def values(text: str) -> list[T]:
        return [convert(part) for part in text.split(",")]

    return values


def positive(kind: Callable[[str], T]) -> Callable[[str], T]:
    """Reads a number above 0, for argparse."""

    def number(text: str) -> T:
        value: Any = kind(text)
        if not value > 0:
            raise ValueError
        return value

    return number


def one_of(choices: Collection[str]) -> Callable[[str], str]:
    """Reads one of some names, for argparse."""

    def name(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"{text} is not one of {', '.join(choices)}")
        return text

    return name


def command_line(module: str, description: str | None, repeats: int) -> argparse.ArgumentParser:
    """What every benchmark of whole models can be told. repeats: the default."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    whole = positive(int)
    parser.add_argument("--blocks", type=several(whole), default=[2, 8], help="pairs of blocks a tier: 2,8")
    parser.add_argument("--kinds", type=several(one_of(LAYER_KINDS)), default=["s4d", "s4"], help="of layers: s4d,s4")
    parser.add_argument("--d-model", type=whole, default=64, help="width of the top tier: 64, as published")
    parser.add_argument("--repeats", type=whole, default=repeats, help=f"runs of each: {repeats}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save all figures")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


def run(
    arguments: argparse.Namespace,
    child: Callable[[dict[str, Any]], Measure],
    measure: Callable[[dict[str, Any]], list[T]],
    table: Callable[[str, Sequence[T]], Table],
) -> list[T]:
    """Model by model: measures, shows a table, saves all rows so far. Returns them.

    child: what a process with the given settings measures; measure: what `random_model` takes -> rows;
    table: the model's name, rows -> table.
    """
    if arguments.child:
        serve(lambda: child(json.loads(arguments.child)))
        return []
    found: list[T] = []
    for kind in arguments.kinds:
        for blocks in arguments.blocks:
            rows = measure({"kind": kind, "blocks": blocks, "d_model": arguments.d_model})
            show(table(f"{kind.upper()}, {blocks} blocks, width {arguments.d_model}", rows))
            found += rows
            if arguments.json:
                save(arguments.json, found)
    return found


# --- a process for each configuration -----------------------------------------------------------------


class Child:
    """Measures one configuration in a process of its own, so that its peak memory is its own.

    It runs the same module with --child, as `serve`, and waits between two measurements.
    """

    def __init__(self, module: str, settings: Any) -> None:
        self.settings = settings
        command = [sys.executable, "-m", module, "--child", json.dumps(asdict(settings))]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def answer(self) -> dict[str, float]:
        """The next line it writes. Raises UserError where it has ended: it has said why on the error stream."""
        assert self.process.stdout
        if not (line := self.process.stdout.readline()):
            raise UserError(f"the process that measures {self.settings} ended with status {self.process.wait()}")
        return json.loads(line)

    def measure(self) -> dict[str, float]:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()


def serve(prepare: Callable[[], Measure]) -> None:
    """The child's side: a line when it is prepared, and one for each line it is sent."""
    answers, sys.stdout = sys.stdout, sys.stderr  # nothing that is loaded here talks into the answers
    with reported_errors():
        measure = prepare()
        print("{}", file=answers, flush=True)
        for _ in sys.stdin:
            print(json.dumps(measure() | {"peak": peak_memory()}), file=answers, flush=True)


def interleaved(
    module: str, configurations: Sequence[Any], repeats: int, beside: Callable[[int], dict[str, float]] = lambda i: {}
) -> list[dict[str, list[float]]]:
    """Measures every configuration in turn, `repeats` times, so that drift of the machine meets all alike.

    beside: measures something else next to configuration i. Returns all values of each figure of each.
    """
    results: list[dict[str, list[float]]] = [{} for _ in configurations]
    with ExitStack() as stack, bar(Console(stderr=True), "measuring") as update:
        children = [stack.enter_context(Child(module, c)) for c in configurations]
        for child in children:
            child.answer()
        began, total = time.perf_counter(), repeats * len(children)
        for done in range(total):
            i = done % len(children)
            for name, value in (children[i].measure() | beside(i)).items():
                results[i].setdefault(name, []).append(value)
            left = (time.perf_counter() - began) / (done + 1) * (total - done - 1)
            update((done + 1) / total, f"{done + 1} of {total}", left)
    return results


def peak_memory() -> float:
    """The most memory that this process has held, in MB."""
    try:  # what getrusage says starts from the parent's
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS: bytes


# --- tables and JSON ----------------------------------------------------------------------------------


def show(table: Table) -> None:
    """Print a table, under it the machine and the date."""
    console = Console()
    if not console.is_terminal:
        console.width = 120
    console.print(table)
    console.print(f"{machine()}; {date.today().isoformat()}", soft_wrap=True)


def save(path: Path, rows: Sequence[Any]) -> None:
    """Rows (dataclasses) with the machine and the date, as JSON."""
    report = {"machine": machine(), "date": date.today().isoformat(), "rows": [asdict(row) for row in rows]}
    with finished(path) as partial:
        partial.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
