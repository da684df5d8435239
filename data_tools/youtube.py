"""Recordings from YouTube and the other sites that yt-dlp knows: best audio as it is there, nothing re-encoded.

Needs no ffmpeg: what arrives is decoded by PyAV. YouTube may need a JavaScript runtime (Deno 2.3 or later, or Node 22)
and the package yt-dlp-ejs beside yt-dlp; what is there is used, nothing of that is fetched at run time. No
configuration, plugin or cache of the user is read or written, and cookies only where they are asked for.
"""

import io
import itertools
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from rich.console import Console

from data_tools.items import SEARCH, Entry, Postponed
from data_tools.network import check_url, public_only, refused_in, shown
from sashimi.errors import UserError

T = TypeVar("T")

OPEN_LICENCE = re.compile(r"creative ?commons|\bcc[ -]?(0|by|zero)\b|public ?domain|free art|\bgpl\b|\bopen\b", re.I)
RUNTIMES = ("deno", "node", "bun", "quickjs")
TEMPORARY = {408, 425, 429, 500, 502, 503, 504}
LONGEST_WAIT = 300.0
# What an extractor says when the site has changed since it was written.
OUTDATED = re.compile(
    r"please report this issue|confirm you are on the latest|unable to extract|nsig extraction|signature extraction"
    r"|failed to parse json|update yt-dlp|player response",
    re.IGNORECASE,
)
LOGIN = re.compile(r"sign in|log ?in|cookies|confirm your age|not a bot|private video|members[- ]only", re.IGNORECASE)
UPDATE = "yt-dlp may be too old for this site: pip install -U yt-dlp"


class SiteError(UserError):
    """An item that could not be had, in one line."""


class Unwanted(UserError):
    """An item that is there and is left out, with the reason."""


@dataclass(frozen=True)
class Manners:
    """How the net is dealt with.

    sleep       seconds between items;   limit_rate: bytes a second
    retries     failures in a row before an item is given up
    cookies     a Netscape file that is read and left as it is;   browser: NAME or NAME:PROFILE
    """

    allow_local: bool = False
    sleep: float = 2.0
    limit_rate: float | None = None
    retries: int = 5
    cookies: Path | None = None
    browser: str | None = None


class Sites:
    """yt-dlp, asked for one item at a time."""

    def __init__(self, folder: Path, manners: Manners, console: Console):
        os.environ["YTDLP_NO_PLUGINS"] = "1"
        import yt_dlp  # type: ignore[import-untyped]

        self.manners, self.console, self.folder = manners, console, folder
        self._gate: Callable[[dict[str, Any]], str | None] = lambda _: None
        self._report: Callable[[float, float | None], None] = lambda done, total: None
        self._hinted = False
        self._page: tuple[tuple[str, str | None] | None, dict[str, Any]] = (None, {})
        self._extractors = list(yt_dlp.extractor.gen_extractor_classes())
        self.ydl = yt_dlp.YoutubeDL(self._options(yt_dlp), auto_init="no_verbose_header")

    def _options(self, yt_dlp: Any) -> dict[str, Any]:
        pauses = dict.fromkeys(("http", "fragment", "extractor", "file_access"), lambda n: backoff(n))
        options: dict[str, Any] = {
            "format": "bestaudio/best",
            "outtmpl": {"default": "%(id)s.%(ext)s"},
            "paths": {"home": str(self.folder)},
            "postprocessors": [], "fixup": "never", "external_downloader": {"default": "native"},
            "extract_flat": "in_playlist", "noplaylist": False, "cachedir": False, "usenetrc": False,
            "logger": _Log(self._warn), "noprogress": True, "quiet": True, "color": "never", "updatetime": False,
            "overwrites": True, "continuedl": True, "skip_unavailable_fragments": False,
            "retries": self.manners.retries, "fragment_retries": self.manners.retries,
            "extractor_retries": min(self.manners.retries, 3), "retry_sleep_functions": pauses,
            "sleep_interval_requests": min(self.manners.sleep, 1.0), "socket_timeout": 60,
            "match_filter": self._filter, "progress_hooks": [self._progress],
            "js_runtimes": {name: {} for name in RUNTIMES}, "remote_components": [],
        }  # fmt: skip
        if self.manners.limit_rate:
            options["ratelimit"] = self.manners.limit_rate
        if self.manners.cookies is not None:
            # As a text in memory, because yt-dlp writes the cookies of a session back.
            options["cookiefile"] = io.StringIO(self.manners.cookies.read_text(encoding="utf-8", errors="replace"))
        if self.manners.browser:
            name, _, profile = self.manners.browser.partition(":")
            options["cookiesfrombrowser"] = (name.lower(), profile or None, None, None)
        return options

    def knows(self, url: str) -> bool:
        """Whether yt-dlp has an extractor made for this very site."""
        return any(ie.suitable(url) and ie.ie_key() != "Generic" for ie in self._extractors)

    def look(self, entry: Entry, most: int | None = None) -> dict[str, Any] | list[Entry]:
        """What is at an address: yt-dlp's description of one recording, or the list of those that a page names.

        Raises SiteError with the reason in one line.
        """
        with _PlainErrors(entry):
            where = (entry.url, entry.extractor)
            # The items of one page come one by one, and it is read once.
            info = self._page[1] if entry.pick and self._page[0] == where else self._follow(*where)
            if info.get("_type", "video") not in ("playlist", "multi_video", "compat_list"):
                return info
            found = [e for e in itertools.islice(info["entries"], None if entry.pick else most) if e]
            self._page = (where, {**info, "entries": found})
            if entry.pick is None:
                return list(_entries(entry, found))
            chosen = [e for e in found if str(e.get("id")) == entry.pick]
            if not chosen:
                raise SiteError(f"the page names no {entry.pick} any more")
            return {**{n: info[n] for n in ("webpage_url", "extractor", "extractor_key") if n in info}, **chosen[0]}

    def _follow(self, url: str, extractor: str | None = None) -> dict[str, Any]:
        """What an extractor makes of an address, over references to other extractors."""
        for _ in range(10):
            if not SEARCH.fullmatch(url):
                check_url(url, self.manners.allow_local)
            info = self._retried(partial(self.ydl.extract_info, url, False, extractor, process=False))
            if not info:
                raise SiteError("nothing was found there")
            if info.get("_type") == "url":
                url, extractor = info["url"], info.get("ie_key")
                continue
            return self._merged(info)
        raise SiteError("it refers from one page to the next without end")

    def _merged(self, info: dict[str, Any]) -> dict[str, Any]:
        """Of an item that only a list describes, what is at its address, with what the list says of it."""
        if info.get("_type") not in ("url", "url_transparent"):
            return info
        inner = self._follow(info["url"], info.get("ie_key"))
        own = ("_type", "url", "ie_key", "id", "extractor", "extractor_key", "entries")
        return {**inner, **{name: value for name, value in info.items() if value is not None and name not in own}}

    def get(
        self,
        entry: Entry,
        info: dict[str, Any],
        stem: str,
        gate: Callable[[dict[str, Any]], str | None],
        report: Callable[[float, float | None], None],
    ) -> tuple[Path, dict[str, Any]]:
        """Download what `look` described to `folder`/stem.*. The file, and what is known of the recording.

        gate: says why an item with this description is not wanted, or None; report: is told of bytes and their total.
        Raises Unwanted with the gate's reason, SiteError with the reason in one line.
        """
        reasons: list[str] = []

        def ask(described: dict[str, Any]) -> str | None:
            reason = gate(described)
            reasons.extend([reason] if reason else [])
            return reason

        self._gate, self._report = ask, report
        self.ydl.params["outtmpl"]["default"] = stem.replace("%", "%%") + ".%(ext)s"
        with _PlainErrors(entry):
            info = {**info, "_type": "video"}
            described = self._retried(lambda: self.ydl.process_ie_result(dict(info), download=True))
        if reasons:
            raise Unwanted(reasons[0])
        files = [
            Path(done["filepath"]) for done in (described or {}).get("requested_downloads", ()) if "filepath" in done
        ]
        if len(files) != 1 or not files[0].is_file():
            raise SiteError("yt-dlp brought no sound file")
        return files[0], about(described)

    def _filter(self, info: dict[str, Any], *, incomplete: bool = False) -> str | None:
        if info.get("is_live") or info.get("live_status") in ("is_live", "is_upcoming"):
            return self._gate({**info, "live": True})
        return None if incomplete else self._gate(info)

    def _progress(self, state: dict[str, Any]) -> None:
        self._report(
            float(state.get("downloaded_bytes") or 0), state.get("total_bytes") or state.get("total_bytes_estimate")
        )

    def _retried(self, call: Callable[[], T]) -> T:
        """For the answers that yt-dlp takes for final although they say: later."""
        for failures in itertools.count(1):
            try:
                with public_only(self.manners.allow_local):
                    return call()
            except Exception as error:
                wait = _wait(error)
                if wait is None or failures > self.manners.retries or refused_in(error):
                    raise
                time.sleep(min(max(wait, backoff(failures)), LONGEST_WAIT))
        raise AssertionError("unreachable")

    def _warn(self, message: str) -> None:
        if not self._hinted and re.search(r"javascript runtime|challenge solv|n challenge", message, re.IGNORECASE):
            self._hinted = True
            self.console.print(
                "YouTube wants a JavaScript runtime, or some of its formats are missing: install Deno 2.3 or later "
                "(or Node 22) and `pip install -U yt-dlp yt-dlp-ejs`."
            )


class _PlainErrors:
    """Turns what yt-dlp raises into a SiteError of one line."""

    def __init__(self, entry: Entry):
        self.entry = entry

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, UserError | Postponed):
            return
        if isinstance(error, OSError) and error.filename:
            return  # the disk's own
        raise SiteError(str(refused_in(error) or f"{shown(self.entry.url)}: {plain(str(error))}")) from None


@dataclass
class _Log:
    """yt-dlp's logger: its errors are raised anyway, and of its warnings we say what helps."""

    warn: Callable[[str], None]

    def debug(self, message: str) -> None:
        pass

    def warning(self, message: str) -> None:
        self.warn(message)

    def error(self, message: str) -> None:
        self.warn(message)


def _entries(page: Entry, found: Iterable[dict[str, Any]]) -> Iterator[Entry]:
    """The items of a list. Those that have no address of their own are found again by their id on the page."""
    for item in found:
        title = _title(item)
        if item.get("_type") in ("url", "url_transparent"):
            yield Entry(item["url"], item.get("ie_key"), None, title)
        else:
            yield Entry(page.url, page.extractor, str(item.get("id")), title)


def _title(info: dict[str, Any]) -> str:
    """Of a recording on a page without a title, which yt-dlp calls None (1), the name of its file."""
    title = str(info.get("title") or "")
    if re.fullmatch(r"None( \(\d+\))?", title):
        address = str(info.get("url") or (info.get("formats") or [{}])[-1].get("url") or "")
        return unquote(PurePosixPath(urlsplit(address).path).stem)
    return title


def about(info: dict[str, Any]) -> dict[str, Any]:
    """What is known of a recording, for the manifest; only what is."""
    date = str(info.get("upload_date") or "")
    known = {
        "title": _title(info),
        "uploader": info.get("uploader") or info.get("channel") or info.get("artist"),
        "url": info.get("webpage_url") or info.get("original_url"),
        "upload_date": f"{date[:4]}-{date[4:6]}-{date[6:]}" if re.fullmatch(r"\d{8}", date) else None,
        "licence": info.get("license"),
        "duration": info.get("duration"),
        "id": info.get("id"),
        "extractor": info.get("extractor_key") or info.get("extractor"),
    }
    return {name: value for name, value in known.items() if value not in (None, "")}


def states_open_licence(known: dict[str, Any]) -> bool:
    return bool(OPEN_LICENCE.search(str(known.get("licence") or "")))


def plain(message: str) -> str:
    """An error of yt-dlp in one line: no colours, no boilerplate; with what helps, where that can be told."""
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", message)
    text = re.sub(r"\s+", " ", text).strip()
    short = re.sub(r"^(ERROR: )?(\[[\w:+.-]+\] )?([\w-]+: )?", "", text) if text.startswith(("ERROR:", "[")) else text
    short = re.split(r"[;.]? ?(?:\(caused by |please report this issue|Please report this issue)", short)[0]
    short = re.split(r" (?:Confirm you are on|Use --cookies|See https?://|Also see )", short)[0].strip(" ;.")
    if LOGIN.search(text):
        return f"{short}; --cookies-from-browser BROWSER or --cookies FILE may help"
    if OUTDATED.search(text) and not re.search(r"unsupported url", text, re.IGNORECASE):
        return f"{short}; {UPDATE}"
    return short or "yt-dlp failed without a reason"


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return float(min(2**failures, 60))


def _wait(error: BaseException) -> float | None:
    """Seconds that a server asks to wait; 0 if it says nothing of that, None if trying again is of no use."""
    from yt_dlp.networking.exceptions import HTTPError, TransportError  # type: ignore[import-untyped]

    waiting, seen = [error], set[int]()
    while waiting:
        e = waiting.pop()
        if id(e) in seen:
            continue
        seen.add(id(e))
        if isinstance(e, HTTPError):
            if e.status not in TEMPORARY:
                return None
            after = str(e.response.headers.get("Retry-After") or "")
            return float(after) if after.isdigit() else 0.0
        if isinstance(e, TransportError):
            return 0.0
        info = getattr(e, "exc_info", None)
        within = [getattr(e, "cause", None), e.__cause__, e.__context__, info[1] if info else None]
        waiting += [x for x in within if isinstance(x, BaseException)]
    return None
