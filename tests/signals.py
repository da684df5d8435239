"""Small music and ways to damage it, for tests of what can be heard in it."""

import numpy as np
from numpy.typing import NDArray

from sashimi.metrics import Listener, Track

RATE = 16000
CHORDS = ((0, 4, 7), (5, 9, 12), (7, 11, 14), (-3, 0, 4), (2, 5, 9))
Signal = NDArray[np.float32]


def music(seconds: float, seed: int = 0, rate: int = RATE) -> Signal:
    """Struck chords, a beat of about half a second with accents and rests, over a little hiss."""
    rng = np.random.default_rng(seed)
    beat = round((0.45 + 0.1 * rng.random()) * rate)
    x = 0.0005 * rng.standard_normal(round(seconds * rate))
    t = np.arange(4 * beat) / rate
    for start in range(0, len(x), beat):
        if rng.random() < 0.1:
            continue
        struck = np.exp(-t * (3 + 2 * rng.random())) * (1 - np.exp(-t * 300)) * (0.03 + 0.05 * rng.random())
        for semitone in CHORDS[rng.integers(len(CHORDS))]:
            f = 220 * 2 ** ((semitone + rng.choice((-12, 0))) / 12)
            note = sum(np.sin(2 * np.pi * f * k * t + k) / k**1.5 for k in range(1, 6) if f * k < rate / 2)
            end = min(start + len(t), len(x))
            x[start:end] += (struck * note)[: end - start]
    return x.astype(np.float32)


def heard(x: Signal, bits: NDArray[np.float64] | None = None, cuts: tuple[int, ...] = ()) -> Track:
    """What is measured of x, in blocks that end at `cuts`."""
    listener = Listener(RATE)
    parts = np.split(x, cuts)
    of = [None] * len(parts) if bits is None else np.split(bits, cuts)
    for part, surprise in zip(parts, of, strict=True):
        listener.add(part, surprise)
    return listener.finish()
