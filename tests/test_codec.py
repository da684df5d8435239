"""The quantisers: equal to the published ones, and faithful where ours differ."""

import numpy as np
import pytest
from conftest import FIXTURES

from sashimi.codec import Codec
from sashimi.config import CodecConfig

LAWS = [("mu-law", "mu_law"), ("linear", "linear")]


@pytest.mark.parametrize(("law", "name"), LAWS)
def test_window_normalisation_is_the_published_quantiser(law: str, name: str) -> None:
    codec = Codec(CodecConfig(law=law, normalize="window"))
    waveform = np.load(FIXTURES / "codec" / "waveform.npy")
    assert np.array_equal(codec.encode(waveform), np.load(FIXTURES / "codec" / f"{name}_tokens.npy"))
    decoded = np.load(FIXTURES / "codec" / f"{name}_decoded_0_255.npy")
    assert np.array_equal(codec.decode(np.arange(256)), decoded)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("law", ["mu-law", "linear"])
def test_decoded_tokens_encode_to_themselves(law: str, bits: int) -> None:
    """Also after a 16-bit file: continuing a clip continues its tokens."""
    codec = Codec(CodecConfig(law=law, bits=bits))
    tokens = np.arange(2**bits)
    assert np.array_equal(codec.encode(codec.decode(tokens)), tokens)
    assert np.array_equal(codec.encode(np.rint(codec.decode(tokens) * 32767) / 32768), tokens)


@pytest.mark.parametrize("law", ["mu-law", "linear"])
def test_silence_is_the_middle_token(law: str) -> None:
    codec = Codec(CodecConfig(law=law))
    assert codec.decode(np.array([codec.zero])) == 0
    assert codec.encode(np.array([1e-9, 0.0, -1e-9])).tolist() == [codec.zero] * 3 == [128] * 3


def test_quantisation_error_is_half_a_level() -> None:
    codec = Codec(CodecConfig(law="linear"))
    x = np.linspace(-1, 126.4 / 128, 10001)
    assert np.abs(codec.decode(codec.encode(x)) - x).max() <= 0.5 / 128 + 1e-6


def test_no_normalisation_keeps_the_level_and_clips() -> None:
    codec = Codec(CodecConfig())
    x = np.array([0.01, -0.02, 0.3])
    assert np.abs(codec.decode(codec.encode(x)) / x - 1).max() < 0.05
    assert codec.encode(np.array([-5.0, 5.0])).tolist() == [0, 255]


def test_windows_are_normalised_each_by_itself() -> None:
    codec = Codec(CodecConfig(normalize="window"))
    x = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)
    assert np.array_equal(codec.encode(x)[1], codec.encode(x[1]))
    assert (
        np.array_equal(codec.encode(3 * x + 1), codec.encode(x))
        or np.abs(codec.encode(3 * x + 1).astype(int) - codec.encode(x)).max() <= 1
    )


def test_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        Codec(CodecConfig()).encode(np.array([0.0, np.nan]))


@pytest.mark.parametrize(
    "settings", [{"bits": 9}, {"bits": 1}, {"law": "a-law"}, {"normalize": "file"}, {"rate": 0}, {"window": 0}]
)
def test_bad_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"codec.{next(iter(settings))}"):
        CodecConfig(**settings)  # type: ignore[arg-type]
