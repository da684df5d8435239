"""The published code's own SaShiMi, to step and to train, from a clone of github.com/state-spaces/s4."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sashimi.errors import UserError
from sashimi.model import SaShiMi

# The recurrence that its generation takes by default, and what its layers call each kind.
MODE, KINDS = "dense", {"s4": "dplr", "s4d": "diag"}


def published_stack(clone: Path, model: SaShiMi) -> tuple[Any, nn.Embedding, nn.Linear]:
    """A stack of the same sizes as a model, random weights, its embedding and its head.

    Raises UserError where the folder is no clone.
    """
    if not (clone / "models" / "sashimi" / "sashimi.py").is_file():
        raise UserError(f"{clone} holds no models/sashimi/sashimi.py: it is no clone of github.com/state-spaces/s4")
    sys.path.insert(0, str(clone))
    sys.modules["pykeops"] = None  # type: ignore[assignment]  # which it would call for a GPU
    logging.disable(logging.ERROR)  # that it finds no CUDA extension
    from models.sashimi.sashimi import Sashimi  # type: ignore[import-not-found]

    config = model.config
    torch.manual_seed(0)
    kind = KINDS[config.layer.kind]
    stack = Sashimi(config.d_model, config.n_layers, config.pool, config.expand, config.ff, mode=kind)
    return stack, nn.Embedding(config.vocab, config.d_model), nn.Linear(config.d_model, config.vocab)


def published_logits(clone: Path, model: SaShiMi) -> tuple[Callable[[Tensor], Tensor], list[nn.Parameter]]:
    """i(B L) -> f(B L vocab) by convolution, and the parameters to train. Raises UserError."""
    stack, embedding, head = published_stack(clone, model)
    parts = nn.ModuleList([stack, embedding, head])
    return lambda tokens: head(stack(embedding(tokens))[0]), list(parts.parameters())


def published_player(clone: Path, model: SaShiMi, batch: int) -> Callable[[int], None]:
    """Plays n steps of `batch` streams of a model of the same sizes, drawing as generate.py does. Raises UserError."""
    stack, embedding, head = published_stack(clone, model)
    stack.eval()
    with torch.inference_mode():
        for module in stack.modules():  # its setup_rnn knows the DPLR kernel only
            if hasattr(module, "_setup_step"):
                module._setup_step(**({"mode": MODE} if model.config.layer.kind == "s4" else {}))
        state = stack.default_state(batch)
    token = torch.full((batch,), model.start_token)

    @torch.inference_mode()
    def play(n: int) -> None:
        nonlocal state, token
        for _ in range(n):
            y, state = stack.step(embedding(token), state)
            token = torch.distributions.Categorical(logits=head(y)).sample()

    return play
