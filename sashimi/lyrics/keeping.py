"""What a run keeps as it goes: losses by epoch, the best adapter, and saves to go on from. And what it shows."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from sashimi.files import finished
from sashimi.lyrics import losses
from sashimi.lyrics.losses import Epoch
from sashimi.progress import Update

CHECKPOINTS, WHOLE = "checkpoints", "whole.json"


def last_whole(run: Path) -> Path | None:
    """The newest save of a run that was finished; others, which a kill left, are removed."""
    found = []
    for folder in (run / CHECKPOINTS).glob("checkpoint-*"):
        if (folder / WHOLE).is_file():
            found.append(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return max(found, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


class Keeper(TrainerCallback):
    """Called by the Trainer. Every process runs it; only the first writes."""

    def __init__(
        self,
        run: Path,
        main: bool,
        measure: Callable[[str], float],
        save: Callable[[Sequence[Epoch]], None],
        stopped: Callable[[], bool],
        update: Update,
        save_every: int,
    ) -> None:
        """measure: the loss on train or val as the model is; save: the adapter as it is, with the epochs so far."""
        self.run, self.main, self.measure, self.save, self.update = run, main, measure, save, update
        self.stopped, self.save_every, self.halted = stopped, save_every, False
        self.epochs: list[Epoch] = []
        self.total, self.steps, self.logged = 0.0, 0, 0  # of the epoch's training loss
        self.begun, self.begun_step, self.begun_tokens = 0.0, 0, 0.0

    def go_on(self, checkpoint: Path) -> None:
        kept = json.loads((checkpoint / WHOLE).read_text(encoding="utf-8"))
        self.epochs = [Epoch(**values) for values in kept["epochs"]]
        self.total, self.steps, self.logged = kept["total"], kept["steps"], kept["logged"]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.epochs:
            self._record(Epoch(0, self.measure("train"), self.measure("val")))
        self.begun, self.begun_step, self.begun_tokens = time.monotonic(), state.global_step, _tokens(state)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            count, self.logged = state.global_step - self.logged, state.global_step
            self.total, self.steps = self.total + count * logs["loss"], self.steps + count

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step, passed = state.global_step, time.monotonic() - self.begun
        ends = step % (state.max_steps // round(state.num_train_epochs)) == 0
        control.should_log = control.should_log or ends
        if self.stopped():
            self.halted = control.should_training_stop = True
        # The end of an epoch is saved once its loss is known.
        control.should_save = not ends and (self.halted or step % self.save_every == 0)
        if self.main:
            rate = (_tokens(state) - self.begun_tokens) / max(passed, 1e-9)
            left = passed / max(step - self.begun_step, 1) * (state.max_steps - step)
            text = f"epoch {state.epoch:.2f} of {round(state.num_train_epochs)}, step {step} of {state.max_steps}"
            loss = f", loss {self.total / self.steps:.3f}" if self.steps else ""
            self.update(min(step / state.max_steps, 0.999), f"{text}{loss}, {rate:,.0f} tokens a second", left)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % (state.max_steps // round(state.num_train_epochs)):
            return  # stopped on the way
        epoch = Epoch(len(self.epochs), self.total / max(self.steps, 1), self.measure("val"))
        self.total, self.steps = 0.0, 0
        self._record(epoch)
        if losses.best(self.epochs) == epoch:
            self.save(self.epochs)
        control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.main:
            kept = {
                "epochs": [vars(epoch) for epoch in self.epochs],
                "total": self.total, "steps": self.steps, "logged": self.logged,
            }  # fmt: skip
            with finished(self.run / CHECKPOINTS / f"checkpoint-{state.global_step}" / WHOLE) as partial:
                partial.write_text(json.dumps(kept), encoding="utf-8")

    def _record(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)
        if self.main:
            losses.write(self.run, self.epochs)


def _tokens(state: Any) -> float:
    return float(state.num_input_tokens_seen)
