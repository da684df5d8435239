"""The parts of SaShiMi: parameters once, convolution and recurrence as methods.

Sequences are f(B L H). The SSM parameters, their step sizes and all their powers stay in the parameters'
precision or better, whatever the rest runs in.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sashimi import compiler, ssm
from sashimi.config import KERNELS, LayerConfig
from sashimi.errors import UserError
from sashimi.kernels import norm, resolve_backend
from sashimi.kernels.cauchy import cauchy_keops, cauchy_kernel, cauchy_torch
from sashimi.kernels.chunked import chunked_scan
from sashimi.kernels.recurrence import recurrent_scan
from sashimi.kernels.system import System, coordinates
from sashimi.kernels.two_level import two_level_kernel
from sashimi.kernels.vandermonde import vandermonde_keops, vandermonde_torch


def fft_convolve(u: Tensor, K: Tensor) -> Tensor:
    """Causal convolution. u: f(B H L), K: f(H L) -> f(B H L)."""
    n = 2 * u.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(u, n=n) * torch.fft.rfft(K, n=n), n=n)[..., : u.shape[-1]]


class S4(nn.Module):
    """An S4 layer: H state space systems, skip D, GELU, and a linear map (gated: GLU) that mixes channels.

    Stores plain C for both kinds, so the weights belong to no kernel length. A = Lambda - P P* (s4) or
    Lambda (s4d) with Lambda = -exp(log_A_real) + i A_imag, n_ssm copies; channel h uses copy h mod n_ssm.
    Complex parameters are kept as real ones with a last axis of [re, im].
    """

    def __init__(self, H: int, N: int, config: LayerConfig, dropout: float = 0.0, glu: bool = True) -> None:
        super().__init__()
        if H % config.n_ssm:
            raise UserError(f"model.layer.n_ssm={config.n_ssm} must divide the layer's width {H}")
        self.H, self.N, self.config = H, N, config
        match config.init:
            case "legs":
                Lambda, P, B, _ = ssm.nplr_legs(N)
                # The published training code clips B so; without it high modes start out loud.
                B = torch.complex(B.real, B.imag.clamp(-2, 2))
            case "lin":
                Lambda, B = ssm.s4d_lin(N)
            case "inv":
                Lambda, B = ssm.s4d_inv(N)
        log_dt = torch.empty(H).uniform_(math.log(config.dt_min), math.log(config.dt_max))
        self.inv_dt = nn.Parameter(log_dt if config.dt_transform == "exp" else log_dt.exp().expm1().log())

        def shared(t: Tensor) -> nn.Parameter:
            return nn.Parameter(t.to(torch.get_default_dtype()).expand(config.n_ssm, *t.shape).clone())

        self.log_A_real = shared((-Lambda.real).log())
        self.A_imag = shared(Lambda.imag)
        self.B = shared(torch.view_as_real(B))
        self.P = shared(torch.view_as_real(P)) if config.kind == "s4" else None
        self.C = nn.Parameter(torch.randn(H, N // 2, 2) * 0.5**0.5)
        self.D = nn.Parameter(torch.randn(H))
        self.dropout = nn.Dropout(dropout)
        self.output_linear = nn.Linear(H, 2 * H if glu else H)
        self.glu = glu

    def continuous(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]:
        """Lambda, P, B, C: c(H N/2) and dt: f(H) in a real dtype (P is None for s4d)."""
        copies = self.H // self.config.n_ssm

        def each_channel(t: Tensor) -> Tensor:
            return t.to(dtype).repeat(copies, *[1] * (t.dim() - 1))

        inv_dt = self.inv_dt.to(dtype)
        dt = inv_dt.exp() if self.config.dt_transform == "exp" else F.softplus(inv_dt)
        Lambda = torch.complex(-each_channel(self.log_A_real).exp(), each_channel(self.A_imag))
        P = None if self.P is None else torch.view_as_complex(each_channel(self.P))
        B = torch.view_as_complex(each_channel(self.B))
        return Lambda, P, B, torch.view_as_complex(self.C.to(dtype)), dt

    def system(self, dtype: torch.dtype = torch.float64) -> System:
        """The discretised systems, computed in float64 and returned in `dtype`."""
        Lambda, P, B, C, dt = self.continuous(torch.float64)
        row = torch.tensor([2.0, -2.0], dtype=torch.float64, device=dt.device).repeat_interleave(self.N // 2)
        if P is not None:
            a, p, q, Bbar = ssm.bilinear_dplr(Lambda, P, B, dt)
            system = System(coordinates(a), coordinates(Bbar), coordinates(C) * row, coordinates(p), 2 * coordinates(q))
        else:
            discretize = ssm.zoh_diagonal if self.config.discretization == "zoh" else ssm.bilinear_diagonal
            a, Bbar = discretize(Lambda, B, dt)
            one = coordinates(torch.ones_like(a))
            system = System(coordinates(a), one, coordinates(C * Bbar) * row)
        return system.to(dtype)

    def kernel(self, L: int) -> Tensor:
        """The convolution kernel by the configured backend, by the two-level form where that computes none. f(H L)."""
        dtype = self.C.dtype
        backend = resolve_backend(self.config.backend, self.C.device, L)
        match backend if backend in KERNELS else "two_level", self.config.kind:
            case "two_level", "s4d":
                # Powers of a diagonal cost little; in float64 they keep the phase of late lags.
                return two_level_kernel(self.system(), L, dtype)
            case "two_level", _:
                return two_level_kernel(self.system(dtype), L, dtype)
            case backend, "s4":
                Lambda, P, B, C, dt = self.continuous(dtype)
                assert P is not None
                product = cauchy_keops if backend == "keops" else cauchy_torch
                return cauchy_kernel(self.system(dtype), Lambda, P, B, C, dt, L, product)
            case backend, _:
                Lambda, _, B, C, dt = self.continuous(dtype)
                if self.config.discretization == "zoh":
                    w, Bbar = dt[:, None] * Lambda, ssm.zoh_diagonal(Lambda, B, dt)[1]
                else:
                    a, Bbar = ssm.bilinear_diagonal(Lambda, B, dt)
                    w = a.log()
                return (vandermonde_keops if backend == "keops" else vandermonde_torch)(C * Bbar, w, L)

    def _mix(self, y: Tensor) -> Tensor:
        """Everything after the state space systems and the skip. f(... H) -> f(... H)."""
        y = self.dropout(F.gelu(self.dropout(y)))
        y = self.output_linear(y)
        return F.glu(y, dim=-1) if self.glu else y

    def forward(self, u: Tensor) -> Tensor:
        """Convolution from the zero state. f(B L H) -> f(B L H)."""
        if resolve_backend(self.config.backend, u.device, u.shape[1]) not in KERNELS:
            return self.scan(u, u.new_zeros(len(u), self.H, self.N, dtype=self.C.dtype))[0]
        with torch.autocast(u.device.type, enabled=False):
            y = fft_convolve(u.to(self.C.dtype).mT, self.kernel(u.shape[1]))
        return self._mix(y.mT + self.D * u)

    def scan(self, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Convolution from a state. u: f(B L H), x: f(B H N) -> f(B L H), the last state f(B H N)."""
        wide = self.C.dtype
        with torch.autocast(u.device.type, enabled=False):
            if resolve_backend(self.config.backend, u.device, u.shape[1]) == "recurrence":
                y, x = recurrent_scan(self.system(wide), self.D, u.to(wide), x.to(wide))
            else:
                # Powers of a dense map in float64 are most of the work, and training has no use for their last digits.
                powers = wide if self.training and self.config.kind == "s4" else torch.float64
                y, x = chunked_scan(self.system(powers), u.to(wide).mT, x)
                y = y.mT + self.D * u
        return self._mix(y), x

    def step(self, u: Tensor, x: Tensor, system: System) -> tuple[Tensor, Tensor]:
        """One step of the recurrence. u: f(B H), x: f(B H N), `system` from `self.system` -> f(B H), f(B H N)."""
        y, x = system.step(u, x)
        return self._mix(y + self.D * u), x


class FeedForward(nn.Module):
    """Linear, GELU, linear, position by position."""

    def __init__(self, H: int, expand: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.expand_linear = nn.Linear(H, expand * H)
        self.dropout = nn.Dropout(dropout)
        self.contract_linear = nn.Linear(expand * H, H)

    def forward(self, u: Tensor) -> Tensor:
        """f(... H) -> f(... H)."""
        return self.contract_linear(self.dropout(F.gelu(self.expand_linear(u))))


class ScalarNorm(nn.Module):
    """Normalisation over channels with one shift and one scale for all of them, and no epsilon.

    y = s / sigma (u - mean + m), sigma the biased standard deviation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.zeros(1))
        self.s = nn.Parameter(torch.ones(1))

    def forward(self, u: Tensor) -> Tensor:
        """f(... H) -> f(... H)."""
        # On a CPU torch.var_mean takes several times as long.
        centred = u - u.mean(-1, keepdim=True)
        length = torch.linalg.vector_norm(centred, dim=-1, keepdim=True)
        return self.s * math.sqrt(u.shape[-1]) / length * (centred + self.m)

    def beside(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised u: f(... H), and u to go past it: in one compiled pass, where there is one."""
        if u.device.type == "cpu" and u.dtype == self.s.dtype and compiler.builds(norm.SOURCE):
            return norm.norm_beside(u, self.m, self.s)
        return self(u), u


class WeightNormLinear(nn.Module):
    """A linear map with W = g v / |v| row by row."""

    def __init__(self, d_input: int, d_output: int) -> None:
        super().__init__()
        linear = nn.Linear(d_input, d_output)
        self.weight_v, self.bias = linear.weight, linear.bias
        self.weight_g = nn.Parameter(linear.weight.detach().norm(dim=1, keepdim=True))

    @property
    def weight(self) -> Tensor:
        """W: f(d_output d_input)."""
        return self.weight_v * (self.weight_g / self.weight_v.norm(dim=1, keepdim=True))

    def forward(self, u: Tensor) -> Tensor:
        """f(... d_input) -> f(... d_output)."""
        return F.linear(u, self.weight, self.bias)


class DownPool(nn.Module):
    """p consecutive vectors to one, `expand` times wider."""

    def __init__(self, H: int, pool: int, expand: int) -> None:
        super().__init__()
        self.pool = pool
        self.linear = WeightNormLinear(H * pool, H * expand)

    def forward(self, u: Tensor) -> Tensor:
        """f(B G*p H) -> f(B G expand*H). Features are flattened channel by channel: (H p)."""
        return self.linear(rearrange(u, "b (g p) h -> b g (h p)", p=self.pool))


class UpPool(nn.Module):
    """One vector to p consecutive ones, `expand` times narrower. The shift that keeps it causal is the model's."""

    def __init__(self, H: int, pool: int, expand: int) -> None:
        super().__init__()
        self.pool = pool
        self.linear = WeightNormLinear(H * expand, H * pool)

    def forward(self, u: Tensor) -> Tensor:
        """f(B G expand*H) -> f(B G*p H)."""
        return rearrange(self.linear(u), "b g (h p) -> b (g p) h", p=self.pool)


class Block(nn.Module):
    """A pre-norm residual block around an S4 layer or a feed-forward layer."""

    def __init__(self, layer: S4 | FeedForward) -> None:
        super().__init__()
        self.norm = ScalarNorm()
        self.layer = layer

    def forward(self, u: Tensor, x: Tensor | None = None, system: System | None = None) -> tuple[Tensor, Tensor | None]:
        """u: f(B L H) -> f(B L H), and for an S4 layer that was given its state x: f(B H N), the next one.

        Without a state: convolution from zero. With `system`: one step of the recurrence (L = 1).
        """
        if system is not None and x is not None and isinstance(self.layer, S4):
            y, x = self.layer.step(self.norm(u)[:, 0], x, system)
            return u + y[:, None], x
        v, u = self.norm.beside(u)
        if isinstance(self.layer, FeedForward) or x is None:
            return u + self.layer(v), None
        y, x = self.layer.scan(v, x)
        return u + y, x
