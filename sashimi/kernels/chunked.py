"""Convolution that takes a start state and returns the final one, chunk by chunk, in real arithmetic.

Inside a chunk of M samples the convolution is a Toeplitz matrix product; between chunks the exact state
is carried. The same numbers as stepping, linear in the length, for both layer kinds.
"""

import torch
from torch import Tensor

from sashimi.kernels.system import System, powers_times_columns, rows_times_powers

CHUNK = 128


def toeplitz(K: Tensor) -> Tensor:
    """T[m, s] = K[m - s] for m >= s, else 0. f(H M) -> f(H M M)."""
    M = K.shape[-1]
    padded = torch.nn.functional.pad(K, (M, 0))
    return padded.unfold(-1, M, 1)[..., 1:, :].flip(-1)


def chunked_scan(system: System, u: Tensor, x: Tensor, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """y_k = c . x_k with x_k = Abar x_{k-1} + b u_k, from x_{-1} = x.

    u: f(B H L) with L >= 1, x: f(B H N) -> y: f(B H L), the last state f(B H N). `chunk` is a power of two.
    Powers are taken in the system's dtype, products with the sequence in its own.
    """
    B, H, L = u.shape
    M, dtype = min(chunk, 1 << L.bit_length() - 1), u.dtype
    X, maps = powers_times_columns(system.map(), system.b, M)  # (H N M)
    across = maps[-1]  # Abar^M
    from_state = rows_times_powers(maps[0].rows(system.c[..., None, :])[..., 0, :], maps[0], M)  # c A^(m+1)
    K = (system.c[..., None, :] @ X)[..., 0, :]
    inside, into_state, from_state = toeplitz(K).to(dtype), X.flip(-1).to(dtype), from_state.to(dtype)

    full, rest = divmod(L, M)
    U = u[..., : full * M].reshape(B, H, full, M).permute(1, 3, 2, 0)  # (H M full B)
    W = (into_state @ U.reshape(H, M, -1)).unflatten(-1, (full, B))
    state = x.permute(1, 2, 0)  # (H N B)
    starts = []
    for k in range(full):
        starts.append(state)
        state = across.columns(state.to(system.a.dtype)).to(dtype) + W[:, :, k]
    y = inside @ U.reshape(H, M, -1) + from_state @ torch.stack(starts, dim=2).flatten(2)
    y = y.view(H, M, full, B).permute(3, 0, 2, 1).reshape(B, H, full * M)
    if rest:
        tail = u[..., full * M :].permute(1, 2, 0)  # (H rest B)
        y_tail = inside[:, :rest, :rest] @ tail + from_state[:, :rest] @ state
        y = torch.cat([y, y_tail.permute(2, 0, 1)], dim=-1)
        wide = state.to(system.a.dtype)
        for bit, power in enumerate(maps):
            if rest >> bit & 1:
                wide = power.columns(wide)
        state = wide.to(dtype) + into_state[..., M - rest :] @ tail
    return y, state.permute(2, 0, 1)
