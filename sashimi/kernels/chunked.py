"""Convolution that takes a start state and returns the final one, chunk by chunk, in real arithmetic.

Inside a chunk of M samples the convolution is a Toeplitz matrix product; between chunks the exact state
is carried. The same numbers as stepping, linear in the length, for both layer kinds.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sashimi.kernels.system import Squares, System, powers_times_columns, rows_times_powers
from sashimi.kernels.two_level import inner_bits

LONGEST = 256  # samples of a chunk: a longer one's Toeplitz product costs more than carrying saves


def toeplitz(K: Tensor) -> Tensor:
    """T[m, s] = K[m - s] for m >= s, else 0. f(H M) -> f(H M M)."""
    M = K.shape[-1]
    padded = torch.nn.functional.pad(K, (M, 0))
    return padded.unfold(-1, M, 1)[..., 1:, :].flip(-1)


@dataclass(frozen=True)
class Chunks:
    """What a chunk of M samples does with its input and the state x before it, for H systems.

    outputs     f(H M M+N): y = outputs [u; x]
    into_state  f(H N M): what the input adds to the state after the chunk
    powers      of Abar, in the system's dtype
    """

    outputs: Tensor
    into_state: Tensor
    powers: Squares

    @property
    def M(self) -> int:
        return self.outputs.shape[1]

    @staticmethod
    def of(system: System, dtype: torch.dtype, chunk: int) -> "Chunks":
        """chunk: a power of two. Powers are taken in the system's dtype, products with the sequence in `dtype`."""
        powers = Squares(system.map())
        X = powers_times_columns(powers, system.b[..., None], chunk)  # (H N M)
        from_state = rows_times_powers(powers[0].rows(system.c[..., None, :])[..., 0, :], powers, chunk)
        K = (system.c[..., None, :] @ X)[..., 0, :]
        outputs = torch.cat([toeplitz(K), from_state], dim=-1)  # c A^(m+1) for the state
        return Chunks(outputs.to(dtype), X.flip(-1).to(dtype), powers)

    def scan(self, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """y_k = c . x_k with x_k = Abar x_{k-1} + b u_k, from x_{-1} = x.

        u: f(B H L) with L >= 1, x: f(B H N) -> y: f(B H L), the last state f(B H N).
        """
        B, H, L = u.shape
        M = self.M
        full, rest = divmod(L, M)
        inputs = u[..., : full * M].reshape(B, H, full, M).permute(1, 3, 2, 0).reshape(H, M, full * B)
        added = (self.into_state @ inputs).unflatten(-1, (full, B))
        starts, state = self._carry(added, x.permute(1, 2, 0))
        y = self.outputs @ torch.cat([inputs, starts.flatten(2)], dim=1)
        y = y.view(H, M, full, B).permute(3, 0, 2, 1).reshape(B, H, full * M)
        if rest:
            tail = u[..., full * M :].permute(1, 2, 0)  # (H rest B)
            inside, from_state = self.outputs[:, :rest, :rest], self.outputs[:, :rest, M:]
            y = torch.cat([y, (inside @ tail + from_state @ state).permute(2, 0, 1)], dim=-1)
            wide = state.to(self.powers[0].dtype)
            for bit in range(rest.bit_length()):
                if rest >> bit & 1:
                    wide = self.powers[bit].columns(wide)
            state = wide.to(u.dtype) + self.into_state[..., M - rest :] @ tail
        return y, state.permute(2, 0, 1)

    def _carry(self, added: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """added: f(H N K B), state: f(H N B) -> the state before each chunk f(H N K B), after the last f(H N B)."""
        across, dtype = self.powers[self.M.bit_length() - 1], state.dtype
        starts = [across.carried(state.to(across.dtype))]
        for term in added.to(across.dtype).unbind(2):
            starts.append(across.add_product(across.carried(term), starts[-1]))
        plain = across.plain(torch.stack(starts, dim=2)).to(dtype)
        return plain[:, :, :-1], plain[:, :, -1]


def chunked_scan(system: System, u: Tensor, x: Tensor, chunk: int | None = None) -> tuple[Tensor, Tensor]:
    """`Chunks.scan` for one sequence: u: f(B H L), x: f(B H N) -> y: f(B H L), the last state f(B H N).

    chunk: a power of two; None: the one above sqrt(L), where making the matrices costs as much as carrying the state.
    """
    L = u.shape[-1]
    M = min(chunk or min(1 << inner_bits(L), LONGEST), 1 << L.bit_length() - 1)
    return Chunks.of(system, u.dtype, M).scan(u, x)
