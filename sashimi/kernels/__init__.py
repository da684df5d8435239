"""Fast ways to the numbers of `sashimi.ssm`.

system       a discretised bank of systems in real arithmetic, its powers, its step
recurrence   the recurrence over whole sequences, compiled: recurrence.cpp
chunked      convolution with a start state and a final state, as matrix products
two_level    kernels as small matrix products
cauchy       the S4 kernel by Cauchy products: PyKeOps, torch
vandermonde  the S4D kernel by Vandermonde products: PyKeOps, torch
"""

import importlib.util
import os
import shutil

import torch

from sashimi import compiler
from sashimi.errors import UserError
from sashimi.kernels import recurrence

LONG = 1 << 16  # samples from which chunks are faster than an FFT: docs/experiments.md


def resolve_backend(name: str, device: torch.device | str = "cpu", L: int = 1) -> str:
    """What `model.layer.backend=name` stands for, on a device and over L samples.

    auto: recurrence on a CPU that has a compiler; else two_level, and chunked over LONG samples and more.
    Raises UserError for what is missing.
    """
    on_cpu = torch.device(device).type == "cpu"
    if name == "auto":
        if on_cpu and compiler.builds(recurrence.SOURCE):
            return "recurrence"
        return "two_level" if L < LONG else "chunked"
    if name == "recurrence":
        if not on_cpu:
            raise UserError("model.layer.backend=recurrence runs on a CPU: take auto or two_level")
        if not compiler.builds(recurrence.SOURCE):
            raise UserError("model.layer.backend=recurrence needs a C++ compiler: apt install g++, or set CXX")
    if name == "keops":
        if importlib.util.find_spec("pykeops") is None:
            raise UserError("model.layer.backend=keops needs PyKeOps: pip install pykeops")
        if shutil.which(os.environ.get("CXX", "c++")) is None and shutil.which("g++") is None:
            raise UserError("model.layer.backend=keops needs a C++ compiler: apt install g++, or set CXX")
    return name
