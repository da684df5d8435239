"""Hearing a prompt: one convolution through it, for every engine, since all share the model's state."""

import numpy as np
import torch

from sashimi.codec import Tokens
from sashimi.model import SaShiMi, State

BLOCK = 1 << 15  # samples of a prompt convolved at a time: bounds memory, whatever its length


@torch.inference_mode()
def prefill(model: SaShiMi, tokens: Tokens, state: State) -> State:
    """The state after the pending token and all given ones (B L) but the last, which becomes pending.

    One stream at a time: the result does not depend on its companions, and one is wide enough.
    """
    if not tokens.shape[1]:
        return state
    return State.concat([_one(model, row, state.select([i])) for i, row in enumerate(tokens)])


def _one(model: SaShiMi, tokens: Tokens, state: State) -> State:
    assert state.pending is not None
    given = torch.from_numpy(tokens.astype(np.int64))
    for block in torch.cat([state.pending, given[:-1]]).split(BLOCK):
        _, state = model.scan(block[None].to(state.values.device), state)
    return State(state.values, state.position, given[-1:])
