"""Convolution kernels as small matrix products, both layer kinds, real arithmetic.

With l = q M + r, K_l = (c Abar^(q M)) (Abar^r b): about 2 sqrt(L) powers instead of L.
"""

import math

import torch
from torch import Tensor

from sashimi.kernels.system import Squares, System, powers_times_columns, rows_times_powers


def inner_bits(L: int) -> int:
    """M = 2^bits is the power of two nearest above sqrt(L)."""
    return math.ceil(math.log2(max(L, 1)) / 2)


def two_level_kernel(system: System, L: int, dtype: torch.dtype) -> Tensor:
    """K: f(H L) of a discretised system. Powers are taken in the system's dtype, their product in `dtype`."""
    A, bits = Squares(system.map()), inner_bits(L)
    X = powers_times_columns(A, system.b[..., None], 1 << bits)  # (H N M)
    R = rows_times_powers(system.c, A, -(-L >> bits), bits)
    return (R.to(dtype) @ X.to(dtype)).flatten(-2)[..., :L]
