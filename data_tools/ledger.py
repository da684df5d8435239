"""What a preparation remembers in OUT/.prepare, so that an interrupted one goes on and a finished one does nothing.

A note holds for one key: size and time of the source, and every setting that its content depends on.
"""

import fcntl
import hashlib
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_tools.dataset import Chunk, as_lines, from_lines, write_text
from data_tools.measuring import Measured, what_for
from data_tools.settings import FORMERLY, Settings
from data_tools.sources import Source
from sashimi.errors import UserError

FOLDER = ".prepare"


class Ledger:
    """The notes about a data set: its settings, what was measured of every source, the chunks made of it."""

    def __init__(self, out: Path):
        self.out = out
        self.folder = out / FOLDER
        self.settings_file = self.folder / "settings.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Raises UserError where another process prepares the same data set. A killed one leaves no lock."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{self.out} is being prepared by another process; wait for it, or stop it") from None
            yield

    def settings(self) -> dict[str, Any] | None:
        return json.loads(self.settings_file.read_text(encoding="utf-8")) if self.settings_file.is_file() else None

    def discard(self) -> None:
        """Of a data set that came to nothing; what others keep in the folder stays."""
        for path in [*self._own("*.jsonl"), *self._own("measured/*"), self.settings_file, self.folder / "lock"]:
            path.unlink(missing_ok=True)
        for folder in (self.folder / "measured", self.folder, self.out):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _own(self, pattern: str) -> list[Path]:
        return [path for path in self.folder.glob(pattern) if path.is_file()]

    def keep_settings(self, settings: dict[str, Any]) -> None:
        write_text(self.settings_file, json.dumps(settings, indent=1) + "\n")

    def measured(self, source: Source, settings: Settings) -> Measured | None:
        lines = _noted(self._measured_file(source.id), key(source, *what_for(settings)))
        return None if lines is None else Measured.from_line(lines[0])

    def keep_measured(self, source: Source, settings: Settings, measured: Measured) -> None:
        write_text(self._measured_file(source.id), f"{key(source, *what_for(settings))}\n{measured.as_line()}\n")

    def chunks(self, identity: str, wanted: str, files: Collection[str]) -> list[Chunk] | None:
        """The chunks of a recording in `files`, if all are there and were made under the key `wanted`."""
        if not files:
            return []
        path = self._chunks_file(identity)
        lines = _noted(path, wanted)
        if lines is None:
            return None
        chunks = [chunk for chunk in from_lines(path, lines) if chunk.file in files]
        return chunks if len(chunks) == len(files) and all((self.out / c.file).is_file() for c in chunks) else None

    def keep_chunks(self, identity: str, made_under: str, chunks: list[Chunk]) -> None:
        write_text(self._chunks_file(identity), f"{made_under}\n{as_lines(chunks)}")

    def forget_chunks(self, identity: str) -> None:
        self._chunks_file(identity).unlink(missing_ok=True)

    def recordings(self) -> set[str]:
        """Of which there are chunks."""
        return {path.name.removesuffix(".jsonl") for path in self.folder.glob("*.jsonl")}

    def _measured_file(self, identity: str) -> Path:
        return self.folder / "measured" / f"{identity}.txt"

    def _chunks_file(self, identity: str) -> Path:
        return self.folder / f"{identity}.jsonl"


def key(source: Source, *depends_on: object) -> str:
    content = [source.name, source.size, source.mtime_ns, *depends_on]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _noted(path: Path, wanted: str) -> list[str] | None:
    """The lines of a note, if it is there and holds for the key."""
    if not path.is_file():
        return None
    found, *lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return lines if found == wanted else None


def same_settings(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises UserError, naming what is different. What a former version did not write down, it did as FORMERLY."""
    former = "" if "trim" in before else " or go on as then with --no-trim --keep silent,clipped,duplicates,"
    before, now = FORMERLY | before, FORMERLY | now
    different = [f"{name} {value}, not {now[name]}" for name, value in before.items() if now.get(name, value) != value]
    if different:
        raise UserError(
            f"{out} was prepared with {'; '.join(different)}. "
            f"Choose another --out,{former} or delete {out} to make it anew"
        )
