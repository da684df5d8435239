"""What a data set depends on besides its sources, and the options by which every tool that makes one asks for it."""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools import splitting

CHUNK_SECONDS = (1.0, 600.0)  # a chunk is held in memory
RATES = (1000, 192000)
LOUDNESS = (-70.0, 0.0)  # LUFS; nothing under -70 counts as sound
GATES = ("silent", "clipped", "duplicates")
# What data sets were made with before these could be chosen.
FORMERLY: dict[str, Any] = {"held_out": None, "shortest": 1.0, "trim": False, "keep": list(GATES), "loudness": None}


@dataclass(frozen=True)
class Settings:
    """What a data set depends on besides its sources.

    chunk     seconds
    split     time, recording or list
    gap       seconds between the parts of a recording, where it is time
    held_out  seconds of its val, and of its test part; None: 6% each
    splits    the file that lists the names, where it is list: as free to change as the sources
    shortest  seconds; what is shorter is skipped
    trim      whether the silence before the first and after the last sound of a recording is cut off
    keep      of GATES: chunks that are not dropped although they are so
    loudness  LUFS that every recording is brought to; None: the peak of every recording is brought to -1 dBFS
    """

    rate: int = 16000
    format: str = "flac"
    chunk: float = 60.0
    split: str = "time"
    gap: float = 5.0
    held_out: float | None = None
    splits: Path | None = None
    shortest: float = 1.0
    trim: bool = True
    keep: tuple[str, ...] = ()
    loudness: float | None = None

    def described(self) -> dict[str, Any]:
        """For dataset.yaml, and to compare."""
        said = {"rate": self.rate, "format": self.format, "chunk": float(self.chunk), "split": self.split}
        if self.split == "time":
            said |= {"gap": float(self.gap)} | ({} if self.held_out is None else {"held_out": float(self.held_out)})
        said |= {"shortest": float(self.shortest), "trim": self.trim}
        said |= {"keep": [gate for gate in GATES if gate in self.keep]}
        return said | ({} if self.loudness is None else {"loudness": float(self.loudness)})


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The options of `settings_from`, and --licence."""
    add = parser.add_argument
    add("--rate", type=int, default=16000, help="samples a second (16000)")
    add("--format", choices=("flac", "wav"), default="flac", help="of the chunks, 16 bits (flac)")
    add("--chunk", type=float, default=60.0, metavar="SECONDS", help="length of a chunk (60)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--split", choices=("time", "recording"),
        help="88/6/6 of the time of every recording, or of the recordings by name (time)",
    )  # fmt: skip
    how.add_argument(
        "--splits", type=Path, metavar="FILE", help='JSON: {"train": [names], "val": [names], "test": [names]}'
    )
    add("--gap", type=float, metavar="SECONDS", help="discarded between train, val and test of a recording (5)")
    add("--held-out", type=float, metavar="SECONDS", help="val, and test, of every recording, in place of 6%% each")
    add("--shortest", type=float, default=1.0, metavar="SECONDS", help="shorter recordings are skipped (1)")
    add(
        "--trim", action=argparse.BooleanOptionalAction, default=True,
        help="cut off the silence at the beginning and the end of a recording (on)",
    )  # fmt: skip
    add(
        "--keep", type=_gates, default=(), metavar="WHAT",
        help=f"do not drop chunks that are near-silent, clipped, or heard in another recording: {','.join(GATES)}",
    )  # fmt: skip
    add(
        "--loudness", type=float, metavar="LUFS",
        help="bring every recording to this loudness (EBU R128, of the mono mix), as -23, and not its peak to -1 dBFS",
    )  # fmt: skip
    add("--licence", metavar="TEXT", help="whose the recordings are and what is allowed, for dataset.yaml")


def _gates(text: str) -> tuple[str, ...]:
    wanted = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = [part for part in wanted if part not in GATES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(GATES)}, joined by commas")
    return wanted


def settings_from(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> Settings:
    """Ends the process through `parser.error` where an option has no sense."""
    limits = {"rate": RATES, "chunk": CHUNK_SECONDS, "loudness": LOUDNESS}
    for name, (low, high) in limits.items():
        value = getattr(arguments, name)
        if value is not None and not low <= value <= high:
            parser.error(f"--{name} must be from {low:g} to {high:g}")
    for name in ("gap", "held_out"):
        if getattr(arguments, name) is not None and (arguments.splits is not None or arguments.split == "recording"):
            parser.error(f"--{name.replace('_', '-')} is for --split time")
    gap = 5.0 if arguments.gap is None else arguments.gap
    if not 0 <= gap < math.inf:
        parser.error("--gap must be 0 or more")
    if arguments.held_out is not None and not splitting.PART_SECONDS <= arguments.held_out < math.inf:
        parser.error(f"--held-out must be at least {splitting.PART_SECONDS:g}")
    if not 0 < arguments.shortest < math.inf:
        parser.error("--shortest must be more than 0")
    return Settings(
        rate=arguments.rate,
        format=arguments.format,
        chunk=arguments.chunk,
        split=(arguments.split or "time") if arguments.splits is None else "list",
        gap=gap,
        held_out=arguments.held_out,
        splits=arguments.splits,
        shortest=arguments.shortest,
        trim=arguments.trim,
        keep=arguments.keep,
        loudness=arguments.loudness,
    )
