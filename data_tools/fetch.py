"""One file from the web: whole or absent, gone on with after an interruption, never from where it should not be."""

import filecmp
import hashlib
import json
import mimetypes
import os
import random
import re
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from unicodedata import normalize
from urllib.parse import unquote, urljoin, urlsplit

from data_tools.archives import ENDINGS, LISTS, TooLarge
from data_tools.dataset import write_text
from data_tools.network import check_url, public_only, refused_in, shown
from data_tools.sources import SUFFIXES
from sashimi.errors import UserError

if TYPE_CHECKING:  # of an extra: where it is not installed, that is said when something is fetched
    import httpx

REDIRECTS = 10
LONGEST_WAIT = 300.0  # seconds, whatever Retry-After says
WORTH = 2**20  # an attempt that brought so many bytes more was worth it: the count of failures starts anew
RESERVE = 10**9  # bytes left free on the disk
LOOK = 2**26  # bytes between two looks at the free space
TIMEOUT = 60.0  # seconds without a sign of life
# Compressed on the way, neither the length nor a range of bytes would be the file's.
HEADERS = {"User-Agent": "sashimi-music", "Accept": "*/*", "Accept-Encoding": "identity"}
WEB_PAGES = ("text/html", "application/xhtml+xml")
TEMPORARY = {408, 425, 429}
REASONS = {
    401: "it wants a login; download it with a browser and prepare the file",
    403: "the server does not allow it; download it with a browser and prepare the file",
    404: "there is nothing at this address; check it",
    410: "it was taken down",
    451: "it is withheld for legal reasons",
}
NAMES = {  # what mimetypes does not know, or not everywhere
    "audio/wav": ".wav", "audio/flac": ".flac", "audio/x-flac": ".flac", "audio/ogg": ".ogg", "audio/mp3": ".mp3",
    "audio/mp4": ".m4a", "audio/webm": ".webm",
}  # fmt: skip
WINDOWS = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


class FetchError(UserError):
    """A download that failed for good. The message names the address, without what may be secret, and the fix.

    status: of the server's answer, where that is why.
    """

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


class WebPage(FetchError):
    """There is a page for people at the address, and no recording."""


@dataclass(frozen=True)
class Fetched:
    """url: where it came from in the end, redirects followed. content_type: without parameters. size: bytes."""

    path: Path
    url: str
    content_type: str
    size: int


class _Again(Exception):
    """An attempt that failed for now. wait: seconds that the server asked for, if it did."""

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


def fetch(
    url: str,
    folder: Path,
    *,
    allow_local: bool,
    report: Callable[[int, int | None], None],
    max_bytes: int,
    limit_rate: float | None = None,
    retries: int = 5,
    sleep: Callable[[float], None] = time.sleep,
    headers: Mapping[str, str] | None = None,
    name: str | None = None,
) -> Fetched:
    """Download `url` into `folder`, under the name that the server or the address gives it, or `name`.

    report      is told of the bytes there are, those of an earlier run included, and of all there will be, if known
    limit_rate  bytes a second
    retries     failures in a row that did not bring it on, before it is given up
    headers     are sent to the host of `url` alone, not to where it redirects: a token goes no further

    Two processes must not download one address into one folder at a time. What was downloaded before a failure stays,
    in a hidden .part file. Raises FetchError for what cannot be had, WebPage for one, TooLarge, and UserError for an
    address that must not be fetched.
    """
    import httpx

    check_url(url, allow_local)
    url = url.strip()
    folder.mkdir(parents=True, exist_ok=True)
    part = _Part.of(url, folder)
    job = _Job(url, part, allow_local, report, max_bytes, limit_rate, sleep, dict(headers or {}), name)
    failures, furthest = 0, part.size
    with public_only(allow_local), httpx.Client(timeout=TIMEOUT, headers=HEADERS) as client:
        while True:
            wait = None
            try:
                return job.attempt(client)
            except _Again as again:
                reason, wait = str(again), again.wait
            except (httpx.TransportError, httpx.InvalidURL) as error:
                if refused_in(error):
                    raise
                reason = _reason(url, error)
            if part.size >= furthest + WORTH:
                failures, furthest = 0, part.size
            failures += 1
            if failures > retries:
                raise FetchError(f"{shown(url)}: {reason}; tried {failures} times. Try again later: it will go on")
            backoff = 2**failures * random.uniform(0.5, 1.0)  # so that many clients do not come back together
            sleep(min(max(backoff, wait or 0.0), LONGEST_WAIT))


def _reason(url: str, error: Exception) -> str:
    """Why a connection failed. Raises FetchError where trying again cannot help."""
    import httpx

    within: BaseException | None = error
    while within is not None:
        if isinstance(within, ssl.SSLCertVerificationError):
            raise FetchError(f"{shown(url)}: its certificate is not valid ({within.verify_message})") from None
        if isinstance(within, socket.gaierror) and within.errno == socket.EAI_NONAME:
            raise FetchError(f"{shown(url)}: there is no such host; check the address and the connection") from None
        within = within.__cause__ or within.__context__
    if isinstance(error, httpx.InvalidURL):
        raise FetchError(f"{shown(url)} leads to an address that cannot be read") from None
    if isinstance(error, httpx.TimeoutException):
        return "the server does not answer"
    return f"the connection broke ({str(error) or type(error).__name__})"


@dataclass(frozen=True)
class _Part:
    """What there is of a file: its bytes and, beside them, what says whether the server still has the same file.

    The note is emptied before and written after the bytes of another version: it never vouches for a mixture.
    """

    path: Path
    note: Path

    @classmethod
    def of(cls, url: str, folder: Path) -> "_Part":
        stem = hashlib.sha256(url.encode()).hexdigest()[:16]
        return cls(folder / f".{stem}.part", folder / f".{stem}.part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def known(self) -> tuple[str | None, int | None]:
        """The validator, and the size of the whole, if there is something to go on from."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            return str(note["validator"]), None if note["total"] is None else int(note["total"])
        except (OSError, ValueError, TypeError, KeyError):
            return None, None

    def begin(self, validator: str | None, total: int | None) -> None:
        self.clear()
        if validator:
            write_text(self.note, json.dumps({"validator": validator, "total": total}))

    def clear(self) -> None:
        self.note.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


@dataclass
class _Job:
    """The arguments of `fetch`, and one attempt at it."""

    url: str
    part: _Part
    allow_local: bool
    report: Callable[[int, int | None], None]
    max_bytes: int
    limit_rate: float | None
    sleep: Callable[[float], None]
    headers: dict[str, str] = field(repr=False)
    name: str | None

    def attempt(self, client: "httpx.Client") -> Fetched:
        """Raises _Again or an error of httpx where another attempt may help."""
        have = self._resumable()
        validator, _ = self.part.known()
        wanted = {"Range": f"bytes={have}-", "If-Range": str(validator)} if have else {}
        with self._response(client, wanted) as response:
            total, have = self._accept(response, have)
            self._check_size(total, have)
            self._receive(response, total, have)
            size = self.part.size
            if total is not None and size != total:
                raise _Again(f"only {size} of {total} bytes came")
            if not size:
                raise self._error("the file is empty")
            kind = _content_type(response)
            path = self._keep(
                safe_name(self.name) if self.name else file_name(self.url, str(response.url), response.headers, kind)
            )
            return Fetched(path, str(response.url), kind, size)

    def _error(self, reason: str, kind: type[UserError] = FetchError) -> UserError:
        return kind(f"{shown(self.url)}: {reason}")

    def _web_page(self) -> UserError:
        return self._error("this is a web page, not a recording; give the address of the file itself", WebPage)

    def _resumable(self) -> int:
        """The byte to go on from; at least one is left to ask for, so that the server can say if they still fit."""
        validator, total = self.part.known()
        have = self.part.size
        if validator is None or (total is not None and have > total):
            return 0
        if have and have == total:
            have -= 1
            os.truncate(self.part.path, have)
        return have

    @contextmanager
    def _response(self, client: "httpx.Client", wanted: dict[str, str]) -> Iterator["httpx.Response"]:
        """The answer at the end of the redirects."""
        url = self.url
        for _ in range(REDIRECTS + 1):
            own = self.headers if _origin(url) == _origin(self.url) else {}
            with client.stream("GET", url, headers={**wanted, **own}) as response:
                target = response.headers.get("location")
                if not (response.is_redirect and target):
                    yield response
                    return
            url = urljoin(url, target)
            check_url(url, self.allow_local)
        raise self._error(f"it redirects more than {REDIRECTS} times")

    def _accept(self, response: "httpx.Response", have: int) -> tuple[int | None, int]:
        """The size of the whole, if stated, and how much of it there is already."""
        status = response.status_code
        if status in TEMPORARY or status >= 500:
            raise _Again(f"the server says {status} {response.reason_phrase}", retry_after(response.headers))
        if status == 416 and have:
            self.part.clear()
            raise _Again("the file on the server is another one now", 0.0)
        if status not in (200, 206) or (status == 206 and not have):
            reason = f"{shown(self.url)}: {REASONS.get(status, 'it cannot be downloaded')} (status {status})"
            raise FetchError(reason, status)
        if _content_type(response) in WEB_PAGES:
            raise self._web_page()
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity" and not urlsplit(str(response.url)).path.endswith(("gz", "bz2", "xz")):
            raise self._error(f"the server sends it compressed ({encoding}); download it with a browser")
        if status == 206:
            return self._fitting(response, have), have
        length = response.headers.get("content-length", "")
        total = int(length) if length.isdigit() else None
        self.part.begin(_validator(response), total)
        return total, 0

    def _fitting(self, response: "httpx.Response", have: int) -> int | None:
        """The size of the whole as a partial answer says. Starts over where it is of something else."""
        validator, total = self.part.known()
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("content-range", ""))
        now = _validator(response)
        whole = int(found[2]) if found and found[2] != "*" else total
        if not found or int(found[1]) != have or (now and now != validator) or (total and whole != total):
            self.part.clear()
            raise _Again("the file on the server is another one now", 0.0)
        return whole

    def _check_size(self, total: int | None, have: int) -> None:
        if total is not None and total > self.max_bytes:
            self.part.clear()
            reason = f"{megabytes(total)} are more than the limit of {megabytes(self.max_bytes)}"
            raise self._error(reason, TooLarge)
        free = shutil.disk_usage(self.part.path.parent).free - RESERVE
        if free < (0 if total is None else total - have):
            folder = self.part.path.parent
            raise self._error(f"no space left in {folder} (1 GB is kept free); make room and run this again")

    def _receive(self, response: "httpx.Response", total: int | None, have: int) -> None:
        looked, begun = have, time.monotonic()
        self.report(have, total)
        with self.part.path.open("ab") as file:
            for block in response.iter_raw():
                if not have and block.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
                    self.part.clear()
                    raise self._web_page()
                have += len(block)
                if have > self.max_bytes:
                    self.part.clear()
                    raise self._error(f"it is larger than the limit of {megabytes(self.max_bytes)}", TooLarge)
                file.write(block)
                self.report(have, total)
                if have - looked >= LOOK:
                    file.flush()
                    looked = have
                    self._check_size(total, have)
                if self.limit_rate:
                    self.sleep(max(0.0, len(block) / self.limit_rate - (time.monotonic() - begun)))
                    begun = time.monotonic()

    def _keep(self, name: str) -> Path:
        """The finished file under its name. Another file of that name stays; the same file is not kept twice."""
        target = self.part.path.with_name(name)
        if target.exists():
            if target.is_file() and filecmp.cmp(target, self.part.path, shallow=False):
                self.part.clear()
                return target
            own = self.part.path.name.strip(".")[:8]
            target = target.with_name(f"{target.stem}-{own}{target.suffix}")
        os.replace(self.part.path, target)
        self.part.note.unlink(missing_ok=True)
        return target


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from now, given as such or as a date."""
    value = headers.get("retry-after", "").strip()
    if value.isdigit():
        return float(value)
    try:
        then = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def file_name(asked: str, final: str, headers: Mapping[str, str], content_type: str) -> str:
    """What the server calls the file, else the end of the address: the final one's, unless only `asked` has a suffix.

    Made safe. The suffix is added from the content type where there is none.
    """
    disposition = headers.get("content-disposition", "")
    extended = re.search(r"filename\*\s*=\s*(utf-8|iso-8859-1)'[^']*'([^;\s]+)", disposition, re.IGNORECASE)
    message = Message()
    message["content-disposition"] = disposition
    given = unquote(extended[2], encoding=extended[1]) if extended else message.get_filename()
    names = [given] if given else [unquote(PurePosixPath(urlsplit(u).path).name) for u in (final, asked)]
    known = [name for name in names if name.lower().endswith((*SUFFIXES, *LISTS, *ENDINGS))]
    if known:
        return safe_name(known[0])
    name = safe_name(next(filter(None, names), ""))
    return name + (NAMES.get(content_type) or mimetypes.guess_extension(content_type) or "").replace(".bin", "")


def safe_name(name: str) -> str:
    """A file name that is one, on any system: no folder, no hidden or reserved name, at most 150 bytes."""
    name = normalize("NFC", name).replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join("_" if c in '<>:"|?*' or not c.isprintable() else c for c in name).strip(". ")
    if WINDOWS.fullmatch(name):
        name = f"_{name}"
    path = PurePosixPath(name)
    suffix = path.suffix if len(path.suffix.encode()) <= 12 else ""
    stem = name.removesuffix(suffix).encode()[: 150 - len(suffix.encode())].decode("utf-8", "ignore")
    return (stem + suffix).strip(". ") or "recording"


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 10**6 else f"{size:,} bytes"


def _content_type(response: "httpx.Response") -> str:
    return response.headers.get("content-type", "").partition(";")[0].strip().lower()


def _validator(response: "httpx.Response") -> str | None:
    """What If-Range may name: a strong entity tag, else the time of the last change."""
    tag = response.headers.get("etag", "")
    return tag if tag.startswith('"') else response.headers.get("last-modified")


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.hostname, parts.port
