"""The band, the moment of leaving it, its causes, and survival curves."""

import numpy as np
import pytest
from signals import heard, music

from sashimi import survival
from sashimi.metrics import LONG_FEATURES, SHORT_FEATURES, Track
from sashimi.survival import JUDGED, Band, End, curve, end_of, outs, scaled, series, unscaled

NAMES = [f.name for f in JUDGED]


def track(seconds: float, **changes: float) -> Track:
    """Made-up music of constant features, but for a little random change."""
    rng = np.random.default_rng(0)
    usual = dict(zip(NAMES, (-20, -30, -18, 900, -40, 1000, 0.5, 0.4, 3.2, 8, 0.3), strict=True)) | changes
    short = np.array([[usual[f.name] for f in SHORT_FEATURES]] * int(2 * seconds), float)
    long = np.array([[usual[f.name] for f in LONG_FEATURES]] * (int((seconds - 8) // 4) + 1), float)
    noisy = [a * (1 + 0.05 * rng.uniform(-1, 1, a.shape)) for a in (short, long)]
    return Track(*noisy, rng.standard_normal((int(seconds), 640)).astype(np.float32))


@pytest.fixture(scope="module")
def band() -> Band:
    return survival.band_of([track(100), track(90), track(20)])


def test_real_music_stays_and_the_band_is_near(band: Band) -> None:
    assert band.kept == 1
    for excerpt in survival.excerpts([track(100)]):
        assert end_of(excerpt, band) == End(None)
    assert set(band.low) == set(band.high) == set(NAMES)
    assert -32 < band.low["flatness"] < -29.9
    assert 0.4 < band.low["pulse"] < band.high["pulse"] < 0.6


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"noisiness": -3.0}, "noise"),
        ({"high": -10.0, "movement": 1.0}, "noise"),
        ({"repetition": 0.99}, "loop"),
        ({"movement": 1.0}, "loop"),
        ({"harmony": 0.01}, "loop"),
        ({"level": -80.0, "movement": 1.0}, "silence"),
        ({"pulse": 0.1}, "other"),
        ({"level": -5.0}, "other"),
    ],
)
def test_causes(band: Band, changes: dict[str, float], cause: str) -> None:
    end = end_of(track(30, **changes), band)
    assert (end.seconds, end.cause) == (0, cause)
    assert end.feature in changes


def test_patience(band: Band) -> None:
    """Out for less than PATIENCE is not out, and the second is the first of the stretch."""
    column = [f.name for f in SHORT_FEATURES].index("noisiness")
    brief, lasting = track(60), track(60)
    brief.short[20:24, column] = -3
    lasting.short[40:70, column] = -3
    assert end_of(brief, band).seconds is None
    end = end_of(lasting, band)
    assert end.seconds == pytest.approx(20, abs=survival.SMOOTH / 2)
    assert end.cause == "noise"
    once, twice = track(60), track(60)
    once.long[3, 0] = twice.long[3:5, 0] = 0.0
    assert end_of(once, band).seconds is None
    assert end_of(twice, band) == End(12.0, "other", "pulse")


def test_what_says_nothing_is_never_out(band: Band) -> None:
    silent = track(30)
    silent.short[:, 1:] = np.nan
    silent.long[:] = np.nan
    assert outs(series(silent), band) == {}


def test_scales_are_inverse_and_without_ends() -> None:
    for bounds, values in (
        ((None, None), [-3.0, 5.0]),
        ((0.0, None), [0.5, 900.0]),
        ((None, 0.0), [-40.0, -0.5]),
        ((0.0, 1.0), [0.05, 0.9]),
    ):
        x = np.array(values)
        np.testing.assert_allclose(unscaled(scaled(x, bounds), bounds), x)
        beyond = unscaled(scaled(x, bounds) + np.array([-3.0, 3.0]), bounds)
        assert all(low is None or beyond[0] > low for low in bounds[:1])
        assert all(high is None or beyond[1] < high for high in bounds[1:])
        assert beyond[0] < x[0] < x[1] < beyond[1]


def test_curve_by_hand() -> None:
    """Kaplan and Meier: of four, one leaves at 10 s, one ends at 20 s still inside, one leaves at 30 s."""
    ends, lengths = [End(10.0, "noise"), End(None), End(30.0, "loop"), End(None)], [60.0, 20.0, 60.0, 60.0]
    assert curve(ends, lengths, [0, 10, 10.5, 25, 40, 60, 61]) == [1, 1, 0.75, 0.75, 0.375, 0.375, None]
    assert curve([End(0.0, "noise")], [60.0], [0, 8]) == [1, 0]


def test_intervals_by_hand() -> None:
    """Wilson's for 0 and 8 of 10, as in tables; fewer clips, or clips that overlap, say less."""
    assert survival.wilson(0, 10) == (0, pytest.approx(0.2775, abs=1e-4))
    assert survival.wilson(0.8, 10) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    ends = [End(10.0, "noise"), *[End(None)] * 4, *[End(None)] * 5]
    lengths = [60.0] * 5 + [20.0] * 5
    early, late, beyond = survival.intervals(ends, lengths, [15, 30, 61])
    assert early == survival.wilson(0.9, 10)
    assert late == survival.wilson(0.9, 5), "half of them ended before"
    assert beyond is None
    assert survival.intervals(ends, lengths, [15], independent=2) == [survival.wilson(0.9, 2)]


def test_music_damaged_on_purpose_leaves_for_its_cause(damaged: dict[str, Track]) -> None:
    band = survival.band_of([damaged["none"], *(heard(music(16, seed)) for seed in (1, 2, 3))])
    found = {name: end_of(track, band) for name, track in damaged.items()}
    expected = {
        "none": None,
        "white noise": "noise",
        "pink noise": "noise",
        "coloured noise": "noise",
        "noise growing": "noise",
        "drone": "loop",
        "1-s loop": "loop",
        "silence": "silence",
        "fade to -60 dB": "silence",
    }
    assert {name: found[name].cause for name in expected} == expected
    assert found["white noise"].seconds == 0
