"""What a split's tokens cost by simple means, for a model's bits per byte to be held against.

order 0, order 1    entropy of the tokens' own counts, and of their pairs'
linear prediction   a coder that adapts to the past alone: a code that could be written and read back
FLAC                bytes of real FLAC files of the tokens

None of them has heard a training set.
"""

import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import soundfile as sf
from numpy.typing import NDArray
from rich.console import Console

from sashimi.codec import Codec, Tokens
from sashimi.data import TokenStore
from sashimi.files import finished
from sashimi.progress import bar

Floats = NDArray[np.float64]
Report = Callable[[float], None]  # is given the share that is done

ORDER_0, ORDER_1, PREDICTION, FLAC = "order 0", "order 1", "linear prediction", "FLAC"

# Chosen on val of a piano set (two minutes in twelve places, 8-bit mu-law at 16 kHz): figures in docs/evaluation.md.
TAPS = 32
BLOCK = 128  # samples between two sets of coefficients: 8 ms at 16 kHz
MEMORY = 8  # blocks, after which the past counts 1/e
RIDGE = 1e-5  # of the signal's recent power, added to the equations' diagonal
SCALES = (16, 128)  # samples: the scale is the geometric mean of the mean errors over these last ones
SHAPE = 0.6  # of that scale, is the logistic distribution's
LEAST = 3e-6  # that a mean error is taken for: a fiftieth of the narrowest cell of 8-bit mu-law
UNIFORM = 1e-4  # of the probability, spread over all tokens: none costs more than 22 bits
PIECE, WARM_UP = 1 << 17, 64 * BLOCK  # samples coded at a time, and those before them that are heard first


def measure(store: TokenStore, window: int, minutes: float | None, console: Console | None = None) -> dict[str, float]:
    """Bits per token of a split by every yardstick, from ORDER_0 to FLAC; kept beside the split's tokens.

    window   tokens that are normalised together, where the codec does that; else without effect
    minutes  that linear prediction hears, spread evenly over the split; None: all
    console  where to show how far it is
    """
    cached = _cache(store, window, minutes)
    if cached and cached.is_file():
        found: dict[str, float] = json.loads(cached.read_text(encoding="utf-8"))
        return found
    order_0, order_1 = entropies(store, window if store.codec.config.normalize == "window" else 1 << 20)
    began = time.monotonic()
    with bar(console or Console(quiet=True), "yardsticks") as update:

        def report(share: float) -> None:
            update(share, "linear prediction", (time.monotonic() - began) * (1 / share - 1))

        predicted = linear_prediction(store, window, minutes, report)
    figures = {ORDER_0: order_0, ORDER_1: order_1, PREDICTION: predicted, FLAC: flac(store, window)}
    if cached:
        with finished(cached) as partial:
            partial.write_text(json.dumps(figures), encoding="utf-8")
    return figures


def _cache(store: TokenStore, window: int, minutes: float | None) -> Path | None:
    """A file beside the tokens whose name changes with them, with the codec and with the coder; None for an array."""
    if store.path is None:
        return None
    coder = [TAPS, BLOCK, MEMORY, RIDGE, SCALES, SHAPE, LEAST, UNIFORM, PIECE, WARM_UP]
    config = asdict(store.codec.config)
    settings = [
        coder,
        config,
        window if config["normalize"] == "window" else None,
        _pieces_heard(store, minutes, PIECE),
    ]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
    return store.path.with_name(f"{store.path.stem}-yardsticks-{key}.json")


# --- entropies ----------------------------------------------------------------------------------------


def entropies(store: TokenStore, window: int = 1 << 20) -> tuple[float, float]:
    """Order-0 and order-1 entropy of a split's tokens, in bits: what counting them, or their pairs, would reach.

    Of the tokens' own counts, so a little lower than any code of that order could do.
    """
    levels = store.codec.levels
    pairs = np.zeros(levels * levels)
    for _, _, tokens in store.windows(window):
        t = tokens.astype(np.int64)
        pairs += np.bincount(t[:-1] * levels + t[1:], minlength=levels * levels)

    def bits(counts: Floats) -> float:
        p = counts[counts > 0] / counts.sum()
        return float(-(p * np.log2(p)).sum())

    order_0 = bits(pairs.reshape(levels, levels).sum(axis=0))
    return order_0, bits(pairs) - bits(pairs.reshape(levels, levels).sum(axis=1))


# --- linear prediction --------------------------------------------------------------------------------


def linear_prediction(
    store: TokenStore, window: int, minutes: float | None = None, report: Report = lambda share: None
) -> float:
    """Mean of `code_lengths` over a split: bits per token. Arguments as of `measure`.

    A piece of a recording hears some of what is before it first. Windows that are normalised each by itself are
    coded each by itself.
    """
    alone = store.codec.config.normalize == "window"
    length = window if alone else PIECE
    starts = [(r, start) for r, total in enumerate(store.lengths) for start in range(0, total, length)]
    heard = min(_pieces_heard(store, minutes, length) or len(starts), len(starts))
    bits, tokens = 0.0, 0
    for done, i in enumerate(np.linspace(0, len(starts) - 1, heard).round().astype(int)):
        recording, start = starts[i]
        before = 0 if alone else min(start, WARM_UP)
        costs = code_lengths(store.window(recording, start - before, before + length), store.codec)[before:]
        bits, tokens = bits + float(costs.sum()), tokens + len(costs)
        report((done + 1) / heard)
    return bits / tokens


def _pieces_heard(store: TokenStore, minutes: float | None, length: int) -> int | None:
    """How many pieces make so many minutes; None where that is all of the split."""
    samples = math.inf if minutes is None else minutes * 60 * store.codec.config.rate
    return None if samples >= store.offsets[-1] else math.ceil(samples / length)


def code_lengths(tokens: Tokens, codec: Codec) -> Floats:
    """Bits that each token of one signal costs, by the tokens before it alone. tokens: u8(L) -> f(L).

    Every BLOCK samples, TAPS coefficients are fitted to the decoded signal before the block by least squares, the past
    fading by blocks (the covariance method, regularised). What they leave of the next sample is taken to be logistic,
    of a scale that follows the last errors, and a token's probability is what of that distribution lies between the
    edges of its cell of the quantiser; the outermost cells reach to infinity. So the 2^-bits of all tokens are 1.
    """
    edges = np.concatenate([[-np.inf], codec.decode(np.arange(1, codec.levels) - 0.5), [np.inf]])
    signal = codec.decode(tokens).astype(np.float64)
    predicted = _predict(signal)
    errors = np.abs(signal - predicted)
    scale = np.exp(sum(np.log(_mean_before(errors, n) + LEAST) for n in SCALES) / len(SCALES)) * SHAPE
    index = tokens.astype(np.intp)
    upper, lower = (np.tanh((edges[index + i] - predicted) / (2 * scale)) for i in (1, 0))
    return -np.log2((upper - lower) / 2 * (1 - UNIFORM) + UNIFORM / codec.levels)


def _predict(signal: Floats) -> Floats:
    """f(L) -> f(L): every sample from the TAPS before it, by coefficients of the blocks before its own."""
    blocks = -(-len(signal) // BLOCK)
    padded = np.pad(signal, (TAPS, blocks * BLOCK - len(signal)))
    rows = np.lib.stride_tricks.sliding_window_view(padded, TAPS + 1).reshape(blocks, BLOCK, TAPS + 1)
    products = rows.mT @ rows
    before = np.zeros_like(products)
    for block in range(1, blocks):
        before[block] = math.exp(-1 / MEMORY) * before[block - 1] + products[block - 1]
    left, right = before[:, :TAPS, :TAPS], before[:, :TAPS, TAPS:]
    power = np.trace(left, axis1=1, axis2=2) / TAPS
    # A silent past makes all coefficients 0, and not an equation without a solution.
    ridge = (RIDGE * power + 1e-12)[:, None, None] * np.eye(TAPS)
    return (rows[:, :, :TAPS] @ np.linalg.solve(left + ridge, right)).ravel()[: len(signal)]


def _mean_before(values: Floats, n: int) -> Floats:
    """The sum of the n values before each, or of as many as there are, over n."""
    sums = np.concatenate([[0.0], np.cumsum(values)[:-1]])
    return (sums - np.concatenate([np.zeros(min(n, len(sums))), sums[:-n]])) / n


# --- FLAC ---------------------------------------------------------------------------------------------


def flac(store: TokenStore, window: int) -> float:
    """Bits per token of the split as FLAC files of 8 bits a sample, one a recording, at the best compression.

    FLAC takes the tokens (less the one of silence) for samples, as if the quantiser were linear: it is not made for
    mu-law, whose steps are no sound's. Headers count, as they would on a disk.
    """
    size = 0
    for tokens in _by_recording(store, window):
        file = io.BytesIO()
        with sf.SoundFile(file, "w", 16000, 1, subtype="PCM_S8", format="FLAC", compression_level=1.0) as out:
            for part in tokens:
                # libsndfile takes the upper byte of a 16-bit sample for an 8-bit file.
                out.write((part.astype(np.int16) - store.codec.zero) << 8)
        size += file.getbuffer().nbytes
    return 8 * size / store.offsets[-1]


def _by_recording(store: TokenStore, window: int) -> Iterator[list[Tokens]]:
    for recording, total in enumerate(store.lengths):
        yield [store.window(recording, start, window) for start in range(0, total, window)]


# --- in words -----------------------------------------------------------------------------------------


def verdict(model: dict[str, float], yardsticks: dict[str, float]) -> str:
    """Whether a model is better than all of them, and if not, what is better and by how much.

    model: its bits per byte by a name for each way they were measured in.
    """
    said = []
    for way, bits in model.items():
        better = sorted((figure, name) for name, figure in yardsticks.items() if figure <= bits)
        if better:
            said.append(f"{way} ({bits:.3f}) loses to " + ", ".join(f"{n} by {bits - f:.3f}" for f, n in better))
        else:
            figure, name = min((figure, name) for name, figure in yardsticks.items())
            said.append(f"{way} ({bits:.3f}) beats them all, {name} by {figure - bits:.3f}")
    return "; ".join(said)
