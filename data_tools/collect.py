"""The work of download.py: fetches what is named, item by item, notes how that ended, and makes a data set of it."""

import json
import shutil
import time
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console

from data_tools import archives
from data_tools.archives import TooLarge
from data_tools.dataset import DATASET, write_text
from data_tools.fetch import WebPage, fetch, megabytes
from data_tools.hub import NAMED, hub_files, published_split
from data_tools.items import (
    DONE,
    FAILED,
    LISTED,
    SEARCH,
    SKIPPED,
    Asked,
    Entry,
    Item,
    Items,
    Postponed,
    cut,
    expanded,
    identity,
    safe_id,
)
from data_tools.network import check_url, shown
from data_tools.prepare import check_free, prepare_sources
from data_tools.report import some
from data_tools.settings import Settings
from data_tools.sources import SUFFIXES, UNREADABLE, discover, seconds
from data_tools.youtube import Manners, Sites, Unwanted, states_open_licence
from sashimi.errors import UserError
from sashimi.progress import Update, bar, clock

TEXT = (b"#EXTM3U", b"<?xml", b"<rss", b"<feed", b"<MPD", b"<!DOCTYPE", b"<html", b"ffconcat", b"[playlist]")


@dataclass
class Download:
    """One run. max_disk: bytes of originals at a time."""

    out: Path
    settings: Settings
    manners: Manners
    console: Console
    licence: str | None = None
    max_disk: float | None = None
    keep_originals: bool = False
    refresh: bool = False
    items: Items = field(init=False)
    used: dict[str, Item] = field(init=False, default_factory=dict)
    local: list[Path] = field(init=False, default_factory=list)
    failed: dict[str, str] = field(init=False, default_factory=dict)
    left_out: dict[str, str] = field(init=False, default_factory=dict)
    postponed: list[str] = field(init=False, default_factory=list)
    given_up: dict[str, Item] = field(init=False, default_factory=dict)
    fetched: int = field(init=False, default=0)
    _sites: Sites | None = field(init=False, default=None)
    _rested: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        self.items = Items(self.out)

    @property
    def sites(self) -> Sites:
        if self._sites is None:
            self._sites = Sites(self.items.files, self.manners, self.console)
        return self._sites

    def run(self, given: dict[str, Asked], replace_inputs: bool) -> int:
        """Everything, to the data set. The exit status; raises UserError where there is no data set."""
        check_free(self.out, self.settings)  # what prepare would refuse after hours of downloading
        with self.items.locked():
            inputs = given if replace_inputs else {**self.items.inputs(), **given}
            if not inputs:
                raise UserError("nothing is named to download, and nothing was before; see --help")
            wanted = list(expanded(inputs))  # before it is kept: it may be wrong
            self.items.keep_inputs(inputs)
            while True:
                self._bring(wanted)
                skipped = self._prepare()
                if skipped is None or (self.postponed and self.fetched and not self.keep_originals):
                    continue
                break
        self._conclude()
        return 1 if skipped else 0

    # --- items ----------------------------------------------------------------------------------------

    def _bring(self, wanted: list[tuple[Entry | Path, Asked]]) -> None:
        """Fetch what is not there, one after the other, lists before what they list."""
        self.used, self.local, self.failed, self.left_out, self.postponed, self.fetched = {}, [], {}, {}, [], 0
        queue, count, seen = deque(wanted), 0, set[str]()
        with bar(self.console, "downloading") as update:
            began = time.monotonic()
            while queue:
                what, asked = queue.popleft()
                key = what.key if isinstance(what, Entry) else str(what.resolve())
                if isinstance(what, Path) and self._stays(what, asked):
                    self.local.append(what)
                    continue
                if key in seen:
                    continue
                seen.add(key)
                count += 1
                report = Pace(update, began, count, count + len(queue), what)
                before = self.items.known.get(key)
                item = self.given_up.get(key) or self._known(what, key, asked) or self._new(what, key, asked, report)
                if item.status == FAILED and before is not None and before.status == LISTED:
                    # A list that cannot be looked at now is the one that it was.
                    self.failed[key], item = item.reason, before
                    self.items.note(before)
                if item.status == LISTED:
                    leaf = replace(asked, most=None)
                    queue.extendleft(reversed([(entry, leaf) for entry in item.entries]))
                elif item.status == DONE:
                    self.used[key] = item
                elif item.status == SKIPPED:
                    self.left_out[key] = item.reason
                else:
                    self.failed[key] = item.reason

    def _stays(self, path: Path, asked: Asked) -> bool:
        """Whether what is on the disk is used where it is: recordings as a whole. Archives are unpacked."""
        if asked.sections or asked.longest is not None:
            return False
        return path.is_dir() or path.suffix.lower() in SUFFIXES or not archives.is_archive(path)

    def _stamp(self, what: Entry | Path, asked: Asked) -> list[Any]:
        """What the parts of an item depend on: what was asked, and of files also their size and time."""
        if isinstance(what, Entry):
            return asked.plain()
        if what.is_file():
            return [*asked.plain(), what.stat().st_size, what.stat().st_mtime_ns]
        return [*asked.plain(), *([s.name, s.size, s.mtime_ns] for s in discover([what], self.out)[0])]

    def _known(self, what: Entry | Path, key: str, asked: Asked) -> Item | None:
        """What is remembered of an item, if that is what is asked for now and still holds."""
        item = self.items.known.get(key)
        if item is None or item.status == FAILED or item.asked != self._stamp(what, asked):
            return None
        if item.status == DONE and not all(part.reason or self.items.there(part) for part in item.parts):
            return None
        if self.refresh and (item.status == LISTED or any(part.reason for part in item.parts)):
            return None
        return item

    def _new(self, what: Entry | Path, key: str, asked: Asked, report: "Pace") -> Item:
        """Fetch an item, and note how that ended."""
        folder = self.items.folder_of(key)
        try:
            if isinstance(what, Path):
                item = self._of_disk(what, key, asked, folder)
            else:
                self._rest()
                bring = self._of_hub if what.url.startswith("hf://") else self._of_net
                item = bring(what, key, asked, folder, report)
        except Postponed as why:
            self.postponed.append(key)
            item = Item(key, FAILED, [], str(why))
        except Unwanted as why:
            item = Item(key, SKIPPED, [], str(why))
        except UNREADABLE as error:
            reason = str(error)
            if isinstance(error, TooLarge) and any(other != folder for other in self.items.files.iterdir()):
                self.postponed.append(key)
            for name in (key, shown(key)):
                reason = reason.removeprefix(f"{name}: ")
            item = Item(key, FAILED, [], reason)
            if key not in self.postponed:
                self.given_up[key] = item
                self.console.print(f"failed: {key}: {reason}")
        item = replace(item, asked=self._stamp(what, asked))
        self.fetched += item.status == DONE
        self.items.note(item)
        return item

    def _rest(self) -> None:
        """Between items."""
        if not self._rested:
            time.sleep(self.manners.sleep)
        self._rested = False

    def _of_hub(self, entry: Entry, key: str, asked: Asked, folder: Path, report: "Pace") -> Item:
        room = self.items.room(self.max_disk)
        found = hub_files(
            entry.url, folder, allow_local=self.manners.allow_local, report=report, max_bytes=room,
            limit_rate=self.manners.limit_rate, retries=self.manners.retries, sleep=time.sleep,
        )  # fmt: skip
        names = [file for file in found.files if Path(file).suffix.lower() in SUFFIXES]
        named = next((named for named in NAMED.values() if named.spec == entry.url), None)
        split = published_split(named, found.files, folder) if named else None
        if split is not None:
            names = [name for part in split.values() for name in part]
            listed = {part: [f"{key}/{name}" for name in files] for part, files in split.items()}
            write_text(self.items.splits, json.dumps(listed))
        known = {"url": found.url, "revision": found.revision, "licence": found.licence}
        known = {name: value for name, value in known.items() if value}
        return self._parts({f"{key}/{name}": folder / name for name in names}, key, asked, folder, known, None)

    def _of_net(self, entry: Entry, key: str, asked: Asked, folder: Path, report: "Pace") -> Item:
        room = self.items.room(self.max_disk)
        to_sites = SEARCH.fullmatch(entry.url) or entry.pick or (entry.extractor or "Generic") != "Generic"
        if not to_sites:
            check_url(entry.url, self.manners.allow_local)
            to_sites = not _looks_direct(entry.url) and self.sites.knows(entry.url)
        if not to_sites:
            found = self._direct(entry, folder, room, report)
            if found is not None:
                known: dict[str, Any] = {"url": identity(entry.url)}
                if entry.title:
                    known = {"title": entry.title, **known}
                return self._parts(self._inside(found, key, folder), key, asked, folder, known, entry.title)
        info = self.sites.look(entry, asked.most)
        if isinstance(info, list):
            if not info:
                raise UserError("there are no recordings in it")
            return Item(key, LISTED, asked.plain(), entries=tuple(info))

        def gate(described: dict[str, Any]) -> str | None:
            within(0, described.get("filesize") or described.get("filesize_approx"))
            if described.get("live"):
                return "it is broadcast live; try again when it is over"
            if asked.longest is not None and (described.get("duration") or 0) > asked.longest:
                return _too_long(described["duration"], asked.longest)
            return None

        def within(done: float, total: float | None) -> None:
            if max(done, total or 0) > room:
                raise TooLarge(f"it is larger than the limit of {megabytes(room)}")
            report(done, total)

        report.title = str(info.get("title") or "")
        path, known = self.sites.get(entry, info, f"{folder.name}/recording", gate, within)
        if entry.title and known.get("title") in (None, known.get("id")):
            known["title"] = entry.title
        return self._parts({key: path}, key, asked, folder, known, known.get("title"))

    def _direct(self, entry: Entry, folder: Path, room: int, report: "Pace") -> Path | None:
        """The file at an address, or None where there is a page, a feed or a playlist."""
        try:
            found = fetch(
                entry.url, folder, allow_local=self.manners.allow_local, report=report, max_bytes=room,
                limit_rate=self.manners.limit_rate, retries=self.manners.retries, sleep=time.sleep,
            )  # fmt: skip
        except WebPage:
            return None
        if _is_text(found.path):
            found.path.unlink()
            return None
        return found.path

    def _of_disk(self, path: Path, key: str, asked: Asked, folder: Path) -> Item:
        if path.is_file() and path.suffix.lower() not in SUFFIXES and archives.is_archive(path):
            return self._parts(self._inside(path, str(path), folder), key, asked, folder, {}, None)
        sources, _ = discover([path], self.out)
        return self._parts({source.name: source.path for source in sources}, key, asked, folder, {}, None)

    def _inside(self, path: Path, name: str, folder: Path) -> dict[str, Path]:
        """The recordings in a file, by their names: those in an archive, or itself."""
        if path.suffix.lower() in SUFFIXES or not archives.is_archive(path):
            return {name: path}
        into = folder / "unpacked"
        shutil.rmtree(into, ignore_errors=True)
        unpacked = archives.unpack(path, into, max_bytes=self.items.room(self.max_disk))
        if path.is_relative_to(folder) and not self.keep_originals:
            path.unlink()
        return {f"{name}/{p.relative_to(into).as_posix()}": p for p in unpacked if p.suffix.lower() in SUFFIXES}

    def _parts(
        self, found: dict[str, Path], key: str, asked: Asked, folder: Path, known: dict[str, Any], title: str | None
    ) -> Item:
        """An item that brought these recordings, by their names: the whole of each, or sections of it."""
        parts = []
        for name, file in found.items():
            if file.is_relative_to(folder) and _is_text(file):
                raise UserError("this is a page or a playlist, not a recording")
            length = seconds(file) if asked.longest is not None else 0.0
            if asked.longest is not None and length > asked.longest:
                if len(found) == 1:
                    raise Unwanted(_too_long(length, asked.longest))
                continue
            if not asked.sections:
                parts.append(self.items.part(file, name, known, title))
            for wanted in asked.sections:
                target = folder / "sections" / f"{safe_id(file.stem, name)}-{wanted}.flac"
                cut(file, wanted, target, self.settings.rate)
                said = {**known, "section": [wanted.start, wanted.end]}
                parts.append(self.items.part(target, f"{name}#t={wanted}", said, title or file.stem))
            if asked.sections and file.is_relative_to(folder) and not self.keep_originals:
                file.unlink()
        return Item(key, DONE, asked.plain(), parts=tuple(parts))

    # --- data set -------------------------------------------------------------------------------------

    def _prepare(self) -> dict[str, str] | None:
        """Make the data set of what there is. Returns what could not be used; None if something must be fetched again.

        Raises UserError where no data set can be made of it.
        """
        sources, skipped = discover(self.local, self.out)
        parts = {part.name: (key, part) for key, item in self.used.items() for part in item.parts}
        unusable = {name: part.reason for name, (_, part) in parts.items() if part.reason}
        sources += [self.items.source(part) for _, part in parts.values() if not part.reason]
        about = {name: part.about for name, (_, part) in parts.items()}
        try:
            found = prepare_sources(
                sources, {**self.failed, **unusable, **skipped}, self.out, self.settings, self._licence(), about,
                self.console,
            )  # fmt: skip
        except FileNotFoundError:
            # A change elsewhere, in splits or of a duplicate, wants chunks anew whose original is gone.
            if all(part.reason or self.items.there(part) for _, part in parts.values()):
                raise
            return None
        lost = False
        for name, reason in found.items():
            if name not in parts or name in unusable:
                continue
            key, part = parts[name]
            there = self.items.source(part).path.is_file()
            lost |= not there
            item = self.used[key] = replace(
                self.used[key],
                status=DONE if there else FAILED,
                parts=tuple(replace(p, reason=reason) if p.name == name else p for p in self.used[key].parts),
            )
            self.items.note(item)
        if lost:
            return None
        if not self.keep_originals:
            self.items.remove_files(self.failed)
        if self.postponed and self.fetched:
            (self.out / DATASET).unlink()  # there is more to come
        return found

    def _licence(self) -> str | None:
        """What the user says, or else what all recordings state alike."""
        stated = {str(part.about.get("licence") or "") for item in self.used.values() for part in item.parts}
        alike = stated.pop() if len(stated) == 1 and not self.local else ""
        return self.licence or alike or None

    def _conclude(self) -> None:
        if self.left_out:
            self.console.print(f"{len(self.left_out)} were left out:")
            for key, reason in self.left_out.items():
                self.console.print(f"  {key}: {reason}")
        unstated = [
            str(part.about.get("title") or part.name)
            for item in self.used.values() for part in item.parts[:1]
            if "extractor" in part.about and not states_open_licence(part.about)
        ]  # fmt: skip
        if unstated and self.licence is None:
            self.console.print(f"warning: no open licence is stated for {some(unstated)}; use it only as you may")
        if self.failed:
            self.console.print("The same command tries again what failed; with --replace, what it does not name goes.")
        if self.keep_originals:
            self.console.print(f"originals: {self.items.files}")


class Pace:
    """Tells the bar how far the items are, and of the one in hand its bytes and their rate."""

    def __init__(self, update: Update, began: float, number: int, total: int, what: Entry | Path):
        self.update, self.began, self.number, self.total = update, began, number, total
        self.title = (what.title or shown(what.url)) if isinstance(what, Entry) else what.name
        self.start: tuple[float, float] | None = None

    def __call__(self, done: float, total: float | None) -> None:
        now = time.monotonic()
        self.start = self.start or (now, done)
        rate = (done - self.start[1]) / max(now - self.start[0], 1e-3)
        part = min(done / total, 1.0) if total else 0.0
        fraction = min((self.number - 1 + part) / self.total, 0.999)
        # The rest of this one at its rate, and the others at the pace of all so far.
        this = (total - done) / rate if total and rate else 0.0
        each = (now - self.began + this) / self.number
        left = this + (self.total - self.number) * each
        title = self.title if len(self.title) <= 40 else f"{self.title[:37]}..."
        size = f"{done / 1e6:,.1f}" + (f" of {total / 1e6:,.1f}" if total else "")
        self.update(fraction, f"{self.number} of {self.total}: {title}, {size} MB, {rate / 1e6:.2f} MB/s", left)


def _too_long(length: float, longest: float) -> str:
    return f"it lasts {clock(length)}, longer than --max-duration {clock(longest)}"


def _looks_direct(url: str) -> bool:
    path = urlsplit(url).path.lower()
    return path.endswith((*SUFFIXES, *archives.ENDINGS))


def _is_text(path: Path) -> bool:
    """Whether a file is a page, a feed or a playlist. A decoder would follow what a playlist names."""
    with path.open("rb") as file:
        begin = file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n")
    return begin.lower().startswith(tuple(text.lower() for text in TEXT))
