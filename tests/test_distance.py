"""Frechet distances: by hand, and their bias."""

import numpy as np
import pytest

from sashimi import distance
from sashimi.distance import Embedding


def test_frechet_by_hand() -> None:
    """Of axis-aligned Gaussians: squared distance of the means, and of the standard deviations."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((200_000, 3)) * (1, 2, 3)
    b = rng.standard_normal((200_000, 3)) * (2, 2, 1) + (0, 3, 0)
    assert distance.frechet(a, b) == pytest.approx(9 + 1 + 0 + 4, rel=0.02)
    assert distance.frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert distance.frechet(a, b) == pytest.approx(distance.frechet(b, a), rel=1e-6)


def test_frechet_of_correlated_sets_does_not_depend_on_the_axes() -> None:
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    a, b = rng.standard_normal((500, 4)) * (1, 2, 3, 4), rng.standard_normal((400, 4)) + 1
    assert distance.frechet(a @ turn, b @ turn) == pytest.approx(distance.frechet(a, b), rel=1e-6)


def test_extrapolation_takes_the_bias_out() -> None:
    """Two samples of one distribution: the distance is all bias."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((900, 16)), rng.standard_normal((20_000, 16))
    biased, without = distance.frechet(a, b), distance.at_infinity(a, b, seed=0)
    assert biased > 0.05
    assert abs(without) < biased / 3
    assert distance.at_infinity(a, b, seed=0) == without
    assert distance.at_infinity(a[:2], b, seed=0) > 0, "of two there is nothing to extrapolate"


def test_embedding_keeps_what_varies_most() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 40)) * np.linspace(3, 0.1, 40) + 5
    embedding = Embedding.of(x)
    found = embedding(x)
    assert found.shape == (300, distance.COMPONENTS)
    assert np.allclose(found.mean(axis=0), 0, atol=1e-9)
    variances = found.var(axis=0)
    assert (np.diff(variances) <= 1e-9).all()
    assert variances.sum() > 0.98 * x.var(axis=0).mean()
    assert Embedding.of(x[:5])(x).shape == (300, 4), "five points span four directions"


def test_sample_and_parts() -> None:
    x = np.arange(20.0).reshape(10, 2)
    chosen = distance.sample(x, 4, seed=1)
    assert len(np.unique(chosen[:, 0])) == 4
    assert len(distance.sample(x, 50, seed=1)) == 10
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((500, 2)) + shift for shift in (0, 0, 2)]
    near, far = distance.from_the_first(parts)
    assert near < 0.1 < far
