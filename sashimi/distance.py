"""How far one set of sounds lies from another: Frechet distances of log-mel patches.

The patches are those of `sashimi.metrics.patches`, 0.96 s of 64 mel bands in ten slices, projected on the leading
principal components of one fixed set of recordings. No network: it hears colour, loudness and rhythm at the length of
a second, and nothing longer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sashimi.metrics import Floats

COMPONENTS = 32
SIZES, DRAWS = 6, 4  # sizes of subsets, down to a third, that the extrapolation is fitted to, and subsets of each


@dataclass(frozen=True)
class Embedding:
    """mean f64(D), components f64(K D) of patches: K the least of COMPONENTS, D and what the patches span."""

    mean: Floats
    components: Floats

    @classmethod
    def of(cls, patches: NDArray[np.floating]) -> "Embedding":
        """The principal components of f(N D), those of most variance first; by sqrt(D), for distances a cell."""
        x = patches.astype(np.float64)
        mean = x.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov(x - mean, rowvar=False))
        count = min(COMPONENTS, max(len(x) - 1, 1), len(mean))
        return cls(mean, vectors[:, np.argsort(-values)[:count]].T / np.sqrt(len(mean)))

    def __call__(self, patches: NDArray[np.floating]) -> Floats:
        """f(N D) -> f64(N K), in dB."""
        return (patches - self.mean) @ self.components.T


def frechet(a: Floats, b: Floats) -> float:
    """Between Gaussians of the means and covariances of f64(N K) and f64(M K), in dB^2 (Dowson and Landau, 1982).

    Biased upwards by about 1/N and 1/M: compare at equal sizes, or by `at_infinity`.
    """
    difference = a.mean(axis=0) - b.mean(axis=0)
    A, B = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = np.linalg.eigh(A)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ B @ root), 0)).sum()
    return float(max(difference @ difference + np.trace(A) + np.trace(B) - 2 * shared, 0.0))


def at_infinity(a: Floats, b: Floats, seed: int) -> float:
    """`frechet` of a to b as a's size grows without end: the line through distances of subsets of a against 1/N.

    Random subsets of patches, so that the bias of drawing single patches is taken out; that of few clips, whose
    patches are alike, is not. (FAD-infinity: Gui and others, 2023.)
    """
    rng = np.random.default_rng(seed)
    sizes = np.unique(np.linspace(len(a) / 3, len(a), SIZES).round().astype(int))
    sizes = sizes[sizes >= 2]
    found = [
        np.mean([frechet(a[rng.choice(len(a), n, replace=False)], b) for _ in range(DRAWS if n < len(a) else 1)])
        for n in sizes
    ]
    if len(sizes) < 2:
        return float(found[0])
    return float(np.polyfit(1 / sizes, found, 1)[1])


def sample(patches: Floats, count: int, seed: int) -> Floats:
    """So many of them, without repetition, or all."""
    return patches[np.random.default_rng(seed).permutation(len(patches))[:count]]


def from_the_first(parts: Sequence[Floats]) -> list[float]:
    """Distance of each part after the first to it."""
    return [frechet(part, parts[0]) for part in parts[1:]]
