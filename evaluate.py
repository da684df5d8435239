"""Compare checkpoints on held-out recordings. `python evaluate.py --help`"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sashimi import cli


def make() -> tuple[type, Callable[..., Any]]:
    from sashimi.comparison import compare
    from sashimi.config import EvaluateConfig

    return EvaluateConfig, compare


if __name__ == "__main__":
    cli.run(Path(__file__).parent.absolute() / "configs", "evaluate", make)
