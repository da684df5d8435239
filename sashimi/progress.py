"""What long work shows: a bar on a terminal, a line now and then in a log; and how it is stopped."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

LINE_SECONDS = 15  # between two lines where there is no terminal


class Update(Protocol):
    def __call__(self, fraction: float, text: str, seconds_left: float) -> None: ...


def clock(seconds: float) -> str:
    """0:07, 12:34, 1:02:03."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


@contextmanager
def bar(console: Console, what: str) -> Iterator[Update]:
    """Gives a function that shows how far `what` is, a text about its rate, and the time left."""
    if not console.is_terminal:
        last = time.monotonic() - LINE_SECONDS + 2

        def line(fraction: float, text: str, seconds_left: float) -> None:
            nonlocal last
            if time.monotonic() - last >= LINE_SECONDS or fraction >= 1:
                last = time.monotonic()
                console.print(f"{what}: {fraction:4.0%}, {text}, {clock(seconds_left)} left")

        yield line
        return
    text_column = TextColumn("{task.fields[text]}", markup=False)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), text_column)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=1.0, text="")

        def update(fraction: float, text: str, seconds_left: float) -> None:
            left = f"{fraction:4.0%}  {text}  {clock(seconds_left)} left"
            progress.update(task, completed=fraction, text=left)

        yield update


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether Ctrl-C was pressed; pressed a second time, it interrupts as usual."""
    pressed = False

    def note(signal_number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
