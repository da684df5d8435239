"""Adapt a language model to lyrics. `python -m sashimi.lyrics.train --help`"""

from collections.abc import Callable
from typing import Any

from sashimi import cli
from sashimi.lyrics.config import CONFIGS


def make() -> tuple[type, Callable[..., Any]]:
    from sashimi.lyrics.config import TrainSettings
    from sashimi.lyrics.training import train

    return TrainSettings, train


if __name__ == "__main__":
    cli.run(CONFIGS, "train", make)
