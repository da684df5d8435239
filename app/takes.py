"""Takes on disk: what was played, how to make it again, and the states to go on from at any second.

ID/take.json              what it is
ID/tokens.u8              the prompt and what was played, a byte a sample, growing
ID/bits.f32               bits per sample of what was played, the mean of every BINS-th of a second, growing
ID/states/*.safetensors   the model's state after so many tokens
ID/prompt.flac, again.json   for generate.py again=
"""

import json
import os
import re
import secrets
import shutil
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sashimi.codec import Codec, Tokens
from sashimi.config import CodecConfig
from sashimi.errors import UserError
from sashimi.files import finished
from sashimi.generation import bits_per_byte
from sashimi.model import State
from sashimi.settings import build

BINS = 20  # means of bits per sample in a second
STATE_SECONDS = 2  # between two saved states
NAME = 80  # characters of a take's name, at most
ID = re.compile(r"[0-9a-f]{24}")
DAY = 86400.0

Bits = NDArray[np.float32]


@dataclass(frozen=True)
class About:
    """What take.json says.

    model, model_title, model_sha256   what played it
    prompt, played, steps              samples: heard before, played so far, to be played
    heard                              for people: what the prompt was
    settings                           seed, number, and those of SamplingConfig
    status, error                      waiting, playing, whole, stopped or failed; why, if so
    user                               who may list it: a login's name, "" without logins
    """

    id: str
    name: str
    model: str
    model_title: str
    model_sha256: str
    codec: CodecConfig
    prompt: int
    steps: int
    heard: str
    settings: dict[str, Any]
    user: str = ""
    parent: str | None = None
    played: int = 0
    log_likelihood: float = 0.0
    status: str = "waiting"
    error: str = ""
    kept: bool = False
    made: float = field(default_factory=time.time)

    @property
    def rate(self) -> int:
        return self.codec.rate

    @property
    def bits(self) -> float | None:
        """Mean bits per sample of what was played; None before anything was."""
        return bits_per_byte(self.log_likelihood, self.played) if self.played else None


class Take:
    """One take. Written by the thread that plays it; read by any. asker: whose page it is on, if one is open."""

    def __init__(self, folder: Path, about: About, asker: str = "") -> None:
        self.folder, self.about, self.asker = folder, about, asker
        self.changed = threading.Lock()  # of `about`

    @property
    def id(self) -> str:
        return self.about.id

    @property
    def there(self) -> int:
        """Samples that can be heard, the prompt included."""
        return self.about.prompt + self.about.played

    @property
    def total(self) -> int:
        """Samples that there will be; of a take that is over, that there are."""
        return self.there if self.over else self.about.prompt + self.about.steps

    @property
    def over(self) -> bool:
        return self.about.status not in ("waiting", "playing")

    @property
    def codec(self) -> Codec:
        return Codec(self.about.codec)

    def begin(self, prompt: Tokens) -> None:
        self.folder.mkdir(parents=True)
        (self.folder / "states").mkdir()
        (self.folder / "tokens.u8").write_bytes(prompt.tobytes())
        (self.folder / "bits.f32").touch()
        self.change()

    def add(self, tokens: Tokens, logp: NDArray[np.float64], log_likelihood: float) -> None:
        """tokens: uint8(n), logp: f64(n) in nats; n is a multiple of a bin. log_likelihood: of all that is played."""
        bins = (-logp / np.log(2)).reshape(-1, self.about.rate // BINS).mean(axis=1).astype(np.float32)
        for name, data in (("bits.f32", bins.tobytes()), ("tokens.u8", tokens.tobytes())):
            with (self.folder / name).open("ab") as file:
                file.write(data)
        self.change(write=False, played=self.about.played + len(tokens), log_likelihood=log_likelihood)

    def change(self, write: bool = True, **changes: Any) -> None:
        with self.changed:
            self.about = replace(self.about, **changes)
            if write:
                with finished(self.folder / "take.json") as partial:
                    text = json.dumps({**asdict(self.about), "bits": self.about.bits}, indent=1, ensure_ascii=False)
                    partial.write_text(text, encoding="utf-8")

    def rename(self, name: str) -> None:
        name = " ".join("".join(c if c.isprintable() else " " for c in name).split())[:NAME]
        if not name:
            raise UserError("a take needs a name")
        self.change(name=name)

    def tokens(self, start: int = 0, end: int | None = None) -> Tokens:
        """uint8(...) of what is there, the prompt included."""
        end = min(self.there if end is None else end, self.there)
        with (self.folder / "tokens.u8").open("rb") as file:
            file.seek(start)
            return np.frombuffer(file.read(max(0, end - start)), np.uint8)

    def bits(self) -> Bits:
        """f32(bins) of what was played, BINS a second."""
        count = self.about.played // (self.about.rate // BINS)
        return np.fromfile(self.folder / "bits.f32", np.float32, count)

    def save_state(self, state: State) -> None:
        """The state of this stream alone, after all that is there."""
        state.save(self.folder / "states" / f"{self.there:012}.safetensors")

    def state_before(self, at: int) -> tuple[int, State] | None:
        """The newest saved state that has heard no more than `at` samples, and how many it has."""
        found = [int(path.stem) for path in (self.folder / "states").glob("*.safetensors")]
        best = max((n for n in found if n <= at), default=None)
        return None if best is None else (best, State.load(self.folder / "states" / f"{best:012}.safetensors"))

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


class Takes:
    """All takes, in one folder with a limit. What is not kept goes after `days`, and earlier where room is short."""

    def __init__(self, folder: Path, room: int = 2 * 10**9, days: float = 7.0) -> None:
        self.folder, self.room, self.days = folder, room, days
        self.folder.mkdir(parents=True, exist_ok=True)
        self._takes: dict[str, Take] = {}
        self._lock = threading.Lock()
        for path in sorted(self.folder.glob("*/take.json")):
            take = _read(path)
            if take is not None:
                self._takes[take.id] = take
        self.sweep()

    def new(self, about: About, prompt: Tokens, asker: str) -> Take:
        take = Take(self.folder / about.id, about, asker)
        take.begin(prompt)
        with self._lock:
            self._takes[about.id] = take
        return take

    def find(self, key: str) -> Take:
        """Raises UserError where there is no such take (any more)."""
        with self._lock:
            take = self._takes.get(key)
        if take is None:
            raise UserError("this take is not there any more; takes that are not kept go after a while")
        return take

    def kept(self, user: str) -> list[Take]:
        """The newest first."""
        with self._lock:
            takes = list(self._takes.values())
        mine = [take for take in takes if take.about.kept and take.about.user == user]
        return sorted(mine, key=lambda take: -take.about.made)

    def of(self, asker: str) -> list[Take]:
        """What an open page asked for, the newest first."""
        with self._lock:
            takes = [take for take in self._takes.values() if asker and take.asker == asker]
        return sorted(takes, key=lambda take: -take.about.made)

    def remove(self, take: Take) -> None:
        if not take.over:
            raise UserError("this take is still being played; stop it first")
        with self._lock:
            self._takes.pop(take.id, None)
        shutil.rmtree(take.folder, ignore_errors=True)

    def sweep(self) -> None:
        """Let go of what is old, then of the oldest until the rest fits. Kept takes and those being played stay."""
        with self._lock:
            takes = sorted(self._takes.values(), key=lambda take: take.about.made)
        sizes = {take.id: take.size for take in takes}
        total = sum(sizes.values())
        for take in takes:
            if take.about.kept or not take.over:
                continue
            if total > self.room or time.time() - take.about.made > self.days * DAY:
                self.remove(take)
                total -= sizes[take.id]

    def check_room(self) -> None:
        """Raises UserError where kept takes have taken all there is."""
        with self._lock:
            kept = [take for take in self._takes.values() if take.about.kept]
        if sum(take.size for take in kept) > self.room:
            raise UserError(
                f"kept takes fill the {self.room / 1e9:g} GB that takes may have; remove some under Greatest hits, "
                "or start the app with more --room"
            )


def new_id() -> str:
    return secrets.token_hex(12)


def _read(path: Path) -> Take | None:
    """A take as an earlier run left it; None for what is none. What was being played is stopped now."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values.pop("bits", None)
        about = About(**{**values, "codec": build(CodecConfig, values["codec"])})
        played = os.path.getsize(path.with_name("tokens.u8")) - about.prompt
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if not ID.fullmatch(about.id) or path.parent.name != about.id:
        return None
    take = Take(path.parent, about)
    if not take.over:
        bin_ = about.rate // BINS
        bins = os.path.getsize(path.with_name("bits.f32")) // 4
        take.change(status="stopped", played=max(0, min(played // bin_, bins) * bin_))
        total = float(take.bits().sum(dtype=np.float64)) * bin_
        take.change(log_likelihood=-total * float(np.log(2)))
    return take
