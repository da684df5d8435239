"""Every fast kernel against the oracle: values and gradients, float64, random shapes."""

from pathlib import Path

import pytest
import torch
from test_ssm import dense, random_dplr

from sashimi import compiler, kernels, ssm
from sashimi.config import KERNELS, SCANS, LayerConfig
from sashimi.errors import UserError
from sashimi.kernels.cauchy import cauchy_keops, cauchy_torch
from sashimi.kernels.chunked import chunked_scan, toeplitz
from sashimi.kernels.recurrence import recurrent_scan
from sashimi.kernels.system import DenseMap, System, coordinates
from sashimi.kernels.vandermonde import vandermonde_keops, vandermonde_torch
from sashimi.layers import S4, ScalarNorm

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


@pytest.mark.parametrize("backend", KERNELS)
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


def scanned(
    way: str, made: S4, u: torch.Tensor, x: torch.Tensor, chunk: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """y + D u and the last state. u: f(B L H)."""
    if way == "recurrence":
        return recurrent_scan(made.system(), made.D, u, x)
    y, x = chunked_scan(made.system(), u.mT, x, chunk)
    return y.mT + made.D * u, x


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("way", SCANS)
def test_scans_are_stepping(seed: int, way: str, kind: str) -> None:
    """Random batch, length, width, chunk and start state; outputs, final state and all gradients."""
    g = torch.Generator().manual_seed(seed)
    B, L, H, chunk = (int(torch.randint(*r, (), generator=g)) for r in ((1, 4), (1, 70), (1, 20), (0, 6)))
    L += 250 * (seed % 3 == 0)  # over some chunks of the recurrence
    made = layer(kind, H=H, N=2 + 2 * seed)
    u = torch.randn(B, L, H, dtype=torch.float64, generator=g, requires_grad=True)
    x0 = torch.randn(B, H, made.N, dtype=torch.float64, generator=g, requires_grad=True)
    system, x, ys = made.system(), x0, []
    for k in range(L):
        y, x = system.step(u[:, k], x)
        ys.append(y + made.D * u[:, k])
    y = torch.stack(ys, dim=1)
    y_, x_ = scanned(way, made, u, x0, 1 << chunk if seed % 2 else None)
    assert torch.allclose(y_, y, atol=1e-11 * y.abs().max().item())
    assert torch.allclose(x_, x, atol=1e-11 * x.abs().max().item())
    weights = torch.randn_like(y), torch.randn_like(x)
    inputs = [u, x0, *(p for n, p in made.named_parameters() if not n.startswith("output_linear"))]
    wanted, given = (
        torch.autograd.grad((a * weights[0]).sum() + (b * weights[1]).sum(), inputs) for a, b in ((y, x), (y_, x_))
    )
    for ours, theirs in zip(given, wanted, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-9 * theirs.abs().max().item())


@pytest.mark.parametrize("name", ["B", "P", "D", "C", "inv_dt"])
def test_recurrence_with_one_parameter_to_learn(name: str) -> None:
    """The others are frozen, as in fine-tuning; nothing else asks for a gradient."""
    made = layer("s4")
    for other, p in made.named_parameters():
        p.requires_grad_(other == name)
    u, x = torch.randn(2, 200, 4, dtype=torch.float64), torch.randn(2, 4, 8, dtype=torch.float64)
    parameter = getattr(made, name)
    ours, theirs = (
        torch.autograd.grad(scanned(way, made, u, x, None)[0].square().sum(), parameter)[0] for way in SCANS
    )
    assert torch.allclose(ours, theirs, atol=1e-9 * theirs.abs().max().item())


def test_recurrence_in_single_precision_at_length(kind: str) -> None:
    """Published sizes over 16,384 samples, values and gradients, within 1e-4 of the largest value."""
    torch.manual_seed(0)
    made = S4(8, 64, LayerConfig(kind=kind))
    u, weights, x = torch.randn(1, 16384, 8), torch.randn(1, 16384, 8), torch.zeros(1, 8, 64)

    def run(dtype: torch.dtype) -> list[torch.Tensor]:
        made.to(dtype)
        v = u.to(dtype).requires_grad_()
        y, last = recurrent_scan(made.system(dtype), made.D, v, x.to(dtype))
        inputs = v, made.C, made.D, made.log_A_real
        return [y.detach(), last.detach(), *torch.autograd.grad((y * weights.to(dtype)).sum(), inputs)]

    single, exact = run(torch.float32), run(torch.float64)
    for ours, theirs in zip(single, exact, strict=True):
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


@pytest.mark.parametrize("width", [16, 32, 64])
def test_recurrence_on_other_processors(width: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their vectors, emulated by the compiler, and several threads that are not torch's."""
    library = compiler.library
    flags = (f"-DVECTOR_BYTES={width}", "-Wno-psabi", "-DOWN_THREADS")
    monkeypatch.setattr(compiler, "library", lambda source: library(source, flags))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    made = layer(kind, H=19)
    u = torch.randn(2, 140, 19, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 19, 8, dtype=torch.float64)
    given, wanted = (scanned(way, made, u, x, None)[0] for way in ("recurrence", "chunked"))
    assert torch.allclose(given, wanted, atol=1e-10 * wanted.abs().max().item())
    ours, theirs = (torch.autograd.grad(y.square().sum(), (u, made.C)) for y in (given, wanted))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-9 * b.abs().max().item())


@pytest.mark.parametrize("shape", [(2, 300, 64), (3, 5), (1, 257, 20), (1, 1, 1)])
def test_norm_in_one_pass(shape: tuple[int, ...]) -> None:
    """The norm and what goes past it against plain torch, gradients too."""
    norm = ScalarNorm().double()
    with torch.no_grad():
        norm.m += 0.3
        norm.s *= 2
    u = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    if shape[-1] == 1:
        assert norm.beside(u)[0].isinf().all(), "one channel has no deviation, here as there"
        return
    (v, w), expected = norm.beside(u), norm(u)
    assert torch.allclose(v, expected)
    assert torch.equal(w, u)
    a, b = torch.randn_like(u), torch.randn_like(u)
    ours = torch.autograd.grad((v * a + w * b).sum(), (u, norm.m, norm.s))
    theirs = torch.autograd.grad((expected * a + u * b).sum(), (u, norm.m, norm.s))
    for given, wanted in zip(ours, theirs, strict=True):
        assert torch.allclose(given, wanted)


def test_without_a_compiler_layers_are_convolutions(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, u = layer(kind), torch.randn(1, 40, 4, dtype=torch.float64)
    expected = made(u)
    monkeypatch.setattr(compiler, "builds", lambda source: False)
    assert kernels.resolve_backend("auto") == "two_level"
    assert kernels.resolve_backend("auto", L=kernels.LONG) == "chunked"
    assert torch.allclose(made(u), expected)
    with pytest.raises(UserError, match=r"recurrence needs a C\+\+ compiler"):
        kernels.resolve_backend("recurrence")


def test_toeplitz() -> None:
    expected = torch.tensor([[[1.0, 0, 0], [2, 1, 0], [3, 2, 1]]])
    assert torch.equal(toeplitz(torch.tensor([[1.0, 2, 3]])), expected)


def test_backend_choice() -> None:
    assert kernels.resolve_backend("auto") == "recurrence"
    assert kernels.resolve_backend("auto", "cuda") == "two_level"
    with pytest.raises(UserError, match="runs on a CPU"):
        kernels.resolve_backend("recurrence", "cuda")


def test_keops_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"C\+\+ compiler"):
        kernels.resolve_backend("keops")


def test_system_changes_precision_as_a_whole() -> None:
    for kind in ("s4", "s4d"):
        system: System = layer(kind).system(torch.float32)
        assert {t.dtype for t in vars(system).values() if t is not None} == {torch.float32}
