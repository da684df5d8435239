"""Recordings to a data set: mono chunks at one rate in train, val and test, with a manifest.

Every recording gets one gain, which brings its highest peak to -1 dBFS: what is soft in it stays soft.
Stopped at any moment, the same command goes on; when sources change, it brings the data set up to date.
Exit status: 0 if everything was used, 1 if something had to be skipped, 2 if there is no data set.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from rich.console import Console

from data_tools import splitting
from data_tools.dataset import DATASET, MANIFEST, Chunk, as_lines, content_hash, decibels, file_hash, read, write_index
from data_tools.ledger import FOLDER, Ledger, key, same_settings
from data_tools.report import pace, print_skipped, print_summary
from data_tools.sources import UNREADABLE, Measured, Source, discover, heard, measure, seconds
from data_tools.splitting import REST_SECONDS, SPLITS, Piece
from sashimi import audio
from sashimi.cli import reported_errors
from sashimi.errors import UserError

PEAK_DBFS = -1.0
SILENT_DBFS = -60.0
CHUNK_SECONDS = (1.0, 600.0)  # a chunk is held in memory
RATES = (1000, 192000)


@dataclass(frozen=True)
class Settings:
    """What a data set depends on besides its sources.

    chunk   seconds
    split   time, recording or list
    gap     seconds between the parts of a recording, where it is time
    held_out  seconds of its val, and of its test part; None: 6% each
    splits  the file that lists the names, where it is list: as free to change as the sources
    """

    rate: int = 16000
    format: str = "flac"
    chunk: float = 60.0
    split: str = "time"
    gap: float = 5.0
    held_out: float | None = None
    splits: Path | None = None

    def described(self) -> dict[str, Any]:
        """For dataset.yaml, and to compare."""
        said = {"rate": self.rate, "format": self.format, "chunk": float(self.chunk), "split": self.split}
        if self.split == "time":
            said |= {"gap": float(self.gap)} | ({} if self.held_out is None else {"held_out": float(self.held_out)})
        return said


def prepare(
    given: list[Path], out: Path, settings: Settings, licence: str | None = None, console: Console | None = None
) -> dict[str, str]:
    """Make the data set `out`, go on making it, or bring it up to date. Returns what was skipped, with reasons.

    licence: a note for dataset.yaml; None keeps the one that is there.
    Raises UserError (and OSError) where no data set can be made of this; one that was there then stays.
    """
    _check_free(out)
    sources, skipped = discover(given, out)
    return prepare_sources(sources, skipped, out, settings, licence, console=console)


def prepare_sources(
    sources: list[Source],
    skipped: dict[str, str],
    out: Path,
    settings: Settings,
    licence: str | None = None,
    about: Mapping[str, dict[str, Any]] = MappingProxyType({}),
    console: Console | None = None,
) -> dict[str, str]:
    """The same for recordings that another tool brings, of which it knows more.

    sources: need their files only while their chunks are missing; skipped: what could not be brought, with reasons;
    about: by a source's name, for the manifest.
    """
    console = console or Console(highlight=False, soft_wrap=True, markup=False)
    _check_free(out)
    listed = None if settings.splits is None else _listed(settings.splits, sources)
    ledger = Ledger(out)
    with ledger.locked():
        before = ledger.settings()
        if before is not None:
            same_settings(out, before["settings"], settings.described())
            licence = licence or before["licence"]
        usable = _measure(sources, settings.rate, ledger, skipped, console)
        if not usable:
            print_skipped(console, skipped)
            if before is None:
                ledger.discard()
            raise UserError(f"none of these recordings can be used, so there is nothing to write to {out}")
        plan = _plan(settings, usable, listed)
        done = _make(plan, usable, ledger, settings, licence, about, console)
    console.print(f"{out} {'is complete' if done else 'was complete and up to date: nothing to do'}")
    all_train = [s.name for s, pieces in plan.items() if {p.split for p in pieces} == {"train"}]
    print_summary(console, out, all_train if settings.split == "time" else [])
    print_skipped(console, skipped)
    if licence is None:
        console.print('No licence was stated. If you know it, run again with --licence "TEXT".')
    return skipped


def _check_free(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; choose another --out")
    if out.is_dir() and not Ledger(out).settings_file.is_file() and any(p.name != FOLDER for p in out.iterdir()):
        raise UserError(f"{out} has files in it and is no data set of this program; choose another --out")


def _listed(path: Path, sources: list[Source]) -> dict[str, str]:
    """The split of every recording by a file {"train": [names], "val": [names], "test": [names]}.

    Raises UserError, naming the file, for anything else.
    """
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error})") from None
    if not isinstance(lists, dict) or not all(
        split in SPLITS and isinstance(names, list) and all(isinstance(name, str) for name in names)
        for split, names in lists.items()
    ):
        raise UserError(f'{path} must hold {{"train": [names], "val": [names], "test": [names]}}')
    try:
        return splitting.by_list(lists, [source.name for source in sources])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _measure(
    sources: list[Source], rate: int, ledger: Ledger, skipped: dict[str, str], console: Console
) -> dict[Source, Measured]:
    """Length and peak of the recordings that can be used; the others are added to `skipped`."""
    usable: dict[Source, Measured] = {}
    known = {source: ledger.measured(source, rate) for source in sources}
    total = sum(seconds(source.path) for source, measured in known.items() if measured is None)
    with pace(console, "measuring", total) as report:
        for source, measured in known.items():
            if measured is None:
                try:
                    measured = measure(source.path, rate, report(source.name))
                except UNREADABLE as error:
                    skipped[source.name] = str(error).removeprefix(f"{source.path} ")
                    continue
                ledger.keep_measured(source, rate, measured)
            if measured.samples < REST_SECONDS * rate:
                skipped[source.name] = f"shorter than one second ({measured.samples / rate:.2f} s)"
            elif decibels(measured.peak) < SILENT_DBFS:
                skipped[source.name] = f"silent: its peak is {decibels(measured.peak):.0f} dBFS"
            else:
                usable[source] = measured
    return usable


def _plan(
    settings: Settings, usable: dict[Source, Measured], listed: dict[str, str] | None
) -> dict[Source, list[Piece]]:
    """The chunks of every recording, in the order of ids."""
    whole = splitting.by_recording([s.name for s in usable]) if settings.split == "recording" else listed
    size = round(settings.chunk * settings.rate)
    plan = {}
    for source in sorted(usable, key=lambda s: s.id):
        total = usable[source].samples
        if whole is None:
            pieces = splitting.by_time(total, settings.rate, settings.gap, settings.held_out)
        else:
            pieces = [Piece(whole[source.name], 0, total)]
        plan[source] = splitting.in_chunks(pieces, size, settings.rate)
    return plan


def _make(
    plan: dict[Source, list[Piece]],
    usable: dict[Source, Measured],
    ledger: Ledger,
    settings: Settings,
    licence: str | None,
    about: Mapping[str, dict[str, Any]],
    console: Console,
) -> bool:
    """Write what is missing, remove what is stale. False if there was nothing to do."""
    out, rate, described = ledger.out, settings.rate, {**settings.described(), "licence": licence}
    gains = {source: round(PEAK_DBFS - 20 * np.log10(usable[source].peak), 4) for source in plan}
    keys = {
        s: key(s, settings.format, rate, gains[s], [(p.split, p.start, p.end) for p in plan[s]], *_known(about, s))
        for s in plan
    }
    made = {source: ledger.chunks(source.id, keys[source]) for source in plan}
    stale = ledger.recordings() - {source.id for source in plan}
    if not stale and _is_complete(out, made, described):
        return False

    # From here until the end the data set counts as unfinished, also for who finds a manifest without dataset.yaml.
    ledger.keep_settings({"settings": settings.described(), "licence": licence})
    (out / DATASET).unlink(missing_ok=True)
    (out / MANIFEST).touch()
    for identity in stale:
        console.print(f"removing the chunks of {identity}, as no source is called so any more")
        ledger.forget_chunks(identity)
    missing = [source for source, chunks in made.items() if chunks is None]
    if len(missing) < len(plan):
        console.print(f"{len(plan) - len(missing)} of {len(plan)} recordings are written already")
    total = sum(usable[source].samples for source in missing) / rate
    with pace(console, "writing", total) as report:
        for source in missing:
            # Its chunks are about to be written over, and no longer those of an older note.
            ledger.forget_chunks(source.id)
            chunks = _write(source, plan[source], gains[source], settings, out, about, report(source.name))
            ledger.keep_chunks(source.id, keys[source], chunks)
            made[source] = chunks
    chunks = [chunk for recording in made.values() for chunk in recording or ()]
    _remove_others(out, {chunk.file for chunk in chunks})
    write_index(out, chunks, described)
    return True


def _is_complete(out: Path, made: dict[Source, list[Chunk] | None], described: dict[str, Any]) -> bool:
    try:
        found, _ = read(out)
    except UserError:
        return False
    chunks = [chunk for recording in made.values() for chunk in recording or ()]
    same = all(found.get(name) == value for name, value in described.items())
    return same and None not in made.values() and found["content_hash"] == content_hash(as_lines(chunks))


def _known(about: Mapping[str, dict[str, Any]], source: Source) -> list[dict[str, Any]]:
    """What is known of a recording, if anything: for its key."""
    return [about[source.name]] if about.get(source.name) else []


def _write(
    source: Source,
    pieces: list[Piece],
    gain_db: float,
    settings: Settings,
    out: Path,
    about: Mapping[str, dict[str, Any]],
    report: Callable[[float], None],
) -> list[Chunk]:
    chunks = []
    gain = np.float32(10 ** (gain_db / 20))
    blocks = heard(source.path, settings.rate, report)
    for number, (piece, waveform) in enumerate(splitting.cut(blocks, pieces), 1):
        waveform = waveform * gain
        file = f"{piece.split}/{source.id}-{number:04}.{settings.format}"
        audio.write(out / file, waveform, settings.rate)
        chunks.append(
            Chunk(
                file, piece.split, source.id, source.name, piece.start / settings.rate, len(waveform), gain_db,
                peak_dbfs=decibels(float(np.abs(waveform).max())),
                rms_dbfs=decibels(float(np.sqrt(np.mean(waveform.astype(np.float64) ** 2)))),
                sha256=file_hash(out / file),
                about=about.get(source.name, {}),
            )
        )  # fmt: skip
    if len(chunks) < len(pieces):
        raise UserError(f"{source.path} became shorter while it was read; run the command again")
    return chunks


def _remove_others(out: Path, files: set[str]) -> None:
    """Chunks that are no longer in the data set, and what a killed run left half written."""
    for split in SPLITS:
        for path in (out / split).glob("*"):
            if path.suffix in audio.SUBTYPES and path.relative_to(out).as_posix() not in files:
                path.unlink()
    for path in [*out.glob(".*.partial.*"), *(out / FOLDER).rglob(".*.partial.*")]:
        path.unlink()


# --- command line -------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m data_tools.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("sources", nargs="+", type=Path, metavar="SOURCE", help="a recording, or a folder of them at any depth")
    add("--out", type=Path, required=True, metavar="FOLDER", help="where the data set goes, as data/NAME")
    add("--rate", type=int, default=16000, help="samples a second (16000)")
    add("--format", choices=("flac", "wav"), default="flac", help="of the chunks, 16 bits (flac)")
    add("--chunk", type=float, default=60.0, metavar="SECONDS", help="length of a chunk (60)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--split", choices=("time", "recording"),
        help="88/6/6 of the time of every recording, or of the recordings by name (time)",
    )  # fmt: skip
    how.add_argument(
        "--splits", type=Path, metavar="FILE", help='JSON: {"train": [names], "val": [names], "test": [names]}'
    )
    add("--gap", type=float, metavar="SECONDS", help="discarded between train, val and test of a recording (5)")
    add("--held-out", type=float, metavar="SECONDS", help="val, and test, of every recording, in place of 6%% each")
    add("--licence", metavar="TEXT", help="whose the recordings are and what is allowed, for dataset.yaml")
    arguments = parser.parse_args()
    for name, (low, high) in {"rate": RATES, "chunk": CHUNK_SECONDS}.items():
        if not low <= getattr(arguments, name) <= high:
            parser.error(f"--{name} must be from {low:g} to {high:g}")
    for name in ("gap", "held_out"):
        if getattr(arguments, name) is not None and (arguments.splits is not None or arguments.split == "recording"):
            parser.error(f"--{name.replace('_', '-')} is for --split time")
    gap = 5.0 if arguments.gap is None else arguments.gap
    if not 0 <= gap < float("inf"):
        parser.error("--gap must be 0 or more")
    if arguments.held_out is not None and not splitting.PART_SECONDS <= arguments.held_out < float("inf"):
        parser.error(f"--held-out must be at least {splitting.PART_SECONDS:g}")
    split = (arguments.split or "time") if arguments.splits is None else "list"
    settings = Settings(
        arguments.rate, arguments.format, arguments.chunk, split, gap, arguments.held_out, arguments.splits
    )  # fmt: skip
    with reported_errors():
        try:
            skipped = prepare(arguments.sources, arguments.out, settings, arguments.licence)
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on from here", file=sys.stderr)
            raise
        sys.exit(1 if skipped else 0)


if __name__ == "__main__":
    main()
