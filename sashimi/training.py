"""Training: from settings to a run directory, under PyTorch Lightning.

A run directory, runs/NAME/TIME, holds config.yaml, metrics.csv, TensorBoard's events, best.safetensors
(ours, by val/bpb) and last.ckpt (Lightning's, from which the run goes on exactly).
"""

import contextlib
import logging
import os
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

from sashimi import checkpoint, loggers, memory, yardsticks
from sashimi.callbacks import Averager, Keeper, Listener, MetricsFile, Ticker, WholeCheckpoints
from sashimi.checkpoint import BEST, LoadedModel, Metadata
from sashimi.clips import describe
from sashimi.codec import Codec
from sashimi.config import REQUIRED, EvaluationConfig, TrainConfig, build_settings
from sashimi.data import description, open_tokens, training_windows
from sashimi.errors import UserError
from sashimi.evaluation import carries, heldout_bpb
from sashimi.faults import explained
from sashimi.files import finished
from sashimi.kernels import resolve_backend
from sashimi.learning import Training
from sashimi.progress import bar, stop_on_interrupt
from sashimi.rollback import Rollback
from sashimi.settings import plain

log = logging.getLogger(__name__)
LAST, CONFIG = "last.ckpt", "config.yaml"
HELDOUT_WINDOWS = 24  # of 5 seconds, that tell what is usual for held-out music: half a minute's work
RUN = "SASHIMI_RUN_DIRECTORY"  # set for the processes of a distributed run


def train(config: TrainConfig, experiment: str | None = None) -> Path:
    """Train what `config` describes and return the run directory.

    Raises UserError for settings, data sets and checkpoints that cannot be used, for a loss that becomes NaN
    again and again, and where memory or the disk is full. Ctrl-C saves and raises KeyboardInterrupt; `resume`
    goes on from there.
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
    if config.trainer.val_window and not carries(model):
        raise UserError("trainer.val_window needs codec.normalize=none: normalised windows have one length")
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
    cuda = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    way = resolve_backend(config.model.layer.backend, "cuda" if cuda else "cpu", config.data.window)
    say(f"layers      {way} over {config.data.batch} x {config.data.window} samples")
    need, free = memory.estimate(model, config, cuda), memory.available(cuda)
    if free is not None and not cuda:
        free //= config.trainer.devices  # processes beside each other
    line, warning = memory.preflight(need, config, free, model.period)
    say(f"memory      {line}")
    if warning is not None:
        rank_zero_only(log.warning)(warning)
    memory.hold()
    with (
        explained(last, config, need, model.period),
        loggers.opened(run, config.trainer.wandb, plain(asdict(config))) as to,
    ):
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
    averager = None if trainer.ema is None else Averager(trainer.ema)
    rollback = Rollback(console, averager)
    callbacks: list[pl.Callback] = [
        rollback,
        MetricsFile(run / "metrics.csv", trainer.log_every),
        Keeper(run, BEST, LAST, trainer.save_every, lambda: rollback.calm),
        Ticker(console, module.total_steps, module.samples, stop),
    ]
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
        plugins=[WholeCheckpoints()],
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

    Without, trainer.max_steps alone can change, and trainer.activation_checkpointing be set: it changes no number.
    """
    saved = build_settings(TrainConfig, yaml.safe_load((run / CONFIG).read_text(encoding="utf-8")))
    trainer = replace(
        saved.trainer,
        max_steps=config.trainer.max_steps or saved.trainer.max_steps,
        activation_checkpointing=config.trainer.activation_checkpointing or saved.trainer.activation_checkpointing,
    )
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
