"""A discretised bank of state space systems in real arithmetic: what every fast kernel reads.

Half a conjugate-paired state, x: c(N/2), is kept as its real coordinates [Re x, Im x]: f(N). In them the
recurrence

    x' = Abar x + b u        y = c . x'

is real: multiplication by a complex diagonal becomes N/2 rotations with scaling, q* x = 2 Re(sum conj(q) x)
becomes a dot product with the row [2 Re q, 2 Im q], and 2 Re(sum C x) one with [2 Re C, -2 Im C].
S4D is canonical: b is 1 and c carries C Bbar.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


def coordinates(x: Tensor) -> Tensor:
    """c(... n) -> f(... 2n): real parts, then imaginary parts."""
    return torch.cat([x.real, x.imag], dim=-1)


def complex_multiply(x: Tensor, y: Tensor) -> Tensor:
    """The product of complex numbers kept as [re, im] halves of the second-last axis, f(... 2n K)."""
    (xr, xi), (yr, yi) = x.chunk(2, dim=-2), y.chunk(2, dim=-2)
    return torch.cat([xr * yr - xi * yi, xr * yi + xi * yr], dim=-2)


@dataclass(frozen=True)
class DiagonalMap:
    """A power of a complex diagonal Abar. a: f(H N 1), [re, im] along N."""

    a: Tensor

    def columns(self, X: Tensor) -> Tensor:
        """A X for columns X: f(H N K)."""
        return complex_multiply(self.a, X)

    def rows(self, R: Tensor) -> Tensor:
        """R A for rows R: f(H K N). A row multiplies by the transpose of the rotation: the conjugate."""
        re, im = self.a.chunk(2, dim=-2)
        return complex_multiply(torch.cat([re, -im], dim=-2), R.mT).mT

    def squared(self) -> "DiagonalMap":
        return DiagonalMap(complex_multiply(self.a, self.a))

    @property
    def dtype(self) -> torch.dtype:
        return self.a.dtype

    def carried(self, x: Tensor) -> Tensor:
        """Columns f(H N B) in the form that `add_product` takes: c(H N/2 B), one operation a step."""
        return torch.complex(*x.chunk(2, dim=1))

    def plain(self, x: Tensor) -> Tensor:
        """The inverse of `carried`, for c(H N/2 ...)."""
        return torch.cat([x.real, x.imag], dim=1)

    def add_product(self, w: Tensor, x: Tensor) -> Tensor:
        """w + A x, in the carried form."""
        return torch.addcmul(w, self._complex, x)

    @cached_property
    def _complex(self) -> Tensor:
        return self.carried(self.a)


@dataclass(frozen=True)
class DenseMap:
    """A power of a dense Abar. A: f(H N N)."""

    A: Tensor

    def columns(self, X: Tensor) -> Tensor:
        """A X for columns X: f(H N K)."""
        return self.A @ X

    def rows(self, R: Tensor) -> Tensor:
        """R A for rows R: f(H K N)."""
        return R @ self.A

    def squared(self) -> "DenseMap":
        return DenseMap(self.A @ self.A)

    @property
    def dtype(self) -> torch.dtype:
        return self.A.dtype

    def carried(self, x: Tensor) -> Tensor:
        """As it is; see DiagonalMap."""
        return x

    plain = carried

    def add_product(self, w: Tensor, x: Tensor) -> Tensor:
        """w + A x. f(H N B)."""
        return torch.baddbmm(w, self.A, x)


@dataclass(frozen=True)
class System:
    """H discretised systems, Abar = diag(a) - p q (p and q None: diagonal). See the module's text.

    a: f(H N) as [re, im]; b, p: f(H N) columns; c, q: f(H N) rows.
    """

    a: Tensor
    b: Tensor
    c: Tensor
    p: Tensor | None = None
    q: Tensor | None = None

    def to(self, dtype: torch.dtype) -> "System":
        p, q = self.p, self.q
        return System(
            self.a.to(dtype), self.b.to(dtype), self.c.to(dtype),
            None if p is None else p.to(dtype), None if q is None else q.to(dtype),
        )  # fmt: skip

    def map(self) -> DiagonalMap | DenseMap:
        """Abar as something whose powers can be taken."""
        if self.p is None or self.q is None:
            return DiagonalMap(self.a[..., None])
        re, im = (torch.diag_embed(t) for t in self.a.chunk(2, dim=-1))
        rotation = torch.cat([torch.cat([re, -im], dim=-1), torch.cat([im, re], dim=-1)], dim=-2)
        return DenseMap(rotation - self.p[..., :, None] * self.q[..., None, :])

    def step(self, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the recurrence in O(N) a channel. u: f(B H), x: f(B H N) -> y: f(B H), x'."""
        re, im = self.a.chunk(2, dim=-1)
        xr, xi = x.chunk(2, dim=-1)
        new = torch.cat([torch.addcmul(re * xr, im, xi, value=-1), torch.addcmul(re * xi, im, xr)], dim=-1)
        if self.p is not None and self.q is not None:
            new = torch.addcmul(new, self.p, (self.q * x).sum(-1, keepdim=True), value=-1)
        new = torch.addcmul(new, self.b, u[..., None])
        return (self.c * new).sum(-1), new


class Squares:
    """Abar, Abar^2, Abar^4, ...: [i] is Abar^(2^i), squared from the one before when it is first asked for."""

    def __init__(self, A: DiagonalMap | DenseMap) -> None:
        self._maps = [A]

    def __getitem__(self, i: int) -> DiagonalMap | DenseMap:
        while len(self._maps) <= i:
            self._maps.append(self._maps[-1].squared())
        return self._maps[i]


def powers_times_columns(A: Squares, X: Tensor, count: int, first: int = 0) -> Tensor:
    """A^(k M) X for k < count, M = 2^first, by doubling. X: f(H N B) -> f(H N count*B), k by k."""
    width, bit = count * X.shape[-1], first
    while X.shape[-1] < width:
        X = torch.cat([X, A[bit].columns(X)], dim=-1)
        bit += 1
    return X[..., :width]


def rows_times_powers(c: Tensor, A: Squares, count: int, first: int = 0) -> Tensor:
    """c A^(k M) for k < count, M = 2^first, by doubling. c: f(H N) -> f(H count N)."""
    R, bit = c[..., None, :], first
    while R.shape[-2] < count:
        R = torch.cat([R, A[bit].rows(R)], dim=-2)
        bit += 1
    return R[..., :count, :]
