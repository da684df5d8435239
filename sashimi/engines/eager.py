"""The model stepped in plain torch: slow, simple, and what every other engine is tested against."""

import numpy as np
import torch
from numpy.typing import NDArray

from sashimi.codec import Tokens
from sashimi.config import SamplingConfig
from sashimi.engines.base import Engine, Keys
from sashimi.engines.prefill import prefill
from sashimi.model import SaShiMi, State
from sashimi.sampling import sample, uniforms

# Matrix products round differently at different batch sizes, and bit for bit alike at one size whatever
# the companions: streams always step in this many lanes, so a clip does not depend on its batch.
LANES = 8


class EagerEngine(Engine):
    """Plays a model in its own dtype, on its own device."""

    description = "eager"

    def __init__(self, model: SaShiMi) -> None:
        self.model = model
        with torch.inference_mode():
            self.systems = model.systems()

    def start(self, batch: int) -> State:
        return self.model.start(batch)

    def prefill(self, tokens: Tokens, state: State) -> State:
        return prefill(self.model, tokens, state)

    @torch.inference_mode()
    def run(
        self, state: State, n: int, sampling: SamplingConfig, keys: Keys
    ) -> tuple[Tokens, NDArray[np.float64], State]:
        # A step is many small operations: a second thread waits more than it works, and hinders other programs.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            played = [self._run_lanes(state, n, sampling, keys, i) for i in range(0, state.batch, LANES)]
        finally:
            torch.set_num_threads(threads)
        tokens, logp, states = zip(*played, strict=True)
        return np.concatenate(tokens), np.concatenate(logp), State.concat(states)

    def _run_lanes(
        self, state: State, n: int, sampling: SamplingConfig, keys: Keys, first: int
    ) -> tuple[Tokens, NDArray[np.float64], State]:
        """Streams first .. first + LANES - 1, padded to LANES by repeating the last."""
        used = min(LANES, state.batch - first)
        index = [min(i, state.batch - 1) for i in range(first, first + LANES)]
        state = state.select(index)
        assert state.pending is not None
        device = state.values.device
        words = np.array([keys[i] for i in index], dtype=np.uint64)
        u = torch.from_numpy(uniforms(words, state.position.numpy(), n)).to(device)
        parts, phase = self.model.unpack(state), self.model.phase(state.position)
        token = state.pending.to(device)
        tokens, logp = [], []
        for k in range(n):
            logits = self.model.advance(token, parts, (phase + k) % self.model.period, self.systems)
            token, log_probability = sample(logits, sampling, u[:, k])
            tokens.append(token)
            logp.append(log_probability)
        after = self.model.pack(parts, state.position + n, token.cpu())
        return (
            torch.stack(tokens, dim=1)[:used].cpu().numpy().astype(np.uint8),
            torch.stack(logp, dim=1)[:used].cpu().numpy(),
            after.select(range(used)),
        )
