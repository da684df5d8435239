"""Whether answers given with probability p are right with frequency p, and what to do where they are not.

Guo et al., On Calibration of Modern Neural Networks, 2017: the expected calibration error, and one temperature fitted
on held-out answers. Bins hold equally many answers (with few answers, bins of equal width stay empty).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

BINS = 10
FLOOR = 1e-12  # of a probability, before its logarithm
WANTED = 0.8  # of the answers above the threshold must have been right
FEWEST = 10  # answers on which a threshold may rest


@dataclass(frozen=True)
class Bin:
    """answers: how many; confidence: their mean probability; accuracy: share that was right; low, high: its Wilson 95%
    interval."""

    answers: int
    confidence: float
    accuracy: float
    low: float
    high: float


def wilson(right: int, answers: int) -> tuple[float, float]:
    """The 95% interval of a share (Wilson's score interval); (0, 1) for none."""
    if not answers:
        return 0.0, 1.0
    interval = binomtest(right, answers).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def reliability(confidence: ArrayLike, right: ArrayLike, bins: int = BINS) -> list[Bin]:
    """confidence: (N) probabilities of the answers that were given; right: b(N). At most so many bins, none empty."""
    p, hit = np.asarray(confidence, float), np.asarray(right, bool)
    order = np.argsort(p, kind="stable")
    found = []
    for part in np.array_split(order, bins):
        if len(part):
            k = int(hit[part].sum())
            found.append(Bin(len(part), float(p[part].mean()), k / len(part), *wilson(k, len(part))))
    return found


def expected_error(confidence: ArrayLike, right: ArrayLike, bins: int = BINS) -> float:
    """The mean distance of confidence and accuracy over the bins, by their answers. nan for none."""
    found = reliability(confidence, right, bins)
    total = sum(b.answers for b in found)
    return sum(b.answers * abs(b.confidence - b.accuracy) for b in found) / total if total else float("nan")


def softened(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """(..., O) -> (..., O): flatter above a temperature of 1, sharper below."""
    logs = np.log(np.maximum(probabilities, FLOOR)) / temperature
    odds = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=-1, keepdims=True))


def fitted_temperature(probabilities: NDArray[np.float64], truth: Sequence[int]) -> float:
    """The temperature, from 1/20 to 20, with the least mean negative log-likelihood.

    probabilities: (N, O); truth: (N) places of the right options. 1 for none.
    """
    if not len(truth):
        return 1.0
    rows = np.arange(len(truth))

    def loss(log_temperature: float) -> float:
        given = softened(probabilities, float(np.exp(log_temperature)))[rows, list(truth)]
        return float(-np.log(np.maximum(given, FLOOR)).mean())

    best = minimize_scalar(loss, bounds=(-np.log(20), np.log(20)), method="bounded")
    return float(np.exp(best.x))


def threshold(confidence: ArrayLike, right: ArrayLike, wanted: float = WANTED) -> float | None:
    """The least probability above which `wanted` of the answers were right; None where there is none such.

    It rests on FEWEST answers at least.
    """
    p, hit = np.asarray(confidence, float), np.asarray(right, bool)
    order = np.argsort(-p, kind="stable")
    shares = np.cumsum(hit[order]) / np.arange(1, len(p) + 1)
    good = np.flatnonzero((shares >= wanted) & (np.arange(1, len(p) + 1) >= FEWEST))
    return float(p[order[good[-1]]]) if len(good) else None
