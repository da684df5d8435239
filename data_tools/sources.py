"""The recordings that a data set is made of: where they are, what they are called, how they sound."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import av
import soundfile as sf

from sashimi import audio
from sashimi.audio import Waveform
from sashimi.errors import UserError
from sashimi.progress import clock

# What is looked at in folders; a file that is named itself may have any suffix.
SUFFIXES = {
    ".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".m4b", ".aac", ".webm", ".mp4", ".mkv", ".mka", ".mov",
    ".aiff", ".aif", ".aifc", ".au", ".caf", ".w64", ".rf64", ".wma", ".wv", ".ape", ".mp2", ".ac3",
}  # fmt: skip
UNREADABLE = (UserError, OSError)
NAME_LENGTH = 80  # file names end at 255 bytes


@dataclass(frozen=True)
class Source:
    """A recording before it is read.

    name  path as given, or relative to the folder that was given; unique
    id    the same as a file name: letters, digits, dots, dashes; unique whatever the case
    """

    path: Path
    name: str
    id: str
    size: int
    mtime_ns: int


def discover(given: Iterable[Path], out: Path) -> tuple[list[Source], dict[str, str]]:
    """All recordings in files and folders, in order of name, without hidden ones and what is in `out`.

    Also the folders without recordings, with the reason. Raises UserError for a path that does not exist.
    """
    named, empty = find(given, out, SUFFIXES, "recordings")
    ids = unique_ids(named)
    sources = []
    for name, path in named.items():
        status = path.stat()
        sources.append(Source(path, name, ids[name], status.st_size, status.st_mtime_ns))
    return sources, empty


def find(
    given: Iterable[Path], out: Path, suffixes: Collection[str], what: str
) -> tuple[dict[str, Path], dict[str, str]]:
    """The given files, and those in the given folders that end in one of `suffixes`, by name, in order of name.

    Without hidden ones and what is in `out`. Also the folders that hold none (of `what`), with the reason.
    Raises UserError for a path that does not exist.
    """
    found: dict[Path, tuple[Path, Path]] = {}  # by true path, so that none is taken twice: name, way from the folder
    empty: dict[str, str] = {}
    for path in given:
        if not path.exists():
            raise UserError(f"there is no file or folder {path}")
        files = [path] if path.is_file() else _in_folder(path, out, suffixes)
        if not files:
            empty[str(path)] = f"there are no {what} in this folder"
        for file in files:
            found.setdefault(file.resolve(), (file, file if path.is_file() else file.relative_to(path)))
    # Two folders may hold the same name: then both are called by their paths.
    times = Counter(name for _, name in found.values())
    named = {_text(path if times[name] > 1 else name): path for path, name in found.values()}
    return dict(sorted(named.items(), key=lambda item: Path(item[0]))), empty


def _in_folder(folder: Path, out: Path, suffixes: Collection[str]) -> list[Path]:
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in suffixes
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
        and not path.resolve().is_relative_to(out.resolve())
    ]


def _text(path: Path) -> str:
    """A path as text, also where its bytes are not."""
    return os.fsencode(os.path.normpath(path)).decode("utf-8", "backslashreplace")


def unique_ids(names: Iterable[str]) -> dict[str, str]:
    """A safe file name for every name. Those that would be the same get a few digits of their path's hash."""
    safe = {name: _safe(Path(name).stem) for name in names}
    times = Counter(stem.lower() for stem in safe.values())
    return {
        name: stem if times[stem.lower()] == 1 else f"{stem}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        for name, stem in safe.items()
    }


def _safe(stem: str) -> str:
    """Canção (live) a=b -> Cancao-live-a-b."""
    plain = normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._]+", "-", plain).strip("-.")[:NAME_LENGTH] or "recording"


def seconds(path: Path) -> float:
    """About how long a recording is, as its file says, or 0 where it does not: enough for a progress bar."""
    try:
        with av.open(str(path)) as container:
            return (container.duration or 0) / av.time_base
    except (av.FFmpegError, OSError):
        return 0.0


def heard(path: Path, rate: int, report: Callable[[float], None]) -> Iterator[Waveform]:
    """`audio.stream`, telling `report` of the seconds in every block once it is dealt with.

    Raises one of UNREADABLE, with the reason.
    """
    samples = 0
    try:
        for block in audio.stream(path, rate):
            yield block
            samples += len(block)
            report(len(block) / rate)
    except (sf.SoundFileError, av.FFmpegError) as error:
        reason = error.strerror if isinstance(error, av.FFmpegError) else error
        raise UserError(f"{path} is damaged after {clock(samples / rate)} ({reason})") from None
