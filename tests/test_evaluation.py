"""Bits per byte: exact, cold and carried."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from conftest import tiny_model

from sashimi.checkpoint import LoadedModel
from sashimi.codec import Codec
from sashimi.config import CodecConfig
from sashimi.data import TokenStore, open_tokens
from sashimi.evaluation import Score, carried, cold, heldout_bpb

WINDOW = 128


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    """Two recordings in the test split, of 1,000 and 300 samples."""
    rng, folder = np.random.default_rng(0), tmp_path / "data"
    folder.mkdir()
    for i in range(33):
        sf.write(folder / f"{i:02}.wav", 0.3 * rng.standard_normal(1000 if i == 31 else 300), 16000)
    found = open_tokens(folder, "test", Codec(CodecConfig()))
    assert found.lengths == [1000, 300]
    return found


@torch.no_grad()
def reference(model: LoadedModel, store: TokenStore, window: int) -> tuple[float, float]:
    """Nats and hits, token by token, each window from nothing: the obvious way."""
    nats, hits = 0.0, 0
    for recording, length in enumerate(store.lengths):
        for start in range(0, length, window):
            tokens = torch.from_numpy(store.window(recording, start, window)).long()
            logits = model(torch.cat([torch.tensor([128]), tokens[:-1]])[None])[0].double()
            for row, token in zip(logits, tokens, strict=True):
                nats -= row.log_softmax(-1)[token].item()
                hits += int(row.argmax() == token)
    return nats, hits


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_cold_is_exact_and_does_not_depend_on_the_batch(store: TokenStore, batch: int) -> None:
    model = tiny_model()
    nats, hits = reference(model, store, WINDOW)
    seen: list[int] = []
    score = cold(model, store, WINDOW, batch, seen.append)
    assert score.tokens == sum(seen) == 1300
    assert score.nats == pytest.approx(nats, rel=1e-6)
    assert score.ranks[1] == hits
    assert score.bpb == pytest.approx(nats / 1300 / np.log(2), rel=1e-6)


def test_carried_is_one_pass_over_each_recording(store: TokenStore, kind: str) -> None:
    """Any window gives what one window of the whole recording gives."""
    model = tiny_model(kind)
    whole, _ = reference(model, store, 10_000)
    for window in (WINDOW, 100, 16, 1000):
        score = carried(model, store, window)
        assert score is not None
        assert score.tokens == 1300
        assert score.nats == pytest.approx(whole, rel=1e-5)
    assert cold(model, store, WINDOW).nats != pytest.approx(whole, rel=1e-4)


def test_normalised_windows_are_not_carried(store: TokenStore) -> None:
    model = tiny_model()
    model.metadata.codec = CodecConfig(normalize="window", window=128)
    assert carried(model, store, WINDOW) is None


def test_score_counts_by_hand() -> None:
    logits = torch.tensor([[4.0, 3.0, 2.0, 1.0, 0.0, -1.0]]).expand(3, -1)
    score = Score()
    score.add(logits, torch.tensor([0, 2, 5]))
    assert score.tokens == 3
    assert [score.accuracy(k) for k in (1, 3, 5, 10)] == [1 / 3, 2 / 3, 2 / 3, 1.0]
    log_p = logits[0].double().log_softmax(-1)
    assert score.loss == pytest.approx(-(log_p[0] + log_p[2] + log_p[5]).item() / 3)


def test_a_uniform_model_needs_eight_bits(store: TokenStore) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
    assert cold(model, store, WINDOW).bpb == pytest.approx(8)


def test_heldout_quantiles(tmp_path: Path) -> None:
    """Cold 5-second windows, a second apart, of every recording that is long enough."""
    rng, folder = np.random.default_rng(0), tmp_path / "data"
    folder.mkdir()
    for i in range(17):
        sf.write(folder / f"{i:02}.wav", np.cumsum(0.01 * rng.standard_normal(700 if i == 16 else 10)) / 2, 100)
    model = tiny_model()
    model.metadata.codec = CodecConfig(rate=100)
    store = open_tokens(folder, "test", Codec(model.metadata.codec))
    quantiles = heldout_bpb(model, [store])
    assert store.lengths[-1] == 700
    alone = [TokenStore(store.codec, store.values[store.offsets[-2] + start :], [0, 500]) for start in (0, 100, 200)]
    each = [reference(model, one, 500)[0] for one in alone]
    assert quantiles["q50"] == pytest.approx(sorted(each)[1] / 500 / np.log(2), rel=1e-5)
    assert list(quantiles.values()) == sorted(quantiles.values())
    assert heldout_bpb(model, [TokenStore(store.codec, store.values, [0, 499])]) == {}
