"""Pictures of sound."""

from collections.abc import Iterable
from pathlib import Path

import librosa
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from sashimi.audio import Waveform
from sashimi.files import finished

COLUMNS = 2000  # of a spectrogram, at most: more than its picture has


class Overview:
    """A recording of `length` samples, given in blocks, as mean mel spectra and extremes of the waveform.

    mel        f32(mels columns), power
    low, high  f32(points) of the waveform
    """

    def __init__(self, length: int, rate: int, columns: int = COLUMNS) -> None:
        self.n_fft = n_fft = min(1024, 1 << max(5, length.bit_length() - 1))
        self.hop, self.n_mels, self.rate = n_fft // 4, min(96, n_fft // 8), rate
        self.frames = length // self.hop + 1
        columns = min(columns, self.frames)
        self.mel, self.counts = np.zeros((self.n_mels, columns), np.float32), np.zeros(columns, np.int64)
        self.held = np.zeros(n_fft // 2, np.float32)  # frames are centred on multiples of the hop
        self.frame = 0
        self.step, self.left = -(-length // (4 * columns)), np.zeros(0, np.float32)
        self.low: list[Waveform] = []
        self.high: list[Waveform] = []

    def add(self, block: Waveform) -> None:
        self._hear(block)
        self.left = np.concatenate([self.left, block])
        whole = len(self.left) // self.step * self.step
        self._extremes(self.left[:whole].reshape(-1, self.step))
        self.left = self.left[whole:]

    def finish(self) -> None:
        self._hear(np.zeros(self.n_fft // 2, np.float32))
        if len(self.left):
            self._extremes(self.left[None])
        self.mel /= np.maximum(self.counts, 1)

    def _extremes(self, points: Waveform) -> None:
        self.low.append(points.min(axis=1))
        self.high.append(points.max(axis=1))

    def _hear(self, block: Waveform) -> None:
        self.held = np.concatenate([self.held, block])
        count = max(0, (len(self.held) - self.n_fft) // self.hop + 1)
        if not count:
            return
        heard = self.held[: (count - 1) * self.hop + self.n_fft]
        power = librosa.feature.melspectrogram(
            y=heard, sr=self.rate, n_fft=self.n_fft, hop_length=self.hop, n_mels=self.n_mels, center=False
        )
        columns = (self.frame + np.arange(count)) * len(self.counts) // self.frames
        np.add.at(self.mel.T, columns, power.T)
        np.add.at(self.counts, columns, 1)
        self.frame += count
        self.held = self.held[count * self.hop :]


def spectrogram(
    path: Path, blocks: Iterable[Waveform], length: int, rate: int, title: str, seam: float | None = None
) -> None:
    """A PNG: waveform above, mel spectrogram below. Memory does not grow with the recording.

    blocks: f(L) one after another, `length` samples in all; seam: where a prompt ends, in seconds.
    """
    overview = Overview(length, rate)
    for block in blocks:
        overview.add(block)
    overview.finish()
    mel = overview.mel
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(10, 5), sharex=True, height_ratios=(1, 3), layout="constrained"
    )
    seconds = length / rate
    extremes = np.stack([np.concatenate(overview.low), np.concatenate(overview.high)], axis=1)
    at = np.repeat(np.arange(len(extremes)) * overview.step / rate, 2)
    above.plot(at, extremes.ravel(), linewidth=0.4, color="tab:blue")
    above.set(ylim=(-1, 1), yticks=(-1, 0, 1), ylabel="amplitude", title=title)
    image = below.imshow(
        librosa.power_to_db(mel, ref=1.0), origin="lower", aspect="auto", cmap="magma", vmin=-60, vmax=30,
        extent=(0, seconds, 0, mel.shape[0]),
    )  # fmt: skip
    hertz = librosa.mel_frequencies(n_mels=mel.shape[0], fmax=rate / 2)
    ticks = [f for f in (125, 250, 500, 1000, 2000, 4000, 8000) if f <= rate / 2]
    below.set(
        xlabel="seconds", ylabel="Hz (mel scale)", xlim=(0, seconds),
        yticks=[float(np.interp(f, hertz, np.arange(len(hertz)))) for f in ticks], yticklabels=ticks,
    )  # fmt: skip
    figure.colorbar(image, ax=below, label="dB")
    if seam is not None:
        for axis in (above, below):
            axis.axvline(seam, color="tab:green", linewidth=1.5)
        above.text(seam, 0.8, " played from here", color="tab:green", fontsize=8)
    with finished(path) as partial:
        figure.savefig(partial, dpi=110)
    plt.close(figure)


def waveform(waveform: Waveform, rate: int, title: str) -> NDArray[np.uint8]:
    """The waveform by itself, at the size of a spectrogram's, as uint8(height width 3)."""
    figure, axis = plt.subplots(figsize=(10, 3), layout="constrained")
    axis.plot(np.arange(len(waveform)) / rate, waveform, linewidth=0.4, color="tab:blue")
    axis.set(
        xlim=(0, len(waveform) / rate), ylim=(-1, 1), yticks=(-1, -0.5, 0, 0.5, 1),
        xlabel="seconds", ylabel="amplitude", title=title,
    )  # fmt: skip
    axis.grid(alpha=0.3)
    figure.set_dpi(110)
    figure.canvas.draw()
    drawn = np.array(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
    plt.close(figure)
    return drawn


def pixels(path: Path) -> NDArray[np.uint8]:
    """A PNG as uint8(height width 3)."""
    return np.rint(plt.imread(path)[..., :3] * 255).astype(np.uint8)


def grouped_bars(path: Path, groups: list[str], bars: dict[str, list[float | None]], label: str) -> None:
    """A PNG: for every group a bar of each kind, with its value; a missing value leaves its place empty."""
    bars = {kind: values for kind, values in bars.items() if any(value is not None for value in values)}
    figure, axis = plt.subplots(figsize=(2.5 + 2.2 * len(groups), 4), layout="constrained")
    width = 0.8 / max(len(bars), 1)
    for i, (kind, values) in enumerate(bars.items()):
        places = np.arange(len(groups)) + (i - (len(bars) - 1) / 2) * width
        drawn = axis.bar(places, [value or 0.0 for value in values], width * 0.92, label=kind)
        axis.bar_label(drawn, ["" if value is None else f"{value:.3f}" for value in values], fontsize=8, padding=2)
    axis.set(xticks=range(len(groups)), xticklabels=groups, ylabel=label)
    axis.margins(y=0.15)
    axis.spines[["top", "right"]].set_visible(False)
    if bars:
        axis.legend(frameon=False, ncols=len(bars), loc="upper center", bbox_to_anchor=(0.5, 1.12))
    with finished(path) as partial:
        figure.savefig(partial, dpi=110)
    plt.close(figure)
