"""A prepared set of songs on disk: train.jsonl, val.jsonl, test.jsonl, report.md with its plots, dataset.yaml.

The folder appears whole: whoever finds dataset.yaml finds everything.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sashimi.errors import UserError
from sashimi.lyrics.selection import SPLITS

DATASET = "dataset.yaml"
KIND = "lyrics"


@dataclass(frozen=True)
class Song:
    """A line of the JSONL files.

    id        16 hexadecimal digits of what is sung (see `duplicates.exact_key`)
    title, artist, genre   None where the source names none
    language  ISO 639-1, or "und"
    lyrics    a prepared text (see `cleaning`)
    source    file and line;   licence: what the source states for this song
    about     other short columns of the source: year, genres, credits, ...; left out where there are none
    """

    id: str
    title: str | None
    artist: str | None
    language: str
    genre: str | None
    lyrics: str
    source: str
    licence: str | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        values = {name: value for name, value in asdict(self).items() if name != "about" or value}
        return json.dumps(values, ensure_ascii=False) + "\n"


def song(line: str) -> Song:
    """Raises ValueError or TypeError for what is not a song's line."""
    return Song(**json.loads(line))


def check_free(out: Path) -> None:
    """Raises UserError where `out` is something else than a set of songs."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; choose another --out")
    if out.is_dir() and any(out.iterdir()) and not _is_ours(out):
        raise UserError(f"{out} has files in it and is no set of lyrics of this program; choose another --out")


def _is_ours(folder: Path) -> bool:
    try:
        return described(folder)["kind"] == KIND
    except UserError:
        return False


@contextmanager
def replaced(out: Path) -> Iterator[Path]:
    """`swapped`, for a set of songs. Raises UserError where `out` is something else."""
    check_free(out)
    with swapped(out) as partial:
        yield partial


@contextmanager
def swapped(out: Path) -> Iterator[Path]:
    """Gives an empty folder beside `out`, which takes its place on success and is removed on failure."""
    out = out.absolute()
    partial, old = (out.with_name(f".{out.name}.{os.getpid()}.{what}") for what in ("partial", "old"))
    try:
        partial.mkdir(parents=True)
        yield partial
        if out.exists():
            os.replace(out, old)
        os.replace(partial, out)
    finally:
        if old.exists() and not out.exists():
            os.replace(old, out)
        for folder in (partial, old, *_abandoned(out)):
            shutil.rmtree(folder, ignore_errors=True)


def _abandoned(out: Path) -> list[Path]:
    """What killed runs left beside `out`."""
    found = []
    for folder in out.parent.glob(f".{out.name}.*.*"):
        process, _, what = folder.name.removeprefix(f".{out.name}.").partition(".")
        if what in ("partial", "old") and process.isdecimal() and not _runs(int(process)):
            found.append(folder)
    return found


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def content_hash(folder: Path) -> str:
    """Of the three files of songs, in the order train, val, test."""
    total = hashlib.sha256()
    for split in SPLITS:
        with (folder / f"{split}.jsonl").open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def described(folder: Path) -> dict[str, Any]:
    """What dataset.yaml says. Raises UserError for a folder without a whole one."""
    path = folder / DATASET
    if not path.is_file():
        raise UserError(
            f"{folder} is not a set of lyrics; make one with `python -m sashimi.lyrics.prepare SOURCE --out {folder}`"
        )
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {**found, "kind": found.get("kind"), "content_hash": found["content_hash"]}
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); run sashimi.lyrics.prepare again") from None


def songs(folder: Path, split: str) -> Iterator[Song]:
    """The songs of a split, one at a time. Raises UserError, naming the line, for damage."""
    described(folder)
    path = folder / f"{split}.jsonl"
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield song(line)
                except (ValueError, TypeError) as error:
                    raise UserError(f"{path}:{number} is damaged ({error}); run sashimi.lyrics.prepare again") from None
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); run sashimi.lyrics.prepare again") from None


def write_described(folder: Path, values: dict[str, Any]) -> None:
    text = yaml.safe_dump({"kind": KIND, **values}, sort_keys=False, allow_unicode=True, width=1000)
    (folder / DATASET).write_text(text, encoding="utf-8")
