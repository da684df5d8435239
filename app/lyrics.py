"""Writing and analysing lyrics for the page: one job at a time, whoever else asks waits.

Knows nothing of pages. The companion (sashimi.lyrics) is imported when it is first asked for: it is an extra.
"""

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sashimi.errors import UserError

log = logging.getLogger(__name__)

NEEDED = ("transformers", "peft", "py3langid")  # of the extra
WAITING = 8  # jobs at most, besides the one under way
LOOK = 0.5  # seconds between two looks at the queue
PLAIN = "as it is"


@dataclass(frozen=True)
class Voice:
    """A model that can be chosen. key: for the page; task: writing or understanding; None does both as it can."""

    key: str
    title: str
    model: str
    adapter: Path | None = None
    task: str | None = None


@dataclass(frozen=True)
class Progress:
    """What is to be shown: the text so far, and what is said about it. over: nothing more comes."""

    text: str
    said: str
    over: bool = False


def missing() -> str | None:
    """What to do where the companion's extra is not installed; None where it is."""
    absent = [name for name in NEEDED if find_spec(name) is None]
    if not absent:
        return None
    return f'The lyrics companion is not installed ({", ".join(absent)}): pip install -e ".[lyrics]", and start again.'


class Lyrics:
    """The companion's models, and whose turn it is. One is in memory at a time."""

    def __init__(self, runs: Path = Path("runs/lyrics"), model: str | None = None) -> None:
        self.runs, self.model = runs, model
        self._loaded: tuple[Voice, Any] | None = None
        self._changed = threading.Condition()
        self._queue: list[object] = []

    def voices(self, task: str) -> list[Voice]:
        """Adapters of local runs for a task, the newest first, then the model that was named."""
        if missing():
            return []
        from sashimi.lyrics import trained

        found = [Voice(str(one.path), one.title, one.base, one.path, task) for one in trained.trained(self.runs, task)]
        if self.model and task == "writing":
            found.append(Voice(PLAIN, f"{Path(self.model).name}, {PLAIN}", self.model))
        return found

    def advice(self) -> str | None:
        """What to do before anything can be written; None where something can be."""
        if said := missing():
            return said
        if self.voices("writing"):
            return None
        return (
            f"There is no model to write with yet: no adapter in {self.runs}, and none was named. Train one with "
            "python -m sashimi.lyrics.train (docs/lyrics-training.md), or start the app with --lyrics-model, a hub id, "
            "a folder or a .gguf file."
        )

    def write(
        self, key: str, asked: dict[str, Any], sampling: dict[str, Any], stop: threading.Event
    ) -> Iterator[Progress]:
        """A text as it comes. asked: of a prompts.Request; sampling: of a generation.Sampling.

        stop: ends it, also while it waits. Raises UserError for what cannot be written.
        """
        voice = self._voice(key, "writing")
        from sashimi.lyrics import write
        from sashimi.lyrics.generation import Sampling, stream
        from sashimi.lyrics.prompts import Request

        settings = Sampling(**sampling)
        if not str(asked.get("title") or "").strip():
            raise UserError("give the song a title first")
        request = Request(**{**asked, "language": str(asked.get("language") or "en")})
        ticket = object()
        text, began = "", 0.0
        try:
            for place in self._turn(ticket, stop):
                yield Progress("", f"Waiting: {place} before it.")
            if not stop.is_set():
                yield Progress("", f"Reading {voice.title} …")
            if not stop.is_set():
                loaded = self._load(voice)
                began = time.monotonic()
                pieces = stream(loaded, write.asked(loaded, request), settings)
                try:
                    while not stop.is_set():
                        text += next(pieces)
                        yield Progress(text, f"Writing with {voice.title} …")
                except StopIteration as over:
                    yield Progress(text, _ended(over.value, time.monotonic() - began), True)
                    return
                finally:
                    pieces.close()
            yield Progress(text, "Stopped." if text else "Stopped before it began.", True)
        finally:
            self._leave(ticket)

    def analyze(self, text: str, key: str | None, stop: threading.Event) -> Iterator[tuple[str, list[Any]]]:
        """What can be said about a text: (what is said meanwhile, lines of sashimi.lyrics.analyze once there are)."""
        if said := missing():
            raise UserError(said)
        if not text.strip():
            raise UserError("paste a text first")
        from sashimi.lyrics import analyze as understanding
        from sashimi.lyrics.settings import LONGEST_ORDINARY

        if len(text) > LONGEST_ORDINARY:
            raise UserError(
                f"the text has {len(text):,} characters; at most {LONGEST_ORDINARY:,} are looked at, give a part"
            )
        voice = self._voice(key, "understanding") if key else None
        ticket = object()
        try:
            for place in self._turn(ticket, stop):
                yield f"Waiting: {place} before it.", []
            if stop.is_set():
                yield "Stopped before it began.", []
                return
            yield (f"Reading {voice.title} …" if voice else "Looking …"), []
            yield "", understanding.analyze(text, self._load(voice) if voice else None)
        finally:
            self._leave(ticket)

    # --- turns --------------------------------------------------------------------------------------------

    def _turn(self, ticket: object, stop: threading.Event) -> Iterator[int]:
        """Waits until it is this ticket's turn; how many are before it, again and again meanwhile."""
        with self._changed:
            if len(self._queue) > WAITING:
                raise UserError(f"{WAITING} texts are waiting already; try again in a minute")
            self._queue.append(ticket)
        while not stop.is_set():
            with self._changed:
                place = self._queue.index(ticket)
                if not place:
                    return
            yield place
            with self._changed:
                self._changed.wait_for(lambda: self._queue[0] is ticket or stop.is_set(), LOOK)

    def _leave(self, ticket: object) -> None:
        with self._changed:
            if ticket in self._queue:
                self._queue.remove(ticket)
            self._changed.notify_all()

    # --- models -------------------------------------------------------------------------------------------

    def _voice(self, key: str, task: str) -> Voice:
        if said := missing():
            raise UserError(said)
        found = next((voice for voice in self.voices(task) if voice.key == key), None)
        if found is None:
            raise UserError("this model is not there any more; choose another")
        return found

    def _load(self, voice: Voice) -> Any:
        """Only in its turn: one model at a time is read, and one is held."""
        if self._loaded is None or self._loaded[0] != voice:
            from sashimi.lyrics import models

            self._loaded = None  # its memory goes before the next takes its own
            self._loaded = voice, models.load(voice.model, adapter=voice.adapter)
        return self._loaded[1]


def _ended(written: Any, seconds: float) -> str:
    pace = f"{written.tokens} tokens in {seconds:.0f} s"
    if not written.text:
        return "The model ended before it wrote anything; try another seed or a higher temperature."
    if not written.ended:
        return f"Cut off at its length, {pace}; allow a greater length for an ending."
    return f"Done: {pace}."
