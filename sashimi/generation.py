"""Prompt, engine and sampling to clips with exact log-likelihoods."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
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
class Clip:
    """What was played, with its prompt.

    number          of the clip among (n_samples + n_free) x n_reps; with the seed it fixes every draw
    tokens          uint8(L), the prompt's first
    prompt_length   tokens of the prompt
    log_likelihood  of the played part, in nats, under the untruncated distribution at temperature 1
    complete        False for a clip that was interrupted
    """

    number: int
    tokens: Tokens
    prompt_length: int
    log_likelihood: float
    complete: bool

    @property
    def played(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def bits_per_byte(self) -> float:
        return -self.log_likelihood / max(self.played, 1) / math.log(2)


@dataclass(frozen=True)
class Progress:
    """Where generation stands: clips finished and in all; of the current batch, steps done and to do; steps/s."""

    finished: int
    clips: int
    batch: int
    done: int
    steps: int
    rate: float

    @property
    def samples_left(self) -> int:
        return (self.clips - self.finished) * self.steps - self.batch * self.done


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
    report: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Clip]:
    """Clips in batches of n_batch, yielded as their batch is finished.

    Clip `number` continues beginnings[number % len(beginnings)]; there are n_reps of each, and `numbers` says
    which of them to make (all). Beginnings have one length, l_sample tokens with what is played, or none: then
    as much is played.  A clip depends on its number, beginning, seed and
    settings alone. `stop` is asked after every block; once it says so, the clips under way are yielded as
    they stand and nothing more is begun.
    """
    count, prompt_length = len(beginnings), max(map(len, beginnings))
    numbers = range(count * n_reps) if numbers is None else numbers
    size, rate, finished, steps = n_batch or len(numbers), 0.0, 0, l_sample - prompt_length
    heard: dict[bytes, State] = {}
    for group in (numbers[i : i + size] for i in range(0, len(numbers), size)):
        prefixes = [beginnings[number % count] for number in group]
        # Each prompt of the batch is heard once; those of the batch before need not be heard again.
        known, heard = heard, {}
        for key, prefix in ((prefix.tobytes(), prefix) for prefix in prefixes):
            if key not in heard:
                heard[key] = known[key] if key in known else engine.prefill(prefix[None], engine.start(1))
        state = State.concat([heard[prefix.tobytes()] for prefix in prefixes])
        blocks, sums, done = [], [0] * len(group), 0
        while done < steps and not stop():
            n = min(steps - done, BLOCK_MAX, max(16, round(rate * BLOCK_SECONDS)))
            began = time.perf_counter()
            block, block_logp, state = engine.run(state, n, sampling, [(seed, number) for number in group])
            rate = n / (time.perf_counter() - began)
            blocks.append(block)
            sums = [total + whole for total, whole in zip(sums, in_units(block_logp).sum(axis=1).tolist(), strict=True)]
            done += n
            report(Progress(finished, len(numbers), len(group), done, steps, rate))
        if not done:
            return
        for row, (number, prefix) in enumerate(zip(group, prefixes, strict=True)):
            tokens = np.concatenate([prefix, *(block[row] for block in blocks)])
            yield Clip(number, tokens, len(prefix), sums[row] / UNIT, done == steps)
        if done < steps:
            return
        finished += len(group)


def in_units(logp: NDArray[np.float64]) -> NDArray[np.int64]:
    """Log-probabilities as whole numbers, whose sums are exact in any order: blocks are cut by the clock, and a
    likelihood must not depend on that."""
    return np.rint(logp * UNIT).astype(np.int64)
