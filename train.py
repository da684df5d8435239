"""Train a model on recordings. `python train.py --help`"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sashimi import cli


def make() -> tuple[type, Callable[..., Any]]:
    from sashimi.config import TrainConfig
    from sashimi.training import train

    return TrainConfig, train


if __name__ == "__main__":
    cli.run(Path(__file__).parent.absolute() / "configs", "train", make)
