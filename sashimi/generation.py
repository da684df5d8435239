"""Prompt, engine and sampling to clips with exact log-likelihoods."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sashimi import audio, data
from sashimi.checkpoint import Metadata
from sashimi.codec import Codec, Tokens
from sashimi.config import GenerateConfig, SamplingConfig
from sashimi.engines.base import Engine
from sashimi.errors import UserError
from sashimi.model import State

SILENCE = 1e-3  # peak of a prompt in which nothing is heard: -60 dBFS
DEFAULT_SECONDS = 10  # what is played when l_sample is not given
BLOCK_SECONDS = 0.5  # wall-clock time between two looks at the keyboard and the progress bar
BLOCK_MAX = 1 << 16
UNIT = 1 << 40  # log-probabilities are added up in whole 2^-40 nats


@dataclass(frozen=True)
class Block:
    """What a batch of clips played in one call of the engine.

    numbers          of its clips among (n_samples + n_free) x n_reps; with the seed, a number fixes every draw
    prompts          uint8(L) each
    tokens           uint8(B n): the last n played
    logp             f64(B n): log-probability of each, in nats, as in log_likelihoods
    log_likelihoods  of all that is played so far, in nats, under the untruncated distribution at temperature 1
    played, steps    of each clip: so far, this block included, and in all
    rate             steps/s
    """

    numbers: Sequence[int]
    prompts: Sequence[Tokens]
    tokens: Tokens
    logp: NDArray[np.float64]
    log_likelihoods: Sequence[float]
    played: int
    steps: int
    rate: float

    @property
    def first(self) -> bool:
        return self.played == self.tokens.shape[1]

    @property
    def last(self) -> bool:
        return self.played == self.steps


def bits_per_byte(log_likelihood: float, samples: int) -> float:
    return -log_likelihood / max(samples, 1) / math.log(2)


def prompts(config: GenerateConfig, metadata: Metadata, period: int) -> list[Tokens]:
    """The n_samples beginnings that a configuration asks for (empty ones when it asks for none), and n_free empty ones.

    Cropped at the front to a multiple of the model's period, so that a batch has one phase.
    Raises UserError for an unreadable or silent prompt, AudioError and FileNotFoundError as `audio.read`.
    """
    codec = Codec(metadata.codec)
    if config.prompt is not None:
        tokens = [prompt_tokens(config.prompt, codec, config.prompt_start, config.prompt_end)] * config.n_samples
    elif config.l_prefix:
        if config.data.dir is None:
            raise UserError("l_prefix needs recordings: set data.dir=FOLDER or experiment=NAME")
        tokens = data.beginnings(config.data.dir, config.split, codec, config.l_prefix, config.n_samples)
    else:
        tokens = [np.zeros(0, np.uint8)] * config.n_samples
    if len(tokens[0]) < period and (config.prompt or config.l_prefix):
        raise UserError(f"a prompt of {len(tokens[0])} samples is too short to continue: give at least {period}")
    return [t[len(t) % period :] for t in tokens] + [np.zeros(0, np.uint8)] * config.n_free


def prompt_tokens(path: Path, codec: Codec, start: float, end: float | None) -> Tokens:
    """A section of a recording as the model hears it. start, end: seconds (None: to its end)."""
    waveform = audio.read(path, codec.config.rate, start, end)
    section = f"{path} from {start:g} s" + ("" if end is None else f" to {end:g} s")
    if not len(waveform):
        raise UserError(f"{section}: the recording ends before that; lower prompt_start")
    peak = float(np.abs(waveform).max())
    if peak < SILENCE:
        level = f"{20 * math.log10(peak):.0f} dBFS" if peak else "no signal at all"
        raise UserError(f"{section} is silent (peak {level}); choose another section")
    return codec.encode(waveform)


def clip_length(config: GenerateConfig, prompt: int, rate: int) -> int:
    """l_sample, which counts the prompt. Raises UserError if nothing would be left to play."""
    if config.l_sample is None:
        return prompt + DEFAULT_SECONDS * rate
    if config.l_sample <= prompt:
        raise UserError(
            f"l_sample={config.l_sample} counts the prompt, which has {prompt} samples ({prompt / rate:.2f} s): "
            f"raise l_sample above {prompt}, or shorten the prompt"
        )
    return config.l_sample


def generate(
    engine: Engine,
    beginnings: Sequence[Tokens],
    l_sample: int,
    sampling: SamplingConfig,
    seed: int,
    *,
    n_reps: int = 1,
    numbers: Sequence[int] | None = None,
    n_batch: int | None = None,
) -> Iterator[Block]:
    """Clips in batches of n_batch, block by block as they are played. Memory does not grow with their length.

    Clip `number` continues beginnings[number % len(beginnings)]; there are n_reps of each, and `numbers` says
    which of them to make (all). Beginnings have one length, l_sample tokens with what is played, or none: then
    as much is played. A clip depends on its number, beginning, seed and settings alone.
    """
    count, steps = len(beginnings), l_sample - max(map(len, beginnings))
    numbers = range(count * n_reps) if numbers is None else numbers
    size, rate = n_batch or len(numbers), 0.0
    heard: dict[bytes, State] = {}
    for group in (numbers[i : i + size] for i in range(0, len(numbers), size)):
        prefixes = [beginnings[number % count] for number in group]
        # Each prompt of the batch is heard once; those of the batch before need not be heard again.
        known, heard = heard, {}
        for key, prefix in ((prefix.tobytes(), prefix) for prefix in prefixes):
            if key not in heard:
                heard[key] = known[key] if key in known else engine.prefill(prefix[None], engine.start(1))
        state = State.concat([heard[prefix.tobytes()] for prefix in prefixes])
        keys, sums, played = [(seed, number) for number in group], [0] * len(group), 0
        while played < steps:
            n = min(steps - played, BLOCK_MAX, max(16, round(rate * BLOCK_SECONDS)))
            began = time.perf_counter()
            tokens, logp, state = engine.run(state, n, sampling, keys)
            rate = n / (time.perf_counter() - began)
            sums = [total + whole for total, whole in zip(sums, in_units(logp).sum(axis=1).tolist(), strict=True)]
            played += n
            yield Block(group, prefixes, tokens, logp, [total / UNIT for total in sums], played, steps, rate)


def in_units(logp: NDArray[np.float64]) -> NDArray[np.int64]:
    """Log-probabilities as whole numbers, whose sums are exact in any order: blocks are cut by the clock, and a
    likelihood must not depend on that."""
    return np.rint(logp * UNIT).astype(np.int64)
