"""What a download remembers in OUT/.prepare/download, item by item, so that the same command goes on where it was.

    inputs.json   what was asked for so far, and with which limits
    items.jsonl   one line for everything that came to an end; of several lines for one item the last one counts
    files/        what was fetched, until its chunks are written

An item is one recording on the net, one archive, or one page that lists others.
"""

import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import av
import numpy as np
import soundfile as sf

from data_tools.dataset import from_lines, write_text
from data_tools.fetch import RESERVE
from data_tools.hub import NAMED
from data_tools.ledger import FOLDER
from data_tools.network import check_url
from data_tools.sources import Source, unique_ids
from sashimi import audio
from sashimi.audio import Waveform
from sashimi.errors import UserError
from sashimi.files import finished

DONE, FAILED, SKIPPED, LISTED = "done", "failed", "skipped", "listed"
SEARCH = re.compile(r"[a-z]+search(\d+|all|date\d*)?:.+", re.IGNORECASE)  # of yt-dlp
TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)")
# Parts of an address that open a door, and change from one day to the next.
SECRETS = re.compile(
    r"^(x-amz-.*|x-goog-.*|.*token|.*signature|sig|auth.*|.*api_?key|key|password|expires|policy)$", re.IGNORECASE
)
FULL_SCALE = 0.999


class Postponed(Exception):
    """There is no room for an item now; perhaps there will be, once the originals of others are gone."""


@dataclass(frozen=True)
class Section:
    """Seconds start .. end of a recording; to its end where that is None."""

    start: float = 0.0
    end: float | None = None

    def __str__(self) -> str:
        return f"{self.start:g},{'' if self.end is None else format(self.end, 'g')}"


@dataclass(frozen=True)
class Asked:
    """What was wanted of an input. longest: seconds, longer recordings are skipped; most: items of a page or list."""

    sections: tuple[Section, ...] = ()
    longest: float | None = None
    most: int | None = None

    def plain(self) -> list[Any]:
        return [[[s.start, s.end] for s in self.sections], self.longest, self.most]

    @classmethod
    def of(cls, plain: list[Any]) -> "Asked":
        sections, longest, most = plain
        return cls(tuple(Section(*s) for s in sections), longest, most)


@dataclass(frozen=True)
class Entry:
    """Where an item is: its address, the extractor of yt-dlp that a list named for it, its id among several of a page.

    title: what a list calls it.
    """

    url: str
    extractor: str | None = None
    pick: str | None = None
    title: str = ""

    @property
    def key(self) -> str:
        return identity(self.url) + (f"#{self.pick}" if self.pick else "")


@dataclass(frozen=True)
class Part:
    """A recording that an item brought.

    file: relative to `files/`, or absolute. reason: why it cannot be used, if so. The others are as in `Source`.
    """

    file: str
    name: str
    id: str
    size: int
    mtime_ns: int
    about: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Item:
    """status: done, failed, skipped (there, but not usable or not wanted) or listed (a page of others)."""

    key: str
    status: str
    asked: list[Any]
    reason: str = ""
    parts: tuple[Part, ...] = ()
    entries: tuple[Entry, ...] = ()


class Items:
    """The ledger. Lines are appended, so a killed run loses at most the one that it was writing."""

    def __init__(self, out: Path):
        self.out = out
        self.folder = out / FOLDER / "download"
        self.files = self.folder / "files"
        self.journal = self.folder / "items.jsonl"
        self.splits = self.folder / "splits.json"  # of a data set that comes with lists of its own
        self.known: dict[str, Item] = {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Reads what is known. Raises UserError where another process downloads to the same data set."""
        self.files.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another process downloads to {self.folder.parents[1]}; wait for it, or stop it"
                ) from None
            self._load()
            yield

    def _load(self) -> None:
        text = self.journal.read_bytes().decode("utf-8", "replace") if self.journal.is_file() else ""
        whole, _, torn = text.rpartition("\n")
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                values = json.loads(line)
                values["parts"] = tuple(Part(**part) for part in values.get("parts", ()))
                values["entries"] = tuple(Entry(**entry) for entry in values.get("entries", ()))
                self.known[values["key"]] = Item(**values)
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(f"{self.journal}, line {number}, is damaged ({error}); delete that line") from None
        if torn:
            write_text(self.journal, whole + "\n" if whole else "")

    def note(self, item: Item) -> None:
        self.known[item.key] = item
        line = {name: value for name, value in asdict(item).items() if value or name == "asked"}
        with self.journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def inputs(self) -> dict[str, Asked]:
        """What was asked for before, in order."""
        path = self.folder / "inputs.json"
        try:
            return {given: Asked.of(asked) for given, asked in json.loads(path.read_text(encoding="utf-8")).items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error}); delete it and name everything again") from None

    def keep_inputs(self, inputs: dict[str, Asked]) -> None:
        plain = {given: asked.plain() for given, asked in inputs.items()}
        with finished(self.folder / "inputs.json") as partial:
            partial.write_text(json.dumps(plain, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        (self.folder / "inputs.json").chmod(0o600)  # addresses may hold passwords

    def folder_of(self, key: str) -> Path:
        return self.files / hashlib.sha256(key.encode()).hexdigest()[:16]

    def source(self, part: Part) -> Source:
        return Source(self.files / part.file, part.name, part.id, part.size, part.mtime_ns)

    def part(self, path: Path, name: str, about: dict[str, Any], title: str | None = None) -> Part:
        """The note about a file in `files/`, or of one that stays where it is."""
        status = path.stat()
        file = path.relative_to(self.files).as_posix() if path.is_relative_to(self.files) else str(path.resolve())
        return Part(file, name, safe_id(title or Path(name).stem, name), status.st_size, status.st_mtime_ns, about)

    def there(self, part: Part) -> bool:
        """Whether the file is as it was noted, or else all chunks that were made of it are there."""
        path = self.files / part.file
        if path.is_file():
            return (path.stat().st_size, path.stat().st_mtime_ns) == (part.size, part.mtime_ns)
        note = self.folder.parent / f"{part.id}.jsonl"
        if path.is_relative_to(self.files) and note.is_file():
            chunks = from_lines(note, note.read_text(encoding="utf-8").split("\n")[1:-1])
            return all((self.out / chunk.file).is_file() for chunk in chunks)
        return False

    def remove_files(self, keep_of: Iterable[str]) -> None:
        """All originals, but those of the items `keep_of`, which go on from there."""
        kept = {self.folder_of(key).name for key in keep_of}
        for folder in self.files.iterdir():
            if folder.is_file():
                folder.unlink()
            elif folder.name not in kept:
                shutil.rmtree(folder)

    def room(self, most: float | None) -> int:
        """How many bytes the next item may have, if all originals may have `most`. Raises Postponed for none."""
        free = shutil.disk_usage(self.files).free - RESERVE
        if free <= 0:
            raise Postponed(f"no space left for {self.out} ({RESERVE / 1e9:g} GB is kept free)")
        if most is None:
            return free
        room = int(most) - sum(path.stat().st_size for path in self.files.rglob("*") if path.is_file())
        if room <= 0:
            raise Postponed(f"the originals have the {most / 1e9:.3g} GB of --max-disk already")
        return min(room, free)


def identity(url: str) -> str:
    """An address without what is secret in it: by this it is known, and so it stands in the manifest."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return url
    query = [(name, value) for name, value in parse_qsl(parts.query, True) if not SECRETS.match(name)]
    kept = parts.query if len(query) == len(parse_qsl(parts.query, True)) else urlencode(query)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, kept, ""))


def safe_id(title: str, name: str) -> str:
    """A file name that does not depend on what else is in the data set."""
    (stem,) = unique_ids([f"{title.replace('/', '-')[:200]}.x"]).values()
    return f"{stem[:60].rstrip('-.')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def section(text: str) -> Section:
    """10:00-1:30:00, 90-120.5, 5:00- (to the end). Raises UserError for anything else."""
    first, dash, last = text.partition("-")
    begin, end = _seconds(first.strip() or "0"), _seconds(last.strip()) if last.strip() else None
    if not dash or begin is None or (last.strip() and end is None):
        raise UserError(f"{text!r} is no section; write it as 10:00-1:30:00, or in seconds, as 90-120")
    if end is not None and end <= begin:
        raise UserError(f"the section {text} ends before it begins")
    return Section(begin, end)


def duration(text: str) -> float:
    """Seconds, of h:mm:ss or seconds. Raises UserError for anything else."""
    found = _seconds(text.strip())
    if not found:
        raise UserError(f"{text!r} is no length of time; write it as 1:30:00, or in seconds")
    return found


def _seconds(text: str) -> float | None:
    found = TIME.fullmatch(text)
    return None if found is None else 3600 * float(found[1] or 0) + 60 * float(found[2] or 0) + float(found[3])


# --- what is named ------------------------------------------------------------------------------------


def expanded(inputs: dict[str, Asked]) -> Iterator[tuple[Entry | Path, Asked]]:
    """Every input as an address or a path, lists line by line. Raises UserError for what is neither."""
    for given, asked in inputs.items():
        path = Path(given)
        if given in NAMED:
            yield Entry(NAMED[given].spec), asked
        elif is_address(given):
            yield _entry(given), asked
        elif path.suffix.lower() == ".txt" and path.is_file():
            yield from list(_lines(path, asked))[: asked.most]
        else:
            yield _existing(path), asked


def _lines(path: Path, asked: Asked) -> Iterator[tuple[Entry | Path, Asked]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8; a list holds one address a line") from None
    for number, line in enumerate(lines, 1):
        text, own = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip(), asked
        if not text:
            continue
        try:
            first, _, last = text.rpartition(" ")
            if is_address(first.strip()) and not SEARCH.fullmatch(first.strip()):
                text, own = first.strip(), replace(asked, sections=(section(last),))
            yield (_entry(text) if is_address(text) else _existing(Path(text))), own
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from None


def is_address(given: str) -> bool:
    return bool(re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", given)) or bool(SEARCH.fullmatch(given))


def _entry(given: str) -> Entry | Path:
    if given.lower().startswith("file://"):
        return _existing(Path(unquote(urlsplit(given).path)))
    if not SEARCH.fullmatch(given) and not given.startswith("hf://"):
        check_url(given, allow_local=True)  # what it leads to is looked at when it is fetched
    return Entry(given)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise UserError(
            f"there is no file or folder {path}, and it is no address (https://...) or search (ytsearch5:...)"
        )
    return path


# --- sections -----------------------------------------------------------------------------------------


def cut(path: Path, wanted: Section, target: Path, rate: int) -> None:
    """A section of a recording as a mono FLAC at `rate`; the recording is never in memory as a whole.

    What is louder than full scale, as lossy formats decode to, is brought down as a whole and not clipped.
    Raises UserError where the recording ends before the section begins, and for what is not readable.
    """
    peak = max((float(np.abs(block).max()) for block in _blocks(path, wanted, rate)), default=None)
    if peak is None:
        raise UserError(f"it ends before the section {wanted} begins")
    gain = np.float32(min(1.0, FULL_SCALE / max(peak, 1e-9)))
    with finished(target) as partial, audio.Writer(partial, rate) as file:
        for block in _blocks(path, wanted, rate):
            file.write(block * gain)


def _blocks(path: Path, wanted: Section, rate: int) -> Iterator[Waveform]:
    try:
        yield from audio.stream(path, rate, wanted.start, wanted.end)
    except (sf.SoundFileError, av.FFmpegError) as error:
        reason = error.strerror if isinstance(error, av.FFmpegError) else error
        raise UserError(f"{path} is damaged in the section {wanted} ({reason})") from None
