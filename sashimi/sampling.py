"""Logits to a token: temperature, truncation, and draws that depend on nothing but seed, clip and position.

The draw for the token at absolute position t of clip c is the first 64-bit word w of Philox4x64-10 with
key (seed, c), as `numpy.random.Philox(key=[seed, c], counter=t).random_raw()` gives it (NumPy steps the
counter before it computes: the block's counter is t + 1). u = (w >> 11) 2^-53 picks the token by the
inverse distribution function in token order.

Philox: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sashimi.config import SamplingConfig

_MULTIPLIERS = (np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157))
_WEYL = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B))
_ROUNDS = 10
_32, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)

Words = NDArray[np.uint64]


def _multiply(a: np.uint64, b: Words) -> tuple[Words, Words]:
    """The high and low words of the 128-bit product."""
    a1, a0, b1, b0 = a >> _32, a & _LOW, b >> _32, b & _LOW
    middle = a1 * b0 + (a0 * b0 >> _32)
    high = a1 * b1 + (middle >> _32) + ((middle & _LOW) + a0 * b1 >> _32)
    return high, a * b


def philox(counter: Words, key: tuple[Words, Words]) -> Words:
    """The first word of each block. counter: (...) the low word, the others are 0; key: two words (...)."""
    c0, c1, c2, c3 = counter, np.zeros_like(counter), np.zeros_like(counter), np.zeros_like(counter)
    k0, k1 = key
    with np.errstate(over="ignore"):
        for _ in range(_ROUNDS):
            high0, low0 = _multiply(_MULTIPLIERS[0], c0)
            high1, low1 = _multiply(_MULTIPLIERS[1], c2)
            c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
            k0, k1 = k0 + _WEYL[0], k1 + _WEYL[1]
    return c0


def uniforms(keys: Words, position: NDArray[np.integer], n: int) -> NDArray[np.float64]:
    """The draws of positions position .. position + n - 1, in [0, 1).

    keys: (B 2), each (seed, clip); position: (B) -> (B n).
    """
    counter: Words = position.astype(np.uint64)[:, None] + np.arange(1, n + 1).astype(np.uint64)
    k0, k1 = (np.broadcast_to(keys[:, i, None], counter.shape) for i in (0, 1))
    return (philox(counter, (k0, k1)) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def temperatures(logits: Tensor, sampling: SamplingConfig) -> Tensor:
    """temp min(1, entropy / H), H the bits of each distribution at temperature 1. logits: f64(B V) -> f64(B 1)."""
    temperature = logits.new_full((len(logits), 1), sampling.temp)
    if not sampling.entropy:
        return temperature
    bits = torch.special.entr(logits.softmax(-1)).sum(-1, keepdim=True) / math.log(2)
    return temperature * (sampling.entropy / bits).clamp(max=1)


def truncated(logits: Tensor, sampling: SamplingConfig) -> Tensor:
    """The distribution that tokens are drawn from, up to a factor. logits: f64(B V) -> f64(B V).

    temp > 0. The most likely token always stays.
    """
    p = (logits / temperatures(logits, sampling)).softmax(-1)
    if sampling == SamplingConfig(sampling.temp, entropy=sampling.entropy):
        return p
    ordered, order = p.sort(dim=-1, descending=True, stable=True)
    keep = (ordered.cumsum(-1) - ordered) < sampling.top_p
    keep &= ordered >= sampling.floor
    keep &= ordered >= sampling.min_p * ordered[:, :1]
    if sampling.top_k:
        keep[:, sampling.top_k :] = False
    keep[:, 0] = True
    return torch.zeros_like(p).scatter(-1, order, ordered * keep)


def sample(logits: Tensor, sampling: SamplingConfig, u: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens i(B) and their log-probabilities f64(B) under the untruncated distribution at temperature 1.

    logits: f(B V), u: f64(B) in [0, 1).
    """
    logits = logits.double()
    if sampling.temp == 0:
        tokens = logits.argmax(-1)
    else:
        cdf = truncated(logits, sampling).cumsum(-1)
        # u < 1, but u cdf[-1] may round up to cdf[-1]: step back to the last value below it.
        target = torch.minimum(u * cdf[:, -1], torch.nextafter(cdf[:, -1], torch.zeros_like(u)))
        tokens = torch.searchsorted(cdf, target[:, None], right=True)[:, 0]
    return tokens, logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
