"""What is in a data set: lengths, levels, silence, clipping, spectrum; and whether every chunk is as it was written.

Exit status: 0 if all chunks are whole, 1 if some are damaged or missing, 2 if there is no data set to look at.
"""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from data_tools.dataset import Chunk, decibels, file_hash, read
from data_tools.report import pace
from data_tools.splitting import SPLITS
from sashimi import audio
from sashimi.audio import Waveform
from sashimi.cli import reported_errors
from sashimi.progress import clock

WINDOW_SECONDS = 0.1
SILENCE_DBFS = -50.0
FULL_SCALE = 0.999
N_FFT = 2048
BINS = 201  # of the histogram, over -1 .. 1


@dataclass
class Heard:
    """What a split sounds like, chunk by chunk.

    levels     RMS of every 0.1 s, amplitude, in the manifest's order
    clipped    samples that were at full scale before the recording's gain
    power      sums over frames of |X|^2 at 0 .. rate / 2, where a sine of full scale has 1
    """

    rate: int
    recordings: set[str] = field(default_factory=set)
    chunks: int = 0
    samples: int = 0
    squares: float = 0.0
    peak: float = 0.0
    clipped: int = 0
    frames: int = 0
    levels: list[Waveform] = field(default_factory=list)
    power: NDArray[np.float64] = field(default_factory=lambda: np.zeros(N_FFT // 2 + 1))
    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, chunk: Chunk, waveform: Waveform) -> None:
        self.recordings.add(chunk.recording)
        self.chunks += 1
        self.samples += len(waveform)
        self.squares += float(np.sum(waveform.astype(np.float64) ** 2))
        self.peak = max(self.peak, float(np.abs(waveform).max()))
        self.clipped += int(np.sum(np.abs(waveform) >= FULL_SCALE * 10 ** (chunk.gain_db / 20)))
        self.histogram += np.histogram(waveform, BINS, (-1, 1))[0]
        size = round(WINDOW_SECONDS * self.rate)
        windows = waveform[: len(waveform) // size * size].reshape(-1, size)
        self.levels.append(np.sqrt(np.mean(windows**2, axis=1)))
        padded = np.pad(waveform, (0, max(0, N_FFT - len(waveform))))
        frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[:: N_FFT // 2]
        hann = np.hanning(N_FFT).astype(np.float32)
        self.power += np.sum(np.abs(np.fft.rfft(frames * hann)) ** 2, axis=0) / (hann.sum() / 2) ** 2
        self.frames += len(frames)

    @property
    def frequencies(self) -> NDArray[np.floating[Any]]:
        return np.linspace(0, self.rate / 2, N_FFT // 2 + 1)

    @property
    def spectrum_db(self) -> NDArray[np.float64]:
        return 10 * np.log10(np.maximum(self.power / max(self.frames, 1), 1e-12))

    @property
    def level_db(self) -> NDArray[np.float64]:
        return 20 * np.log10(np.maximum(np.concatenate(self.levels or [np.zeros(0, np.float32)]), 1e-6))

    def table(self) -> dict[str, str]:
        rows = {
            "length": clock(self.samples / self.rate),
            "recordings": str(len(self.recordings)),
            "chunks": str(self.chunks),
        }
        if not self.samples:
            return rows
        return rows | {
            "level (RMS)": f"{decibels((self.squares / self.samples) ** 0.5):.1f} dBFS",
            "peak": f"{decibels(self.peak):.1f} dBFS",
            f"silence (under {SILENCE_DBFS:.0f} dBFS)": f"{np.mean(self.level_db < SILENCE_DBFS):.1%}",
            "clipped in the source": f"{self.clipped / self.samples:.3%}",
            "spectral centroid": f"{np.sum(self.frequencies * self.power) / max(self.power.sum(), 1e-12):.0f} Hz",
        }


def listen(folder: Path, console: Console) -> tuple[dict[str, Any], dict[str, Heard], dict[str, str]]:
    """What dataset.yaml says, what every split sounds like, and the chunks that are not whole, with the reason.

    Raises UserError for a folder that is no complete data set.
    """
    described, chunks = read(folder)
    rate = described["rate"]
    splits, damaged = {split: Heard(rate) for split in SPLITS}, {}
    with pace(console, "listening", sum(c.samples for c in chunks) / rate) as report:
        for chunk in chunks:
            path = folder / chunk.file
            if not path.is_file():
                damaged[chunk.file] = "missing"
            elif file_hash(path) != chunk.sha256:
                damaged[chunk.file] = "damaged: not the bytes that were written"
            else:
                splits[chunk.split].add(chunk, audio.read(path, rate))
            report(chunk.recording)(chunk.samples / rate)
    return described, splits, damaged


def print_table(console: Console, folder: Path, described: dict[str, Any], splits: dict[str, Heard]) -> None:
    licence = described.get("licence") or "not stated"
    console.print(f"{folder}: {described['rate']} Hz, split by {described['split']}, licence: {licence}")
    tables = {split: heard.table() for split, heard in splits.items()}
    rows = {"": list(tables)}
    for name in max(tables.values(), key=len):
        rows[name] = [table.get(name, "-") for table in tables.values()]
    for name, cells in rows.items():
        console.print(f"  {name:<26}" + "".join(f"{cell:>13}" for cell in cells))
    for why, part in (described.get("dropped") or {}).items():
        console.print(f"  dropped as {why}: {clock(part['seconds'])} in {part['chunks']} chunks")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m data_tools.inspect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a data set made by data_tools.prepare")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="where the picture goes (FOLDER/inspect.png)")
    arguments = parser.parse_args()
    picture = arguments.plot or arguments.folder / "inspect.png"
    if picture.suffix != ".png":
        parser.error(f"{picture}: the picture must end in .png")
    console = Console(highlight=False, soft_wrap=True, markup=False)
    with reported_errors():
        from data_tools.pictures import draw

        described, splits, damaged = listen(arguments.folder, console)
        print_table(console, arguments.folder, described, splits)
        draw(picture, f"{described['name']}, {described['rate']} Hz", splits)
        console.print(f"picture: {picture}")
        for file, reason in damaged.items():
            console.print(f"  {arguments.folder / file}: {reason}")
        if damaged:
            console.print(
                f"{len(damaged)} chunks are not whole. Delete those that are damaged, then run data_tools.prepare "
                "again as before: it makes what is missing."
            )
        sys.exit(1 if damaged else 0)


if __name__ == "__main__":
    main()
