"""Play a model: unconditional clips, and continuations of recordings. `python generate.py --help`"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sashimi import cli


def make() -> tuple[type, Callable[..., Any]]:
    from sashimi.clips import generate_files
    from sashimi.config import GenerateConfig

    return GenerateConfig, generate_files


if __name__ == "__main__":
    cli.run(Path(__file__).parent.absolute() / "configs", "generate", make)
