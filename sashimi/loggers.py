"""Where a run's figures, clips and pictures are logged: TensorBoard, and Weights & Biases if asked."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from sashimi.audio import Waveform
from sashimi.errors import UserError
from sashimi.files import is_full


class Board(TensorBoardLogger):
    """TensorBoard's events in the run directory itself, and nothing else: Lightning's would add an hparams.yaml."""

    def __init__(self, run: Path) -> None:
        super().__init__(run, name="", version="")

    @rank_zero_only
    def save(self) -> None:
        self.experiment.flush()


def check(project: str | None) -> None:
    """Raises UserError if there is a project at Weights & Biases to log to and no package to do it with."""
    if project:
        try:
            import wandb.errors  # noqa: F401  (a folder wandb/, which runs leave, would pass for the package alone)
        except ImportError:
            raise UserError(
                f"trainer.wandb={project} needs the package wandb: pip install wandb, or leave it null"
            ) from None


@contextmanager
def opened(run: Path, project: str | None, settings: Mapping[str, Any]) -> Iterator[list[Logger]]:
    """The loggers of a run. A resumed run goes on in its own run at Weights & Biases, named NAME/TIME.

    Raises UserError where Weights & Biases cannot be reached or wants a login.
    """
    if not project:
        with silent_threads():
            yield [Board(run)]
        return
    from wandb.errors import Error

    # The package keeps a folder for every time it was started: wandb/[offline-]run-TIME-ID.
    earlier = sorted((run / "wandb").glob("*run-*-*"), key=lambda path: path.stat().st_mtime)
    online = WandbLogger(
        name="/".join(run.parts[-2:]),
        save_dir=run,
        version=earlier[-1].name.rsplit("-", 1)[-1] if earlier else None,
        project=project,
        config=dict(settings),
    )
    try:
        session = online.experiment
    except Error as error:
        raise UserError(
            f"trainer.wandb={project}: {error}; run `wandb login`, or set WANDB_MODE=offline, or leave it null"
        ) from None
    try:
        with silent_threads():
            yield [Board(run), online]
    except BaseException:
        session.finish(exit_code=1)
        raise
    session.finish()  # else the next run of this process, as in a sweep, would go into this one


@contextmanager
def silent_threads() -> Iterator[None]:
    """TensorBoard's thread that finds the disk full hands the error to the next that logs: no traceback beside it."""
    before = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not is_full(failed.exc_value):
            before(failed)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def show(
    loggers: Sequence[Logger], step: int, waveform: Waveform, rate: int, pictures: Mapping[str, NDArray[np.uint8]]
) -> None:
    """Logs a clip, and pictures uint8(height width 3) by name."""
    for logger in loggers:
        match logger:
            case TensorBoardLogger():
                logger.experiment.add_audio("clip", torch.from_numpy(waveform)[None], step, rate)
                for name, pixels in pictures.items():
                    logger.experiment.add_image(name, pixels, step, dataformats="HWC")
            case WandbLogger():
                logger.log_audio("clip", [waveform], step, sample_rate=[rate])
                for name, pixels in pictures.items():
                    logger.log_image(name, [pixels], step)
