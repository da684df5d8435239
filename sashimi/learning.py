"""What is learnt and how: the module that Lightning trains, its steps, its optimizer and its schedule."""

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from sashimi.augmentation import IGNORED, jittered, with_gaps
from sashimi.batches import FRESH, Batches, LaneBatches, Windows
from sashimi.checkpoint import LoadedModel
from sashimi.codec import Codec
from sashimi.config import OptimizerConfig, TrainConfig
from sashimi.data import Lanes, MixedWindows, TokenStore, TrainingWindows
from sashimi.errors import UserError
from sashimi.evaluation import TOP, Score

# Which parameters take which learning rate and weight decay, by name. The first pattern that fits counts.
PARAMETER_GROUPS = (
    ("ssm", r"\.layer\.(inv_dt|log_A_real|A_imag|B|P)$"),
    ("plain", r"(\.bias|\.layer\.D|norm\.\w+|\.weight_g)$"),
    ("decayed", r"(\.weight|\.weight_v|\.layer\.C)$"),
)


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """AdamW's parameter groups. Raises ValueError for a parameter that no pattern of PARAMETER_GROUPS fits."""
    groups: dict[str, list[nn.Parameter]] = {name: [] for name, _ in PARAMETER_GROUPS}
    for name, parameter in model.named_parameters():
        fitting = [group for group, pattern in PARAMETER_GROUPS if re.search(pattern, name)]
        if not fitting:
            raise ValueError(f"no optimizer group fits the parameter {name}")
        groups[fitting[0]].append(parameter)
    settings = {
        "ssm": {"lr": min(config.ssm_lr, config.lr), "weight_decay": 0.0},
        "plain": {"lr": config.lr, "weight_decay": 0.0},
        "decayed": {"lr": config.lr, "weight_decay": config.weight_decay},
    }
    return [{"params": parameters, **settings[name]} for name, parameters in groups.items()]


class Training(pl.LightningModule):
    """A SaShiMi being trained on windows of tokens, each from nothing, after the start token; or in lanes.

    In lanes, a window begins with the state that the one before it in its lane has left, detached: truncated
    back-propagation through time. Where a recording begins, a lane's state does, too.
    """

    def __init__(
        self, config: TrainConfig, model: LoadedModel, windows: TrainingWindows | MixedWindows | Lanes, val: TokenStore
    ) -> None:
        super().__init__()
        self.config, self.model, self.windows = config, model, windows
        model.recompute = config.trainer.activation_checkpointing
        self.carried: Tensor | None = None  # f(B S): what every lane of this process has left
        self.amplitudes: Tensor
        amplitudes = Codec(config.codec).decode(np.arange(model.config.vocab))
        self.register_buffer("amplitudes", torch.from_numpy(amplitudes), persistent=False)
        self.losses: list[Tensor] = []  # of the batches of this step
        self.val, self.score, self.validated = val, Score(), -1  # the step of the last validation

    @property
    def samples(self) -> int:
        """Samples that one step sees."""
        trainer, data = self.config.trainer, self.config.data
        return data.window * data.batch * trainer.devices * trainer.accumulate

    @property
    def steps_per_epoch(self) -> int:
        return max(1, math.ceil(self.windows.per_epoch * self.config.data.window / self.samples))

    def augmented(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """i(B L) of recordings: what is heard of them in training, and what is to be predicted, i64(B L) both."""
        data, wanted = self.config.data, tokens.long()
        heard = wanted
        if data.gaps:
            heard, wanted = with_gaps(heard, data.gaps, self.amplitudes)
        if data.jitter:
            heard = jittered(heard, data.jitter, self.model.config.vocab)
        return heard, wanted

    def logits(self, heard: Tensor) -> Tensor:
        """i(B L) -> f(B L V): each token predicted from those before it."""
        return self.model(nn.functional.pad(heard[:, :-1], (1, 0), value=self.model.start_token))

    def carried_logits(self, heard: Tensor, before: Tensor) -> Tensor:
        """The same for the next window of every lane; before: i(B), the token before it or FRESH."""
        fresh = before == FRESH
        state = self.model.start(len(heard))
        if self.carried is not None:
            values = self.carried.to(state.values).masked_fill(fresh[:, None], 0)
            state = replace(state, values=values)
        first = before.masked_fill(fresh, self.model.start_token)[:, None]
        logits, state = self.model.scan(torch.cat([first, heard[:, :-1].long()], dim=1), state)
        self.carried = state.values.detach()
        return logits

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.carried is not None:
            states = self.all_gather(self.carried)  # of all processes' lanes, in their order
            assert isinstance(states, Tensor)
            checkpoint["carried"] = states.flatten(0, -2).cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "carried" in checkpoint:
            self.carried = checkpoint["carried"]

    def training_step(self, batch: Tensor | tuple[Tensor, Tensor], index: int) -> Tensor:
        # Dropout becomes a function of the step, so that a resumed run draws what it would have drawn.
        torch.manual_seed(self.config.seed + 1_000_003 * (self.global_step * self.config.trainer.accumulate + index))
        tokens, before = (batch, None) if isinstance(batch, Tensor) else batch
        heard, wanted = self.augmented(tokens)
        logits = self.logits(heard) if before is None else self.carried_logits(heard, before)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten(), ignore_index=IGNORED)
        self.losses.append(loss.detach())
        self.log_dict({"train/loss": loss, "train/bpb": loss / math.log(2)})
        if (self.global_step + 1) % self.config.trainer.log_every == 0:
            sums = Score()
            learnt = wanted[0] != IGNORED
            sums.add(logits[0, learnt].detach(), wanted[0, learnt])
            self.log_dict({f"train/{name}": value for name, value in accuracies(sums).items()})
        return loss

    def mean_loss(self) -> Tensor:
        """Of the batches since it was last asked for, in nats."""
        loss = torch.stack(self.losses).mean()
        self.losses.clear()
        return loss

    def on_validation_epoch_start(self) -> None:
        self.score = Score()

    def validation_step(self, targets: Tensor, index: int) -> None:
        self.score.add(self.logits(targets)[0], targets[0])

    def on_validation_epoch_end(self) -> None:
        sums = torch.tensor(
            [self.score.tokens, self.score.nats, *self.score.ranks.values()], dtype=torch.float64, device=self.device
        )
        gathered = self.all_gather(sums)
        assert isinstance(gathered, Tensor)
        tokens, nats, *ranks = gathered.view(-1, len(sums)).sum(0).tolist()
        score = Score(int(tokens), nats, dict(zip(self.score.ranks, map(int, ranks), strict=True)))
        figures = {"loss": score.loss, "bpb": score.bpb, **accuracies(score)}
        self.log_dict({f"val/{name}": value for name, value in figures.items()})
        self.validated = self.global_step

    def train_dataloader(self) -> DataLoader:
        first = self.global_step * self.config.trainer.accumulate
        world, rank, batch = self.trainer.world_size, self.trainer.global_rank, self.config.data.batch
        batches: IterableDataset
        if isinstance(self.windows, Lanes):
            batches = LaneBatches(self.windows, batch, first, rank)
            if self.carried is not None:  # of a run that is resumed: those of all processes
                if len(self.carried) != world * batch:
                    raise UserError(
                        f"this run carries {len(self.carried)} lanes and would go on with {world * batch}: resume it "
                        f"with as many devices as before, trainer.devices={len(self.carried) // batch}"
                    )
                self.carried = self.carried[rank * batch : (rank + 1) * batch]
        else:
            batches = Batches(self.windows, batch, first, rank, world)
        return DataLoader(batches, batch_size=None)

    def val_dataloader(self) -> DataLoader:
        trainer = self.config.trainer
        rank, world = self.trainer.global_rank, self.trainer.world_size
        window = trainer.val_window or self.config.data.window
        return DataLoader(Windows(self.val, window, trainer.val_windows, rank, world), batch_size=1)

    def configure_optimizers(self) -> Any:
        config = self.config.scheduler
        optimizer = torch.optim.AdamW(parameter_groups(self.model, self.config.optimizer))
        cosine = config.name == "cosine"

        def rate(step: int) -> float:
            """The share of each group's learning rate at a step, warm-up and cosine."""
            rise = min(1.0, (step + 1) / (config.warmup + 1))
            return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.total_steps))) if cosine else rise

        if config.name == "plateau":
            # The warm-up multiplies and then leaves alone what the plateau lowers.
            warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / (config.warmup + 1), total_iters=config.warmup)
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "min", config.factor, config.patience)
            every = {"interval": "step", "frequency": self.val_every, "monitor": "val/loss", "strict": False}
            return [optimizer], [{"scheduler": warmup, "interval": "step"}, {"scheduler": plateau, **every}]
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, rate), "interval": "step"}]

    @property
    def total_steps(self) -> int:
        return self.config.trainer.max_steps or self.config.trainer.max_epochs * self.steps_per_epoch

    @property
    def val_every(self) -> int:
        return self.config.trainer.val_every or self.steps_per_epoch


def accuracies(score: Score) -> dict[str, float]:
    return {"accuracy": score.accuracy(), **{f"accuracy@{k}": score.accuracy(k) for k in TOP}}
