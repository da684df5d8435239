"""How long sound stays inside what real music does: a band that recordings set, the moment a clip leaves it, curves.

A feature is out where its smoothed value has been beyond a limit of the band for PATIENCE seconds in a row, and a
clip has left where the first of its features went out. The limits are set on held-out recordings, so that nearly all
of their excerpts stay.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sashimi.metrics import LONG_FEATURES, LONG_STEP, SHORT, SHORT_FEATURES, SILENCE, Floats, Track

SMOOTH = 4.5  # seconds of short windows whose median counts: a rest or an accent is no damage
PATIENCE = 4.0  # seconds in a row: eight short windows, or two long ones
HORIZON, EVERY = 60.0, 12.0  # seconds of an excerpt of a recording, and from one to the next
SURE = 1.96  # standard deviations: 95%
KEEP = 0.99  # share of excerpts that stay
MARGIN = 1.0  # limits lie farther from the feature's median than those excerpts go: by so many times as far
USUAL = (0.05, 0.5, 0.95)  # quantiles of a feature: what a limit never cuts into, and the middle
NEAR = 0.01  # of a feature's unit, or of its range: nearer to a natural bound cannot be told from it
CAUSES = ("noise", "silence", "loop", "other")
NOISY = ("flatness", "noisiness", "centroid", "high", "crossings", "pitches")  # too high: noise
CIRCLING = (("movement", "low"), ("repetition", "high"), ("harmony", "low"))  # a drone or a loop

JUDGED = (*SHORT_FEATURES, *LONG_FEATURES)


Bounds = tuple[float | None, float | None]


@dataclass(frozen=True)
class Band:
    """low, high: limits of every judged feature by its name. kept: share of the excerpts that set it, that stay."""

    low: dict[str, float]
    high: dict[str, float]
    kept: float


@dataclass(frozen=True)
class End:
    """What became of a clip: seconds until it left (None: it stayed), why, and the feature that went out first."""

    seconds: float | None
    cause: str | None = None
    feature: str | None = None


def series(track: Track) -> dict[str, tuple[float, Floats]]:
    """Every judged feature over time as (seconds from value to value, values); NaN where it says nothing."""
    short = smoothed(track.short[:, : len(SHORT_FEATURES)])
    found = {f.name: (SHORT, short[:, i]) for i, f in enumerate(SHORT_FEATURES)}
    return found | {f.name: (LONG_STEP, track.long[:, i]) for i, f in enumerate(LONG_FEATURES)}


def smoothed(values: Floats) -> Floats:
    """Running median of f64(windows, features) over SMOOTH, of those that there are near the ends."""
    half = round(SMOOTH / SHORT) // 2
    padded = np.pad(values, ((half, half), (0, 0)), constant_values=np.nan)
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1, axis=0)
    return _nanmedian(around)


def _nanmedian(values: Floats) -> Floats:
    """Along the last axis; NaN where all are, without NumPy's warning."""
    found = np.full(values.shape[:-1], np.nan)
    some = ~np.isnan(values).all(axis=-1)
    found[some] = np.nanmedian(values[some], axis=-1)
    return found


def sustained(values: Floats, step: float) -> tuple[Floats, Floats]:
    """From each value on, for as long as PATIENCE: what it stays below throughout, and what it stays above.

    A stretch with NaN in it, or cut short by the end, keeps to no limit: it is never out.
    """
    count = round(PATIENCE / step) + (1 if step == LONG_STEP else 0)
    if len(values) < count:
        return np.zeros(0), np.zeros(0)
    stretch = np.lib.stride_tricks.sliding_window_view(values, count)
    return np.nan_to_num(stretch.max(axis=1), nan=np.inf), np.nan_to_num(stretch.min(axis=1), nan=-np.inf)


def excerpts(tracks: Sequence[Track], seconds: float = HORIZON, every: float = EVERY) -> list[Track]:
    """Sections of recordings, of HORIZON or `seconds` at least, if the recording has so much, and `seconds` at most."""
    found = []
    for track in tracks:
        last = max(track.seconds - min(seconds, HORIZON), 0.0)
        found += [track.part(i * every, seconds) for i in range(int(last // every) + 1)]
    return found


def band_of(tracks: Sequence[Track], margin: float = MARGIN) -> Band:
    """The band of recordings: what their excerpts sustain, but for the outermost quantile of them, and a margin.

    Each excerpt says how far each feature goes, either way, for as long as PATIENCE. Limits are quantiles of that, the
    same for all features and as far in as KEEP allows; then each is moved out by `margin` times its distance from the
    feature's median, on a scale on which the bounds that a feature has by nature are infinitely far.
    """
    cut = [series(excerpt) for excerpt in excerpts(tracks)]
    lows, highs = (np.array([[_edge(sustained(v, s), side) for s, v in e.values()] for e in cut]) for side in (0, 1))

    def limits(q: float) -> tuple[Floats, Floats]:
        return _quantile(lows, q, -np.inf), _quantile(highs, 1 - q, np.inf)

    def kept(low: Floats, high: Floats) -> float:
        return float(((lows >= low) & (highs <= high)).all(axis=1).mean())

    inside, outside = 0.0, 0.5
    for _ in range(20):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if kept(*limits(middle)) >= KEEP else (inside, middle)
    low, high = limits(inside)
    whole = [series(track) for track in tracks]
    for i, feature in enumerate(JUDGED):
        values = np.concatenate([of[feature.name][1] for of in whole])
        if np.isfinite(values).any():
            usual = np.nanquantile(values, USUAL)  # a single short excerpt may sustain nothing beyond the median
            ends = min(low[i], usual[0]), usual[1], max(high[i], usual[2])
            low[i], high[i] = _widened(*ends, margin, feature.bounds)
    names = [feature.name for feature in JUDGED]
    low[names.index("level")] = max(low[names.index("level")], SILENCE)
    return Band(
        dict(zip(names, low.tolist(), strict=True)), dict(zip(names, high.tolist(), strict=True)), kept(low, high)
    )


def _widened(low: float, middle: float, high: float, margin: float, bounds: Bounds) -> tuple[float, float]:
    """Both limits moved away from the middle; without limit where recordings come as near to a bound as can be told."""
    ends = scaled(np.array([low, middle, high]), bounds)
    far = unscaled(ends + margin * (ends - ends[1]), bounds)
    near = NEAR * _unit(bounds)
    unlimited = [bounds[0] is not None and low - bounds[0] <= near, bounds[1] is not None and bounds[1] - high <= near]
    return -np.inf if unlimited[0] else float(far[0]), np.inf if unlimited[1] else float(far[2])


def _unit(bounds: Bounds) -> float:
    return 1.0 if None in bounds else bounds[1] - bounds[0]  # type: ignore[operator]


def scaled(values: Floats, bounds: Bounds) -> Floats:
    """A feature on a scale without ends: the logarithm of the distance to each of its bounds, at least NEAR."""
    low, high = bounds
    if low is None and high is None:
        return values
    near = NEAR * _unit(bounds)
    above = 0.0 if low is None else np.log(np.maximum(values - low, near))
    below = 0.0 if high is None else np.log(np.maximum(high - values, near))
    return np.asarray(above - below)


def unscaled(values: Floats, bounds: Bounds) -> Floats:
    """The inverse of `scaled`."""
    match bounds:
        case None, None:
            return values
        case low, None:
            return np.asarray(low + np.exp(values))
        case None, high:
            return np.asarray(high - np.exp(-values))
        case low, high:
            return np.asarray(low + (high - low) / (1 + np.exp(-values)))


def _edge(kept: tuple[Floats, Floats], side: int) -> float:
    """How far a feature goes down (side 0) or up (1) and stays; not at all where there is nothing to judge."""
    values = kept[side]
    if not len(values):
        return (np.inf, -np.inf)[side]
    return float(values.min() if side == 0 else values.max())


def _quantile(values: Floats, q: float, nothing: float) -> Floats:
    """Of each column, over what is finite; `nothing` where nothing is."""
    finite = [column[np.isfinite(column)] for column in values.T]
    return np.array([float(np.quantile(column, q)) if len(column) else nothing for column in finite])


def outs(over_time: dict[str, tuple[float, Floats]], band: Band) -> dict[tuple[str, str], float]:
    """Every (feature, "low" or "high") that goes out, and the second from which on. over_time: as from `series`."""
    found: dict[tuple[str, str], float] = {}
    for name, (step, values) in over_time.items():
        below, above = sustained(values, step)
        for side, out in (("low", below < band.low[name]), ("high", above > band.high[name])):
            if out.any():
                found[name, side] = float(np.argmax(out) * step)
    return found


def end_of(track: Track, band: Band) -> End:
    """When and why a clip leaves the band: by all that goes out within LONG_STEP of the first."""
    found = outs(series(track), band)
    if not found:
        return End(None)
    first = min(found.values())
    together = [of for of, seconds in found.items() if seconds <= first + LONG_STEP]
    return End(first, _cause(together), min(found, key=lambda of: found[of])[0])


def _cause(out: list[tuple[str, str]]) -> str:
    """The name for what went out, most certain first: where it is silent nothing else can be judged."""
    if ("level", "low") in out:
        return "silence"
    if any((name, "high") in out for name in NOISY):
        return "noise"
    if any(of in out for of in CIRCLING):
        return "loop"
    return "other"


def curve(ends: Sequence[End], lengths: Sequence[float], at: Sequence[float]) -> list[float | None]:
    """Share still inside after each of `at` seconds (Kaplan and Meier's: excerpts may end before they leave).

    None after all have ended.
    """
    seen = [length if e.seconds is None else e.seconds for e, length in zip(ends, lengths, strict=True)]
    times = sorted({e.seconds for e in ends if e.seconds is not None})
    found: list[float | None] = []
    for t in at:
        if t > max(lengths):
            found.append(None)
            continue
        share = 1.0
        for time in (x for x in times if x < t):
            at_risk = sum(until >= time for until in seen)
            share *= 1 - sum(e.seconds == time for e in ends) / at_risk
        found.append(share)
    return found


def intervals(
    ends: Sequence[End], lengths: Sequence[float], at: Sequence[float], independent: float | None = None
) -> list[tuple[float, float] | None]:
    """Between what the shares of `curve` lie with 95% confidence (Wilson, 1927), of as many clips as their fate at
    that second is known.

    independent: how many clips of their own these count for, where they overlap; None: each for itself.
    """
    found: list[tuple[float, float] | None] = []
    for t, share in zip(at, curve(ends, lengths, at), strict=True):
        known = sum(
            length >= t or (e.seconds is not None and e.seconds < t) for e, length in zip(ends, lengths, strict=True)
        )
        count = known * (1.0 if independent is None else independent / len(ends))
        found.append(None if share is None or not known else wilson(share, count))
    return found


def wilson(share: float, count: float) -> tuple[float, float]:
    """Between what a probability lies with 95% confidence, of which so many independent trials had that share."""
    middle = share + SURE**2 / (2 * count)
    half = SURE * math.sqrt(share * (1 - share) / count + (SURE / (2 * count)) ** 2)
    low, high = ((middle + side * half) / (1 + SURE**2 / count) for side in (-1, 1))
    return max(low, 0.0), min(high, 1.0)
