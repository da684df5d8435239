"""The norm of a residual block and its gradient in one pass each, compiled for this processor: norm.cpp."""

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sashimi import compiler

SOURCE = Path(__file__).with_name("norm.cpp")


def norm_beside(u: Tensor, m: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """v = s / sigma (u - mean + m) over the last axis, and u itself, whose gradient is added in the same pass.

    u: f(... H), m, s: f(1), all of one dtype, float32 or float64, on the CPU. Raises BuildError.
    """
    return _Norm.apply(u, m, s)


def _call(direction: str, u: Tensor, m: Tensor, s: Tensor, *others: Tensor) -> None:
    """Runs a direction of norm.cpp. Raises MemoryError."""
    H = u.shape[-1]
    kind = "float" if u.dtype == torch.float32 else "double"
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (m, s, u, *others)]
    run = compiler.library(SOURCE)[f"norm_{direction}_{kind}"]
    if run(ctypes.c_int64(u.numel() // H), ctypes.c_int64(H), *pointers, ctypes.c_int(torch.get_num_threads())):
        raise MemoryError(f"there is no memory for the norm of {tuple(u.shape)}")


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, m: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        rows = u.contiguous()
        v = torch.empty_like(rows)
        _call("forward", rows, m, s, v)
        ctx.save_for_backward(rows, m, s)
        return v, u

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dv: Tensor, passed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u, m, s = ctx.saved_tensors
        du = torch.empty_like(u)
        shares = u.new_empty(-(-u.numel() // u.shape[-1] // compiler.library(SOURCE).norm_block()), 2)
        _call("backward", u, m, s, dv.contiguous(), passed.contiguous(), du, shares)
        dm, ds = shares.sum(0).split(1)
        return du, dm, ds
