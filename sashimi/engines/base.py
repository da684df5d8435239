"""What every engine can do. Generation, streaming, forking and scoring need nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sashimi.codec import Tokens
from sashimi.config import SamplingConfig
from sashimi.model import State

Keys = Sequence[tuple[int, int]]  # (seed, clip) of each stream


class Engine(ABC):
    """Plays one model. States are values in the model's shared layout: any engine takes any engine's.

    A stream's tokens depend on its own state, key and sampling alone: not on its companions in the batch,
    nor on how `run` is divided into blocks.
    """

    description: str  # for people

    @abstractmethod
    def start(self, batch: int) -> State:
        """Position 0 of `batch` streams, with the start token pending."""

    @abstractmethod
    def prefill(self, tokens: Tokens, state: State) -> State:
        """Hear a prompt. tokens: (B L), L >= 0.

        Consumes the pending token and all given ones but the last, which becomes pending.
        """

    @abstractmethod
    def run(
        self, state: State, n: int, sampling: SamplingConfig, keys: Keys
    ) -> tuple[Tokens, NDArray[np.float64], State]:
        """Play n samples. Returns tokens (B n), their log-probabilities (B n) in nats, and the next state.

        Log-probabilities are of the untruncated distribution at temperature 1.
        """
