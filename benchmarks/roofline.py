"""What memory allows: the bytes that a step must touch over the rate at which this machine reads them."""

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sashimi import compiler
from sashimi.errors import UserError
from sashimi.model import SaShiMi

SOURCE = Path(__file__).with_name("bandwidth.cpp")


@dataclass(frozen=True)
class Section:
    """What a tier holds, in bytes, and after how many samples it steps again.

    weights  read by every team of threads, the embedding rows of its streams among them
    states   of the S4 layers, of all streams; read and written
    """

    weights: int
    states: int
    period: int


def teams(batch: int, threads: int) -> int:
    """Threads with streams of their own read the weights each for itself; threads that share one read them once."""
    return threads if batch >= threads else 1


def sections(model: SaShiMi, half: bool, batch: int, threads: int) -> list[Section]:
    """What a step of `batch` streams touches, tier by tier. half: dense weights are bfloat16, all else is float32."""
    pool = model.config.pool
    weights, states = [0] * (len(pool) + 1), [0] * (len(pool) + 1)
    for name, tensor in model.export().items():
        group, *rest = name.split(".")
        tier = int(rest[0]) + (group != "block") if group in ("block", "down", "up") else 0
        if name == "embedding":
            weights[tier] += 4 * tensor.shape[1] * batch // teams(batch, threads)
        elif rest[-1] != "b" or model.config.layer.kind == "s4":  # S4D has no b: it is 1
            matrix = tensor.ndim == 2 and name.endswith(".weight")
            weights[tier] += tensor.numel() * (2 if half and matrix else 4)
    for name, shape in model.layout().items():
        if name.startswith("ssm."):
            states[int(name.split(".")[1])] += 4 * batch * math.prod(shape)
    return [Section(w, s, math.prod(pool[:i])) for i, (w, s) in enumerate(zip(weights, states, strict=True))]


def step_bytes(touched: Sequence[Section], batch: int, threads: int) -> float:
    """Bytes read and written in a step of all streams, amortised over the tiers."""
    return sum((teams(batch, threads) * s.weights + 2 * s.states) / s.period for s in touched)


def bandwidth(touched: Sequence[Section], batch: int, threads: int, seconds: float) -> float:
    """Bytes a second that so many threads read of a buffer as large, walked tier by tier as a player walks it."""
    shared = teams(batch, threads) == 1
    whole = [0 if shared else s.weights for s in touched]
    divided = [s.states + (s.weights if shared else 0) for s in touched]
    columns = [(ctypes.c_int64 * len(touched))(*c) for c in (whole, divided, [s.period for s in touched])]
    library = compiler.library(SOURCE)
    library.bandwidth.restype = ctypes.c_double
    rate = library.bandwidth(len(touched), *columns, threads, ctypes.c_double(seconds))
    if not rate:
        raise UserError(f"there is no memory, or there are no {threads} threads, to measure the bandwidth with")
    return rate
