"""What a preparation shows while it works and when it is done."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from data_tools.dataset import read
from data_tools.gates import Dropped, summary
from sashimi.progress import bar, clock


@contextmanager
def pace(console: Console, what: str, total: float) -> Iterator[Callable[[str], Callable[[float], None]]]:
    """A bar for `total` seconds of sound. Gives, for the name of a recording, what is to be told of seconds done."""
    begun, done = time.monotonic(), 0.0

    def rate() -> float:
        return done / max(time.monotonic() - begun, 1e-3)

    with bar(console, what) as update:

        def of_recording(name: str) -> Callable[[float], None]:
            def report(more: float) -> None:
                nonlocal done
                done += more
                shown = name if len(name) <= 40 else f"...{name[-37:]}"
                # What a file says of its length may be wrong: only the end is 100%.
                fraction = min(done / total, 0.999) if total else 0.0
                update(fraction, f"{shown}, {rate():,.0f} x real time", max(total - done, 0.0) / rate())

            return report

        yield of_recording
        if done:
            update(1.0, f"{clock(done)} of sound, {rate():,.0f} x real time", 0.0)


def print_summary(console: Console, out: Path, all_train: list[str]) -> None:
    """The splits of a complete data set. all_train: recordings that were too short to be split by time."""
    described, _ = read(out)
    for split, part in described["splits"].items():
        recordings = f"{part['recordings']:6} recording{'s' if part['recordings'] != 1 else ' '}"
        console.print(f"  {split:<6}{clock(part['seconds']):>10}{recordings}{part['chunks']:7} chunks")
    if all_train:
        console.print(f"Too short to be split by time, so all of it is for training: {some(all_train)}")
    empty = [split for split, part in described["splits"].items() if not part["chunks"]]
    if empty:
        console.print(f"Nothing is in {' and '.join(empty)}. More or longer recordings, or --splits FILE, change that.")


def print_skipped(console: Console, skipped: dict[str, str]) -> None:
    if skipped:
        console.print(f"{len(skipped)} could not be used:")
    for name, reason in sorted(skipped.items()):
        console.print(f"  {name}: {reason}")


def print_damaged(console: Console, damaged: dict[str, str]) -> None:
    if damaged:
        console.print(f"{len(damaged)} could be used in part:")
    for name, reason in sorted(damaged.items()):
        console.print(f"  {name}: {reason}")


def print_dropped(console: Console, dropped: list[Dropped]) -> None:
    for why, part in summary(dropped).items():
        chunks = f"{part['chunks']} chunk{'s' if part['chunks'] != 1 else ''}"
        console.print(f"Dropped as {why}: {chunks}, {clock(part['seconds'])}; --keep {why} keeps what is so:")
        for chunk in dropped:
            if chunk.why == why:
                console.print(f"  {chunk}")


def print_limited(console: Console, loudness: float, limited: list[str], recordings: int) -> None:
    """limited: recordings whose peak forbids the gain, or that are too short to measure."""
    if limited:
        console.print(
            f"{len(limited)} of {recordings} recordings stay under {loudness:g} LUFS, for their peak is at -1 dBFS "
            f"already: {some(limited)}"
        )


def some(names: list[str]) -> str:
    """The first five."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
