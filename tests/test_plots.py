"""Pictures of recordings of any length."""

from pathlib import Path

import librosa
import matplotlib.pyplot as plt
import numpy as np
import pytest

from sashimi import plots


def blocks(waveform: np.ndarray, cuts: list[int]) -> list[np.ndarray]:
    return np.split(waveform, sorted(cut for cut in cuts if cut < len(waveform)))


def overview(parts: list[np.ndarray], length: int) -> plots.Overview:
    made = plots.Overview(length, 16000)
    for part in parts:
        made.add(part)
    made.finish()
    return made


@pytest.mark.parametrize("length", [40, 500, 48000, 160001, 600000])
def test_overview_is_the_mean_spectrogram_however_the_blocks_are_cut(length: int) -> None:
    rng = np.random.default_rng(length)
    waveform = rng.uniform(-1, 1, length).astype(np.float32)
    made = overview(blocks(waveform, list(rng.integers(1, length, 7))), length)
    whole = librosa.feature.melspectrogram(
        y=waveform, sr=16000, n_fft=made.n_fft, hop_length=made.hop, n_mels=made.n_mels
    )
    columns = np.arange(whole.shape[1]) * made.mel.shape[1] // whole.shape[1]
    expected = np.stack([whole[:, columns == c].mean(axis=1) for c in range(made.mel.shape[1])], axis=1)
    np.testing.assert_allclose(made.mel, expected, rtol=1e-4)
    low, high = np.concatenate(made.low), np.concatenate(made.high)
    assert len(low) == len(high) == -(-length // made.step)
    assert (low.min(), high.max()) == (waveform.min(), waveform.max())
    assert low[0] == waveform[: made.step].min()


def test_a_long_recording_takes_no_more_than_its_picture() -> None:
    length = 20_000_000
    made = overview([np.zeros(1 << 16, np.float32)] * (length >> 16), length)
    assert made.mel.shape[1] <= plots.COLUMNS
    assert sum(map(len, made.low)) <= 4 * plots.COLUMNS


def test_spectrogram_is_a_picture(tmp_path: Path) -> None:
    tone = np.sin(np.arange(32000) * 2 * np.pi * 440 / 16000).astype(np.float32)
    plots.spectrogram(tmp_path / "out.png", [tone[:9000], tone[9000:]], len(tone), 16000, "a tone", seam=0.5)
    drawn = plots.pixels(tmp_path / "out.png")
    assert drawn.shape == (550, 1100, 3)
    assert not plt.get_fignums(), "figures are closed"
