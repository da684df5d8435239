"""Each feature sees the damage that it is for, on small music damaged on purpose, and is blind where it says so."""

import numpy as np
import pytest
from signals import RATE, heard, music

from sashimi import metrics
from sashimi.metrics import BANDS, LONG_FEATURES, SHORT_FEATURES, SLICES, Listener, Track


def value(track: Track, name: str) -> float:
    """The median over time."""
    names = [f.name for f in SHORT_FEATURES]
    column = track.short[:, names.index(name)] if name in names else None
    if column is None:
        column = track.long[:, [f.name for f in LONG_FEATURES].index(name)]
    return float(np.nanmedian(column)) if np.isfinite(column).any() else float("nan")


@pytest.mark.parametrize(
    ("feature", "damage", "change"),
    [
        ("level", "louder, 12 dB", 11.0),
        ("flatness", "white noise", 10.0),
        ("flatness", "clipped", 3.0),
        ("noisiness", "white noise", 8.0),
        ("noisiness", "pink noise", 8.0),
        ("noisiness", "coloured noise", 8.0),
        ("centroid", "white noise", 1000.0),
        ("high", "white noise", 10.0),
        ("crossings", "white noise", 3000.0),
        ("pulse", "pink noise", -0.2),
        ("pulse", "coloured noise", -0.2),
        ("pulse", "grains 0.5 s", -0.1),
        ("harmony", "drone", -0.2),
        ("harmony", "white noise", -0.2),
        ("pitches", "white noise", 0.2),
        ("pitches", "drone", -0.2),
        ("movement", "drone", -2.0),
        ("movement", "coloured noise", -2.0),
        ("repetition", "1-s loop", 0.2),
    ],
)
def test_what_a_feature_sees(damaged: dict[str, Track], feature: str, damage: str, change: float) -> None:
    found = value(damaged[damage], feature) - value(damaged["none"], feature)
    assert found > change if change > 0 else found < change


def test_what_a_feature_cannot_see(damaged: dict[str, Track]) -> None:
    """As the docstrings say: spectra know no order, and noise as coloured as music has its flatness."""
    for name in ("flatness", "centroid", "high", "crossings", "noisiness"):
        assert value(damaged["1-s loop"], name) == pytest.approx(value(damaged["none"], name), rel=0.25)
    assert value(damaged["grains 0.5 s"], "noisiness") == pytest.approx(value(damaged["none"], "noisiness"), rel=0.25)
    assert abs(value(damaged["pink noise"], "level") - value(damaged["none"], "level")) < 3


def test_noise_of_any_colour_is_as_noisy(damaged: dict[str, Track]) -> None:
    """A single frame of Gaussian noise has a flatness of e^-gamma: -2.5 dB."""
    for name in ("white noise", "pink noise", "coloured noise"):
        assert value(damaged[name], "noisiness") == pytest.approx(-2.5, abs=0.4)
    assert value(damaged["none"], "noisiness") < -10


def test_silence_is_a_level_and_nothing_else(damaged: dict[str, Track]) -> None:
    track = damaged["silence"]
    assert (track.short[:, 0] == metrics.FLOOR).all()
    assert np.isnan(track.short[:, 1:]).all()
    assert np.isnan(track.long).all()
    stuck = heard(np.full(8000, 0.7, np.float32))
    assert stuck.short[0, 0] < metrics.SILENCE, "an output that is stuck is silent"


def test_noise_that_grows_and_a_fade_are_seen_over_time(damaged: dict[str, Track]) -> None:
    flatness = damaged["noise growing"].short[:, 1]
    assert flatness[-4:].mean() > flatness[:4].mean() + 10
    level = damaged["fade to -60 dB"].short[:, 0]
    assert level[-1] < level[0] - 40


def test_levels_and_crossings_by_hand() -> None:
    t = np.arange(8000) / RATE
    tone = (0.5 * np.sin(2 * np.pi * 440 * t + 0.1)).astype(np.float32)
    level, flatness, noisiness, centroid, high, crossings = metrics.short_features(tone, RATE)[0]
    assert level == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.01)
    assert crossings == pytest.approx(880, abs=4)
    assert centroid == pytest.approx(440, rel=0.1)
    assert max(flatness, high) < -40
    assert noisiness < -15


def test_a_beat_is_found_and_its_lack(damaged: dict[str, Track]) -> None:
    clicks = np.zeros(8 * RATE, np.float32)
    clicks[:: RATE // 2] = 0.9
    assert metrics.long_features(clicks, RATE)[0] > 0.9
    assert value(damaged["white noise"], "pulse") < 0.3


@pytest.mark.parametrize("cuts", [(1,), (5, 64000, 64001), (100_000,), tuple(range(0, 100_000, 7777))])
def test_blocks_change_nothing(cuts: tuple[int, ...]) -> None:
    x = music(13.3, seed=1)
    bits = np.random.default_rng(0).uniform(0, 8, len(x))
    whole, cut = heard(x, bits), heard(x, bits, cuts)
    assert whole.short.shape == (26, len(SHORT_FEATURES) + 1)
    assert whole.long.shape == (2, len(LONG_FEATURES))
    assert whole.patches.shape[1] == BANDS * SLICES
    for name in ("short", "long", "patches"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(cut, name))
    np.testing.assert_allclose(whole.short[:, -1], bits[: 26 * 8000].reshape(26, -1).mean(axis=1))
    np.testing.assert_array_equal(whole.long[1], metrics.long_features(x[4 * RATE : 12 * RATE], RATE))


def test_a_part_is_what_would_be_heard_of_it() -> None:
    x = music(24, seed=2)
    whole, alone = heard(x), heard(x[4 * RATE : 20 * RATE])
    part = whole.part(4, 16)
    for name in ("short", "long", "patches"):
        np.testing.assert_array_equal(getattr(part, name), getattr(alone, name))
    assert whole.part(20, 60).seconds == 4
    assert len(whole.part(20, 60).long) == 0


def test_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match="shorter than 0.5 s"):
        heard(np.zeros(100, np.float32))


@pytest.mark.parametrize("rate", [8000, 22050])
def test_other_rates(rate: int) -> None:
    listener = Listener(rate)
    listener.add(music(8, rate=rate))
    track = listener.finish()
    assert np.isfinite(track.short).all()
    assert np.isfinite(track.long).all()
