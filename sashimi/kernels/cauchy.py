"""The Cauchy product of the S4 kernel, and the S4 kernel by way of it, in bounded memory.

The oracle, `sashimi.ssm.cauchy`, holds a J x H x K x N array at once; these do not.
"""

import logging
import os
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sashimi import ssm
from sashimi.kernels.system import System

log = logging.getLogger(__name__)

BLOCK_ELEMENTS = 1 << 22  # of the J x H x K x N array at a time: 64 MiB in complex128


def cauchy_torch(v: Tensor, w: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """`ssm.cauchy` over blocks of nodes, recomputed in the backward pass.

    v: c(J H N/2), w: c(H N/2), alpha, beta: c(K) -> c(J H K).
    """
    block = max(1, BLOCK_ELEMENTS // (2 * v.numel()))
    blocks = [
        checkpoint(ssm.cauchy, v, w, a, b, use_reentrant=False)
        for a, b in zip(alpha.split(block), beta.split(block), strict=True)
    ]
    return torch.cat(blocks, dim=-1)


def quiet_genred() -> Any:
    """PyKeOps' formula class, imported on first use and without its page of output per formula."""
    os.environ.setdefault("PYKEOPS_VERBOSE", "0")
    from pykeops.torch import Genred

    return Genred


@lru_cache(maxsize=1)
def _cauchy_formula() -> Any:
    log.info("PyKeOps compiles the Cauchy product on first use: about 10 s, 15 s more for its gradient")
    pole = "ComplexDivide({v}, alpha - ComplexMult(beta, {w}))"
    formula = pole.format(v="v", w="w") + " + " + pole.format(v="Conj(v)", w="Conj(w)")
    return quiet_genred()(
        formula, ["v = Vj(2)", "w = Vj(2)", "alpha = Vi(2)", "beta = Vi(2)"], reduction_op="Sum", axis=1
    )


def cauchy_keops(v: Tensor, w: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """`ssm.cauchy` by PyKeOps, CPU or CUDA: one compiled loop, linear memory. Shapes as there."""
    v, w, alpha, beta = (
        torch.view_as_real(t.resolve_conj()).contiguous() for t in (v, w[None], alpha[None, None], beta[None, None])
    )
    return torch.view_as_complex(_cauchy_formula()(v, w, alpha, beta).contiguous())


def cauchy_kernel(
    system: System, Lambda: Tensor, P: Tensor, B: Tensor, C: Tensor, dt: Tensor, L: int, cauchy_product: Any
) -> Tensor:
    """The S4 kernel as in the paper, S4 Algorithm 1. Lambda, P, B, C: c(H N/2), dt: f(H) -> f(H L).

    `system` is the same system discretised: C~ = C (I - Abar^L) comes from its powers.
    """
    A, c, power = system.map(), system.c[..., None, :], L
    while power:  # c Abar^L by binary powers
        if power & 1:
            c = A.rows(c)
        power >>= 1
        if power:
            A = A.squared()
    re, im = ((system.c - c[..., 0, :]) / 2).to(dt.dtype).chunk(2, dim=-1)
    C_tilde = torch.complex(re, -im)
    K_hat = ssm.generating_function(Lambda, P, B, C_tilde, dt, L, cauchy_product)
    return torch.fft.irfft(K_hat, n=L)
