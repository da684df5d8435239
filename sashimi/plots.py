"""Pictures of sound."""

from pathlib import Path

import librosa
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from sashimi.audio import Waveform
from sashimi.files import finished


def spectrogram(path: Path, waveform: Waveform, rate: int, title: str, seam: float | None = None) -> None:
    """A PNG: waveform above, mel spectrogram below. seam: where a prompt ends, in seconds."""
    n_fft = min(1024, 1 << max(5, len(waveform).bit_length() - 1))
    mel = librosa.feature.melspectrogram(
        y=waveform, sr=rate, n_fft=n_fft, hop_length=n_fft // 4, n_mels=min(96, n_fft // 8)
    )
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(10, 5), sharex=True, height_ratios=(1, 3), layout="constrained"
    )
    seconds = len(waveform) / rate
    above.plot(np.arange(len(waveform)) / rate, waveform, linewidth=0.4, color="tab:blue")
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
    axis.legend(frameon=False, ncols=len(bars), loc="upper center", bbox_to_anchor=(0.5, 1.12))
    with finished(path) as partial:
        figure.savefig(partial, dpi=110)
    plt.close(figure)
