"""Recordings that users bring: checked by decoding them, and kept for a while as mono FLAC.

The page knows them by id. What the user's browser sends is never a path that is opened here.
"""

import json
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import soundfile as sf

from app import links
from app.models import Known
from sashimi import audio, generation
from sashimi.audio import Waveform
from sashimi.codec import Codec, Tokens
from sashimi.errors import UserError
from sashimi.files import finished

RATE = 16000
LONGEST = 10 * 60.0  # seconds of a recording that are kept; the rest is left out
LONGEST_PROMPT = 60.0  # seconds that a model hears before it plays
SHORTEST_PROMPT = 0.25
MOST_BYTES = 200 * 10**6  # of an upload or a download
DAYS = 1.0
ROOM = 10**9  # bytes that all may take
FULL_SCALE = 0.99
NAME = 60
ID = re.compile(r"[0-9a-f]{24}")


@dataclass(frozen=True)
class Prompt:
    """seconds: there are; cropped: whether the recording had more."""

    id: str
    title: str
    seconds: float
    cropped: bool

    @property
    def text(self) -> str:
        rest = f" Only its first {LONGEST / 60:g} minutes are used." if self.cropped else ""
        return f"{self.title}: {self.seconds:.1f} s.{rest}"


class Prompts:
    """All recordings that were brought, in one folder. uploads: where the server stores what browsers send."""

    def __init__(self, folder: Path, uploads: Path) -> None:
        self.folder, self.uploads = folder, uploads
        self.folder.mkdir(parents=True, exist_ok=True)
        self.sweep()

    def bring(self, path: str, title: str = "") -> Prompt:
        """An upload, as Gradio says where it has stored it. What lies elsewhere is not opened."""
        real = Path(path).resolve()
        if not real.is_relative_to(self.uploads.resolve()) or not real.is_file():
            raise UserError("this is not an upload; send the recording itself")
        return self.add(real, title or real.name)

    def add(self, path: Path, title: str, start: float = 0.0) -> Prompt:
        """A recording from a file of ours (an upload that the server has stored, a download, an example).

        Raises UserError for what is not a readable recording, or is silent or too large.
        """
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{title}: files of up to {MOST_BYTES / 1e6:g} MB are taken; cut it first")
        id_ = secrets.token_hex(12)
        target, peak, count = self.folder / f"{id_}.flac", 0.0, 0
        try:
            # Twice through it, so that what decodes to beyond full scale is brought down and not clipped.
            for block in _named(path, title, start):
                peak, count = max(peak, float(np.abs(block).max())), count + len(block)
            if not count:
                raise UserError(f"{title} ends before second {start:g}" if start else f"{title} has no sound in it")
            if peak < generation.SILENCE:
                raise UserError(f"{title} is silent in what was looked at; choose another recording or another start")
            gain = np.float32(min(1.0, FULL_SCALE / peak))
            with finished(target) as partial, audio.Writer(partial, RATE) as file:
                for block in _named(path, title, start):
                    file.write(block * gain)
        except UserError:
            target.unlink(missing_ok=True)
            raise
        limit = round(LONGEST * RATE)
        prompt = Prompt(id_, title[:NAME], min(count, limit) / RATE, count >= limit)
        with finished(target.with_suffix(".json")) as partial:
            partial.write_text(json.dumps(asdict(prompt)), encoding="utf-8")
        self.sweep()
        return prompt

    def fetch(self, url: str, start: float, report: Callable[[float], None]) -> Prompt:
        """A recording from an address, at most MOST_BYTES of it; addresses that are not public are refused.

        report: is told of megabytes. Raises UserError for what cannot be had.
        """
        with TemporaryDirectory(dir=self.folder, prefix=".link-") as temporary:
            path, title = links.download(url, Path(temporary), MOST_BYTES, report)
            return self.add(path, title, start)

    def find(self, key: str) -> Prompt:
        """Raises UserError where there is no such recording (any more)."""
        path = self.folder / f"{key}.json"
        if not ID.fullmatch(key) or not path.is_file():
            raise UserError("this recording is not there any more; bring it again")
        return Prompt(**json.loads(path.read_text(encoding="utf-8")))

    def waveform(self, prompt: Prompt, start: float = 0.0, end: float | None = None) -> Waveform:
        """f32(L) at RATE."""
        return self.waveform_at(prompt, RATE, start, end)

    def waveform_at(self, prompt: Prompt, rate: int, start: float, end: float | None) -> Waveform:
        """The same at another rate."""
        return audio.read(self.folder / f"{prompt.id}.flac", rate, start, end)

    def section(self, prompt: Prompt, start: float, end: float) -> tuple[float, float]:
        """A section as it can be used. Raises UserError for one that is too short, too long or not there."""
        end = min(end, prompt.seconds)
        if not 0 <= start < end:
            raise UserError(f"{prompt.title} has {prompt.seconds:.1f} s: choose a section within them")
        if end - start > LONGEST_PROMPT + 0.01:
            raise UserError(f"a prompt may have {LONGEST_PROMPT:g} s, and this section has {end - start:.1f}: trim it")
        if end - start < SHORTEST_PROMPT:
            raise UserError(f"this section has {end - start:.2f} s; give the model {SHORTEST_PROMPT:g} s or more")
        return start, end

    def tokens(self, prompt: Prompt, start: float, end: float, known: Known) -> Tokens:
        """A section as a model hears it, a multiple of its period long."""
        start, end = self.section(prompt, start, end)
        try:
            path = self.folder / f"{prompt.id}.flac"
            tokens = generation.prompt_tokens(path, Codec(known.metadata.codec), start, end)
        except UserError as error:
            raise UserError(str(error).replace(str(path), prompt.title)) from None
        return tokens[len(tokens) % int(np.prod(known.metadata.model.pool)) :]

    def sweep(self) -> None:
        """Let go of what is old, then of the oldest until the rest fits."""
        files = sorted(self.folder.glob("*.flac"), key=lambda path: path.stat().st_mtime)
        room = sum(path.stat().st_size for path in files)
        for path in files:
            old = time.time() - path.stat().st_mtime > DAYS * 86400
            if old or room > ROOM:
                room -= path.stat().st_size
                path.unlink(missing_ok=True)
                path.with_suffix(".json").unlink(missing_ok=True)
        for left in self.folder.glob(".link-*"):
            if time.time() - left.stat().st_mtime > 86400:
                shutil.rmtree(left, ignore_errors=True)


def _named(path: Path, title: str, start: float) -> Iterator[Waveform]:
    """The recording's blocks; what is said of it names its title and not where it lies."""
    try:
        yield from audio.stream(path, RATE, start, start + LONGEST)
    except UserError as error:
        raise UserError(str(error).replace(str(path), title)) from None
    except (sf.LibsndfileError, av.FFmpegError) as error:
        raise UserError(f"{title} is damaged and cannot be decoded to its end: {error}") from None
