"""What happens beside training: checkpoints kept, figures written down, progress shown, clips played."""

import csv
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from rich.console import Console
from torch import Tensor, nn

from sashimi import audio, checkpoint, loggers, plots
from sashimi.checkpoint import LoadedModel
from sashimi.codec import Codec
from sashimi.config import EngineConfig, SamplingConfig
from sashimi.engines import make_engine
from sashimi.files import finished, is_full
from sashimi.generation import bits_per_byte, generate
from sashimi.progress import Update, bar

log = logging.getLogger(__name__)
COLUMNS = [f"{split}/{name}" for split in ("train", "val") for name in (
    "loss", "bpb", "accuracy", "accuracy@3", "accuracy@5", "accuracy@10",
)]  # fmt: skip


class Keeper(pl.Callback):
    """Keeps best.safetensors, by val/bpb, and last.ckpt, from which training goes on. Each is whole or absent.

    calm: whether training is as it should be; where it is not, last.ckpt stays as it was.
    """

    def __init__(self, run: Path, best: str, last: str, every: int, calm: Callable[[], bool]) -> None:
        self.run, self.best, self.last, self.every, self.calm = run, run / best, run / last, every, calm
        self.best_bpb = math.inf

    def state_dict(self) -> dict[str, Any]:
        return {"best_bpb": self.best_bpb}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_bpb = state["best_bpb"]

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *rest: Any) -> None:
        stepped = (trainer.fit_loop.epoch_loop.total_batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and trainer.global_step % self.every == 0:
            self.save_last(trainer, module)

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        bpb = float(trainer.callback_metrics["val/bpb"])
        if bpb < self.best_bpb:
            self.best_bpb = bpb
            if trainer.is_global_zero:
                model = module.model
                model.metadata.provenance["steps"] = trainer.global_step
                model.metadata.metrics = {
                    name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")
                }
                checkpoint.save(self.best, model, model.metadata)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self.save_last(trainer, module)

    def save_last(self, trainer: pl.Trainer, module: Any) -> None:
        """Never over a good checkpoint with weights that are not numbers."""
        if self.calm() and all(torch.isfinite(p).all() for p in module.parameters()):
            trainer.save_checkpoint(self.last)


class WholeCheckpoints(TorchCheckpointIO):
    """How Lightning writes its checkpoints: whole or not at all, and not through a copy in memory."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with finished(Path(path)) as partial, partial.open("wb") as file:
            torch.save(checkpoint, file)


class Averager(pl.Callback):
    """A running mean of the weights, which takes their place while they are scored, played or kept as the best.

    After step t, mean = d mean + (1 - d) weights with d = min(decay, (1 + t) / (10 + t)): a young mean follows fast.
    It has to come last among the callbacks, so that the others find the mean when a validation ends.
    """

    def __init__(self, decay: float) -> None:
        self.decay, self.mean = decay, dict[str, Tensor]()

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean = state["mean"]

    def on_fit_start(self, trainer: pl.Trainer, module: Any) -> None:
        self.mean = {
            name: self.mean[name].to(p.device) if name in self.mean else p.detach().clone()
            for name, p in module.model.named_parameters()
        }

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *rest: Any) -> None:
        if (trainer.fit_loop.epoch_loop.total_batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        step = trainer.global_step
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, p in module.model.named_parameters():
            self.mean[name].lerp_(p, 1 - decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Weights and mean change places."""
        for name, p in model.named_parameters():
            weights = p.detach().clone()
            p.copy_(self.mean[name])
            self.mean[name] = weights

    def on_validation_start(self, trainer: pl.Trainer, module: Any) -> None:
        self.swap(module.model)

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        self.swap(module.model)


class MetricsFile(pl.Callback):
    """metrics.csv: a line every so many steps and every validation. A resumed run drops what it will do again.

    Not before training starts does Lightning know at which step.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        if not trainer.is_global_zero:
            return
        rows = []
        if self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= trainer.global_step]
        with finished(self.path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["step", *COLUMNS])
            writer.writeheader()
            writer.writerows(rows)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *rest: Any) -> None:
        if trainer.global_step % self.every == 0:
            self.write(trainer, "train/")

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        self.write(trainer, "val/")

    def write(self, trainer: pl.Trainer, prefix: str) -> None:
        if trainer.is_global_zero:
            figures = {k: f"{float(v):.6f}" for k, v in trainer.callback_metrics.items() if k.startswith(prefix)}
            whole = self.path.stat().st_size
            try:
                with self.path.open("a", newline="", encoding="utf-8") as file:
                    csv.DictWriter(file, ["step", *COLUMNS]).writerow({"step": trainer.global_step, **figures})
            except OSError as error:
                os.truncate(self.path, whole)  # no half a line
                raise OSError(f"cannot write {self.path}: {error.strerror or error}") from error


class Ticker(pl.Callback):
    """Shows the share done, bits per byte, samples a second and the time left; a line at every validation.

    Ends training after the step in which `stop` begins to say so.
    """

    def __init__(self, console: Console, steps: int, samples: int, stop: Callable[[], bool]) -> None:
        self.console, self.steps, self.samples, self.stop = console, steps, samples, stop
        self.stack = ExitStack()
        self.update: Update | None = None
        self.began, self.first, self.bpb = 0.0, 0, math.nan

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self.began, self.first = time.monotonic(), trainer.global_step
        if trainer.is_global_zero:
            self.update = self.stack.enter_context(bar(self.console, "training"))

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, *rest: Any) -> None:
        if self.stop():
            trainer.should_stop = True
        if self.update is None or trainer.global_step == self.first:
            return
        now = float(trainer.callback_metrics["train/bpb"])
        self.bpb = now if math.isnan(self.bpb) else 0.95 * self.bpb + 0.05 * now
        rate = (trainer.global_step - self.first) / (time.monotonic() - self.began)
        text = f"{self.bpb:.3f} bits per byte, {rate * self.samples:,.0f} samples/s"
        self.update(trainer.global_step / self.steps, text, (self.steps - trainer.global_step) / rate)

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.is_global_zero:
            figures = trainer.callback_metrics
            self.console.print(
                f"step {trainer.global_step:>6}  val/bpb {float(figures['val/bpb']):.4f}  "
                f"val/accuracy {float(figures['val/accuracy']):.3f}"
            )

    def teardown(self, trainer: pl.Trainer, module: Any, stage: str) -> None:
        self.stack.close()


class Listener(pl.Callback):
    """Lets the model play now and then: samples/step-N.wav and .png in the run directory, and in its loggers.

    Training goes on as if it had not, also where playing fails. `stop` cuts a clip short, which is not kept.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        seconds: float,
        seed: int,
        stop: Callable[[], bool],
        averager: Averager | None = None,
    ) -> None:
        self.folder, self.every, self.seconds, self.seed, self.stop = folder, every, seconds, seed, stop
        self.averager = averager

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        stepped = (index + 1) % trainer.accumulate_grad_batches == 0
        if not stepped or trainer.global_step % self.every or not trainer.is_global_zero:
            return
        try:
            self.play(module.model, trainer.global_step, trainer.loggers)
        except Exception as error:
            if is_full(error):
                raise
            log.warning("no clip at step %d: %s: %s", trainer.global_step, type(error).__name__, error)

    def play(self, model: LoadedModel, step: int, to: Sequence[Logger]) -> None:
        codec = Codec(model.metadata.codec)
        rate = codec.config.rate
        length, nothing = round(self.seconds * rate), np.zeros(0, np.uint8)
        model.eval()
        if self.averager:
            self.averager.swap(model)
        try:
            engine = make_engine(EngineConfig(), model)
            tokens = []
            for block in generate(engine, [nothing], length, SamplingConfig(), self.seed):
                tokens.append(block.tokens[0])
                if self.stop():
                    return
        finally:
            if self.averager:
                self.averager.swap(model)
            model.train()
        waveform = codec.decode(np.concatenate(tokens))
        title = f"step {step}, {bits_per_byte(block.log_likelihoods[0], length):.2f} bits per byte"
        path = self.folder / f"step-{step:07}.wav"
        picture = path.with_suffix(".png")
        audio.write(path, waveform, rate)
        plots.spectrogram(picture, [waveform], len(waveform), rate, title)
        pictures = {"spectrogram": plots.pixels(picture), "waveform": plots.waveform(waveform, rate, title)}
        loggers.show(to, step, waveform, rate, pictures)
