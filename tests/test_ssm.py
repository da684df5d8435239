"""The oracle against itself: every identity of the papers that the rest rests on, in float64."""

import pytest
import torch

from sashimi import ssm


def random_dplr(H: int, N: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Stable DPLR systems away from HiPPO. Lambda, P, B, C: c(H N/2), dt: f(H)."""
    g = torch.Generator().manual_seed(seed)

    def c() -> torch.Tensor:
        return torch.randn(H, N // 2, dtype=torch.complex128, generator=g)

    Lambda = torch.complex(-c().real.abs() - 0.2, 5 * c().imag)
    return Lambda, c(), c(), c(), 0.01 + 0.2 * torch.rand(H, dtype=torch.float64, generator=g)


def dense(
    Lambda: torch.Tensor, P: torch.Tensor, B: torch.Tensor, dt: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return ssm.bilinear(ssm.dplr_matrix(Lambda, P), ssm.full(B), dt)


@pytest.mark.parametrize("N", [2, 8, 64])
def test_nplr_is_hippo_in_another_basis(N: int) -> None:
    A, B = ssm.hippo_legs(N)
    Lambda, P, B_, V = ssm.nplr_legs(N)
    V = torch.cat([V, V.conj()], dim=1)
    scale = A.abs().max()
    assert torch.allclose(V @ V.conj().T, torch.eye(N, dtype=V.dtype), atol=1e-12)
    assert (V @ ssm.dplr_matrix(Lambda, P) @ V.conj().T - A).abs().max() < 1e-13 * scale * N
    assert (V @ ssm.full(B_) - B).abs().max() < 1e-12
    assert (Lambda.imag > 0).all()


def test_hippo_legs_is_the_papers_matrix() -> None:
    A, B = ssm.hippo_legs(3)
    expected = -torch.tensor([[1, 0, 0], [3**0.5, 2, 0], [5**0.5, 15**0.5, 3]], dtype=torch.float64)
    assert torch.allclose(A, expected)
    assert torch.allclose(B, torch.tensor([1, 3, 5], dtype=torch.float64).sqrt())


@pytest.mark.parametrize("N", [3, 0])
def test_odd_states_are_refused(N: int) -> None:
    with pytest.raises(ValueError, match="d_state"):
        ssm.nplr_legs(N)


def test_linear_time_discretisation_is_the_dense_one() -> None:
    Lambda, P, B, _, dt = random_dplr(3, 10)
    Abar, Bbar = dense(Lambda, P, B, dt)
    a, p, q, b = ssm.bilinear_dplr(Lambda, P, B, dt)
    rank_one = ssm.full(p)[..., :, None] * ssm.full(q).conj()[..., None, :]
    assert torch.allclose(torch.diag_embed(ssm.full(a)) - rank_one, Abar, atol=1e-13)
    assert torch.allclose(ssm.full(b), Bbar, atol=1e-13)


@pytest.mark.parametrize("L", [1, 2, 7, 32, 33])
def test_generating_function_is_the_kernel(L: int) -> None:
    """Even lengths include the node at omega = -1, where the paper's form is infinite."""
    Lambda, P, B, C, dt = random_dplr(3, 10)
    by_powers = ssm.kernel_by_powers(*dense(Lambda, P, B, dt), ssm.full(C), L)
    assert torch.allclose(ssm.kernel_dplr(Lambda, P, B, C, dt, L), by_powers, atol=1e-11)


def test_recurrence_is_convolution() -> None:
    Lambda, P, B, C, dt = random_dplr(2, 6)
    Abar, Bbar = dense(Lambda, P, B, dt)
    u = torch.randn(3, 2, 20, dtype=torch.float64)
    y, _ = ssm.recurrence(Abar, Bbar, ssm.full(C), u, torch.zeros(3, 2, 6, dtype=torch.complex128))
    K = ssm.kernel_by_powers(Abar, Bbar, ssm.full(C), 20)
    assert torch.allclose(y, ssm.convolve(u, K), atol=1e-12)


@pytest.mark.parametrize("discretize", [ssm.zoh_diagonal, ssm.bilinear_diagonal])
@pytest.mark.parametrize("init", [ssm.s4d_legs, ssm.s4d_lin, ssm.s4d_inv])
def test_diagonal_kernel_is_its_powers(init, discretize) -> None:  # type: ignore[no-untyped-def]
    Lambda, B = (t.expand(2, -1) for t in init(8))
    C = torch.randn(2, 4, dtype=torch.complex128)
    Abar, Bbar = discretize(Lambda, B, torch.tensor([0.01, 0.1], dtype=torch.float64))
    by_powers = ssm.kernel_by_powers(torch.diag_embed(ssm.full(Abar)), ssm.full(Bbar), ssm.full(C), 25)
    assert torch.allclose(ssm.kernel_diagonal(Abar, Bbar, C, 25), by_powers, atol=1e-12)


def test_zero_order_hold_holds() -> None:
    """Abar = exp(dt A); Bbar is the integral of exp(s A) B over one step, here by quadrature."""
    Lambda, B = ssm.s4d_lin(4)
    dt = torch.tensor([0.3], dtype=torch.float64)
    Abar, Bbar = ssm.zoh_diagonal(Lambda[None], B[None], dt)
    s = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000 * dt
    assert torch.allclose(Bbar[0], (Lambda[:, None] * s).exp().mean(-1) * dt * B, atol=1e-8)
    assert torch.allclose(Abar[0], (Lambda * dt).exp())


def test_bilinear_approaches_zero_order_hold() -> None:
    Lambda, B = ssm.s4d_lin(4)
    dt = torch.tensor([1e-4], dtype=torch.float64)
    for zoh, tustin in zip(
        ssm.zoh_diagonal(Lambda[None], B[None], dt), ssm.bilinear_diagonal(Lambda[None], B[None], dt), strict=True
    ):
        assert torch.allclose(zoh, tustin, atol=1e-9)
