"""Measure what a model writes, before and after it was adapted. `python -m sashimi.lyrics.evaluate --help`"""

from collections.abc import Callable
from typing import Any

from sashimi import cli
from sashimi.lyrics.config import CONFIGS


def make() -> tuple[type, Callable[..., Any]]:
    from sashimi.lyrics.evaluation import evaluate
    from sashimi.lyrics.evaluation_settings import EvaluateSettings

    return EvaluateSettings, evaluate


if __name__ == "__main__":
    cli.run(CONFIGS, "evaluate", make)
