"""Every fast kernel against the oracle: values and gradients, float64, random shapes."""

from pathlib import Path

import pytest
import torch
from test_ssm import dense, random_dplr

from sashimi import kernels, ssm
from sashimi.config import LayerConfig
from sashimi.errors import UserError
from sashimi.kernels.cauchy import cauchy_keops, cauchy_torch
from sashimi.kernels.chunked import chunked_scan, toeplitz
from sashimi.kernels.system import DenseMap, System, coordinates
from sashimi.kernels.vandermonde import vandermonde_keops, vandermonde_torch
from sashimi.layers import S4

LENGTHS = [1, 2, 15, 16, 100, 257]


def layer(kind: str, H: int = 4, N: int = 8, **settings: object) -> S4:
    torch.manual_seed(1)
    made = S4(H, N, LayerConfig(kind=kind, **settings)).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for p in made.parameters():
            p += 0.1 * torch.randn_like(p)
    return made


def oracle_kernel(made: S4, L: int) -> torch.Tensor:
    Lambda, P, B, C, dt = made.continuous(torch.float64)
    if P is not None:
        return ssm.kernel_by_powers(*dense(Lambda, P, B, dt), ssm.full(C), L)
    discretize = ssm.zoh_diagonal if made.config.discretization == "zoh" else ssm.bilinear_diagonal
    Abar, Bbar = discretize(Lambda, B, dt)
    return ssm.kernel_by_powers(torch.diag_embed(ssm.full(Abar)), ssm.full(Bbar), ssm.full(C), L)


def gradients(made: S4, K: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(2)
    parameters = [
        p for n, p in made.named_parameters() if n.split(".")[0] in ("inv_dt", "log_A_real", "A_imag", "B", "P", "C")
    ]
    return list(torch.autograd.grad((K * torch.randn_like(K)).sum(), parameters))


SYSTEMS = [("s4", {}), ("s4d", {}), ("s4d", {"discretization": "bilinear", "init": "lin"}), ("s4", {"n_ssm": 2})]


@pytest.mark.parametrize("backend", kernels.BACKENDS)
@pytest.mark.parametrize(("kind", "settings"), SYSTEMS)
def test_backends_agree_with_powers(kind: str, settings: dict[str, object], backend: str) -> None:
    made = layer(kind, backend=backend, **settings)
    for L in LENGTHS if backend != "keops" else [16, 33]:
        K, expected = made.kernel(L), oracle_kernel(made, L)
        assert K.shape == (4, L)
        assert torch.allclose(K, expected, atol=1e-9 * expected.abs().max().item()), L
        for ours, theirs in zip(gradients(made, K), gradients(made, expected), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-8 * theirs.abs().max().item()), L


@pytest.mark.parametrize("backend", ["two_level", "torch"])
def test_backends_in_single_precision_at_length(backend: str, kind: str) -> None:
    """Published sizes and 16,384 lags: within 1e-4 of the largest value, HiPPO's fast modes included."""
    torch.manual_seed(0)
    made = S4(8, 64, LayerConfig(kind=kind, backend=backend))
    with torch.no_grad():
        K, exact = made.kernel(16384), made.double().kernel(16384)
    assert (K - exact).abs().max() < 1e-4 * exact.abs().max()


@pytest.mark.slow
def test_keops_in_single_precision(kind: str) -> None:
    torch.manual_seed(0)
    made = S4(8, 64, LayerConfig(kind=kind, backend="keops"))
    with torch.no_grad():
        K, exact = made.kernel(4096), S4.kernel(made.double(), 4096)
    assert (K - exact).abs().max() < 1e-3 * exact.abs().max()


def test_cauchy_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sashimi.kernels.cauchy.BLOCK_ELEMENTS", 100)
    Lambda, _, B, _, _ = random_dplr(3, 10)
    v = torch.stack([B, B.conj()]).requires_grad_()
    alpha, beta = ssm.unit_circle(31)
    whole = ssm.cauchy(v, Lambda, alpha, beta)
    assert torch.allclose(cauchy_torch(v, Lambda, alpha, beta), whole, atol=1e-12)
    assert torch.allclose(cauchy_keops(v, Lambda, alpha, beta), whole, atol=1e-12)


def test_vandermonde_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sashimi.kernels.vandermonde.BLOCK_ELEMENTS", 100)
    Lambda, _, B, _, dt = random_dplr(3, 10)
    w = dt[:, None] * Lambda
    expected = ssm.kernel_diagonal(w.exp(), B, torch.ones_like(B), 50)
    assert torch.allclose(vandermonde_torch(B, w, 50), expected, atol=1e-12)
    assert torch.allclose(vandermonde_keops(B, w, 50), expected, atol=1e-12)


def test_real_coordinates_hold_the_complex_system() -> None:
    """Abar x, the step and both kinds of powers, against complex arithmetic."""
    made = layer("s4")
    Lambda, P, B, C, dt = made.continuous(torch.float64)
    assert P is not None
    Abar, Bbar = dense(Lambda, P, B, dt)
    x = torch.randn(2, 4, 4, dtype=torch.complex128)
    u = torch.randn(2, 4, 1, dtype=torch.float64)
    y, after = ssm.recurrence(Abar, Bbar, ssm.full(C), u, ssm.full(x))
    system = made.system()
    y_, after_ = system.step(u[..., 0], coordinates(x))
    assert torch.allclose(y[..., 0], y_, atol=1e-12)
    assert torch.allclose(coordinates(after[..., :4]), after_, atol=1e-12)
    A = system.map()
    assert isinstance(A, DenseMap)
    columns = A.squared().columns(coordinates(x[0])[..., None])[..., 0]
    expected = torch.einsum("hmn,hn->hm", Abar @ Abar, ssm.full(x[0]))[..., :4]
    assert torch.allclose(columns, coordinates(expected), atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_chunked_scan_is_stepping(seed: int, kind: str) -> None:
    """Random batch, length, chunk and start state; outputs, final state and gradients."""
    g = torch.Generator().manual_seed(seed)
    B, L, chunk = (int(torch.randint(*r, (), generator=g)) for r in ((1, 4), (1, 70), (0, 6)))
    made = layer(kind)
    system = made.system()
    u = torch.randn(B, 4, L, dtype=torch.float64, generator=g, requires_grad=True)
    x0 = torch.randn(B, 4, 8, dtype=torch.float64, generator=g, requires_grad=True)
    x, ys = x0, []
    for k in range(L):
        y, x = system.step(u[..., k], x)
        ys.append(y)
    y = torch.stack(ys, dim=-1)
    y_, x_ = chunked_scan(system, u, x0, 1 << chunk if seed % 2 else None)
    assert torch.allclose(y_, y, atol=1e-11)
    assert torch.allclose(x_, x, atol=1e-11)
    weights = torch.randn_like(y), torch.randn_like(x)
    wanted = torch.autograd.grad((y * weights[0]).sum() + (x * weights[1]).sum(), (u, x0, made.C), retain_graph=True)
    given = torch.autograd.grad((y_ * weights[0]).sum() + (x_ * weights[1]).sum(), (u, x0, made.C))
    for ours, theirs in zip(given, wanted, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-9 * theirs.abs().max().item())


def test_toeplitz() -> None:
    expected = torch.tensor([[[1.0, 0, 0], [2, 1, 0], [3, 2, 1]]])
    assert torch.equal(toeplitz(torch.tensor([[1.0, 2, 3]])), expected)


def test_backend_choice() -> None:
    assert kernels.resolve_backend("auto") == kernels.BACKENDS[0]
    with pytest.raises(UserError, match="two_level, keops, torch"):
        kernels.resolve_backend("cuda")


def test_keops_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"C\+\+ compiler"):
        kernels.resolve_backend("keops")


def test_system_changes_precision_as_a_whole() -> None:
    for kind in ("s4", "s4d"):
        system: System = layer(kind).system(torch.float32)
        assert {t.dtype for t in vars(system).values() if t is not None} == {torch.float32}
