"""The recurrence itself over whole sequences, compiled for this processor: recurrence.cpp.

With as few coordinates a system as S4 has, walking every sample is less arithmetic on a CPU than a Fourier transform
or a matrix product, needs no kernel, and reads and writes each sequence once. Exact for any length and from any state.
"""

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sashimi import compiler
from sashimi.kernels.system import System

SOURCE = Path(__file__).with_name("recurrence.cpp")
COEFFICIENTS = ("a", "b", "c", "D", "p", "q")


class Job(ctypes.Structure):
    """`Job` of recurrence.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in "BLHN"),
        *((name, ctypes.c_void_p) for name in (*COEFFICIENTS, "u", "x", "y", "last", "starts")),
    ]


class Gradient(ctypes.Structure):
    """`Gradient` of recurrence.cpp."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("dy", "dlast", "du", "dx", *(f"d{name}" for name in COEFFICIENTS))]


def recurrent_scan(system: System, D: Tensor, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """y_t = c . x_t + D u_t with x_t = Abar x_{t-1} + b u_t, from x_{-1} = x.

    u: f(B L H), x: f(B H N), D: f(H), all of one dtype, float32 or float64, on the CPU -> y: f(B L H), the last state
    f(B H N). For a diagonal system b is taken to be 1, as System says. Raises BuildError.
    """
    given = (u, x, system.a, None if system.p is None else system.b, system.c, D, system.p, system.q)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given)
    return _Recurrence.apply(keep, *given)


def _call(tensors: dict[str, Tensor | None], gradient: dict[str, Tensor | None] | None = None) -> None:
    """Runs recurrence.cpp on tensors by name; u, x and a give the sizes. Raises MemoryError."""
    u, a = tensors["u"], tensors["a"]
    assert u is not None
    assert a is not None

    def pointers(named: dict[str, Tensor | None]) -> dict[str, int | None]:
        return {name: None if t is None else t.data_ptr() for name, t in named.items()}

    B, L, H = u.shape
    job = Job(B=B, L=L, H=H, N=a.shape[1], **pointers(tensors))
    library = compiler.library(SOURCE)
    run = library.recurrence_float if u.dtype == torch.float32 else library.recurrence_double
    to = None if gradient is None else ctypes.byref(Gradient(**pointers(gradient)))
    if run(ctypes.byref(job), to, torch.get_num_threads()):
        raise MemoryError(f"there is no memory for the recurrence of {B} x {L} x {H}")


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keep: bool, u: Tensor, x: Tensor, *coefficients: Tensor | None) -> tuple[Tensor, Tensor]:
        u, x = u.contiguous(), x.contiguous()
        coefficients = tuple(None if t is None else t.contiguous() for t in coefficients)
        library = compiler.library(SOURCE)
        (B, L, H), N = u.shape, x.shape[2]
        starts = None
        if keep:  # the states between chunks
            lanes = library.recurrence_vector_bytes() // u.element_size()
            starts = u.new_empty(B, -(-H // lanes), -(-L // library.recurrence_chunk()), N, lanes)
        y, last = torch.empty_like(u), torch.empty_like(x)
        named = dict(zip(COEFFICIENTS, coefficients, strict=True))
        _call(named | {"u": u, "x": x, "y": y, "last": last, "starts": starts})
        ctx.save_for_backward(u, x, starts, *coefficients)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        u, x, starts, *coefficients = ctx.saved_tensors
        named = dict(zip(COEFFICIENTS, coefficients, strict=True))
        shares: dict[str, Tensor | None] = {  # each sequence's of the coefficients
            f"d{name}": None if t is None else u.new_empty(len(u), *t.shape) for name, t in named.items()
        }
        du, dx = torch.empty_like(u), torch.empty_like(x)
        shares |= {"dy": dy.contiguous(), "dlast": dlast.contiguous(), "du": du, "dx": dx}
        _call(named | {"u": u, "x": x, "y": None, "last": None, "starts": starts}, shares)
        grads = (shares[f"d{name}"] for name in COEFFICIENTS)
        return None, du, dx, *(None if t is None else t.sum(0) for t in grads)
