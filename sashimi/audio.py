"""Sound files in and out: anything libsndfile or PyAV decodes, mono, at any rate, in bounded memory."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from sashimi.errors import UserError
from sashimi.files import finished

BLOCK_SECONDS = 10
UNKNOWN = 1 << 62  # frames, that libsndfile gives a FLAC whose writer was killed; it cannot read that to its end
SUBTYPES = {".wav": "PCM_16", ".flac": "PCM_16"}

Waveform = NDArray[np.float32]


class AudioError(UserError):
    """A recording that cannot be read; the message names it and the reason."""


def stream(path: Path, rate: int, start: float = 0.0, end: float | None = None) -> Iterator[Waveform]:
    """A section of a recording as mono blocks at `rate`, the mean of its channels. Times in seconds.

    Memory does not grow with the recording. A section that goes past the end stops there.
    Raises AudioError for what is not a readable recording, FileNotFoundError where there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no recording {path}")
    if path.stat().st_size == 0:
        raise AudioError(f"{path} is empty (0 bytes)")
    source_rate, blocks = _open(path, start, end)
    if source_rate == rate:
        yield from blocks
        return
    resampler = soxr.ResampleStream(source_rate, rate, 1, dtype="float32", quality="VHQ")
    for block in blocks:
        out = resampler.resample_chunk(block)
        if len(out):
            yield out
    out = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
    if len(out):
        yield out


def read(path: Path, rate: int, start: float = 0.0, end: float | None = None) -> Waveform:
    """`stream` in one array, f32(L)."""
    blocks = list(stream(path, rate, start, end))
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def write(path: Path, waveform: Waveform, rate: int) -> None:
    """16-bit WAV or FLAC by the suffix, whole or not at all. waveform: f(L) in [-1, 1]."""
    with finished(path) as partial, Writer(partial, rate) as file:
        file.write(waveform)


class Writer:
    """A file as `write` makes it, written block by block; its name should say so until it is whole.

    Raises OSError where the disk takes no more.
    """

    def __init__(self, path: Path, rate: int) -> None:
        subtype = SUBTYPES.get(path.suffix)
        if subtype is None:
            raise UserError(f"{path.name}: only {', '.join(SUBTYPES)} can be written")
        self.path = path
        with self._named_errors():
            self.file = sf.SoundFile(path, "w", rate, 1, subtype=subtype)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def write(self, waveform: Waveform) -> None:
        with self._named_errors():
            self.file.write(waveform)

    def flush(self) -> None:
        """So that what is written can be played, whatever happens next (FLAC: all but the last moments)."""
        with self._named_errors():
            self.file.flush()

    def close(self) -> None:
        with self._named_errors():
            self.file.close()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sf.LibsndfileError as error:
            raise OSError(f"cannot write {self.path} ({error.error_string}): is the disk full?") from error


def _open(path: Path, start: float, end: float | None) -> tuple[int, Iterator[Waveform]]:
    """The rate of a recording and its mono blocks, by libsndfile or PyAV, whichever reads it."""
    readers, reasons = [_av_blocks, _soundfile_blocks], []
    try:
        # Lossless files are libsndfile's: it seeks to the sample. Not so in mp3 and ogg, where every block
        # read through soundfile is followed by a seek, and every seek by a damaged frame.
        found = sf.info(path)
        if found.format not in ("MP3", "OGG") and found.frames < UNKNOWN:
            readers.reverse()
    except sf.LibsndfileError:
        pass
    for reader in readers:
        try:
            return _first_block_decodes(*reader(path, start, end))
        except (sf.LibsndfileError, av.FFmpegError) as error:
            reasons.append(error.error_string if isinstance(error, sf.LibsndfileError) else error.strerror)
    raise AudioError(f"{path} is not a readable recording ({'; '.join(map(str, reasons))})")


def _first_block_decodes(rate: int, blocks: Iterator[Waveform]) -> tuple[int, Iterator[Waveform]]:
    """The same, after having decoded the first block: a file that opens may still not decode."""
    first = next(blocks, None)
    return rate, iter(()) if first is None else itertools.chain([first], blocks)


def _soundfile_blocks(path: Path, start: float, end: float | None) -> tuple[int, Iterator[Waveform]]:
    with sf.SoundFile(path) as file:
        rate = file.samplerate

    def blocks() -> Iterator[Waveform]:
        with sf.SoundFile(path) as file:
            first = round(start * rate)
            if first >= file.frames:
                return
            file.seek(first)
            left = file.frames - first if end is None else min(round(end * rate), file.frames) - first
            while left > 0:
                block = file.read(min(left, BLOCK_SECONDS * rate), dtype="float32", always_2d=True)
                if not len(block):
                    return
                left -= len(block)
                yield block.mean(axis=1)

    return rate, blocks()


def _av_blocks(path: Path, start: float, end: float | None) -> tuple[int, Iterator[Waveform]]:
    with av.open(str(path)) as container:
        if not container.streams.audio:
            raise AudioError(f"{path} has no sound in it")
        rate = container.streams.audio[0].rate

    def blocks() -> Iterator[Waveform]:
        with av.open(str(path)) as container:
            sound = container.streams.audio[0]
            sound.codec_context.thread_type = "AUTO"
            origin = float((sound.start_time or 0) * sound.time_base) if sound.time_base else 0.0
            if start > 1:  # a little early: seeking lands on a packet, not on a sample
                container.seek(int((origin + start - 1) * av.time_base))
            to_float = av.AudioResampler(format="fltp", rate=rate)
            first, last = round(start * rate), None if end is None else round(end * rate)
            position = None
            held: list[Waveform] = []
            for frame in container.decode(sound):
                for part in to_float.resample(frame):
                    block = part.to_ndarray().mean(axis=0, dtype=np.float32)
                    if position is None:
                        position = 0 if frame.time is None else round((frame.time - origin) * rate)
                    kept = block[max(0, first - position) : None if last is None else max(0, last - position)]
                    position += len(block)
                    if len(kept):
                        held.append(kept)
                    if sum(map(len, held)) >= BLOCK_SECONDS * rate:
                        yield np.concatenate(held)
                        held = []
                if last is not None and position is not None and position >= last:
                    break
            if held:
                yield np.concatenate(held)

    return rate, blocks()
