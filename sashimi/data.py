"""Recordings to tokens."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from sashimi import audio
from sashimi.codec import Codec, Tokens
from sashimi.errors import UserError

WINDOW = 131072  # samples: the published training window
AUDIO_SUFFIXES = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".webm", ".mp4", ".aiff", ".aif"}


def split_files(folder: Path, split: str) -> list[Path]:
    """The recordings of a split by the published rule: sorted by name, 88% train, 6% val, 6% test.

    Raises UserError for a folder that is missing or leaves the split empty.
    """
    if not folder.is_dir():
        raise UserError(f"there is no data set {folder}; put recordings there, or set data.dir=FOLDER")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
    val, test = int(0.88 * len(files)), int(0.94 * len(files))
    chosen = {"train": files[:val], "val": files[val:test], "test": files[test:]}[split]
    if not chosen:
        raise UserError(f"{folder} has {len(files)} recordings, too few for a {split} split (88/6/6 by file)")
    return chosen


def beginnings(folder: Path, split: str, codec: Codec, length: int, count: int) -> list[Tokens]:
    """The first `length` tokens of the first `count` windows of a split.

    A codec that normalises by window hears each window whole, as in training.
    Raises UserError where the split holds fewer.
    """
    found = list(islice(_beginnings(split_files(folder, split), codec, length), count))
    if len(found) < count:
        raise UserError(
            f"the {split} split of {folder} holds {len(found)} beginnings of {length} samples, not {count}: "
            "lower n_samples or l_prefix"
        )
    return found


def _beginnings(files: list[Path], codec: Codec, length: int) -> Iterator[Tokens]:
    window = codec.config.window or WINDOW
    needed = max(window, length) if codec.config.normalize == "window" else length
    rate = codec.config.rate
    for path in files:
        start = 0
        while True:
            waveform = audio.read(path, rate, start / rate, (start + needed) / rate)[:needed]
            if len(waveform) < needed:
                break
            yield codec.encode(waveform)[:length]
            start += max(window, length)
