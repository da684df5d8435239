"""What ends a run from outside, memory or a disk that is full, in words that say how to go on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from sashimi.config import TrainConfig
from sashimi.errors import UserError
from sashimi.files import is_full
from sashimi.memory import Estimate, below, is_exhausted, size


@contextmanager
def explained(last: Path, config: TrainConfig, estimate: Estimate, period: int) -> Iterator[None]:
    """Turns what a full memory or disk raises within into a UserError. last: the run's checkpoint to go on from."""
    try:
        yield
    except Exception as error:
        if is_exhausted(error):
            raise UserError(out_of_memory(last, config, estimate, period)) from error
        if is_full(error):
            written = str(error) if str(error).startswith("cannot write") else f"writing stopped: {error}"
            room = f"make room and go on with resume={last.parent}" if last.is_file() else "make room and begin again"
            raise UserError(f"the disk of {last.parent} is full ({written}); {kept(last)}; {room}") from error
        raise


def kept(last: Path) -> str:
    if not last.is_file():
        return f"there is no {last.name} yet"
    return f"the checkpoint of step {torch.load(last, weights_only=True, mmap=True)['global_step']} is intact"


def out_of_memory(last: Path, config: TrainConfig, estimate: Estimate, period: int) -> str:
    """What to lower and by how much: by half what is seen at a time, for the estimate that allowed it was too low."""
    window, batch, recompute = config.data.window, config.data.batch, config.trainer.activation_checkpointing
    ways = []
    if batch > 1:
        need = estimate.total(window, batch // 2, recompute)
        ways.append(f"data.batch={batch} -> {batch // 2} (about {size(need)})")
    if shorter := below(window, period):
        need = estimate.total(shorter, batch, recompute)
        ways.append(f"data.window={window} -> {shorter} (about {size(need)})")
    if not recompute:
        need = estimate.total(window, batch, True)
        ways.append(f"trainer.activation_checkpointing=true (about {size(need)})")
    elif len(ways) < 2:
        ways.append(f"model.n_layers={config.model.n_layers} -> {max(1, config.model.n_layers // 2)}")
    message = f"out of memory; about {size(estimate.total(window, batch, recompute))} were expected. Set "
    message += f"{', or '.join(ways)}; {kept(last)}"
    if last.is_file() and not recompute:
        message += f": resume={last.parent} trainer.activation_checkpointing=true goes on from there"
    if last.is_file():
        message += f"; with other data settings a new run begins from its weights, init_from={last.parent}"
    return message
