"""Sound files in and out."""

import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile as sf

from sashimi import audio
from sashimi.audio import AudioError

Recording = Callable[..., Path]


def encode_with_av(path: Path, codec: str, rate: int, seconds: float) -> Path:
    """A stereo sweep-free tone (220 Hz left, silence right) in a container that libsndfile does not read."""
    t = np.arange(round(rate * seconds)) / rate
    samples = np.stack([0.5 * np.sin(2 * np.pi * 220 * t), 0 * t]).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
        frame.rate = rate
        for packet in stream.encode(frame):  # type: ignore[attr-defined]
            container.mux(packet)
        for packet in stream.encode():  # type: ignore[attr-defined]
            container.mux(packet)
    return path


def frequency(waveform: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(spectrum.argmax() * rate / len(waveform))


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg", "canção (live) a=b, c.mp3", "upper.WAV"])
@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_any_rate_and_channel_count_becomes_mono(recording: Recording, name: str, rate: int) -> None:
    path = recording(name, seconds=3.0, rate=rate)
    waveform = audio.read(path, 16000)
    assert waveform.dtype == np.float32
    assert abs(len(waveform) - 48000) < 1600
    assert abs(frequency(waveform, 16000) - 330) < 2
    assert 0.2 < np.abs(waveform).max() < 0.55


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.webm", "libopus"), ("a.mp4", "aac")])
def test_what_libsndfile_does_not_read(tmp_path: Path, name: str, codec: str) -> None:
    path = encode_with_av(tmp_path / name, codec, 48000, 3.0)
    waveform = audio.read(path, 16000)
    assert abs(len(waveform) - 48000) < 1600
    assert abs(frequency(waveform, 16000) - 220) < 2
    assert abs(np.abs(waveform[8000:40000]).max() - 0.25) < 0.02, "the mean of both channels"
    section = audio.read(path, 16000, start=1.5, end=2.0)
    assert len(section) == 8000
    assert np.abs(section[100:-100] - waveform[24100:31900]).max() < 0.02


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3"])
def test_sections_are_cut_to_the_sample(recording: Recording, name: str) -> None:
    path = recording(name, seconds=3.0, rate=16000)
    whole = audio.read(path, 16000)
    # An mp3 decoder that starts midway has other round-off.
    assert np.abs(audio.read(path, 16000, start=0.5, end=1.25) - whole[8000:20000]).max() < 1e-4
    assert np.abs(audio.read(path, 16000, start=2.9, end=99) - whole[46400:]).max() < 1e-4
    assert len(audio.read(path, 16000, start=50)) == 0


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.ogg"])
def test_reading_in_blocks_is_reading_at_once(recording: Recording, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = recording(name, seconds=4.0)
    whole = audio.read(path, 16000)
    monkeypatch.setattr(audio, "BLOCK_SECONDS", 1)
    assert len(list(audio.stream(path, 16000))) > 3
    assert np.abs(audio.read(path, 16000) - whole).max() < 1e-6


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "long.flac"
    with sf.SoundFile(path, "w", 16000, 1) as file:
        for _ in range(30):
            file.write(np.zeros(16000 * 60))
    tracemalloc.start()
    total = sum(len(block) for block in audio.stream(path, 8000))
    assert tracemalloc.get_traced_memory()[1] < 30e6  # 30 minutes at 16 kHz are 115 MB
    tracemalloc.stop()
    assert abs(total - 30 * 60 * 8000) < 10


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_written_files_are_16_bit_and_whole(tmp_path: Path, suffix: str) -> None:
    waveform = np.linspace(-1, 0.99, 1000, dtype=np.float32)
    path = tmp_path / "folder" / f"out{suffix}"
    audio.write(path, waveform, 16000)
    assert sf.info(path).subtype == "PCM_16"
    assert sf.info(path).samplerate == 16000
    assert np.abs(audio.read(path, 16000) - waveform).max() < 1e-4
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with pytest.raises(ValueError, match=r"\.wav, \.flac"):
        audio.write(tmp_path / "out.mp3", waveform, 16000)


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(writer: audio.Writer, waveform: audio.Waveform) -> None:
        writer.path.write_bytes(b"half")
        raise RuntimeError("interrupted")

    monkeypatch.setattr(audio.Writer, "write", fails)
    with pytest.raises(RuntimeError):
        audio.write(tmp_path / "out.wav", np.zeros(10, np.float32), 16000)
    assert not list(tmp_path.iterdir())


def test_what_is_not_a_recording(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no recording"):
        audio.read(tmp_path / "absent.wav", 16000)
    (tmp_path / "empty.wav").touch()
    with pytest.raises(AudioError, match="0 bytes"):
        audio.read(tmp_path / "empty.wav", 16000)
    (tmp_path / "text.mp3").write_text("no sound " * 100)
    with pytest.raises(AudioError, match=r"text.mp3 is not a readable recording"):
        audio.read(tmp_path / "text.mp3", 16000)
    with av.open(str(tmp_path / "silent.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 16  # type: ignore[attr-defined]
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        for packet in [*stream.encode(frame), *stream.encode()]:  # type: ignore[attr-defined]
            container.mux(packet)
    with pytest.raises(AudioError, match="no sound in it"):
        audio.read(tmp_path / "silent.mkv", 16000)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_what_a_killed_writer_flushed_can_be_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    code = """
import os, sys
import numpy as np
from pathlib import Path
from sashimi import audio
writer = audio.Writer(Path(sys.argv[1]), 16000)
for _ in range(25):
    writer.write(0.3 * np.sin(np.arange(16000) * 0.05).astype(np.float32))
    writer.flush()
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code, path])
    assert 24 * 16000 < len(audio.read(path, 16000)) <= 25 * 16000


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """In a process of its own, whose files may not grow."""
    code = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from sashimi import audio
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    audio.write(Path(sys.argv[1]), np.zeros(200_000, np.float32), 16000)
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "out.wav"], capture_output=True, text=True)
    assert f"cannot write {tmp_path / 'out.wav'}" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())
