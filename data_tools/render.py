"""MIDI files to a data set: FluidSynth plays each with a soundfont, offline, and data_tools.prepare does the rest.

Needs the FluidSynth library and a soundfont. The same files, soundfont and settings give the same data set, byte for
byte. Stopped at any moment, the same command goes on. With --collection, files are known by their contents whatever
they are called, and the data set is the one that everybody makes of that collection.
Exit status: 0 if everything was used, 1 if something had to be skipped, 2 if there is no data set.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from rich.console import Console

from data_tools import midi, splitting
from data_tools.dataset import file_hash, write_text
from data_tools.ledger import FOLDER, Ledger
from data_tools.midi import Change, Ranges
from data_tools.prepare import check_free, prepare_sources
from data_tools.report import pace, print_skipped, some
from data_tools.settings import Settings, add_settings, settings_from
from data_tools.sources import Source, find, unique_ids
from data_tools.splitting import SPLITS
from sashimi.cli import reported_errors
from sashimi.errors import UserError

COLLECTIONS = Path(__file__).parent / "collections"
SOUNDFONTS = [
    Path(root, folder)
    for root in ("/usr/share", "/usr/local/share", "/opt/homebrew/share")
    for folder in ("sounds/sf2", "sounds/sf3", "soundfonts")
]
NO_SOUNDFONT = (
    "there is no soundfont in the usual places; name one with --soundfont FILE, or install one. Debian, Ubuntu: "
    "`apt install musescore-general-soundfont`; Fedora: `dnf install fluid-soundfont-gm`; macOS: download "
    "MuseScore_General.sf3 from musescore.org"
)
KEY_LENGTH = 15  # hexadecimal digits: as many bits as an integer of JSON surely has


@dataclass(frozen=True)
class Variations:
    """How often every training file is played besides the plain way, and how differently."""

    count: int = 0
    seed: int = 0
    ranges: Ranges = field(default_factory=Ranges)


@dataclass(frozen=True)
class Collection:
    """A published list of MIDI files. files: path, sha256, split, composer, title of each."""

    name: str
    source: str
    licence: str
    files: list[dict[str, str]]

    @classmethod
    def read(cls, name: str) -> "Collection":
        """One of data_tools/collections by its name, or any by its path. Raises UserError."""
        path = COLLECTIONS / f"{name}.json"
        if not path.is_file():
            path = Path(name)
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in COLLECTIONS.glob("*.json")))
            raise UserError(f"there is no collection {name}; there is {known}, or name a file")
        try:
            stated = json.loads(path.read_text(encoding="utf-8"))
            files = [
                {k: str(entry[k]) for k in ("path", "sha256", "split", "composer", "title")}
                for entry in stated["files"]
            ]
            return cls(stated["name"], stated["source"], stated["licence"], files)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no collection ({error!r})") from None


@dataclass(frozen=True)
class Found:
    """A MIDI file that can be played.

    name  relative to the folder that was given, or its path in the collection;   digest: SHA-256
    about what is known of it;   seconds: of notes
    """

    path: Path
    name: str
    digest: str
    about: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class Performance:
    """A MIDI file played in one way; source: its recording as data_tools.prepare knows it."""

    found: Found
    change: Change
    source: Source
    about: dict[str, Any]


def render(
    given: list[Path],
    out: Path,
    settings: Settings,
    soundfont: Path,
    licence: str | None = None,
    variations: Variations | None = None,
    collection: Collection | None = None,
    jobs: int = 1,
    console: Console | None = None,
) -> dict[str, str]:
    """Make the data set `out`, go on making it, or bring it up to date. Returns what was skipped, with reasons.

    Raises UserError (and OSError) where no data set can be made of this; one that was there then stays.
    """
    console = console or Console(highlight=False, soft_wrap=True, markup=False)
    variations = variations or Variations()
    if collection is not None:
        settings, licence = replace(settings, split="list"), licence or collection.licence
    if variations.count:  # prepare would take them for copies
        settings = replace(settings, keep=tuple({*settings.keep, "duplicates"}))
    check_free(out, settings)
    made_with = {
        "synthesis": midi.synthesis(),
        "soundfont": {"name": soundfont.name, "sha256": check_soundfont(soundfont)},
    }

    paths, skipped = find(given, out, midi.SUFFIXES, "MIDI files")
    if collection is not None:
        paths = chosen(collection, paths, skipped, console)
        split_of = {entry["path"]: entry["split"] for entry in collection.files}
    elif settings.splits is not None:
        split_of = splitting.read_list(settings.splits, list(paths))
    else:
        split_of = {}
    playable = read(paths, collection, skipped, console)
    if not playable:
        print_skipped(console, skipped)
        raise UserError(f"none of these MIDI files can be used, so there is nothing to write to {out}")

    folder = out / FOLDER / "rendered"
    with Ledger(folder).locked():
        performances = plan(playable, split_of, variations, settings.rate, made_with, folder)
        if split_of:
            lists = {s: [p.source.name for p in performances if split_of[p.found.name] == s] for s in SPLITS}
            settings = replace(settings, splits=folder / "splits.json")
            write_text(folder / "splits.json", json.dumps(lists, ensure_ascii=False, indent=1) + "\n")
        new = [p for p in performances if Ledger(out).measured(p.source, settings) is None]
        play(new, soundfont, settings.rate, jobs, console)
        sources, about = [p.source for p in performances], {p.source.name: p.about for p in performances}
        try:
            unused = prepare_sources(sources, dict(skipped), out, settings, licence, about, console)
        except FileNotFoundError:
            # Chunks that were complete have to be cut anew, as something else than the sound has changed.
            play(performances, soundfont, settings.rate, jobs, console)
            unused = prepare_sources(sources, dict(skipped), out, settings, licence, about, console)
        shutil.rmtree(folder)
    return unused


def chosen(
    collection: Collection, paths: dict[str, Path], skipped: dict[str, str], console: Console
) -> dict[str, Path]:
    """The files of a collection by their paths in it, known by their contents.

    What is missing is added to `skipped`. Raises UserError if everything is.
    """
    digests = {name: file_hash(path) for name, path in paths.items()}
    by_digest = {digest: name for name, digest in reversed(digests.items())}
    by_stem = {PurePosixPath(name).stem.lower(): name for name in reversed(paths)}
    taken: dict[str, Path] = {}
    for entry in collection.files:
        name = by_digest.get(entry["sha256"])
        if name is not None:
            taken[entry["path"]] = paths[name]
            continue
        other = by_stem.get(PurePosixPath(entry["path"]).stem.lower())
        skipped[entry["path"]] = (
            f"missing: no file has the SHA-256 {entry['sha256']}"
            if other is None
            else f"{other} is another version: its SHA-256 is {digests[other]}, not {entry['sha256']}"
        )
    if not taken:
        raise UserError(f"none of these {len(paths)} MIDI files is in the collection {collection.name}")
    others = [name for name, path in paths.items() if path not in taken.values()]
    if others:
        console.print(f"Not in the collection {collection.name}, so left out: {some(others)}")
    console.print(f"{len(taken)} of the {len(collection.files)} files of {collection.name} are there, byte for byte")
    return taken


def read(
    paths: dict[str, Path], collection: Collection | None, skipped: dict[str, str], console: Console
) -> list[Found]:
    """The files that can be played; the others are added to `skipped`."""
    listed = {} if collection is None else {entry["path"]: entry for entry in collection.files}
    found = []
    for name, path in paths.items():
        try:
            score = midi.read(path)
        except (UserError, OSError) as error:
            skipped[name] = str(error)
            continue
        about, digest = dict(score.labels), file_hash(path)
        if collection is not None:
            stated = {"source": collection.source, "licence": collection.licence}
            about |= {"title": listed[name]["title"], "composer": listed[name]["composer"], **stated}
        found.append(Found(path, name, digest, about | {"midi_sha256": digest}, score.end - score.start))
    return found


def plan(
    playable: list[Found],
    split_of: dict[str, str],
    variations: Variations,
    rate: int,
    made_with: dict[str, Any],
    folder: Path,
) -> list[Performance]:
    """Every file as it is, and variations of those in train; their recordings are in `folder`."""
    played: dict[str, tuple[Found, int]] = {}
    for found in playable:
        path = PurePosixPath(found.name)
        played[found.name] = found, 0
        for number in range(1, 1 + variations.count * (split_of.get(found.name) == "train")):
            played[str(path.with_name(f"{path.stem}.variation-{number}{path.suffix}"))] = found, number
    ids, performances = unique_ids(played), []
    for name, (found, number) in played.items():
        change = variations.ranges.draw(found.digest, variations.seed, number)
        about = midi.varied_labels(found.about, change) | made_with
        if number:
            about["variation"] = {"number": number, "seed": variations.seed, **asdict(change)}
        depends_on = [found.digest, rate, asdict(change), made_with, midi.FIXED]
        key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:KEY_LENGTH]
        # In place of a size and a time, which a file played again would not have: what its samples depend on.
        source = Source(folder / f"{ids[name]}-{key}.flac", name, ids[name], 0, int(key, 16))
        performances.append(Performance(found, change, source, about))
    return performances


def play(performances: list[Performance], soundfont: Path, rate: int, jobs: int, console: Console) -> None:
    """Write the recordings that are not there yet. FluidSynth works outside of Python's lock, so threads will do."""
    missing = [p for p in performances if not p.source.path.is_file()]
    if not missing:
        return
    lock = threading.Lock()
    with pace(console, "playing", sum(p.found.seconds / p.change.tempo for p in missing)) as report:

        def perform(p: Performance) -> None:
            def told(seconds: float) -> None:
                with lock:
                    report(p.source.name)(seconds)

            midi.render(midi.varied(midi.read(p.found.path), p.change), soundfont, rate, p.source.path, told)

        with midi.loaded(soundfont), ThreadPoolExecutor(jobs) as pool:
            try:
                for done in as_completed([pool.submit(perform, p) for p in missing]):
                    done.result()
            finally:
                pool.shutdown(cancel_futures=True)


# --- soundfonts ---------------------------------------------------------------------------------------


def find_soundfont(console: Console) -> Path:
    """The first in the usual places, General MIDI's default before others. Raises UserError where there is none."""
    files = [p for folder in SOUNDFONTS if folder.is_dir() for p in folder.iterdir() if p.suffix in (".sf2", ".sf3")]
    files.sort(key=lambda p: (not p.stem.startswith("default"), p))
    true = list(dict.fromkeys(p.resolve() for p in files if p.is_file()))
    if not true:
        raise UserError(NO_SOUNDFONT)
    others = f"; there is also {', '.join(map(str, true[1:]))}: --soundfont chooses" if true[1:] else ""
    console.print(f"soundfont: {true[0]}{others}")
    return true[0]


def check_soundfont(path: Path) -> str:
    """Its SHA-256. Raises UserError for what is no soundfont."""
    if not path.is_file():
        raise UserError(f"there is no soundfont {path}; without --soundfont one is looked for in the usual places")
    with path.open("rb") as file:
        head = file.read(12)
    if (head[:4], head[8:]) != (b"RIFF", b"sfbk"):
        raise UserError(f"{path} is no soundfont (SF2 or SF3)")
    return file_hash(path)


# --- command line -------------------------------------------------------------------------------------


def _range(kind: type[int] | type[float], least: float, most: float) -> Any:
    def parse(text: str) -> tuple[float, float]:
        low, dots, high = text.partition("..") if ".." in text else text.partition("-")
        try:
            pair = kind(low), kind(high if dots else low)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no range; write it as 0.9-1.1 or -2..2") from None
        if not least <= pair[0] <= pair[1] <= most:
            raise argparse.ArgumentTypeError(f"{text!r} must be within {least:g}..{most:g}, the lower end first")
        return pair

    return parse


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m data_tools.render", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, ranges = parser.add_argument, Ranges()
    add("sources", nargs="+", type=Path, metavar="SOURCE", help="a MIDI file, or a folder of them at any depth")
    add("--out", type=Path, required=True, metavar="FOLDER", help="where the data set goes, as data/NAME")
    add("--soundfont", type=Path, metavar="FILE", help="SF2 or SF3 (the first in the usual places)")
    add("--collection", metavar="NAME", help="the files are those of this list, with its splits: piano-midi")
    add("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="files played at a time (one a core)")
    add("--variations", type=int, default=0, metavar="N", help="of every training file, besides the plain one (0)")
    add("--seed", type=int, default=0, help="another one makes other variations (0)")
    add("--tempo", type=_range(float, 0.25, 4), default=ranges.tempo, metavar="LOW-HIGH", help="factor (0.9-1.1)")
    add(
        "--transpose", type=_range(int, -24, 24), default=ranges.transpose, metavar="LOW..HIGH",
        help="semitones (-2..2); a range that begins with a minus is written --transpose=-2..2",
    )  # fmt: skip
    add("--velocity", type=_range(float, 0.1, 4), default=ranges.velocity, metavar="LOW-HIGH", help="factor (0.8-1.2)")
    add_settings(parser)
    arguments = parser.parse_args()
    settings = settings_from(arguments, parser)
    if arguments.jobs < 1:
        parser.error("--jobs must be 1 or more")
    if arguments.variations < 0:
        parser.error("--variations must be 0 or more")
    if arguments.collection is not None and (arguments.split is not None or arguments.splits is not None):
        parser.error("--collection has its own splits, so neither --split nor --splits goes with it")
    if arguments.variations and arguments.collection is None and arguments.splits is None:
        parser.error("--variations needs --splits FILE or --collection: no piece may be heard in training and held out")
    varied = Ranges(arguments.tempo, arguments.transpose, arguments.velocity)
    variations = Variations(arguments.variations, arguments.seed, varied)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    with reported_errors():
        try:
            collection = None if arguments.collection is None else Collection.read(arguments.collection)
            soundfont = arguments.soundfont or find_soundfont(console)
            skipped = render(
                arguments.sources, arguments.out, settings, soundfont, arguments.licence, variations, collection,
                arguments.jobs, console,
            )  # fmt: skip
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on from here", file=sys.stderr)
            raise
        sys.exit(1 if skipped else 0)


if __name__ == "__main__":
    main()
