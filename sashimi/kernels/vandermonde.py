"""The Vandermonde product of the S4D kernel, K_l = 2 Re(sum_n v_n exp(l w_n)), in bounded memory."""

import logging
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sashimi.kernels.cauchy import BLOCK_ELEMENTS, quiet_genred

log = logging.getLogger(__name__)


def _vandermonde_block(v: Tensor, w: Tensor, l: Tensor) -> Tensor:
    return 2 * torch.einsum("hn,hnl->hl", v, (w[..., None] * l).exp()).real


def vandermonde_torch(v: Tensor, w: Tensor, L: int) -> Tensor:
    """Over blocks of l, recomputed in the backward pass. v, w: c(H N/2) -> f(H L)."""
    block = max(1, BLOCK_ELEMENTS // v.numel())
    lags = torch.arange(L, dtype=v.real.dtype, device=v.device).split(block)
    return torch.cat([checkpoint(_vandermonde_block, v, w, l, use_reentrant=False) for l in lags], dim=-1)


@lru_cache(maxsize=1)
def _vandermonde_formula() -> Any:
    log.info("PyKeOps compiles the Vandermonde product on first use: about 7 s, 14 s more for its gradient")
    formula = "ComplexReal(ComplexMult(v, ComplexExp(ComplexRealScal(w, l))))"
    return quiet_genred()(formula, ["v = Vj(2)", "w = Vj(2)", "l = Vi(1)"], reduction_op="Sum", axis=1)


def vandermonde_keops(v: Tensor, w: Tensor, L: int) -> Tensor:
    """By PyKeOps, CPU or CUDA: one compiled loop, linear memory. v, w: c(H N/2) -> f(H L)."""
    l = torch.arange(L, dtype=v.real.dtype, device=v.device)[None, :, None]
    v, w = (torch.view_as_real(t.resolve_conj()).contiguous() for t in (v, w))
    return 2 * _vandermonde_formula()(v, w, l)[..., 0]
