"""Collections of lyrics to a data set: train.jsonl, val.jsonl, test.jsonl, a report with plots, and dataset.yaml.

SOURCE is a folder with Vagalume's artists-data.csv and lyrics-data.csv; a table (.csv, .tsv, .jsonl, .json, .parquet)
with lyrics and a title; a table of Instruction and Label, as 5M-Songs-Lyrics; a Hugging Artists data set; a folder of
.txt as [ARTIST/]TITLE.txt; or any of these on the Hugging Face hub, as hf://datasets/OWNER/NAME.

Line breaks, accents and scripts stay as they are; section markers become [Chorus], [Verse 2]. What is not used is
counted by reason, with examples. The same songs and settings always give the same data set. Stopped at any moment, it
leaves nothing behind. Exit status: 0, or 2 if there is no data set.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from sashimi.cli import reported_errors
from sashimi.errors import UserError
from sashimi.lyrics import dataset, hub, languages, selection
from sashimi.lyrics.dataset import Song
from sashimi.lyrics.duplicates import Near
from sashimi.lyrics.report import Counts, Dropped, write
from sashimi.lyrics.settings import Settings
from sashimi.lyrics.songs import Unusable, song_of
from sashimi.lyrics.sources import TABLES, Damaged, Source
from sashimi.lyrics.spool import Spool
from sashimi.progress import bar


def prepare(
    given: str,
    out: Path,
    settings: Settings,
    licence: str | None = None,
    encoding: str = "utf-8",
    artist: str | None = None,
    splits: Path | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Make the data set `out`, in the place of an older one. Returns what dataset.yaml says.

    artist: of songs for which the source names none; splits: a JSON file of ids, instead of settings.split.
    Raises UserError (and OSError) where no data set can be made of this; one that was there then stays.
    """
    console = console or Console(highlight=False, soft_wrap=True, markup=False)
    dataset.check_free(out)
    listed = selection.listed(splits) if splits else None
    if given.startswith("hf://"):
        path, repository, stated = hub.data_set(given, [f"*{suffix}" for suffix in (*TABLES, ".txt")])
        licence, artist = licence or stated, artist or repository
    else:
        path = Path(given)
    source = Source(path, encoding, artist)
    dropped, found, counts = Dropped(), Counter[str](), Counts()
    with dataset.replaced(out) as folder:
        spooled = folder / ".songs"
        with spooled.open("w+b") as file:
            spool = Spool(file)
            rows = _read(source, spool, settings, found, dropped, console)
            if not spool.keys:
                reasons = ", ".join(f"{n:,} {reason}" for reason, n in dropped.counts.most_common())
                first = next(iter(dropped.examples.values()), [""])[0]
                raise UserError(f"{given} has no song that can be used: {reasons or 'it has no rows'}. {first}".strip())
            kept = list(_choose(spool, settings, listed, dropped, console))
            parts = _split(spool, kept, settings, listed)
            licences = _write(spool, kept, parts, folder, counts)
        spooled.unlink()
        if licence is None and licences:
            licence = f"as each song states it: {len(licences)} notes"
        shown = dict(licences.most_common()) if licences else ({licence: counts.songs} if licence else {})
        write(folder, out.resolve().name, counts, found, dropped, shown)
        values = {
            "name": out.resolve().name, "source": given, "licence": licence,
            "settings": {**asdict(settings), "languages": list(settings.languages), "encoding": encoding,
                         "splits": str(splits) if splits else None},
            "rows": rows, **counts.described(), "licences": dict(licences.most_common()),
            "dropped": dropped.described(),
            "content_hash": dataset.content_hash(folder),
        }  # fmt: skip
        dataset.write_described(folder, values)
    _summarise(values, out, console)
    return values


def _read(
    source: Source, spool: Spool, settings: Settings, found: Counter[str], dropped: Dropped, console: Console
) -> int:
    """Every usable song of the source into the spool. Returns how many rows there were."""
    number = 0
    with _pace(console, "reading", source.total) as report:
        for number, row in enumerate(source.rows(), 1):
            report(source.done, number)
            if isinstance(row, Damaged):
                dropped.add(row.reason, f"{row.where}: {row.detail}")
                continue
            made = song_of(row, settings)
            if isinstance(made, Unusable):
                dropped.add(made.reason, f"{row.where}: {made.detail}")
                continue
            found[made.language] += 1
            if settings.languages and made.language not in settings.languages:
                dropped.add("another language", f"{_called(made)} ({made.language})")
            elif not spool.add(made, row.identity):
                dropped.add("the same words", _called(made))
    wrong = dropped.counts["wrong encoding"]
    if wrong > 0.5 * number:
        raise UserError(
            f"{wrong} of {number} rows of {source.path} are not {source.encoding}; set --encoding, as cp1252"
        )
    return number


def _choose(
    spool: Spool, settings: Settings, listed: dict[str, str] | None, dropped: Dropped, console: Console
) -> Iterator[int]:
    """Numbers of songs in the spool: a sample without near duplicates, not too many of one artist."""
    order = selection.stratified_order(np.array(spool.keys), np.array(spool.strata), settings.even)
    wanted = min(settings.songs or len(order), len(order))
    near = Near(settings.near, lambda i: spool.read(i)[1].lyrics)
    artists: Counter[int] = Counter()
    taken = 0
    with _pace(console, "choosing", wanted) as report:
        for place, i in enumerate(map(int, order)):
            if taken == wanted:
                dropped.counts["beyond the number of songs wanted"] += len(order) - place
                dropped.examples["beyond the number of songs wanted"] = []
                break
            identity, song = spool.read(i)
            by = _called(song)
            artist = spool.artists[i]
            if listed is not None and identity not in listed:
                dropped.add("not in the list of splits", by)
            elif settings.per_artist and artist >= 0 and artists[artist] >= settings.per_artist:
                dropped.add("more of one artist than wanted", by)
            elif settings.near < 1 and (twin := near.find_or_add(i, song.lyrics)) is not None:
                dropped.add("nearly the same words", f"{by} = {_called(spool.read(twin)[1])}")
            else:
                artists[artist] += 1
                taken += 1
                yield i
            report(taken if settings.songs else place + 1, taken)


def _called(song: Song) -> str:
    """A song in a message."""
    return ", ".join(filter(None, (song.source, song.title, song.artist)))


def _split(spool: Spool, kept: list[int], settings: Settings, listed: dict[str, str] | None) -> dict[int, str]:
    """The split of every kept song."""
    if listed is not None:
        by_id = {i: listed[str(spool.read(i)[0])] for i in kept}
        if set(by_id.values()) != {"train", "val", "test"}:
            raise UserError(f"with this list of splits only {', '.join(sorted(set(by_id.values())))} would have songs")
        return by_id
    groups: dict[int, str] = {}
    for i in kept:
        song = spool.read(i)[1]
        # Who is not named may be anyone: then the title says what belongs together.
        artist = song.artist if settings.split == "artist" else None
        groups[i] = f"artist {selection.name_key(artist)}" if artist else selection.title_key(song.title, song.lyrics)
    split = selection.assign(Counter(groups.values()), settings.held_out)
    return {i: split[group] for i, group in groups.items()}


def _write(spool: Spool, kept: list[int], parts: dict[int, str], folder: Path, counts: Counts) -> Counter[str]:
    """The JSONL files. Returns the licences that the songs state."""
    licences: Counter[str] = Counter()
    for split in ("train", "val", "test"):
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for i in kept:
                if parts[i] == split:
                    song = spool.read(i)[1]
                    file.write(song.line())
                    counts.add(song, split)
                    licences.update([song.licence] if song.licence else [])
    return licences


@contextmanager
def _pace(console: Console, what: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """A bar. Gives what is to be told how much of `total` is done, and how many songs that were."""
    begun, last = time.monotonic(), 0.0
    songs = 0
    with bar(console, what) as update:

        def report(done: int, count: int) -> None:
            nonlocal last, songs
            songs, now = count, time.monotonic()
            if now - last < 0.2:
                return
            last = now
            rate = done / max(now - begun, 1e-3)
            # Buffers are read ahead of the songs in them: only the end is 100%.
            text = f"{count:,} songs, {count / max(now - begun, 1e-3):,.0f} a second"
            update(min(done / max(total, 1), 0.999), text, max(total - done, 0) / max(rate, 1e-9))

        yield report
        update(1.0, f"{songs:,} songs in {time.monotonic() - begun:.0f} s", 0.0)


def _summarise(values: dict[str, Any], out: Path, console: Console) -> None:
    splits = ", ".join(f"{n:,} {split}" for split, n in values["splits"].items())
    console.print(f"{out}: {values['songs']:,} of {values['rows']:,} songs ({splits})")
    told = ", ".join(f"{n:,} {languages.name(code)}" for code, n in list(values["languages"].items())[:8])
    console.print(f"languages: {told}")
    for reason, group in values["dropped"].items():
        example = f", such as {group['examples'][0]}" if group["examples"] else ""
        console.print(f"left out, {reason}: {group['songs']:,}{example}")
    console.print(f"tables and plots: {out / 'report.md'}")
    if values["licence"] is None:
        console.print('No licence was stated. If you know it, run again with --licence "TEXT".')


# --- command line -------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sashimi.lyrics.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, usual = parser.add_argument, Settings()
    add("source", metavar="SOURCE", help="see above")
    add("--out", type=Path, required=True, metavar="FOLDER", help="where the data set goes, as data/lyrics/NAME")
    add("--language", dest="languages", action="append", default=[], metavar="CODE",
        help="keep this language, as en or pt; may be repeated (default: all)")  # fmt: skip
    add("--songs", type=int, metavar="N", help="at most N songs: a sample with every genre in its proportion")
    add("--even", action="store_true", help="with --songs: as many of every genre, as far as there are")
    add("--per-artist", type=int, metavar="N", help="at most N songs of one artist")
    add("--min-chars", type=int, default=usual.min_chars, metavar="N", help="shortest text (default %(default)s)")
    add("--max-chars", type=int, default=usual.max_chars, metavar="N", help="longest text (default %(default)s)")
    add("--min-lines", type=int, default=usual.min_lines, metavar="N", help="fewest lines (default %(default)s)")
    add("--near", type=float, default=usual.near, metavar="SHARE",
        help="songs that share this much of their word triples are one; 1: off (default %(default)s)")  # fmt: skip
    add("--split", choices=("title", "artist"), default=usual.split,
        help="what is never in two splits (default %(default)s)")  # fmt: skip
    add("--held-out", type=float, default=usual.held_out, metavar="SHARE",
        help="of titles or artists for val, and as much for test (default %(default)s)")  # fmt: skip
    add("--splits", type=Path, metavar="FILE.json", help="lists of ids called train, val and test, instead of --split")
    add("--artist", metavar="NAME", help="of songs for which the source names none")
    add("--encoding", default="utf-8", metavar="NAME", help="of text files without a mark, as cp1252 (default utf-8)")
    add("--licence", metavar="TEXT", help="a note for dataset.yaml: under what terms the lyrics are used")
    arguments = vars(parser.parse_args())
    given, out = arguments.pop("source"), arguments.pop("out")
    rest = {name: arguments.pop(name) for name in ("licence", "encoding", "artist", "splits")}
    with reported_errors():
        try:
            settings = Settings(**{**arguments, "languages": tuple(arguments["languages"])})
            prepare(given, out, settings, **rest)
        except KeyboardInterrupt:
            print("\nstopped; nothing was written", file=sys.stderr)
            raise


if __name__ == "__main__":
    main()
