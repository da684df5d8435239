"""Recordings to a data set: mono chunks at one rate in train, val and test, with a manifest.

Every recording gets one gain, which brings its highest peak to -1 dBFS: what is soft in it stays soft. Silence at its
ends is cut off. Chunks that are near-silent, clipped, or heard in another recording are dropped and named at the end.
Stopped at any moment, the same command goes on; when sources change, it brings the data set up to date.
Exit status: 0 if everything was used, 1 if something could not be read, 2 if there is no data set.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from rich.console import Console

from data_tools import gates, splitting
from data_tools.dataset import DATASET, MANIFEST, Chunk, as_lines, content_hash, decibels, file_hash, read, write_index
from data_tools.ledger import FOLDER, Ledger, key, same_settings
from data_tools.measuring import Measured, measure
from data_tools.report import pace, print_damaged, print_dropped, print_limited, print_skipped, print_summary
from data_tools.settings import Settings as Settings
from data_tools.settings import add_settings as add_settings
from data_tools.settings import settings_from as settings_from
from data_tools.sources import UNREADABLE, Source, discover, heard, seconds
from data_tools.splitting import SPLITS, Piece
from sashimi import audio
from sashimi.cli import reported_errors
from sashimi.errors import UserError
from sashimi.progress import clock

PEAK_DBFS = -1.0
SILENT_DBFS = -60.0


def prepare(
    given: list[Path], out: Path, settings: Settings, licence: str | None = None, console: Console | None = None
) -> dict[str, str]:
    """Make the data set `out`, go on making it, or bring it up to date.

    Returns what was not used, or not all of it, with reasons.
    licence: a note for dataset.yaml; None keeps the one that is there.
    Raises UserError (and OSError) where no data set can be made of this; one that was there then stays.
    """
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
    about: by a source's name, for the manifest. Returns what was skipped, or used only up to its damage.
    """
    console = console or Console(highlight=False, soft_wrap=True, markup=False)
    check_free(out, settings)
    listed = None if settings.splits is None else _listed(settings.splits, sources)
    ledger = Ledger(out)
    with ledger.locked():
        before = ledger.settings()
        if before is not None:
            licence = licence or before["licence"]
        usable = _measure(sources, settings, ledger, skipped, console)
        if not usable:
            print_skipped(console, skipped)
            if before is None:
                ledger.discard()
            raise UserError(f"none of these recordings can be used, so there is nothing to write to {out}")
        whole = _plan(settings, usable, listed)
        plan, dropped = gates.judge(whole, usable, settings)
        if not any(plan.values()):
            print_dropped(console, dropped)
            raise UserError(f"every chunk was dropped, so there is nothing to write to {out}; see --keep")
        described = {**settings.described(), "licence": licence, "dropped": gates.summary(dropped)}
        done = _make(whole, plan, usable, ledger, settings, described, about, console)
    console.print(f"{out} {'is complete' if done else 'was complete and up to date: nothing to do'}")
    all_train = [s.name for s, pieces in whole.items() if {p.split for p in pieces} == {"train"}]
    print_summary(console, out, all_train if settings.split == "time" else [])
    if settings.loudness is not None:
        print_limited(console, settings.loudness, [s.name for s in plan if gain(usable[s], settings)[1]], len(plan))
    print_dropped(console, dropped)
    damaged = {
        s.name: f"used until {clock(m.samples / settings.rate)}, then {m.damage}" for s, m in usable.items() if m.damage
    }
    print_damaged(console, damaged)
    print_skipped(console, skipped)
    if licence is None:
        console.print('No licence was stated. If you know it, run again with --licence "TEXT".')
    return skipped | damaged


def check_free(out: Path, settings: Settings) -> None:
    """Raises UserError where `out` is something else than a data set, or one of other settings."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; choose another --out")
    if out.is_dir() and not Ledger(out).settings_file.is_file() and any(p.name != FOLDER for p in out.iterdir()):
        raise UserError(f"{out} has files in it and is no data set of this program; choose another --out")
    before = Ledger(out).settings() if out.is_dir() else None
    if before is not None:
        same_settings(out, before["settings"], settings.described())


def _listed(path: Path, sources: list[Source]) -> dict[str, str]:
    return splitting.read_list(path, [source.name for source in sources])


def _measure(
    sources: list[Source], settings: Settings, ledger: Ledger, skipped: dict[str, str], console: Console
) -> dict[Source, Measured]:
    """Length and peak of the recordings that can be used; the others are added to `skipped`."""
    usable: dict[Source, Measured] = {}
    rate = settings.rate
    known = {source: ledger.measured(source, settings) for source in sources}
    total = sum(seconds(source.path) for source, measured in known.items() if measured is None)
    with pace(console, "measuring", total) as report:
        for source, measured in known.items():
            if measured is None:
                try:
                    measured = measure(source.path, settings, report(source.name))
                except UNREADABLE as error:
                    skipped[source.name] = str(error).removeprefix(f"{source.path} ")
                    continue
                ledger.keep_measured(source, settings, measured)
            if measured.samples < settings.shortest * rate:
                skipped[source.name] = f"shorter than {settings.shortest:g} s ({measured.samples / rate:.2f} s)"
            elif decibels(measured.peak) < SILENT_DBFS:
                skipped[source.name] = f"silent: its peak is {decibels(measured.peak):.0f} dBFS"
            else:
                usable[source] = measured
    return usable


def gain(measured: Measured, settings: Settings) -> tuple[float, bool]:
    """The gain of a recording in dB, and whether it is softer than `settings.loudness` lest its peak pass -1 dBFS."""
    highest = PEAK_DBFS - 20 * float(np.log10(measured.peak))
    if settings.loudness is None or measured.loudness is None:
        return round(highest, 4), settings.loudness is not None
    wanted = settings.loudness - measured.loudness
    return round(min(wanted, highest), 4), wanted > highest


def _plan(
    settings: Settings, usable: dict[Source, Measured], listed: dict[str, str] | None
) -> dict[Source, list[Piece]]:
    """The chunks of every recording, in the order of ids."""
    rate, size = settings.rate, round(settings.chunk * settings.rate)
    least = round(min(settings.shortest, splitting.REST_SECONDS) * rate)
    whole = splitting.by_recording([s.name for s in usable]) if settings.split == "recording" else listed
    plan = {}
    for source in sorted(usable, key=lambda s: s.id):
        measured = usable[source]
        start, end = gates.sounding(measured, rate) if settings.trim else (0, measured.samples)
        if whole is None:
            pieces = splitting.by_time(end - start, rate, settings.gap, settings.held_out, start)
        else:
            pieces = [Piece(whole[source.name], start, end)]
        plan[source] = splitting.in_chunks(pieces, size, least)
    return plan


def _make(
    whole: dict[Source, list[Piece]],
    plan: dict[Source, list[Piece]],
    usable: dict[Source, Measured],
    ledger: Ledger,
    settings: Settings,
    described: dict[str, Any],
    about: Mapping[str, dict[str, Any]],
    console: Console,
) -> bool:
    """Write what is missing, remove what is stale. False if there was nothing to do.

    whole: the chunks of every recording; plan: those that are kept. What is dropped today may be kept tomorrow, when
    its other copy has gone: so a chunk is called by its number among all.
    """
    out, rate = ledger.out, settings.rate
    gains = {source: gain(usable[source], settings)[0] for source in plan}
    keys = {
        s: key(s, settings.format, rate, gains[s], [(p.split, p.start, p.end) for p in whole[s]], *_known(about, s))
        for s in plan
    }
    files = {
        s: {f"{p.split}/{s.id}-{n:04}.{settings.format}": p for n, p in enumerate(whole[s], 1) if p in set(plan[s])}
        for s in plan
    }
    made = {source: ledger.chunks(source.id, keys[source], files[source]) for source in plan}
    stale = ledger.recordings() - {source.id for source in plan}
    if not stale and _is_complete(out, made, described):
        return False

    # From here until the end the data set counts as unfinished, also for who finds a manifest without dataset.yaml.
    ledger.keep_settings({"settings": settings.described(), "licence": described["licence"]})
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
            chunks = _write(source, files[source], gains[source], settings, out, about, report(source.name))
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
    files: dict[str, Piece],
    gain_db: float,
    settings: Settings,
    out: Path,
    about: Mapping[str, dict[str, Any]],
    report: Callable[[float], None],
) -> list[Chunk]:
    chunks = []
    factor = np.float32(10 ** (gain_db / 20))
    cuts = splitting.cut(heard(source.path, settings.rate, report), list(files.values()))
    for file, (piece, waveform) in zip(files, cuts, strict=False):
        waveform = waveform * factor
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
    if len(chunks) < len(files):
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
    add_settings(parser)
    arguments = parser.parse_args()
    settings = settings_from(arguments, parser)
    with reported_errors():
        try:
            skipped = prepare(arguments.sources, arguments.out, settings, arguments.licence)
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on from here", file=sys.stderr)
            raise
        sys.exit(1 if skipped else 0)


if __name__ == "__main__":
    main()
