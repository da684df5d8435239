"""Integrated loudness as in EBU R128 (ITU-R BS.1770-4), of one channel, block by block."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sashimi.audio import Waveform

# The two stages of K-weighting at 48 kHz, tables 1 and 2 of BS.1770: numerator, denominator.
STAGES = (
    ((1.53512485958697, -2.69169618940638, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585)),
    ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621)),
)
STAGES_RATE = 48000
OFFSET = -0.691  # LUFS of power 1 after the weighting
GATE, RELATIVE_GATE = -70.0, -10.0  # LUFS, LU
STEPS_A_SECOND, STEPS_A_WINDOW = 10, 4
CONTEXT_SECONDS = 0.5  # the weighting's memory: after it, its 38 Hz high-pass has decayed by 1e-50


class Loudness:
    """Hears a recording; keeps ten numbers of each second.

    One channel counts as one: a 1 kHz sine with a peak of -20 dBFS is -23 LUFS. Heard from two loudspeakers, or as a
    stereo file with the same in both channels, it is 3 LU more.
    """

    def __init__(self, rate: int) -> None:
        self.rate, self.step = rate, round(rate / STEPS_A_SECOND)
        self.past: Waveform = np.zeros(round(CONTEXT_SECONDS * rate), np.float32)
        self.rest: NDArray[np.floating[Any]] = np.zeros(0, np.float32)
        self.response: NDArray[np.complex64] = np.zeros(0, np.complex64)
        self.powers: list[NDArray[np.float64]] = []

    def add(self, block: Waveform) -> None:
        waveform = np.concatenate([self.past, block])
        size = 1 << (len(waveform) - 1).bit_length()  # longer: what wraps around falls into the past
        if len(self.response) != size // 2 + 1:
            self.response = _weighting(np.fft.rfftfreq(size, 1 / self.rate)).astype(np.complex64)
        heard = np.fft.irfft(np.fft.rfft(waveform, size) * self.response, size)[len(self.past) : len(waveform)]
        self.past = waveform[-len(self.past) :]
        heard = np.concatenate([self.rest, heard])
        whole = len(heard) // self.step * self.step
        self.rest = heard[whole:]
        self.powers.append(np.mean(heard[:whole].reshape(-1, self.step) ** 2, axis=1, dtype=np.float64))

    @property
    def integrated(self) -> float | None:
        """LUFS. None where nothing is louder than -70, or it is shorter than 0.4 s."""
        powers = np.concatenate([np.zeros(0), *self.powers])
        if len(powers) < STEPS_A_WINDOW:
            return None
        windows = np.convolve(powers, np.full(STEPS_A_WINDOW, 1 / STEPS_A_WINDOW), "valid")
        windows = windows[windows > _power(GATE)]
        windows = windows[windows > windows.mean() * 10 ** (RELATIVE_GATE / 10)] if len(windows) else windows
        return round(float(OFFSET + 10 * np.log10(windows.mean())), 3) if len(windows) else None


def _power(lufs: float) -> float:
    return float(10 ** ((lufs - OFFSET) / 10))


def _weighting(hertz: NDArray[np.floating[Any]]) -> NDArray[np.complex128]:
    """The response of the standard's filters, which are for 48 kHz, at any frequency; over 24 kHz as there."""
    z = np.exp(-2j * np.pi * np.minimum(hertz, STAGES_RATE / 2) / STAGES_RATE)
    response = np.ones(len(z), np.complex128)
    for b, a in STAGES:
        response *= (b[0] + z * (b[1] + z * b[2])) / (a[0] + z * (a[1] + z * a[2]))
    return response
