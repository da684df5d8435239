"""Recordings out of zip and tar archives that strangers made: whole or not at all, and nothing else with them."""

import bz2
import gzip
import io
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any
from unicodedata import normalize

from data_tools.sources import SUFFIXES
from sashimi.errors import UserError

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
LISTS = {".txt", ".json", ".csv"}  # which recordings are for validation, and the like
# Recordings shrink by 20 at most; only silence shrinks by more, and a bomb by thousands.
RATIO, HARMLESS = 100, 10**8
BLOCK = 2**20
LONGEST_HEADER = 2**24
COMPRESSED: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, EOFError)


class TooLarge(UserError):
    """There are more bytes than were allowed."""


def is_archive(path: Path) -> bool:
    """Whether a file begins as a zip or tar archive, the latter perhaps compressed; its name says nothing."""
    with path.open("rb") as file:
        if file.read(4) in (b"PK\x03\x04", b"PK\x05\x06"):
            return zipfile.is_zipfile(path)
    try:
        with _opened_tar(path) as file:
            return file.read(512)[257:262] == b"ustar"
    except (*DAMAGED, OSError):
        return False


def unpack(archive: Path, folder: Path, *, max_bytes: int, max_files: int = 100_000) -> list[Path]:
    """The recordings and lists in an archive, into `folder`, which must not exist yet. In order of name.

    Hidden files, archives in the archive and files of other kinds stay where they are. Of two files of one name the
    later counts, as tar has it; names that differ in case alone are told apart by a number.

    Raises UserError, naming the entry, for links and devices, for names that lead out of the folder, for more than
    `max_bytes` bytes or `max_files` entries, for what grows more than 100-fold, and for what is damaged. Then there
    is no `folder`.
    """
    if folder.exists():
        raise UserError(f"{folder} is there already; delete it to unpack {archive} again")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir(parents=True)
    try:
        unpacked, others = _unpack(archive, partial, max_bytes, max_files)
        if not any(Path(name).suffix.lower() in SUFFIXES for name in unpacked):
            inner = [name for name in others if name.lower().endswith(ENDINGS)]
            hint = f" but archives ({inner[0]}): unpack it by hand and prepare the folder" if inner else ""
            raise UserError(f"there are no recordings in {archive}{hint}")
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return sorted(folder / name for name in unpacked)


def _unpack(archive: Path, folder: Path, max_bytes: int, max_files: int) -> tuple[list[str], list[str]]:
    """The names, in `folder`, of what was unpacked, and of the entries that were not."""
    unpacked: dict[str, str] = {}  # by the name in the archive
    others: list[str] = []
    taken: set[str] = set()
    allowed = min(max_bytes, max(HARMLESS, RATIO * archive.stat().st_size))
    left, entry = allowed, ""
    try:
        with _entries(archive) as entries:
            for count, (entry, opened) in enumerate(entries, 1):
                if count > max_files:
                    raise UserError(f"{archive} has more than {max_files} entries; unpack what you need by hand")
                path = _inside(entry, archive)
                if not _wanted(path):
                    others.append(entry)
                    continue
                name = unpacked.get(str(path)) or _free(path, taken)
                unpacked[str(path)] = name
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with opened() as source, (folder / name).open("wb") as target:
                    while block := source.read(min(BLOCK, left + 1)):
                        left -= len(block)
                        if left < 0:
                            raise _too_large(archive, entry, allowed, allowed < max_bytes)
                        target.write(block)
    except DAMAGED as error:
        where = f" at {entry!r}" if entry else ""
        raise UserError(f"{archive} is damaged{where} ({error}); delete it and download it again") from None
    except (NotImplementedError, RuntimeError) as error:  # what zipfile raises for other methods, and for encryption
        raise UserError(f"{archive}: {entry!r} cannot be unpacked ({error}); unpack it by hand") from None
    except OSError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{archive}: {entry!r} cannot be unpacked ({error.strerror or error})") from None
    return list(unpacked.values()), others


def _too_large(archive: Path, entry: str, allowed: int, suspicious: bool) -> UserError:
    if suspicious:
        return UserError(f"{archive}: up to {entry!r} it unpacks to over {RATIO} times its size; this is no recording")
    return TooLarge(f"{archive}: up to {entry!r} it unpacks to more than the limit of {allowed / 1e6:,.0f} MB")


def _wanted(path: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return not hidden and path.suffix.lower() in SUFFIXES | LISTS


def _inside(entry: str, archive: Path) -> PurePosixPath:
    """The name of an entry as a path that stays where it is put. Raises UserError for one that does not."""
    path = PurePosixPath(entry.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", entry) or "\0" in entry:
        raise UserError(f"{archive}: the entry {entry!r} would be unpacked outside of the folder; do not trust it")
    return path


def _free(path: PurePosixPath, taken: set[str]) -> str:
    """The path, or one with a number where a file system that ignores case would have a file there already."""
    name, number = str(path), 1
    while normalize("NFC", name).casefold() in taken:
        number += 1
        name = str(path.with_name(f"{path.stem}-{number}{path.suffix}"))
    taken.add(normalize("NFC", name).casefold())
    return name


Entries = Iterator[tuple[str, Callable[[], IO[bytes]]]]


@contextmanager
def _entries(archive: Path) -> Iterator[Entries]:
    """Name and opener of every entry but folders. Raises UserError for an entry that is not a regular file."""
    with archive.open("rb") as file:
        zipped = file.read(2) == b"PK"
    if zipped:
        with zipfile.ZipFile(archive) as found:
            yield _of_zip(found, archive)
    else:
        with _opened_tar(archive) as meter, tarfile.open(fileobj=meter, mode="r:") as tar:
            yield _of_tar(tar, archive)
            if meter.last.strip(b"\0") or not meter.last:  # tarfile takes a damaged header for the end
                raise tarfile.ReadError("it ends too early")


def _of_zip(found: zipfile.ZipFile, archive: Path) -> Entries:
    for info in found.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.is_dir():
            _inside(info.filename, archive)
            continue
        if kind not in (0, stat.S_IFREG):
            raise _not_regular(archive, info.filename)
        yield info.filename, partial(found.open, info)


def _of_tar(tar: tarfile.TarFile, archive: Path) -> Entries:
    for member in tar:
        if member.isdir():
            _inside(member.name, archive)
            continue
        if not member.isreg():
            raise _not_regular(archive, member.name)
        yield member.name, partial(tar.extractfile, member)  # type: ignore[misc]


def _not_regular(archive: Path, entry: str) -> UserError:
    return UserError(f"{archive}: the entry {entry!r} is a link or a device; unpack by hand what you trust")


def _opened_tar(path: Path) -> "_Metered":
    with path.open("rb") as file:
        begin = file.read(6)
    opener = next((opener for magic, opener in COMPRESSED.items() if begin.startswith(magic)), None)
    return _Metered(opener(path) if opener else path.open("rb"), path)


class _Metered(io.RawIOBase):
    """A tar archive, decompressed as it is read, that ends before a bomb goes off.

    tarfile reads headers of the length that they state in one go, and unpacks what it skips. last: what was read last.
    """

    def __init__(self, file: IO[bytes], path: Path):
        self.file, self.path, self.last = file, path, b""
        self.limit = max(HARMLESS, RATIO * path.stat().st_size)

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LONGEST_HEADER:
            raise tarfile.ReadError("a header is too long")
        self.last = self.file.read(size)
        return self.last

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset > self.limit:
            raise UserError(f"{self.path} unpacks to over {RATIO} times its size; this is no recording")
        return self.file.seek(offset)

    def tell(self) -> int:
        return self.file.tell()

    def close(self) -> None:
        self.file.close()
        super().close()
