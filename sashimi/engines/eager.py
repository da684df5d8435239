"""The model stepped in plain torch: slow, simple, and what every other engine is tested against."""

import numpy as np
import torch
from numpy.typing import NDArray

from sashimi.codec import Tokens
from sashimi.config import SamplingConfig
from sashimi.engines.base import Engine, Keys
from sashimi.model import SaShiMi, State
from sashimi.sampling import sample, uniforms

# Matrix products round differently at different batch sizes, and bit for bit alike at one size whatever
# the companions: streams always step in this many lanes, so a clip does not depend on its batch.
LANES = 8
PREFILL_BLOCK = 1 << 15  # samples of a prompt convolved at a time: bounds memory, whatever its length


class EagerEngine(Engine):
    """Plays a model in its own dtype, on its own device."""

    def __init__(self, model: SaShiMi) -> None:
        self.model = model
        with torch.inference_mode():
            self.systems = model.systems()

    def start(self, batch: int) -> State:
        return self.model.start(batch)

    @torch.inference_mode()
    def prefill(self, tokens: Tokens, state: State) -> State:
        if not tokens.shape[1]:
            return state
        return State.concat([self._prefill_one(row, state.select([i])) for i, row in enumerate(tokens)])

    def _prefill_one(self, tokens: Tokens, state: State) -> State:
        """One stream at a time: the result does not depend on its companions, and one is wide enough."""
        assert state.pending is not None
        given = torch.from_numpy(tokens.astype(np.int64))
        for block in torch.cat([state.pending, given[:-1]]).split(PREFILL_BLOCK):
            _, state = self.model.scan(block[None].to(state.values.device), state)
        return State(state.values, state.position, given[-1:])

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
