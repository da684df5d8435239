"""Convolution kernels as small matrix products, both layer kinds, real arithmetic.

With l = q M + r, K_l = (c Abar^(q M)) (Abar^r b): about 2 sqrt(L) powers instead of L.
"""

import math

import torch
from torch import Tensor

from sashimi.kernels.system import System, powers_times_columns, rows_times_powers


def two_level_kernel(system: System, L: int, dtype: torch.dtype) -> Tensor:
    """K: f(H L) of a discretised system. Powers are taken in the system's dtype, their product in `dtype`."""
    M = 1 << math.ceil(math.log2(max(L, 1)) / 2)
    X, maps = powers_times_columns(system.map(), system.b, M)
    R = rows_times_powers(system.c, maps[-1], -(-L // M))
    return (R.to(dtype) @ X.to(dtype)).flatten(-2)[..., :L]
