"""A prepared data set on disk: chunks in train, val and test, `manifest.jsonl`, `dataset.yaml`.

`dataset.yaml` is written last: its presence means that the data set is complete.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from data_tools.splitting import SPLITS
from sashimi.errors import UserError
from sashimi.files import finished

DATASET, MANIFEST = "dataset.yaml", "manifest.jsonl"
FLOOR_DB = -120.0  # what digital silence is called


@dataclass(frozen=True)
class Chunk:
    """A line of the manifest.

    file       relative to the data set
    recording  unique in the data set;   source: the file it was made of
    start      seconds in the recording;   samples: at the data set's rate
    gain_db    what the recording was amplified by;   peak_dbfs, rms_dbfs: of the chunk, after that
    sha256     of the chunk's file
    about      what is known of the recording: title, url, licence, ...; left out where nothing is
    """

    file: str
    split: str
    recording: str
    source: str
    start: float
    samples: int
    gain_db: float
    peak_dbfs: float
    rms_dbfs: float
    sha256: str
    about: dict[str, Any] = field(default_factory=dict)


def decibels(level: float) -> float:
    """An amplitude relative to full scale, in dB, not below -120."""
    return round(max(20 * math.log10(level), FLOOR_DB), 2) if level > 0 else FLOOR_DB


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_lines(chunks: Iterable[Chunk]) -> str:
    """Chunks as the manifest's text."""
    lines = (asdict(chunk) for chunk in chunks)
    known = ({name: value for name, value in line.items() if name != "about" or value} for line in lines)
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in known)


def content_hash(manifest: str) -> str:
    return hashlib.sha256(manifest.encode()).hexdigest()


def from_lines(path: Path, lines: Iterable[str]) -> list[Chunk]:
    """Raises UserError, naming the file, for what is not a manifest."""
    try:
        return [Chunk(**json.loads(line)) for line in lines]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); run data_tools.prepare for it again") from None


def write_text(path: Path, text: str) -> None:
    with finished(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_index(folder: Path, chunks: list[Chunk], described: dict[str, Any]) -> None:
    """The manifest, then dataset.yaml: what `described` says and a summary of every split."""
    manifest = as_lines(chunks)
    write_text(folder / MANIFEST, manifest)
    rate = described["rate"]
    splits = {split: summary([c for c in chunks if c.split == split], rate) for split in SPLITS}
    whole = {"name": folder.resolve().name, **described, "splits": splits, "content_hash": content_hash(manifest)}
    write_text(folder / DATASET, yaml.safe_dump(whole, sort_keys=False, allow_unicode=True))


def summary(chunks: list[Chunk], rate: int) -> dict[str, int | float]:
    return {
        "recordings": len({c.recording for c in chunks}),
        "chunks": len(chunks),
        "seconds": round(sum(c.samples for c in chunks) / rate, 3),
    }


def read(folder: Path) -> tuple[dict[str, Any], list[Chunk]]:
    """What dataset.yaml says, and the chunks in the manifest's order.

    Raises UserError for a folder that is no data set, an unfinished or a damaged one.
    """
    if not (folder / DATASET).is_file():
        if (folder / MANIFEST).is_file():
            raise UserError(f"the data set {folder} is unfinished; run data_tools.prepare for it again")
        raise UserError(f"{folder} is not a data set; make one with `python -m data_tools.prepare SOURCE --out FOLDER`")
    try:
        described = yaml.safe_load((folder / DATASET).read_text(encoding="utf-8"))
        described = {**described, "rate": int(described["rate"]), "splits": dict(described["splits"])}
        manifest = (folder / MANIFEST).read_text(encoding="utf-8")
    except (yaml.YAMLError, KeyError, TypeError, ValueError, FileNotFoundError) as error:
        raise UserError(f"{folder / DATASET} is damaged ({error!r}); run data_tools.prepare for it again") from None
    if described.get("content_hash") != content_hash(manifest):
        raise UserError(
            f"{folder / MANIFEST} is not the one that {DATASET} was written for; run data_tools.prepare again"
        )
    return described, from_lines(folder / MANIFEST, manifest.split("\n")[:-1])
