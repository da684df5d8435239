"""What a model makes of a recording: bits per sample over time, and in words whether it knows such music.

A recording is scored as the checkpoint's held-out music was (`sashimi.evaluation.heldout_bpb`): in windows of five
seconds, each from nothing. So the figures can be put side by side.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from app.models import Known, Loaded
from app.takes import BINS, Bits
from sashimi.codec import Tokens
from sashimi.engines.native import NativeEngine
from sashimi.errors import UserError

WINDOW = 5  # seconds
BATCH = 4  # windows scored at a time
LONGEST = 45.0  # seconds that are scored: the user is waiting
BEST = (5, 10)  # seconds of the windows that are offered


def bits_over_time(loaded: Loaded, tokens: Tokens, report: Callable[[float], None] = lambda share: None) -> Bits:
    """Bits per sample of a recording uint8(L), the mean of every BINS-th of a second: f32(L BINS / rate).

    report: is told the share that is done. Raises UserError for less than a second.
    """
    rate = loaded.known.rate
    if len(tokens) < rate:
        raise UserError("there is less than a second of sound; the figures need more")
    tokens = tokens[: round(LONGEST * rate)]
    size = min(WINDOW * rate, len(tokens) // loaded.model.period * loaded.model.period)
    whole = [tokens[i : i + size] for i in range(0, len(tokens) - size + 1, size)]
    parts = []
    for i in range(0, len(whole), BATCH):
        parts.append(_bits(loaded, np.stack(whole[i : i + BATCH])).reshape(-1))
        report(min(1.0, (i + BATCH) / len(whole)))
    left = len(tokens) % size  # the last window ends with the recording, and what it has of the one before is dropped
    if left:
        parts.append(_bits(loaded, tokens[None, -size:])[0, -left:])
    bits = np.concatenate(parts)
    bin_ = rate // BINS
    return bits[: len(bits) // bin_ * bin_].reshape(-1, bin_).mean(axis=1).astype(np.float32)


@torch.inference_mode()
def _bits(loaded: Loaded, windows: Tokens) -> np.ndarray:
    """uint8(B L) -> f64(B L), each row from nothing."""
    engine = loaded.engine
    if isinstance(engine, NativeEngine):
        logp, _ = engine.score(engine.start(len(windows)), windows)
        return -logp / np.log(2)
    targets = torch.from_numpy(windows.astype(np.int64))
    inputs = torch.nn.functional.pad(targets[:, :-1], (1, 0), value=loaded.model.start_token)
    chances = loaded.model(inputs).double().log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    return np.asarray(-chances.numpy() / np.log(2))


@dataclass(frozen=True)
class Advice:
    """What to say of a recording.

    mean      bits per byte of all of it; hardest: second that costs most, and its bits; best: start and end of the
              window that fits best, and its bits, in seconds
    verdict   in plain words; level: known, easy, odd, foreign or unknown
    """

    mean: float
    hardest: tuple[int, float]
    best: tuple[float, float, float]
    level: str
    verdict: str


def advise(bits: Bits, known: Known) -> Advice:
    """bits: as `bits_over_time` gives them."""
    mean = float(bits.mean())
    seconds = bits[: max(1, len(bits) // BINS) * BINS]
    seconds = seconds.reshape(-1, BINS).mean(axis=1) if len(bits) >= BINS else bits.mean(keepdims=True)
    hardest = int(seconds.argmax())
    level, verdict = judge(mean, known.heldout)
    return Advice(mean, (hardest, float(seconds[hardest])), best_window(bits), level, verdict)


def judge(mean: float, heldout: dict[str, float]) -> tuple[str, str]:
    """Where a recording's bits per byte lie among those of music that the model was not trained on, in words."""
    if not heldout:
        return "unknown", f"{mean:.2f} bits per byte. This checkpoint does not say what its own held-out music costs."
    low, high, middle = heldout["q05"], heldout["q95"], heldout["q50"]
    figures = f"{mean:.2f} bits per byte; its own held-out music costs {low:.2f} to {high:.2f}, typically {middle:.2f}."
    if mean < low - (high - low):
        text = "Very easy for the model: much silence, or a tone that hardly changes. It may just go on like that."
        return "easy", f"{text} {figures}"
    if mean <= high:
        return "known", f"This sounds like music that the model knows. {figures}"
    if mean <= high + (high - low):
        text = "A little off what the model knows: it will follow for a while, and may fall back into its own music."
        return "odd", f"{text} {figures}"
    text = "This is not music that the model knows: expect noise, or its own music instead of a continuation."
    return "foreign", f"{text} {figures}"


def best_window(bits: Bits) -> tuple[float, float, float]:
    """Start, end (seconds) and bits of the stretch of 5 to 10 s that the model predicts best, on whole seconds.

    All there is, where that is less.
    """
    total = np.concatenate([[0.0], np.cumsum(bits, dtype=np.float64)])
    found: list[tuple[float, float, float]] = []
    for length in range(BEST[0], BEST[1] + 1):
        for start in range(len(bits) // BINS - length + 1):
            first, last = start * BINS, (start + length) * BINS
            found.append(((total[last] - total[first]) / (last - first), start, start + length))
    if not found:
        return 0.0, len(bits) / BINS, float(bits.mean())
    # Of windows that cost about the same the longer one: the model has more to go by.
    least = min(found)[0]
    cost, begin, end = max((f for f in found if f[0] <= least * 1.02), key=lambda f: (f[2] - f[1], -f[0]))
    return float(begin), float(end), float(cost)


def outside(bits: Bits, heldout: dict[str, float]) -> list[tuple[float, float, str]]:
    """Stretches (start, end in seconds, "above" or "below") where the mean over a window leaves the held-out band.

    The band is of five-second windows, so that is what is compared: the mean around every moment.
    """
    if not heldout or not len(bits):
        return []
    size = min(WINDOW * BINS, len(bits))
    mean = smoothed(bits, size)
    found: list[tuple[float, float, str]] = []
    for name, where in (("above", mean > heldout["q95"]), ("below", mean < heldout["q05"])):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], where.astype(np.int8), [0]])))
        found += [(a / BINS, b / BINS, name) for a, b in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)]
    return sorted(found)


def smoothed(bits: Bits, size: int) -> Bits:
    """The mean of `size` bins around each; at the ends, of the first and the last `size`."""
    total = np.concatenate([[0.0], np.cumsum(bits, dtype=np.float64)])
    first = np.clip(np.arange(len(bits)) - size // 2, 0, len(bits) - size)
    return ((total[first + size] - total[first]) / size).astype(np.float32)
