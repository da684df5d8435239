"""How fast each way to a convolution kernel is: python -m benchmarks.kernels [--length L ...]

Forward and backward of one layer's kernel at the published sizes (64 channels, state 64), single precision.
Medians of several runs, and the ratio to the preferred backend in the same run.
"""

import argparse
import statistics
import time

import torch
from rich.table import Table

from benchmarks.report import show
from sashimi.config import KERNELS, LAYER_KINDS, LayerConfig
from sashimi.layers import S4


def seconds(layer: S4, L: int, runs: int) -> float:
    """Median wall time of the kernel and its gradient, after one run to warm up (and compile)."""
    times = []
    for _ in range(runs + 1):
        layer.zero_grad()
        began = time.perf_counter()
        layer.kernel(L).square().sum().backward()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--length", type=int, nargs="+", default=[1024, 16384], metavar="L")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    table = Table("kind", "length", "backend", "ms", "x preferred", title="SSM kernels, forward and backward")
    for kind in LAYER_KINDS:
        for L in arguments.length:
            preferred = None
            for backend in KERNELS:
                torch.manual_seed(0)
                taken = seconds(S4(64, 64, LayerConfig(kind=kind, backend=backend)), L, arguments.runs)
                preferred = preferred or taken
                table.add_row(kind, str(L), backend, f"{taken * 1e3:.1f}", f"{taken / preferred:.1f}")
    show(table)


if __name__ == "__main__":
    main()
