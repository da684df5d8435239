"""The checkpoints that there are, and those of them that are loaded."""

import hashlib
import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from sashimi import checkpoint
from sashimi.checkpoint import LoadedModel, Metadata
from sashimi.clips import sha256
from sashimi.codec import Codec
from sashimi.config import EngineConfig, SamplingConfig
from sashimi.engines import make_engine
from sashimi.engines.base import Engine
from sashimi.errors import UserError

MEMORY = 2**30  # bytes that loaded models may take before the one unused for longest goes
COPIES = 3  # a model's weights in memory: its own, the engine's, and what playing needs
TRIAL = 8000  # samples that are played when a model is loaded: how fast it is here


@dataclass(frozen=True)
class Known:
    """A checkpoint that can be chosen. id: for the page, which never sees a path."""

    id: str
    title: str
    path: Path
    metadata: Metadata

    @property
    def blocks(self) -> int:
        return self.metadata.model.n_layers

    @property
    def rate(self) -> int:
        return self.metadata.codec.rate

    @property
    def heldout(self) -> dict[str, float]:
        """Quantiles of bits per byte over held-out music; empty where the checkpoint does not say."""
        return dict(self.metadata.metrics.get("heldout_bpb") or {})


@dataclass
class Loaded:
    """A model that plays. speed: steps/s of one stream, the newest measurement."""

    known: Known
    model: LoadedModel
    engine: Engine
    codec: Codec
    sha256: str
    speed: float
    engine_config: EngineConfig

    @property
    def size(self) -> int:
        return COPIES * sum(p.numel() * p.element_size() for p in self.model.parameters())


class Models:
    """Checkpoints by id; each is loaded once, and the least recently used go when memory runs short."""

    def __init__(
        self, runs: Path, extra: tuple[Path, ...] = (), memory: int = MEMORY, engine: EngineConfig | None = None
    ) -> None:
        self.runs, self.extra, self.memory = runs, extra, memory
        self.engine = engine or EngineConfig()
        self.loaded: OrderedDict[str, Loaded] = OrderedDict()
        self.speeds: dict[str, float] = {}
        self._lock = threading.Lock()

    def known(self) -> list[Known]:
        """What there is: those named, shipped ones, local runs with the newest first. Unreadable ones are left out."""
        runs = sorted(self.runs.glob(f"*/*/{checkpoint.BEST}"), key=lambda path: -path.stat().st_mtime)
        shipped = sorted(checkpoint.SHIPPED.glob("*.safetensors"))
        found: dict[str, Known] = {}
        for path in (*self.extra, *shipped, *runs):
            try:
                metadata = checkpoint.describe(path)
            except (OSError, UserError):
                continue
            title = path.stem if path.name != checkpoint.BEST else "/".join(path.parts[-3:-1])
            key = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:12]
            found.setdefault(key, Known(key, title, path, metadata))
        return list(found.values())

    def find(self, key: str) -> Known:
        """Raises UserError for an id of nothing."""
        for known in self.known():
            if known.id == key:
                return known
        raise UserError("this model is not there any more; choose another")

    def load(self, key: str) -> Loaded:
        """Raises UserError where there is no such checkpoint, or it is not usable."""
        known = self.find(key)
        with self._lock:
            loaded = self.loaded.pop(key, None)
            if loaded is None:
                model = checkpoint.load(known.path)
                engine = make_engine(self.engine, model)
                engine.run(engine.start(1), model.period, SamplingConfig(), [(0, 0)])  # the first call warms up
                tried = TRIAL if self.engine.name == "native" else model.period
                began = time.perf_counter()
                engine.run(engine.start(1), tried, SamplingConfig(), [(0, 0)])
                speed = tried / (time.perf_counter() - began)
                codec = Codec(model.metadata.codec)
                loaded = Loaded(known, model, engine, codec, sha256(checkpoint.resolve(known.path)), speed, self.engine)
                self.speeds[key] = speed
            self.loaded[key] = loaded
            while len(self.loaded) > 1 and sum(other.size for other in self.loaded.values()) > self.memory:
                self.loaded.popitem(last=False)
            return loaded

    def measured(self, key: str) -> float | None:
        """Times real time that one stream was last played at here; None before it was."""
        speed = self.speeds.get(key)
        return None if speed is None else speed / self.find(key).rate

    def note(self, key: str, speed: float) -> None:
        self.speeds[key] = speed
