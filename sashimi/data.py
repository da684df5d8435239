"""A data set of recordings to tokens: splits, a memory-mapped cache, windows.

A data set is what `python -m data_tools.prepare` makes (`dataset.yaml`, `manifest.jsonl`, chunks), or any
folder of recordings, split by the published rule.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from sashimi import audio
from sashimi.codec import Codec, Tokens
from sashimi.errors import UserError
from sashimi.files import finished

WINDOW = 131072  # samples: the published training window
AUDIO_SUFFIXES = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".webm", ".mp4", ".aiff", ".aif"}
SLOTS = 100  # of a block in which data sets are mixed, for each of them: shares are exact to a hundredth of that
DATASET, MANIFEST = "dataset.yaml", "manifest.jsonl"
COLLECTIONS = Path(__file__).parents[1] / "data_tools" / "collections"  # in a clone


@dataclass(frozen=True)
class Recording:
    """Sound that is continuous in time: files that follow each other without a gap."""

    name: str
    files: tuple[Path, ...]


# --- splits -------------------------------------------------------------------------------------------


def recordings(folder: Path, split: str) -> list[Recording]:
    """The recordings of a split, in order.

    Raises UserError for a folder that is missing, an unfinished data set, or an empty split.
    """
    if not folder.is_dir():
        raise UserError(missing(folder))
    found = _prepared(folder, split) if (folder / DATASET).is_file() else _folder_of_files(folder, split)
    if not found:
        raise UserError(f"the data set {folder} has nothing in its {split} split")
    return found


def missing(folder: Path, licence: str | None = None) -> str:
    """What to say of a data set that is not there: how it is made, by its licence's collection if it is of one."""
    tool = "prepare RECORDINGS"
    for path in sorted(COLLECTIONS.glob("*.json")) if licence else ():
        if json.loads(path.read_text(encoding="utf-8")).get("licence") == licence:
            tool = f"render SOURCE --collection {path.stem}"
    command = f"python -m data_tools.{tool} --out {folder}"
    return f"there is no data set {folder}; make it with `{command}`, or set data.dir=FOLDER"


def _prepared(folder: Path, split: str) -> list[Recording]:
    """Chunks of one recording that follow each other in time are one again."""
    found: list[tuple[str, list[Path]]] = []
    previous: tuple[str, float] | None = None
    rate = description(folder)["rate"]
    with (folder / MANIFEST).open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if row["split"] != split:
                continue
            path = folder / row["file"]
            if not path.is_file():
                raise UserError(f"{path} is missing from the data set; run data_tools.prepare on {folder} again")
            if previous is None or row["recording"] != previous[0] or abs(row["start"] - previous[1]) > 0.5 / rate:
                found.append((row["recording"], []))
            found[-1][1].append(path)
            previous = row["recording"], row["start"] + row["samples"] / rate
    return [Recording(name, tuple(files)) for name, files in found]


def _folder_of_files(folder: Path, split: str) -> list[Recording]:
    """The published rule: files sorted by name, 88% train, 6% val, 6% test."""
    if (folder / MANIFEST).exists():
        raise UserError(f"the data set {folder} is unfinished; run data_tools.prepare for it again")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
    val, test = int(0.88 * len(files)), int(0.94 * len(files))
    chosen = {"train": files[:val], "val": files[val:test], "test": files[test:]}[split]
    if not chosen:
        raise UserError(f"{folder} has {len(files)} recordings, too few for a {split} split (88/6/6 by file)")
    return [Recording(str(path.relative_to(folder)), (path,)) for path in chosen]


def description(folder: Path) -> dict[str, Any]:
    """What dataset.yaml says; for a plain folder, its name alone."""
    path = folder / DATASET
    if not path.is_file():
        return {"name": folder.resolve().name}
    try:
        described = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {**described, "rate": int(described["rate"])}
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error!r}); run data_tools.prepare for it again") from None


# --- the cache ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenStore:
    """A split as one memory-mapped array: tokens, or samples where the codec normalises by window.

    offsets  where each recording begins, and the end of the last
    path     the file, beside which more about the split may be kept; its name changes with codec and recordings
    """

    codec: Codec
    values: NDArray[Any]
    offsets: list[int]
    path: Path | None = None

    @property
    def lengths(self) -> list[int]:
        return [b - a for a, b in zip(self.offsets, self.offsets[1:], strict=False)]

    def window(self, recording: int, start: int, length: int) -> Tokens:
        """Tokens start .. start + length - 1 of a recording, or fewer at its end; normalised together, if at all."""
        first = self.offsets[recording] + start
        values = self.values[first : min(first + length, self.offsets[recording + 1])]
        return self.codec.encode(values / np.float32(32768)) if values.dtype == np.int16 else np.array(values)

    def windows(self, length: int) -> Iterator[tuple[int, int, Tokens]]:
        """All windows in order as (recording, start, tokens); the last of a recording may be shorter."""
        for recording, total in enumerate(self.lengths):
            for start in range(0, total, length):
                yield recording, start, self.window(recording, start, length)


def open_tokens(
    folder: Path, split: str, codec: Codec, report: Callable[[float], None] = lambda fraction: None
) -> TokenStore:
    """A split under a codec, encoded on first use. `report` is given the share of recordings that is encoded.

    Raises UserError as `recordings`, and for a data set of another sample rate.
    """
    described = description(folder)
    rate = codec.config.rate
    if described.get("rate", rate) != rate:
        raise UserError(
            f"{folder} was prepared at {described['rate']} Hz and the model's codec is at {rate} Hz; prepare it again "
            f"with --rate {rate} and another --out"
        )
    found = recordings(folder, split)
    config = {"pcm": rate} if codec.config.normalize == "window" else asdict(codec.config)
    path = cache_path(folder, split, config, found)
    index = path.with_suffix(".json")
    if not index.is_file():
        _encode(path, codec, found, report)
    offsets = json.loads(index.read_text(encoding="utf-8"))
    return TokenStore(codec, np.memmap(path, _dtype(codec), mode="r"), offsets, path)


def cache_path(folder: Path, split: str, config: dict[str, Any], found: list[Recording]) -> Path:
    """A file for what is made of a split's recordings; its name changes with every one, and with how it is made."""
    files = [(str(f.relative_to(folder)), f.stat().st_size, f.stat().st_mtime_ns) for r in found for f in r.files]
    key = hashlib.sha256(json.dumps([config, split, [r.name for r in found], files]).encode()).hexdigest()[:16]
    name = f"{split}-{key}.bin"
    try:
        (folder / ".cache").mkdir(exist_ok=True)
        with NamedTemporaryFile(dir=folder / ".cache"):
            pass
    except OSError:  # somebody else's data set
        return Path.home() / ".cache" / "sashimi-music" / name
    return folder / ".cache" / name


def _encode(path: Path, codec: Codec, found: list[Recording], report: Callable[[float], None]) -> None:
    """Writes the array, then the offsets: their presence says that it is whole."""
    offsets = [0]
    with finished(path) as partial, partial.open("wb") as out:
        for i, recording in enumerate(found):
            total = 0
            for file in recording.files:
                for block in audio.stream(file, codec.config.rate):
                    if _dtype(codec) == np.int16:
                        np.clip(np.rint(block * 32768), -32768, 32767).astype(np.int16).tofile(out)
                    else:
                        codec.encode(block).tofile(out)
                    total += len(block)
            offsets.append(offsets[-1] + total)
            report((i + 1) / len(found))
    with finished(path.with_suffix(".json")) as partial:
        partial.write_text(json.dumps(offsets), encoding="utf-8")


def _dtype(codec: Codec) -> type[np.integer]:
    """What is stored: tokens, or samples where tokens depend on the window."""
    return np.int16 if codec.config.normalize == "window" else np.uint8


# --- training windows ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingWindows:
    """An endless sequence of training windows, each a function of the seed and its index alone.

    An epoch is one window for each whole window that fits into each recording, at a random place near it,
    in random order. So training can go on from any index and sees what it would have seen.
    """

    store: TokenStore
    window: int
    seed: int

    @property
    def per_epoch(self) -> int:
        """Windows in an epoch."""
        return sum(length // self.window for length in self.store.lengths)

    @property
    def shares(self) -> list[float]:
        return [1.0]

    def __getitem__(self, index: int) -> Tokens:
        epoch, place = divmod(index, self.per_epoch)
        return self.store.window(*self._epoch(epoch)[place], self.window)

    def _epoch(self, epoch: int) -> list[tuple[int, int]]:
        """(recording, start) of every window of an epoch."""
        if epoch not in self._epochs:
            rng = _random(self.seed, epoch)
            places = []
            for recording, length in enumerate(self.store.lengths):
                count = length // self.window
                slack = (length - self.window) / max(count, 1)  # a window begins anywhere in its share of this
                starts = (np.arange(count) + rng.random(count)) * slack
                places += [(recording, int(start)) for start in starts]
            self._epochs.clear()
            self._epochs[epoch] = [places[i] for i in rng.permutation(len(places))]
        return self._epochs[epoch]

    @cached_property
    def _epochs(self) -> dict[int, list[tuple[int, int]]]:
        return {}


@dataclass(frozen=True)
class Lanes:
    """Endless lanes of training windows that follow each other: each lane hears recording after recording.

    An epoch of a lane is every recording once, in random order, from a random place near its beginning on, as many
    whole windows as fit into it. A window is a function of the seed, its lane and its index alone.
    """

    store: TokenStore
    window: int
    seed: int

    @property
    def per_epoch(self) -> int:
        """Windows in an epoch."""
        return sum(length // self.window for length in self.store.lengths)

    @property
    def shares(self) -> list[float]:
        return [1.0]

    def at(self, lane: int, index: int) -> tuple[Tokens, int | None]:
        """The lane's window, and the token before it; None for the first of a recording."""
        epoch, place = divmod(index, self.per_epoch)
        recordings, firsts, starts = self._epoch(lane, epoch)
        i = int(np.searchsorted(firsts, place, side="right")) - 1
        begin, number = int(starts[i]), place - int(firsts[i])
        start = begin + number * self.window
        before = int(self.store.window(int(recordings[i]), start - 1, 1)[0]) if number else None
        return self.store.window(int(recordings[i]), start, self.window), before

    def _epoch(self, lane: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Of every recording in the lane's order: which it is, the place of its first window, and where that starts."""
        if self._epochs.get(lane, (-1,))[0] != epoch:
            rng = _random(self.seed, epoch, lane)
            lengths = np.array(self.store.lengths)
            counts = lengths // self.window
            order = rng.permutation(np.flatnonzero(counts))
            starts = (rng.random(len(order)) * (lengths[order] - counts[order] * self.window + 1)).astype(np.int64)
            firsts = np.concatenate([[0], counts[order].cumsum()[:-1]])
            self._epochs[lane] = epoch, (order, firsts, starts)
        return self._epochs[lane][1]

    @cached_property
    def _epochs(self) -> dict[int, Any]:
        return {}


@dataclass(frozen=True)
class MixedWindows:
    """Training windows of several data sets in given shares, each a function of the seed and its index alone.

    Every block of `slots` windows holds whole numbers of each set's, in random order. A set's own windows come
    in the order they would come in alone: none comes twice before all of its epoch have come.
    """

    sets: list[TrainingWindows]
    counts: list[int]
    seed: int

    @property
    def slots(self) -> int:
        return sum(self.counts)

    @property
    def per_epoch(self) -> int:
        """As many windows as all sets hold together."""
        return sum(windows.per_epoch for windows in self.sets)

    @property
    def shares(self) -> list[float]:
        """Of the windows, of each set."""
        return [count / self.slots for count in self.counts]

    def __getitem__(self, index: int) -> Tokens:
        block, slot = divmod(index, self.slots)
        chosen, rank = self._block(block)[slot]
        return self.sets[chosen][block * self.counts[chosen] + rank]

    def _block(self, block: int) -> list[tuple[int, int]]:
        """(set, how many of it came before in this block) of every slot."""
        if block not in self._blocks:
            rng = _random(self.seed, block)
            order = rng.permutation(np.repeat(np.arange(len(self.counts)), self.counts))
            ranks = np.zeros(len(order), np.int64)
            for chosen, count in enumerate(self.counts):
                ranks[order == chosen] = np.arange(count)
            self._blocks.clear()
            self._blocks[block] = list(zip(order.tolist(), ranks.tolist(), strict=True))
        return self._blocks[block]

    @cached_property
    def _blocks(self) -> dict[int, list[tuple[int, int]]]:
        return {}


def training_windows(
    stores: list[TokenStore], weights: list[float] | None, window: int, seed: int, in_lanes: bool = False
) -> TrainingWindows | MixedWindows | Lanes:
    """One data set by itself, in lanes if so wanted, or several mixed by their weights (None: as long as each is)."""
    if in_lanes:
        (store,) = stores
        return Lanes(store, window, seed)
    if len(stores) == 1:
        return TrainingWindows(stores[0], window, seed)
    # Its own seed for each, and for their order: two would otherwise draw alike.
    order, *seeds = (
        int(np.random.SeedSequence(seed, spawn_key=(i,)).generate_state(1, np.uint64)[0])
        for i in range(len(stores) + 1)
    )
    sets = [TrainingWindows(store, window, own) for store, own in zip(stores, seeds, strict=True)]
    return MixedWindows(sets, slot_counts(weights or [float(windows.per_epoch) for windows in sets]), order)


def slot_counts(weights: list[float]) -> list[int]:
    """Weights as whole numbers of slots, SLOTS times as many as weights in all, at least one each.

    By largest remainder, so that each is within one slot of its share, or the least that it can be.
    """
    beyond_one = np.maximum(np.array(weights) / sum(weights) * SLOTS * len(weights) - 1, 0)
    spare = (SLOTS - 1) * len(weights)
    beyond_one *= spare / beyond_one.sum()  # those below one slot take what they lack from the others
    counts = np.floor(beyond_one).astype(int)
    counts[np.argsort(counts - beyond_one, kind="stable")[: spare - counts.sum()]] += 1
    return (counts + 1).tolist()


def _random(seed: int, number: int, lane: int = 0) -> np.random.Generator:
    # As a list, NumPy would round a seed of 2^63 and more to a float.
    key, counter = np.array([seed, number], np.uint64), np.array([0, 0, 0, lane], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


# --- beginnings ---------------------------------------------------------------------------------------


def beginnings(folder: Path, split: str, codec: Codec, length: int, count: int) -> list[Tokens]:
    """The first `length` tokens of the first `count` windows of a split.

    A codec that normalises by window hears each window whole, as in training.
    Raises UserError where the split holds fewer.
    """
    window = max(codec.config.window or WINDOW, length)
    needed = window if codec.config.normalize == "window" else length
    store = open_tokens(folder, split, codec)
    long_enough = (tokens[:length] for _, _, tokens in store.windows(window) if len(tokens) >= needed)
    found = list(islice(long_enough, count))
    if len(found) < count:
        raise UserError(
            f"the {split} split of {folder} holds {len(found)} beginnings of {length} samples, not {count}: "
            "lower n_samples or l_prefix"
        )
    return found
