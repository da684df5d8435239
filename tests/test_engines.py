"""The contract that every engine keeps. What only the native one does: test_native.py."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from conftest import tiny_model

from sashimi.config import EngineConfig, SamplingConfig
from sashimi.engines import make_engine
from sashimi.engines.base import Engine
from sashimi.engines.eager import EagerEngine
from sashimi.engines.native import NativeEngine
from sashimi.model import SaShiMi, State

SAMPLING = SamplingConfig(temp=0.9, top_p=0.95)
Make = Callable[[SaShiMi], Engine]
ENGINES: dict[str, Make] = {
    "eager": EagerEngine,
    "native": partial(NativeEngine, threads=1),
    "native-2-threads": partial(NativeEngine, threads=2),
    "native-bf16": partial(NativeEngine, half=True, threads=2),
}


@pytest.fixture(params=ENGINES.values(), ids=ENGINES.keys())
def make(request: pytest.FixtureRequest) -> Make:
    return request.param


def keys(*clips: int) -> list[tuple[int, int]]:
    return [(7, clip) for clip in clips]


def prompt(length: int, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(length).integers(0, 256, (batch, length)).astype(np.uint8)


def same(a: State, b: State) -> None:
    assert torch.equal(a.values, b.values)
    assert torch.equal(a.position, b.position)
    assert a.pending is not None
    assert b.pending is not None
    assert torch.equal(a.pending, b.pending)


def test_tokens_are_what_the_model_says(make: Make, kind: str) -> None:
    """Teacher-forced by convolution, the played tokens have the log-probabilities that the engine gave."""
    model = tiny_model(kind)
    engine = make(model)
    state = engine.prefill(prompt(37), engine.start(1))
    tokens, logp, after = engine.run(state, 60, SAMPLING, keys(3))
    sequence = torch.from_numpy(np.concatenate([[[128]], prompt(37), tokens], axis=1).astype(np.int64))
    with torch.no_grad():
        expected = model(sequence[:, :-1]).double().log_softmax(-1).gather(-1, sequence[:, 1:, None])[0, :, 0]
    tolerance = 0.02 if "bf16" in engine.description else 1e-4
    assert np.abs(logp[0] - expected[37:].numpy()).max() < tolerance
    assert after.position.tolist() == [97]
    assert after.pending is not None
    assert after.pending.tolist() == [tokens[0, -1]]


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 50])
def test_prefill_is_stepping(make: Make, kind: str, length: int) -> None:
    """The pending token and all given ones but the last are consumed; the last is pending."""
    model = tiny_model(kind)
    engine = make(model)
    given = prompt(length, batch=2)
    state = engine.prefill(given, engine.start(2))
    stepped = model.start(2)
    assert stepped.pending is not None
    with torch.inference_mode():
        for token in [stepped.pending, *torch.from_numpy(given[:, :-1].astype(np.int64)).unbind(1)]:
            _, stepped = model.step(token, stepped)
    tolerance = 0.02 if "bf16" in engine.description else 1e-4
    assert torch.allclose(state.values, stepped.values, atol=tolerance * stepped.values.abs().max().item())
    assert state.position.tolist() == [length, length]
    assert state.pending is not None
    assert state.pending.tolist() == given[:, -1].tolist()


def test_prefill_in_blocks_and_in_parts(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(tiny_model())
    whole = engine.prefill(prompt(100), engine.start(1))
    same(engine.prefill(prompt(0), whole), whole)
    monkeypatch.setattr("sashimi.engines.prefill.BLOCK", 16)
    parts = engine.prefill(prompt(100)[:, 41:], engine.prefill(prompt(100)[:, :41], engine.start(1)))
    assert torch.allclose(parts.values, whole.values, atol=1e-4)
    assert torch.equal(parts.position, whole.position)


def test_a_clip_does_not_depend_on_its_batch(make: Make, kind: str) -> None:
    """Batches of 1, 3, 8 and 11: the same tokens, log-probabilities and state, bit for bit."""
    engine = make(tiny_model(kind))
    given = prompt(20, batch=11)
    state = engine.prefill(given, engine.start(11))
    tokens, logp, after = engine.run(state, 40, SAMPLING, keys(*range(11)))
    for chosen in ([0], [10, 4, 7], list(range(8)), [9]):
        alone = engine.prefill(given[chosen], engine.start(len(chosen)))
        some_tokens, some_logp, some_after = engine.run(alone, 40, SAMPLING, keys(*chosen))
        assert np.array_equal(some_tokens, tokens[chosen])
        assert np.array_equal(some_logp, logp[chosen])
        same(some_after, after.select(chosen))


def test_blocks_do_not_matter(make: Make, kind: str) -> None:
    engine = make(tiny_model(kind))
    tokens, logp, after = engine.run(engine.start(2), 50, SAMPLING, keys(0, 1))
    state, blocks = engine.start(2), []
    for n in (1, 13, 3, 33):
        block, block_logp, state = engine.run(state, n, SAMPLING, keys(0, 1))
        blocks.append((block, block_logp))
    assert np.array_equal(np.concatenate([b for b, _ in blocks], axis=1), tokens)
    assert np.array_equal(np.concatenate([p for _, p in blocks], axis=1), logp)
    same(state, after)


def test_keys_decide_and_a_fork_goes_on_alike(make: Make) -> None:
    engine = make(tiny_model())
    _, _, state = engine.run(engine.start(1), 20, SAMPLING, keys(0))
    forked = state.select([0, 0, 0])
    tokens, _, _ = engine.run(forked, 30, SAMPLING, keys(0, 0, 1))
    assert np.array_equal(tokens[0], tokens[1])
    assert not np.array_equal(tokens[0], tokens[2])
    other_seed, _, _ = engine.run(state, 30, SAMPLING, [(8, 0)])
    assert not np.array_equal(tokens[0], other_seed[0])


def test_running_changes_no_argument(make: Make) -> None:
    engine = make(tiny_model())
    state = engine.prefill(prompt(9), engine.start(1))
    before = state.values.clone()
    first, _, _ = engine.run(state, 20, SAMPLING, keys(0))
    second, _, _ = engine.run(state, 20, SAMPLING, keys(0))
    assert torch.equal(state.values, before)
    assert np.array_equal(first, second)


def test_greedy_takes_the_most_likely(make: Make) -> None:
    engine = make(tiny_model())
    tokens, logp, _ = engine.run(engine.start(1), 20, SamplingConfig(temp=0), keys(0))
    again, _, _ = engine.run(engine.start(1), 20, SamplingConfig(temp=0), [(99, 5)])
    assert np.array_equal(tokens, again)
    assert (logp > -np.log(256)).all()


def test_engines_by_name() -> None:
    assert isinstance(make_engine(EngineConfig("eager"), tiny_model()), EagerEngine)
    assert isinstance(make_engine(EngineConfig(), tiny_model()), NativeEngine)
    with pytest.raises(ValueError, match=r"engine.name=warp.*native, eager"):
        EngineConfig("warp")
    with pytest.raises(ValueError, match="needs engine.name=native"):
        EngineConfig("eager", "bf16")
