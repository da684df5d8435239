"""Training: from settings to a run directory, under PyTorch Lightning.

A run directory, runs/NAME/TIME, holds config.yaml, metrics.csv, TensorBoard's events, best.safetensors
(ours, by val/bpb) and last.ckpt (Lightning's, from which the run goes on exactly).
"""

import contextlib
import logging
import math
import os
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from sashimi import checkpoint, loggers, yardsticks
from sashimi.batches import FRESH, Batches, LaneBatches, Windows
from sashimi.callbacks import Averager, Keeper, Listener, MetricsFile, Ticker
from sashimi.checkpoint import BEST, LoadedModel, Metadata
from sashimi.clips import describe
from sashimi.codec import Codec
from sashimi.config import REQUIRED, EvaluationConfig, OptimizerConfig, TrainConfig, build_settings, plain
from sashimi.data import Lanes, MixedWindows, TokenStore, TrainingWindows, description, open_tokens, training_windows
from sashimi.errors import UserError
from sashimi.evaluation import TOP, Score, carries, heldout_bpb
from sashimi.files import finished
from sashimi.progress import bar, stop_on_interrupt

LAST, CONFIG = "last.ckpt", "config.yaml"
HELDOUT_WINDOWS = 24  # of 5 seconds, that tell what is usual for held-out music: half a minute's work
RUN = "SASHIMI_RUN_DIRECTORY"  # set for the processes of a distributed run

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
        self.carried: Tensor | None = None  # f(B S): what every lane of this process has left
        self.val, self.score, self.validated = val, Score(), -1  # the step of the last validation

    @property
    def samples(self) -> int:
        """Samples that one step sees."""
        trainer, data = self.config.trainer, self.config.data
        return data.window * data.batch * trainer.devices * trainer.accumulate

    @property
    def steps_per_epoch(self) -> int:
        return max(1, math.ceil(self.windows.per_epoch * self.config.data.window / self.samples))

    def logits(self, targets: Tensor) -> Tensor:
        """i(B L) -> f(B L V): each token predicted from those before it."""
        return self.model(nn.functional.pad(targets[:, :-1], (1, 0), value=self.model.start_token))

    def carried_logits(self, targets: Tensor, before: Tensor) -> Tensor:
        """The same for the next window of every lane; before: i(B), the token before it or FRESH."""
        fresh = before == FRESH
        state = self.model.start(len(targets))
        if self.carried is not None:
            values = self.carried.to(state.values).masked_fill(fresh[:, None], 0)
            state = replace(state, values=values)
        first = before.masked_fill(fresh, self.model.start_token)[:, None]
        logits, state = self.model.scan(torch.cat([first, targets[:, :-1].long()], dim=1), state)
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
        if isinstance(batch, Tensor):
            targets, logits = batch, self.logits(batch)
        else:
            targets, logits = batch[0], self.carried_logits(*batch)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.long().flatten())
        if not torch.isfinite(loss):
            raise UserError(
                f"the loss became NaN at step {self.global_step}: the last good checkpoints are kept; "
                f"lower optimizer.lr={self.config.optimizer.lr} or set trainer.gradient_clip=1"
            )
        self.log_dict({"train/loss": loss, "train/bpb": loss / math.log(2)})
        if (self.global_step + 1) % self.config.trainer.log_every == 0:
            sums = Score()
            sums.add(logits[0].detach(), targets[0])
            self.log_dict({f"train/{name}": value for name, value in accuracies(sums).items()})
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
        return DataLoader(Windows(self.val, self.config.data.window, trainer.val_windows, rank, world), batch_size=1)

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


# --- a run --------------------------------------------------------------------------------------------


def train(config: TrainConfig, experiment: str | None = None) -> Path:
    """Train what `config` describes and return the run directory.

    Raises UserError for settings, data sets and checkpoints that cannot be used, and for a loss that became
    NaN. Ctrl-C saves and raises KeyboardInterrupt; `resume` goes on from there.
    """
    quieten()
    console = Console(highlight=False, soft_wrap=True, markup=False)
    run = resumed(config)
    new = run is None
    if run is not None:
        config = saved_settings(run, config, experiment)
    folder = config.data.dir
    if folder is None:
        raise UserError("training needs recordings: set data.dir=FOLDER, or experiment=NAME; --help lists them")
    loggers.check(config.trainer.wandb)
    model = start_model(config)
    config = replace(config, model=model.config, codec=model.metadata.codec)
    if config.data.carry_state:
        check_carrying(model, config.data.window)
    folders = [folder, *config.data.also]
    heard = [open_tokens(each, "train", Codec(config.codec)) for each in folders]
    val = open_tokens(folder, "val", Codec(config.codec))
    for each, store in zip(folders, heard, strict=True):
        if max(store.lengths) < config.data.window:
            longest = max(store.lengths) / config.codec.rate
            raise UserError(
                f"data.window={config.data.window} is longer than every training recording of {each} ({longest:.1f} s)"
            )
    windows = training_windows(heard, config.data.weights, config.data.window, config.seed, config.data.carry_state)
    module = Training(config, model, windows, val)
    if run is None:
        run = begin(config)
    data, *also = (
        {"dir": str(each), **described(each), "share": share}
        for each, share in zip(folders, windows.shares, strict=True)
    )
    model.metadata.provenance |= {
        "data": data,
        "also": also,
        "seed": config.seed,
        "settings": {name: plain(asdict(getattr(config, name))) for name in ("optimizer", "scheduler", "trainer")},
    }
    say = rank_zero_only(console.print)
    say(f"model       {describe(model)}")
    for i, (each, store, share) in enumerate(zip(folders, heard, windows.shares, strict=True)):
        minutes = store.offsets[-1] / config.codec.rate / 60
        of = f", {share:.1%} of the windows" if also else ""
        say(f"{'' if i else 'recordings':<10}  {each}: {minutes:.1f} minutes to train on{of}")
    say(f"run         {run} ({'new' if new else 'resumed'}), {module.total_steps} steps of {module.samples} samples")
    last = run / LAST
    with loggers.opened(run, config.trainer.wandb, plain(asdict(config))) as to:
        with stop_on_interrupt() as stop:
            trainer = make_trainer(config, run, module, console, stop, to)
            trainer.fit(module, ckpt_path=last if last.is_file() else None, weights_only=True)
        if stop():
            say(f"stopped     go on with resume={run}")
            raise KeyboardInterrupt
        if module.validated != trainer.global_step:  # the steps were no multiple of val_every
            trainer.validate(module, verbose=False)
    if trainer.is_global_zero:
        simple = yardsticks.measure(val, config.data.window, EvaluationConfig().yardstick_minutes, console)
        best = measure(run, folder, config, console)
        others = ", ".join(f"{name} {bits:.3f}" for name, bits in simple.items())
        say(f"held out    {best.metadata.metrics['val/bpb']:.3f} bits per byte on val; by simple means: {others}")
    say(f"done        play it: python generate.py checkpoint_path={run}")
    return run


def measure(run: Path, folder: Path, config: TrainConfig, console: Console) -> LoadedModel:
    """Adds heldout_bpb to the best checkpoint: what is usual for music that the model knows."""
    best = checkpoint.load(run, backend=config.model.layer.backend)
    stores, began = [], time.monotonic()
    for split in ("val", "test"):
        with contextlib.suppress(UserError):  # a data set may have no test split
            stores.append(open_tokens(folder, split, Codec(config.codec)))
    with bar(console, "measuring") as update:

        def report(share: float) -> None:
            update(share, "held-out music in 5-second windows", (time.monotonic() - began) * (1 / share - 1))

        best.metadata.metrics["heldout_bpb"] = heldout_bpb(best, stores, HELDOUT_WINDOWS, report)
    checkpoint.save(run / BEST, best, best.metadata)
    return best


def quieten() -> None:
    """What Lightning says of itself at every start, and what its own code warns of."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (".*LeafSpec.*", ".*many workers.*", ".*sync_dist=True.*", ".*exists and is not empty.*"):
        warnings.filterwarnings("ignore", message)


def make_trainer(
    config: TrainConfig, run: Path, module: Training, console: Console, stop: Callable[[], bool], to: list[Logger]
) -> pl.Trainer:
    """Lightning's Trainer with this project's callbacks and none of its own."""
    trainer = config.trainer
    callbacks: list[pl.Callback] = [
        MetricsFile(run / "metrics.csv", trainer.log_every),
        Keeper(run, BEST, LAST, trainer.save_every),
        Ticker(console, module.total_steps, module.samples, stop),
    ]
    averager = None if trainer.ema is None else Averager(trainer.ema)
    if trainer.sample_every is not None:
        seconds, every = trainer.sample_seconds, trainer.sample_every
        callbacks.append(Listener(run / "samples", every, seconds, config.seed, stop, averager))
    if averager is not None:
        callbacks.append(averager)
    return pl.Trainer(
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        strategy=trainer.strategy,
        precision=trainer.precision,  # type: ignore[arg-type]
        max_epochs=-1,
        max_steps=module.total_steps,
        val_check_interval=module.val_every * trainer.accumulate,
        check_val_every_n_epoch=None,
        accumulate_grad_batches=trainer.accumulate,
        gradient_clip_val=trainer.gradient_clip or None,
        log_every_n_steps=trainer.log_every,
        num_sanity_val_steps=0,
        logger=to,
        callbacks=callbacks,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run,
    )


def resumed(config: TrainConfig) -> Path | None:
    """The run directory that `resume` means, if any. Raises UserError where there is none."""
    if config.resume is None:
        return None
    if str(config.resume) == "auto":
        found = sorted((config.runs_dir / config.name).glob(f"*/{LAST}"), key=lambda path: path.stat().st_mtime)
        return found[-1].parent if found else None
    if not (config.resume / LAST).is_file():
        raise UserError(f"resume={config.resume}: there is no {LAST} in it, so nothing to go on from")
    return config.resume


def saved_settings(run: Path, config: TrainConfig, experiment: str | None) -> TrainConfig:
    """A run's own settings. With its experiment named again, how long it goes on and on what is as composed now.

    Without, trainer.max_steps alone can change.
    """
    saved = build_settings(TrainConfig, yaml.safe_load((run / CONFIG).read_text(encoding="utf-8")))
    trainer = replace(saved.trainer, max_steps=config.trainer.max_steps or saved.trainer.max_steps)
    if experiment is not None:
        trainer = config.trainer
    return replace(saved, trainer=trainer, resume=config.resume, runs_dir=config.runs_dir)


def begin(config: TrainConfig) -> Path:
    """A new run directory with its settings. Processes that are started beside this one find it by RUN."""
    if int(os.environ.get("LOCAL_RANK", 0)) > 0 and RUN in os.environ:
        return Path(os.environ[RUN])
    stamp = config.runs_dir / config.name / time.strftime("%Y%m%d-%H%M%S")
    run = next(path for i in count(1) if not (path := Path(f"{stamp}-{i}" if i > 1 else stamp)).exists())
    settings = {key: value for key, value in plain(asdict(config)).items() if key not in ("resume", "runs_dir")}
    with finished(run / CONFIG) as partial:
        partial.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    os.environ[RUN] = str(run)
    return run


def start_model(config: TrainConfig) -> LoadedModel:
    """A new model by the settings and the seed, or the one to start from."""
    if config.init_from == REQUIRED:
        raise UserError(
            "this experiment goes on from a trained model: set init_from=CHECKPOINT, a .safetensors, a run directory, "
            "or a published .pt or .ckpt"
        )
    if config.init_from is not None:
        model = checkpoint.load(config.init_from, backend=config.model.layer.backend)
        model.metadata.provenance = {"init_from": str(config.init_from)}
        model.metadata.metrics, model.metadata.name = {}, config.name
        model.train()
    else:
        torch.manual_seed(config.seed)
        model = LoadedModel(Metadata(config.model, config.codec, config.name))
    codec = model.metadata.codec
    if codec.normalize == "window" and codec.window is None:  # what the model hears, its checkpoint says
        model.metadata.codec = replace(codec, window=config.data.window)
    return model


def check_carrying(model: LoadedModel, window: int) -> None:
    """Raises UserError where windows do not follow each other as one signal, or not in one phase."""
    if not carries(model):
        raise UserError("data.carry_state=true needs codec.normalize=none: normalised windows are not one signal")
    if window % model.period:
        raise UserError(
            f"data.carry_state=true: data.window={window} must be a multiple of {model.period}, what the tiers pool"
        )


def described(folder: Path) -> dict[str, Any]:
    """What of a data set's description goes into a checkpoint."""
    known = description(folder)
    return {key: known[key] for key in ("name", "content_hash", "licence") if known.get(key) is not None}
