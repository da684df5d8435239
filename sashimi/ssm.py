"""State space models as the papers write them: slow, obvious, in the papers' order and letters.

S4:  Gu, Goel, Re, "Efficiently Modeling Long Sequences with Structured State Spaces", arXiv:2111.00396.
S4D: Gu, Gupta, Goel, Re, "On the Parameterization and Initialization of Diagonal State Space Models",
     arXiv:2206.11893.

Everything fast in this package is tested against these functions in float64. Complex matrices whose
spectrum comes in conjugate pairs are kept as one half, N/2 of N coordinates: `full` restores the other.
Shapes: B batch, L length, H channels, N state; `c(H N)` is complex, `f(H N)` real.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def full(half: Tensor) -> Tensor:
    """Both halves of conjugate pairs. half: c(... N/2) -> c(... N)."""
    return torch.cat([half, half.conj()], dim=-1)


# --- HiPPO: S4 section 2.2 -------------------------------------------------------------------------


def hippo_legs(N: int) -> tuple[Tensor, Tensor]:
    """The HiPPO-LegS matrix and input vector, S4 equation (2). Returns A: f(N N), B: f(N), float64."""
    n = torch.arange(N, dtype=torch.float64)
    root = (2 * n + 1).sqrt()
    A = -torch.tril(root[:, None] * root[None, :], diagonal=-1) - torch.diag(n + 1)
    return A, root


# --- Normal plus low rank: S4 section 3.2, appendix C.1 --------------------------------------------


def nplr_legs(N: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """HiPPO-LegS as A = V (diag(Lambda) - P P*) V*, S4 Theorem 1; in that basis B becomes V* B.

    A + (n + 1/2)^.5 (k + 1/2)^.5 is -I/2 plus a skew-symmetric matrix, so V is unitary and the
    decomposition is accurate: a Hermitian eigenproblem, unlike that of A itself, whose eigenvectors
    are numerically dependent.

    Returns the half with positive imaginary parts, in float64:
    Lambda: c(N/2), P: c(N/2), B: c(N/2), V: c(N N/2). N must be even.
    """
    if N < 2 or N % 2:
        raise ValueError(f"d_state must be even and at least 2, got {N}")
    A, B = hippo_legs(N)
    P = (torch.arange(N, dtype=torch.float64) + 0.5).sqrt()
    S = A + P[:, None] * P[None, :]
    skew = S + 0.5 * torch.eye(N, dtype=torch.float64)
    imag, V = torch.linalg.eigh(-1j * skew)
    imag, V = imag[N // 2 :], V[:, N // 2 :]
    Vh = V.conj().T
    return -0.5 + 1j * imag, Vh @ P.to(V.dtype), Vh @ B.to(V.dtype), V


def dplr_matrix(Lambda: Tensor, P: Tensor) -> Tensor:
    """The dense A = diag(Lambda) - P P* on both halves. c(... N/2), c(... N/2) -> c(... N N)."""
    P = full(P)
    return torch.diag_embed(full(Lambda)) - P[..., :, None] * P.conj()[..., None, :]


# --- Discretisation: S4 equation (3), S4D section 3.1 ----------------------------------------------


def bilinear(A: Tensor, B: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """Bilinear (Tustin) discretisation of dense systems, S4 equation (3).

    A: (H N N), B: (H N), dt: (H) -> Abar: (H N N), Bbar: (H N).
    """
    I = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    half = (dt / 2)[:, None, None] * A
    Abar = torch.linalg.solve(I - half, I + half)
    Bbar = torch.linalg.solve(I - half, (dt[:, None] * B)[..., None])[..., 0]
    return Abar, Bbar


def bilinear_diagonal(Lambda: Tensor, B: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """Bilinear discretisation of diagonal systems. Lambda, B: c(H N), dt: f(H) -> Abar, Bbar: c(H N)."""
    half = dt[:, None] / 2 * Lambda
    return (1 + half) / (1 - half), dt[:, None] * B / (1 - half)


def zoh_diagonal(Lambda: Tensor, B: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """Zero-order hold of diagonal systems, S4D equation (5). Shapes as in `bilinear_diagonal`."""
    dtA = dt[:, None] * Lambda
    return dtA.exp(), torch.expm1(dtA) / Lambda * B


def bilinear_dplr(Lambda: Tensor, P: Tensor, B: Tensor, dt: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bilinear discretisation of A = diag(Lambda) - P P* in O(N), S4 appendix C.2.

    (I - dt/2 A)^-1 is diagonal plus rank one by Woodbury's identity, and
    Abar = 2 (I - dt/2 A)^-1 - I, so Abar = diag(a) - p q* is too: a recurrence costs one dot product
    for the state. No diagonalisation takes place.

    Lambda, P, B: c(H N/2), dt: f(H) -> a, p, q, Bbar: c(H N/2), with q* x = 2 Re(sum conj(q) x) over
    the half that is kept.
    """
    half = (dt / 2)[:, None]
    D = 1 / (1 - half * Lambda)
    DP = D * P
    # P* D P and P* D B run over both halves, so they are real.
    gain = half / (1 + half * 2 * (P.conj() * DP).real.sum(-1, keepdim=True))
    q = P * D.conj()
    a = 2 * D - 1
    p = 2 * gain * DP
    DB = D * B
    Bbar = 2 * half * (DB - gain * DP * 2 * (q.conj() * B).real.sum(-1, keepdim=True))
    return a, p, q, Bbar


# --- Recurrence and convolution: S4 equations (3) to (5) -------------------------------------------


def recurrence(Abar: Tensor, Bbar: Tensor, C: Tensor, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """x_k = Abar x_{k-1} + Bbar u_k, y_k = C x_k, step by step, S4 equation (3).

    Abar: c(H N N), Bbar, C: c(H N), u: f(B H L), x: c(B H N), all over both halves.
    Returns y: f(B H L) and the last state c(B H N).
    """
    ys = []
    for k in range(u.shape[-1]):
        x = torch.einsum("hmn,bhn->bhm", Abar, x) + Bbar * u[..., k, None]
        ys.append((C * x).sum(-1).real)
    return torch.stack(ys, dim=-1), x


def kernel_by_powers(Abar: Tensor, Bbar: Tensor, C: Tensor, L: int) -> Tensor:
    """K_l = C Abar^l Bbar, S4 equation (5). Shapes as in `recurrence`; returns f(H L)."""
    K, x = [], Bbar
    for _ in range(L):
        K.append((C * x).sum(-1).real)
        x = torch.einsum("hmn,hn->hm", Abar, x)
    return torch.stack(K, dim=-1)


def convolve(u: Tensor, K: Tensor) -> Tensor:
    """The causal convolution y = K * u, S4 equation (4), as the sum it is. f(B H L), f(H L) -> f(B H L)."""
    L = u.shape[-1]
    y = torch.zeros_like(u)
    for lag in range(L):
        y[..., lag:] += K[:, lag, None] * u[..., : L - lag]
    return y


# --- The kernel by its generating function: S4 section 3.3, Algorithm 1, appendix C.3 -----------------


def truncate_C(C: Tensor, Abar: Tensor, L: int) -> Tensor:
    """C~ = C (I - Abar^L): what makes the infinite generating function end at L, S4 Lemma C.3.

    C: c(H N), Abar: c(H N N) -> c(H N).
    """
    return C - torch.einsum("hm,hmn->hn", C, torch.linalg.matrix_power(Abar, L))


def cauchy(v: Tensor, w: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """sum_n v_n / (alpha_k - beta_k w_n) over both halves: the Cauchy product of S4 equation (6).

    v: c(J H N/2), w: c(H N/2), alpha, beta: c(K) -> c(J H K). Dividing by beta gives the paper's
    nodes; without the division the node at omega = -1, where the paper's is infinite, is like any other.
    """
    denominator = alpha[:, None] - beta[:, None] * full(w)[:, None, :]  # (H K N)
    return (full(v)[:, :, None, :] / denominator).sum(-1)


def unit_circle(L: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """alpha = 1 - omega and beta = (1 + omega) / 2 at the first L/2 + 1 roots of unity, c(L/2+1), float64."""
    k = torch.arange(L // 2 + 1, dtype=torch.float64, device=device)
    omega = torch.polar(torch.ones_like(k), -2 * math.pi * k / L)
    return 1 - omega, (1 + omega) / 2


def generating_function(
    Lambda: Tensor,
    P: Tensor,
    B: Tensor,
    C_tilde: Tensor,
    dt: Tensor,
    L: int,
    cauchy_product: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = cauchy,
) -> Tensor:
    """K^(omega) = C~ (I - Abar omega)^-1 Bbar at the roots of unity, S4 Algorithm 1.

    The resolvent of a bilinear discretisation is dt (alpha - beta dt A)^-1 with alpha = 1 - omega and
    beta = (1 + omega) / 2 (Lemma C.4 before dividing by beta); Woodbury's identity turns the low-rank
    part into four Cauchy products.

    Lambda, P, B, C_tilde: c(H N/2), dt: f(H) -> c(H L/2+1). `cauchy_product` has the signature of `cauchy`.
    """
    alpha, beta = (t.to(Lambda.dtype) for t in unit_circle(L, Lambda.device))
    dt = dt[:, None]
    v = dt * torch.stack([C_tilde * B, C_tilde * P, P.conj() * B, P.conj() * P])
    r00, r01, r10, r11 = cauchy_product(v, dt * Lambda, alpha, beta)
    return r00 - beta * r01 * r10 / (1 + beta * r11)


def kernel_dplr(Lambda: Tensor, P: Tensor, B: Tensor, C: Tensor, dt: Tensor, L: int) -> Tensor:
    """The S4 kernel by Algorithm 1. Lambda, P, B, C: c(H N/2), dt: f(H) -> f(H L)."""
    Abar, _ = bilinear(dplr_matrix(Lambda, P), full(B), dt)
    C_tilde = truncate_C(full(C), Abar, L)[..., : C.shape[-1]]
    return torch.fft.irfft(generating_function(Lambda, P, B, C_tilde, dt, L), n=L)


# --- S4D -----------------------------------------------------------------------------------------


def s4d_legs(N: int) -> tuple[Tensor, Tensor]:
    """S4D-LegS: the diagonal part of HiPPO-LegS with its B. Lambda, B: c(N/2), float64."""
    Lambda, _, B, _ = nplr_legs(N)
    return Lambda, B


def s4d_lin(N: int) -> tuple[Tensor, Tensor]:
    """S4D-Lin, S4D equation (9): -1/2 + i pi n, B = 1. Lambda, B: c(N/2), float64."""
    n = torch.arange(N // 2, dtype=torch.float64)
    return -0.5 + 1j * math.pi * n, torch.ones(N // 2, dtype=torch.complex128)


def s4d_inv(N: int) -> tuple[Tensor, Tensor]:
    """S4D-Inv, S4D equation (8): -1/2 + i N/pi (N/(2n+1) - 1), B = 1. Lambda, B: c(N/2), float64."""
    n = torch.arange(N // 2, dtype=torch.float64)
    return -0.5 + 1j * (N / math.pi) * (N / (2 * n + 1) - 1), torch.ones(N // 2, dtype=torch.complex128)


def kernel_diagonal(Abar: Tensor, Bbar: Tensor, C: Tensor, L: int) -> Tensor:
    """K_l = 2 Re(sum_n C_n Bbar_n Abar_n^l): the Vandermonde product of S4D equation (6).

    Abar, Bbar, C: c(H N/2) -> f(H L).
    """
    powers = Abar[..., None] ** torch.arange(L, device=Abar.device)  # (H N/2 L)
    return 2 * torch.einsum("hn,hnl->hl", C * Bbar, powers).real
