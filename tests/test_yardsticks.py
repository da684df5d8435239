"""What tokens cost by simple means: true code lengths, of the past alone."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from rich.console import Console

from sashimi import yardsticks
from sashimi.codec import Codec, Tokens
from sashimi.config import CodecConfig
from sashimi.data import TokenStore, open_tokens
from sashimi.yardsticks import BLOCK, WARM_UP, code_lengths, entropies, flac, linear_prediction, measure, verdict

CODECS = [CodecConfig(), CodecConfig(law="linear"), CodecConfig(bits=4)]


def music(samples: int, seed: int = 0) -> np.ndarray:
    """Three partials that fade and are struck again, and a little noise."""
    rng, t = np.random.default_rng(seed), np.arange(samples) / 16000
    tones = sum(a * np.sin(2 * np.pi * f * t) for a, f in ((0.3, 220), (0.15, 441), (0.1, 1330)))
    return tones * np.exp(-3 * (t % 0.4)) + 0.001 * rng.standard_normal(samples)


def tokens_of(waveform: np.ndarray, config: CodecConfig | None = None) -> Tokens:
    return Codec(config or CodecConfig()).encode(waveform)


def store_of(*signals: Tokens, config: CodecConfig | None = None) -> TokenStore:
    offsets = [0, *np.cumsum([len(s) for s in signals]).tolist()]
    return TokenStore(Codec(config or CodecConfig()), np.concatenate(signals), offsets)


def test_entropies_by_hand() -> None:
    """A fair coin that is repeated: one bit alone, half a bit after its neighbour."""
    rng = np.random.default_rng(0)
    tokens = np.repeat(rng.integers(0, 2, 200_000), 2).astype(np.uint8)
    order_0, order_1 = entropies(store_of(tokens))
    assert order_0 == pytest.approx(1, abs=1e-3)
    stay = 0.75
    assert order_1 == pytest.approx(-stay * np.log2(stay) - (1 - stay) * np.log2(1 - stay), abs=1e-2)


@pytest.mark.parametrize("config", CODECS, ids=str)
@pytest.mark.parametrize("place", [0, 1, BLOCK - 1, 5 * BLOCK, 999])
def test_the_probabilities_of_all_tokens_are_one(config: CodecConfig, place: int) -> None:
    tokens = tokens_of(music(1000), config)
    total = 0.0
    for token in range(1 << config.bits):
        tokens[place] = token
        total += 2.0 ** -code_lengths(tokens[: place + 1], Codec(config))[place]
    assert total == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("place", [50, 3 * BLOCK, 700])
def test_nothing_later_changes_a_cost(place: int) -> None:
    codec, tokens = Codec(CodecConfig()), tokens_of(music(1500))
    before = code_lengths(tokens, codec)
    tokens[place] ^= 0x55
    after = code_lengths(tokens, codec)
    assert np.array_equal(before[:place], after[:place])
    assert before[place] != after[place]
    assert np.abs(before[place + 1 :] - after[place + 1 :]).max() > 0.1
    assert code_lengths(tokens[:place], codec) == pytest.approx(after[:place], abs=1e-9)


def test_what_can_be_predicted_costs_little_and_noise_costs_all() -> None:
    rng, codec = np.random.default_rng(0), Codec(CodecConfig())
    assert code_lengths(np.full(20000, codec.zero, np.uint8), codec)[1000:].max() < 0.02
    assert code_lengths(rng.integers(0, 256, 20000).astype(np.uint8), codec)[1000:].mean() < 9.5
    tokens = tokens_of(music(32000))
    order_0, order_1 = entropies(store_of(tokens))
    assert code_lengths(tokens, codec).mean() < order_1 - 1 < order_0
    assert np.isfinite(code_lengths(tokens_of(100 * music(5000)), codec)).all()


def test_prediction_of_a_split_is_the_mean_over_its_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces, of which each hears what is before it: nearly what one piece gives."""
    one, other = tokens_of(music(30000)), tokens_of(music(9000, seed=1))
    store, shares = store_of(one, other), list[float]()
    costs = np.concatenate([code_lengths(one, store.codec), code_lengths(other, store.codec)])
    assert linear_prediction(store, 131072, None, shares.append) == pytest.approx(costs.mean())
    assert shares == [0.5, 1.0]
    monkeypatch.setattr(yardsticks, "PIECE", WARM_UP + 500)
    assert linear_prediction(store, 131072) == pytest.approx(costs.mean(), abs=1e-3)
    first = linear_prediction(store, 131072, 0.001)  # a piece is the least that is heard
    assert first == pytest.approx(costs[: WARM_UP + 500].mean())


def test_windows_that_are_normalised_are_signals_of_their_own() -> None:
    config = CodecConfig(normalize="window")
    values = np.rint(music(5000) * 20000).astype(np.int16)
    store = TokenStore(Codec(config), values, [0, 5000])
    costs = [code_lengths(tokens, store.codec) for _, _, tokens in store.windows(2000)]
    assert linear_prediction(store, 2000) == pytest.approx(np.concatenate(costs).mean())


def test_flac_counts_the_bytes_of_a_file_that_holds_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = tokens_of(music(30000)), tokens_of(music(9000, seed=1))
    files: list[io.BytesIO] = []

    class Kept(io.BytesIO):
        def __init__(self) -> None:
            super().__init__()
            files.append(self)

    monkeypatch.setattr(io, "BytesIO", Kept)
    assert flac(store_of(one, other), 4096) == 8 * sum(len(f.getvalue()) for f in files) / 39000
    for file, tokens in zip(files, (one, other), strict=True):
        file.seek(0)
        with sf.SoundFile(file) as read:
            assert (read.format, read.subtype) == ("FLAC", "PCM_S8")
            assert np.array_equal((read.read(dtype="int16") >> 8) + 128, tokens)


def test_they_are_kept_beside_the_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(17):
        sf.write(tmp_path / f"{i:02}.wav", music(3000, seed=i), 16000)
    store, output = open_tokens(tmp_path, "val", Codec(CodecConfig())), io.StringIO()
    figures = measure(store, 131072, None, Console(file=output))
    assert list(figures) == ["order 0", "order 1", "linear prediction", "FLAC"]
    assert "linear prediction" in output.getvalue()
    assert figures["linear prediction"] == linear_prediction(store, 131072)
    assert len(list((tmp_path / ".cache").glob("val-*-yardsticks-*.json"))) == 1

    with monkeypatch.context() as never:
        never.setattr(yardsticks, "code_lengths", None)
        assert measure(store, 4096, 120.0) == figures  # as much as all, and windows without effect
        with pytest.raises(TypeError):
            measure(store, 4096, 0.001)
        never.setattr(yardsticks, "SHAPE", 0.7)  # another coder
        with pytest.raises(TypeError):
            measure(store, 131072, None)
    array = TokenStore(store.codec, store.values, store.offsets)
    assert measure(array, 131072, None) == figures


def test_the_verdict_names_what_is_better_and_by_how_much() -> None:
    simple = {"order 0": 7.5, "order 1": 5.2, "linear prediction": 2.2, "FLAC": 4.9}
    assert verdict({"cold": 2.1}, simple) == "cold (2.100) beats them all, linear prediction by 0.100"
    assert verdict({"cold": 5.0, "carried": 2.0}, simple) == (
        "cold (5.000) loses to linear prediction by 2.800, FLAC by 0.100; "
        "carried (2.000) beats them all, linear prediction by 0.200"
    )
    assert "loses to linear prediction by 0.000" in verdict({"cold": 2.2}, simple)
