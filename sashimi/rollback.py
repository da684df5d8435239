"""Back to weights that were good, when the loss is no number any more or has left all bounds."""

import math
from collections import deque
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console
from torch import Tensor
from torch.optim import Optimizer

from sashimi.callbacks import Averager
from sashimi.errors import UserError

EVERY = 50  # steps between copies of a good state
HISTORY, LEAST = 200, 20  # steps whose median is what is usual; fewer than the least tell nothing
# Nats above the median, share of ln V, steps on end. With ten times its learning rate a model of loss 3.7 jumped to
# 7 and stayed at 5.3 = 0.96 ln V, the entropy of single tokens: all that is left to a model that forgot the rest.
ABOVE, NOTHING, LASTING = 1.0, 0.9, 20
JUMP = 3  # times what knowing nothing costs, above the median: at once
OVERFLOW = 1e19  # the square of a gradient, as AdamW keeps it, would be infinite in float32
SETTLED = 500  # steps after which another rollback is another matter


class Rollback(pl.Callback):
    """Keeps a copy of the last good weights and optimizer state, goes back to it, and halves the learning rates.

    It does so instead of the step in which the loss or the norm of the gradients is not finite, or in which the loss
    stands more than JUMP ln V above the median of the steps before, or has stood for LASTING steps on end more than
    ABOVE nats above that median and above NOTHING ln V. V is the number of tokens, ln V the loss of a model that knows
    nothing: recordings differ, but no music makes a model that works as bad as that for long. A copy is made of
    weights whose own loss has been found usual. Steps and windows are not taken back: training goes on with the
    windows that follow, its schedule where that is, carried lanes from nothing. Processes decide alike, by the mean of
    their losses.
    Raises UserError where it happens again within SETTLED steps.
    """

    def __init__(self, console: Console, averager: Averager | None) -> None:
        self.console, self.averager = console, averager
        self.losses: deque[float] = deque(maxlen=HISTORY)  # of steps that were usual
        self.strikes = 0  # steps on end that were not
        self.copied, self.rolled = -1, -1  # steps of the copy and of the last rollback
        self.good: dict[str, list[Tensor]] = {}

    def state_dict(self) -> dict[str, Any]:
        """With the copy: a resumed run goes back to what an uninterrupted one would."""
        return {"losses": list(self.losses), "copied": self.copied, "rolled": self.rolled, "good": self.good}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses = deque(state["losses"], maxlen=HISTORY)
        self.copied, self.rolled, self.good = state["copied"], state["rolled"], state["good"]

    @property
    def calm(self) -> bool:
        """Whether the last loss was usual: what follows may be saved."""
        return not self.strikes

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: pl.Trainer, module: Any, optimizer: Optimizer) -> None:
        step = trainer.global_step
        loss = float(trainer.strategy.reduce(module.mean_loss(), reduce_op="mean"))
        # An overflow in a moment would silence its weight for ever, and no loss would tell.
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        finite = math.isfinite(loss) and norm < OVERFLOW
        self.strikes = 0 if finite and self.usual(loss, module.model.config.vocab) else self.strikes + 1
        if not self.strikes:
            self.losses.append(loss)
            if not self.good or step - self.copied >= EVERY:
                state = self.state(module, optimizer)
                self.good = {name: [t.detach().clone() for t in part] for name, part in state.items()}
                self.copied = step
        elif not finite or self.strikes >= LASTING or self.jumped(loss, module.model.config.vocab):
            gradients_alone = math.isfinite(loss) and not finite
            what = "the gradients became infinite" if gradients_alone else f"the loss became {loss:.3g}"
            self.back(what.replace("nan", "NaN"), trainer, module, optimizer)

    def usual(self, loss: float, vocab: int) -> bool:
        return len(self.losses) < LEAST or loss <= max(median(self.losses) + ABOVE, NOTHING * math.log(vocab))

    def jumped(self, loss: float, vocab: int) -> bool:
        return loss > median(self.losses) + JUMP * math.log(vocab)

    def state(self, module: Any, optimizer: Optimizer) -> dict[str, list[Tensor]]:
        """All that a step changes: no moments before the first, and a mean where one is kept."""
        weights = list(module.parameters())
        return {
            "weights": weights,
            "moments": [t for p in weights if p in optimizer.state for t in optimizer.state[p].values()],
            "mean": [*self.averager.mean.values()] if self.averager else [],
        }

    def back(self, what: str, trainer: pl.Trainer, module: Any, optimizer: Optimizer) -> None:
        """To the copy. The gradients go, so that the optimizer's step changes nothing."""
        step, rates = trainer.global_step, module.config.optimizer
        if not self.good or (self.rolled >= 0 and step - self.rolled < SETTLED):
            again = f", {step - self.rolled} steps after training went back to good weights" if self.good else ""
            raise UserError(
                f"{what} at step {step}{again}: the last good checkpoints are kept; lower optimizer.lr={rates.lr} or "
                "set trainer.gradient_clip=1"
            )
        for name, part in self.state(module, optimizer).items():
            missing = name == "mean" and not self.good[name]  # where a run went on with a mean that had none before
            for t, good in zip(part, self.good["weights" if missing else name], strict=False):
                t.copy_(good)
        if not self.good["moments"]:  # a copy from before the first step, which makes them
            optimizer.state.clear()
        for p in module.parameters():
            p.grad = None
        for group in optimizer.param_groups:
            group["lr"] /= 2
            group["initial_lr"] /= 2
        for config in trainer.lr_scheduler_configs:
            if hasattr(config.scheduler, "base_lrs"):
                config.scheduler.base_lrs = [rate / 2 for rate in config.scheduler.base_lrs]
        module.carried, self.strikes, self.rolled = None, 0, step
        if trainer.is_global_zero:
            lr = max(group["initial_lr"] for group in optimizer.param_groups)
            self.console.print(
                f"step {step:>6}  {what}: back to the weights of step {self.copied}, learning rates halved "
                f"(optimizer.lr now {lr:g}), on with the windows that follow"
            )
