"""Recordings of a data set, measured as they sound after a codec: what generated music is held against.

Listening takes about a second for every three minutes of music, so what was heard is kept beside the split's tokens.
"""

import hashlib
import inspect
import json
import time
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console

from sashimi import metrics, survival
from sashimi.codec import Codec
from sashimi.data import TokenStore, open_tokens
from sashimi.distance import Embedding
from sashimi.errors import UserError
from sashimi.files import finished
from sashimi.metrics import LONG, SHORT, Listener, Track
from sashimi.progress import Update, bar
from sashimi.survival import Band

BLOCK = 1 << 16  # samples of a recording at a time


@dataclass(frozen=True)
class Real:
    """Recordings of a data set as a codec leaves them: val sets the band and the embedding, test confirms."""

    val: list[Track]
    test: list[Track]
    band: Band
    embedding: Embedding


def listen(folder: Path, codec: Codec, console: Console) -> Real:
    """The val and test recordings of a data set; what is too short for a window is left out.

    Raises UserError for a split without a longer one, and as `data.open_tokens`.
    """
    tracks = {}
    for split in ("val", "test"):
        tracks[split] = heard(open_tokens(folder, split, codec), f"listening to {split}", console)
        if not tracks[split]:
            raise UserError(f"the {split} split of {folder} has no recording of {SHORT} s; a band needs real music")
    embedding = Embedding.of(np.concatenate([track.patches for track in tracks["val"]]))
    return Real(tracks["val"], tracks["test"], survival.band_of(tracks["val"]), embedding)


def heard(store: TokenStore, what: str, console: Console) -> list[Track]:
    """The recordings of a split, listened to the first time; afterwards as they were kept."""
    path = _cache(store)
    if path is None or not path.is_file():
        with bar(console, what) as update:
            tracks = _listen(store, update)
        if path is None:
            return tracks
        parts = {f"{f.name}-{i}": getattr(t, f.name) for i, t in enumerate(tracks) for f in fields(Track)}
        with finished(path) as partial:
            np.savez(partial, count=len(tracks), **parts)
    with np.load(path) as kept:
        return [Track(*(kept[f"{f.name}-{i}"] for f in fields(Track))) for i in range(int(kept["count"]))]


def _cache(store: TokenStore) -> Path | None:
    """A file beside the tokens whose name changes with them, with the codec and the measures; None for an array."""
    if store.path is None:
        return None
    # The measures' text stands for their constants and formulas: no list of them could be forgotten to be kept up.
    measures = [inspect.getsource(metrics), version("librosa")]
    key = hashlib.sha256(json.dumps([measures, asdict(store.codec.config)]).encode()).hexdigest()[:8]
    return store.path.with_name(f"{store.path.stem}-heard-{key}.npz")


def _listen(store: TokenStore, update: Update) -> list[Track]:
    codec = store.codec
    rate, block = codec.config.rate, codec.config.window or BLOCK
    noise = np.random.default_rng(0).uniform(-1, 1, round(LONG * rate)).astype(np.float32)
    Listener(rate).add(noise)  # librosa takes its time to load, which is no measure of the rest
    total, done, began = store.offsets[-1], 0, time.monotonic()
    tracks = []
    for recording, length in enumerate(store.lengths):
        listener = Listener(rate)
        for start in range(0, length, block):
            listener.add(codec.decode(store.window(recording, start, block)))
            done += min(block, length - start)
            speed = done / (time.monotonic() - began)
            update(done / total, f"{speed / rate:,.0f} x real time", (total - done) / speed)
        if length >= SHORT * rate:
            tracks.append(listener.finish())
    return tracks
