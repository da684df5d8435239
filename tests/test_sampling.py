"""Draws: the reference generator, the exact distribution, every truncation."""

import numpy as np
import pytest
import torch

from sashimi.config import SamplingConfig
from sashimi.sampling import philox, sample, temperatures, truncated, uniforms


def test_philox_is_numpys() -> None:
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 2**64, (20, 2), dtype=np.uint64)
    position = np.concatenate([rng.integers(0, 2**62, 17), [0, 1, 2**32 - 2]])
    given = uniforms(keys, position, 4)
    for i, (key, t) in enumerate(zip(keys, position, strict=True)):
        for k in range(4):
            word = np.random.Philox(key=key, counter=[int(t) + k, 0, 0, 0]).random_raw()
            assert given[i, k] == (word >> 11) * 2.0**-53


def test_philox_vectors() -> None:
    """The published known answer of Philox4x64-10 for a counter and a key of zeros."""
    zero = np.zeros(1, np.uint64)
    assert philox(zero, (zero, zero))[0] == 0x16554D9ECA36314C


def test_draws_do_not_depend_on_their_block() -> None:
    keys = np.array([[1, 2], [1, 3]], dtype=np.uint64)
    whole = uniforms(keys, np.array([10, 40]), 50)
    assert np.array_equal(whole[:, 20:30], uniforms(keys, np.array([30, 60]), 10))
    assert len(np.unique(whole)) == 100
    assert whole.min() >= 0
    assert whole.max() < 1


def draws(logits: torch.Tensor, sampling: SamplingConfig, n: int = 200_000) -> np.ndarray:
    u = torch.from_numpy(np.random.default_rng(1).random(n))
    tokens, _ = sample(logits.expand(n, -1), sampling, u)
    return np.bincount(tokens.numpy(), minlength=logits.shape[-1]) / n


def test_frequencies_are_the_distribution() -> None:
    logits = torch.randn(12, generator=torch.Generator().manual_seed(0))
    for temp in (1.0, 0.5):
        expected = (logits.double() / temp).softmax(-1).numpy()
        assert np.abs(draws(logits, SamplingConfig(temp)) - expected).max() < 0.005


def test_inverse_distribution_in_token_order() -> None:
    logits = torch.tensor([[0.25, 1e-300, 0.5, 0.25]]).log().double()
    for u, token in [(0.0, 0), (0.2499, 0), (0.2501, 2), (0.7499, 2), (0.7501, 3), (1 - 2**-53, 3)]:
        assert sample(logits, SamplingConfig(), torch.tensor([u]).double())[0].item() == token


def test_the_last_draw_never_falls_off() -> None:
    """u just below 1 with unlikely tokens at the end: the product may round up to the sum."""
    u = torch.tensor([1 - 2.0**-53], dtype=torch.float64)
    for seed in range(200):
        logits = 20 * torch.randn(1, 256, generator=torch.Generator().manual_seed(seed))
        logits[0, 200:] = -1e4
        for sampling in (SamplingConfig(), SamplingConfig(top_k=3)):
            token, logp = sample(logits, sampling, u)
            assert token.item() < 200
            assert torch.isfinite(logp).all()


def test_log_probabilities_are_of_the_untruncated_distribution() -> None:
    logits = torch.randn(5, 256, generator=torch.Generator().manual_seed(0))
    tokens, logp = sample(logits, SamplingConfig(temp=0.3, top_k=2), torch.full((5,), 0.5).double())
    expected = logits.double().log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    assert torch.equal(logp, expected)


PROBABILITIES = torch.tensor([[0.05, 0.4, 0.1, 0.3, 0.15]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"top_k": 2}, [1, 3]),
        ({"top_k": 99}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.39}, [1]),
        ({"top_p": 0.41}, [1, 3]),
        ({"top_p": 0.701}, [1, 3, 4]),
        ({"top_p": 1e-9}, [1]),
        ({"min_p": 0.3}, [1, 3, 4]),
        ({"floor": 0.12}, [1, 3, 4]),
        ({"floor": 0.9}, [1]),
        ({"top_k": 3, "min_p": 0.5}, [1, 3]),
        ({"temp": 0.25, "top_p": 0.74}, [1]),  # after the temperature the first has 0.746
        ({"temp": 4.0, "top_p": 0.75}, [1, 2, 3, 4]),
    ],
)
def test_truncations(settings: dict[str, float], kept: list[int]) -> None:
    p = truncated(PROBABILITIES.log(), SamplingConfig(**settings))  # type: ignore[arg-type]
    assert p[0].nonzero()[:, 0].tolist() == kept
    tempered = (PROBABILITIES.log() / settings.get("temp", 1.0)).softmax(-1)
    assert torch.allclose(p[0, kept], tempered[0, kept])


def test_the_temperature_falls_where_the_entropy_is_high() -> None:
    unsure, sure = PROBABILITIES[0], torch.tensor([0.97, 0.01, 0.01, 0.005, 0.005], dtype=torch.float64)
    logits = torch.stack([unsure, sure]).log()
    bits = [-float((p * p.log2()).sum()) for p in (unsure, sure)]
    assert bits[0] > 1.5 > bits[1]
    t = temperatures(logits, SamplingConfig(temp=1.2, entropy=1.5))[:, 0].tolist()
    assert t == pytest.approx([1.2 * 1.5 / bits[0], 1.2])
    p = truncated(logits, SamplingConfig(temp=1.2, entropy=1.5))
    assert torch.allclose(p, (logits / torch.tensor(t, dtype=torch.float64)[:, None]).softmax(-1))
    assert temperatures(logits, SamplingConfig(temp=1.2)).tolist() == [[1.2], [1.2]]


def test_temperature_0_is_greedy() -> None:
    u = torch.rand(100, dtype=torch.float64)
    tokens, _ = sample(PROBABILITIES.log().expand(100, -1), SamplingConfig(temp=0), u)
    assert (tokens == 1).all()


@pytest.mark.parametrize(
    "settings",
    [{"temp": -1}, {"top_p": 0}, {"top_p": 1.1}, {"top_k": -1}, {"min_p": 1}, {"floor": -0.1}, {"entropy": -1}],
)
def test_bad_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        SamplingConfig(**settings)  # type: ignore[arg-type]
