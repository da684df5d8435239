"""Takes as sound: PCM as generate.py writes it, WAV in one growing piece, and files to download."""

import functools
import io
import struct
import threading
from collections import OrderedDict
from dataclasses import astuple

import av
import librosa
import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from app.takes import Take
from sashimi.audio import Waveform
from sashimi.codec import Codec, Tokens
from sashimi.config import CodecConfig
from sashimi.plots import Overview

HEADER = 44  # bytes before the samples of a WAV file
FORMATS = {"wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg"}
MP3_RATE = 96_000  # bits/s; mono at 16 kHz needs no more
COLUMNS = 640  # of a spectrogram on the page
FLOOR, CEILING = -60.0, 30.0  # dB, black and white of a spectrogram
PICTURES = 64  # spectrograms that are held in memory while they grow


@functools.cache
def _samples(codec: tuple[object, ...]) -> NDArray[np.int16]:
    """The 16-bit sample of every token, as a sound file has it."""
    config = CodecConfig(*codec)  # type: ignore[arg-type]
    raw = io.BytesIO()
    waveform = Codec(config).decode(np.arange(1 << config.bits))
    sf.write(raw, waveform, config.rate, format="RAW", subtype="PCM_16", endian="LITTLE")
    return np.frombuffer(raw.getvalue(), np.dtype("<i2"))


def pcm(tokens: Tokens, codec: CodecConfig) -> bytes:
    """16-bit little-endian samples."""
    return _samples(astuple(codec))[tokens].tobytes()


def wide(tokens: Tokens, codec: CodecConfig) -> bytes:
    """The same samples, exactly, as 32-bit stereo, for a stream.

    A browser (Chromium 14x and its ffmpeg) reads about 240 KB of a PCM file before it plays the first sample, whatever
    the header says: seven seconds as mono 16 bit, and less than two like this.
    """
    return np.repeat(_samples(astuple(codec))[tokens].astype("<i4") << 16, 2).tobytes()


def wav_header(samples: int, rate: int, channels: int = 1, width: int = 2) -> bytes:
    """Of a PCM file of so many samples. width: bytes of each."""
    frame = channels * width
    data = frame * samples
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, frame * rate, frame, 8 * width)
    return struct.pack("<4sI4s", b"RIFF", data + HEADER - 8, b"WAVE") + form + struct.pack("<4sI", b"data", data)


def wav(tokens: Tokens, codec: CodecConfig) -> bytes:
    return wav_header(len(tokens), codec.rate) + pcm(tokens, codec)


def encoded(tokens: Tokens, codec: CodecConfig, kind: str, title: str) -> bytes:
    """A file of one of FORMATS."""
    match kind:
        case "wav":
            return wav(tokens, codec)
        case "flac":
            file = io.BytesIO()
            sf.write(file, _samples(astuple(codec))[tokens], codec.rate, format="FLAC", subtype="PCM_16")
            return file.getvalue()
        case "mp3":
            return _mp3(_samples(astuple(codec))[tokens], codec.rate, title)
    raise ValueError(kind)


def _mp3(samples: NDArray[np.int16], rate: int, title: str) -> bytes:
    """LAME, in PyAV's own libraries: no program of the system is needed."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp3") as container:
        container.metadata["title"] = title
        stream = container.add_stream("libmp3lame", rate=rate)
        stream.layout, stream.format, stream.bit_rate = "mono", "s16p", MP3_RATE
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16p", layout="mono")
        frame.rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return file.getvalue()


class Pictures:
    """Spectrograms of takes that grow: what was seen of one once is not computed again."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[str, int], tuple[Overview, int]] = OrderedDict()
        self._lock = threading.Lock()

    def columns(self, take: Take, first: int) -> tuple[int, NDArray[np.uint8]]:
        """How many columns there will be, and uint8(columns mels) from `first` on of those that are whole."""
        with self._lock:
            over, total, there = take.over, take.total, take.there
            key = (take.id, total)
            overview, seen = self._held.get(key) or (Overview(max(total, 1), take.about.rate, COLUMNS), 0)
            if there > seen:
                overview.add(take.codec.decode(take.tokens(seen, there)))
            if over and there > seen and there == total:
                overview._hear(np.zeros(overview.n_fft // 2, np.float32))
            count = overview.mel.shape[1]
            whole = count if over else overview.frame * count // overview.frames
            mean = overview.mel[:, first:whole] / np.maximum(overview.counts[first:whole], 1)
            self._held[key] = (overview, there)
            self._held.move_to_end(key)
            while len(self._held) > PICTURES:
                self._held.popitem(last=False)
        return count, _shades(mean)


def _shades(power: NDArray[np.floating]) -> NDArray[np.uint8]:
    """f(mels columns) -> uint8(columns mels)."""
    decibels = librosa.power_to_db(power, ref=1.0, top_db=None) if power.size else power
    return np.rint(np.clip((decibels - FLOOR) / (CEILING - FLOOR), 0, 1) * 255).astype(np.uint8).T


def extremes(waveform: Waveform, points: int) -> NDArray[np.float32]:
    """f32(points 2): lowest and highest of each part of a waveform."""
    step = max(1, -(-len(waveform) // points))
    padded = np.pad(waveform, (0, -len(waveform) % step), mode="edge" if len(waveform) else "constant")
    parts = padded.reshape(-1, step)
    return np.stack([parts.min(axis=1), parts.max(axis=1)], axis=1).astype(np.float32)
