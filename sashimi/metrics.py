"""What a machine can hear in music without having learned anything: numbers for short and for long windows of sound.

A short window is half a second: level, and how the spectrum lies. A long one is eight seconds: what the ear loses
first where a model fails, the pulse, the harmony, and that it moves at all without going round in a circle. Each
feature names one kind of damage and is blind to others; docs/metrics.md has the table, measured on real recordings that
were damaged on purpose.
"""

import itertools
from dataclasses import dataclass

import librosa
import numpy as np
from numpy.typing import NDArray

from sashimi.audio import Waveform
from sashimi.errors import UserError

SHORT = 0.5  # seconds of a short window; they follow each other without overlap
LONG, LONG_STEP = 8.0, 4.0  # seconds of a long window, and from one to the next
SILENCE = -60.0  # dBFS: below it nothing is heard
QUIET = -50.0  # dBFS: below it the steps of an 8-bit codec are a part of the sound, and its spectrum says little
FLOOR = -120.0  # dBFS that digital silence is called
LAGS = (0.25, 2.0)  # seconds between two beats: 240 to 30 a minute
LOOPS = (0.25, 4.0)  # seconds of a loop
BANDS = 64  # of a log-mel spectrum
RANGE = 80.0  # dB below its loudest band at which the log-mel spectrum of a long window is cut
MOST_PITCHES = 3.585  # bits: all twelve pitch classes alike
SLICES, SLICE = 10, 6  # a patch is so many slices of so many frames each: 0.96 s at 16 kHz

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Feature:
    """about: what it tells, in words for people; bounds: what it cannot go beyond, None where there is none."""

    name: str
    unit: str
    about: str
    bounds: tuple[float | None, float | None] = (None, None)


SHORT_FEATURES = (
    Feature("level", "dBFS", "how loud: RMS, mean removed"),
    Feature("flatness", "dB", "0 for white noise, far below for tones and dark sounds", (None, 0)),
    Feature("noisiness", "dB", "-2.5 for noise of any colour, far below for tones", (None, 0)),
    Feature("centroid", "Hz", "where the middle of the spectrum lies", (0, None)),
    Feature("high", "dB", "share of the energy above a quarter of the sample rate (4 kHz at 16 kHz)", (None, 0)),
    Feature("crossings", "1/s", "how often the waveform changes its sign", (0, None)),
)
BITS = Feature("bits", "bits", "the model's surprise at each of its own samples")
LONG_FEATURES = (
    Feature("pulse", "", "how clear a beat is, 0 to 1", (0, 1)),
    Feature("harmony", "", "how much the pitch classes change from half second to half second, 0 to 1", (0, 1)),
    Feature("pitches", "bits", "how evenly pitch classes are used: 0 for one, 3.58 for all twelve", (0, MOST_PITCHES)),
    Feature("movement", "dB", "how much the spectrum changes over time", (0, None)),
    Feature("repetition", "", "how exactly the sound comes back after 0.25 to 4 s: 1 for a loop", (0, 1)),
)


def short_features(waveform: Waveform, rate: int) -> Floats:
    """f(L) of whole short windows -> f64(windows, 6), the columns as in SHORT_FEATURES.

    level      of the waveform less its mean, so that a stuck output is silence. Sees silence, fades and what is too
               loud; noise and loops can have any level.
    flatness   geometric over arithmetic mean of the power spectrum (Welch, 64 ms). Sees white noise, hiss and clipping;
               noise as dark as the music hardly, and nothing of what order the sounds are in.
    noisiness  flatness of half octaves from 100 Hz on, by single frames of 256 ms, mean weighted by their energy. Sees
               noise of any colour, which is what a weak model plays; drums and consonants are noisy too.
    centroid   mean frequency, weighted by magnitude. Sees hiss and dullness. A bright instrument moves it too.
    high       share of the energy above a quarter of the rate. Sees a little hiss over dark music first.
    crossings  Sees hiss; for one loud tone it is twice the frequency.
    NaN for all but the level in windows under QUIET.
    """
    length, n_fft = round(SHORT * rate), _power_of_two(0.064 * rate)
    x = waveform.astype(np.float64).reshape(-1, length)
    x = x - x.mean(axis=1, keepdims=True)
    level = np.maximum(10 * np.log10(np.maximum((x * x).mean(axis=1), 1e-30)), FLOOR)
    frames = np.lib.stride_tricks.sliding_window_view(x, n_fft, axis=1)[:, :: n_fft // 2]
    power = (np.abs(np.fft.rfft(frames * np.hanning(n_fft), axis=2)) ** 2).mean(axis=1)[:, 1:]
    hertz = np.arange(1, n_fft // 2 + 1) * rate / n_fft
    power = np.maximum(power, 1e-20)
    flatness = 10 * np.log10(np.exp(np.log(power).mean(axis=1)) / power.mean(axis=1))
    magnitude = np.sqrt(power)
    centroid = magnitude @ hertz / magnitude.sum(axis=1)
    high = 10 * np.log10(power[:, hertz > rate / 4].sum(axis=1) / power.sum(axis=1))
    noisiness = _noisiness(x, rate)
    crossings = (np.diff(x >= 0, axis=1) != 0).sum(axis=1) / SHORT
    found = np.stack([level, flatness, noisiness, centroid, high, crossings], axis=1)
    found[level < QUIET, 1:] = np.nan
    return found


def _noisiness(x: Floats, rate: int) -> Floats:
    """f64(windows, L) -> f64(windows) in dB."""
    n_fft = _power_of_two(0.256 * rate)
    frames = np.lib.stride_tricks.sliding_window_view(x, n_fft, axis=1)[:, :: n_fft // 4]
    power = np.abs(np.fft.rfft(frames * np.hanning(n_fft), axis=2)) ** 2 + 1e-12
    octaves = np.log2(rate / 2 / 100)
    edges = np.round(100 * 2 ** np.arange(0, octaves + 1e-9, 0.5) * n_fft / rate).astype(int)
    total, weights = np.zeros(len(x)), np.zeros(len(x))
    for begin, end in itertools.pairwise(edges):
        band = power[:, :, begin:end]
        flatness = 10 * (np.log10(band).mean(axis=2) - np.log10(band.mean(axis=2)))
        weight = band.sum(axis=2)
        total, weights = total + (flatness * weight).sum(axis=1), weights + weight.sum(axis=1)
    return total / weights


def long_features(waveform: Waveform, rate: int) -> Floats:
    """f(L), one long window -> f64(5), as in LONG_FEATURES.

    pulse       highest peak of the autocorrelation of the onset strength between lags of LAGS. Sees that a beat is lost
                or blurred. Says nothing of music without one: compare with recordings of the same kind.
    harmony     half the absolute difference of neighbouring half-second chroma vectors of sum 1, mean. Low for a drone
                and for noise, high for shuffled grains. Cannot tell a right chord from a wrong one.
    pitches     entropy of the window's mean chroma vector. High for noise, low for a drone.
    movement    standard deviation over time of each band of a log-mel spectrum in dB, mean of the bands. Low for drones
                and steady noise.
    repetition  highest autocorrelation of the log-mel spectrum, less its mean, between lags of LOOPS. Near 1 for a
                loop; a real ostinato is high too.
    NaN for all where the whole window is under SILENCE.
    """
    x = waveform.astype(np.float32) - np.float32(waveform.mean())
    if 10 * np.log10(max(float((x * x).mean()), 1e-30)) < SILENCE:
        return np.full(len(LONG_FEATURES), np.nan)
    n_fft = _power_of_two(0.064 * rate)
    hop = n_fft // 4
    mel = log_mel(x, rate, RANGE)
    onsets = librosa.onset.onset_strength(S=mel, sr=rate, hop_length=hop)
    a_second = rate / hop
    pulse = _peak(onsets[None], LAGS, a_second)
    chroma = _chroma(x, rate)
    harmony = 0.5 * np.abs(np.diff(chroma, axis=1)).sum(axis=0).mean()
    p = np.maximum(chroma.mean(axis=1), 1e-12)
    slow = mel[:, : mel.shape[1] // 4 * 4].reshape(len(mel), -1, 4).mean(axis=2)
    repetition = _peak(slow, LOOPS, a_second / 4)
    return np.array([pulse, harmony, -(p * np.log2(p)).sum(), slow.std(axis=1).mean(), repetition])


def log_mel(waveform: Waveform, rate: int, cut: float | None = None) -> NDArray[np.float32]:
    """f32(BANDS frames) in dB: 64-ms frames every 16 ms (at 16 kHz), if so wanted cut `cut` dB under the loudest."""
    n_fft = _power_of_two(0.064 * rate)
    power = librosa.feature.melspectrogram(
        y=waveform, sr=rate, n_fft=n_fft, hop_length=n_fft // 4, n_mels=BANDS, center=False
    )
    return librosa.power_to_db(power, ref=1.0, amin=1e-8, top_db=cut)


def patches(waveform: Waveform, rate: int) -> NDArray[np.float32]:
    """Log-mel patches f32(patches, BANDS x SLICES) in dB, one after another: what Frechet distances are taken of."""
    mel = log_mel(waveform, rate)
    count = mel.shape[1] // (SLICES * SLICE)
    cut = mel[:, : count * SLICES * SLICE].reshape(BANDS, count, SLICES, SLICE).mean(axis=3)
    return cut.transpose(1, 0, 2).reshape(count, BANDS * SLICES)


def _chroma(waveform: Waveform, rate: int) -> Floats:
    """Pitch classes of every half second, f64(12, windows), of sum 1: from 256-ms frames, for low notes lie close."""
    n_fft = _power_of_two(0.256 * rate)
    hop = n_fft // 4
    found = librosa.feature.chroma_stft(y=waveform, sr=rate, n_fft=n_fft, hop_length=hop, norm=None, tuning=0.0)
    a_window = round(SHORT * rate / hop)
    whole = found[:, : found.shape[1] // a_window * a_window].reshape(12, -1, a_window).mean(axis=2)
    return whole / np.maximum(whole.sum(axis=0), 1e-12)


def _peak(series: NDArray[np.floating], lags: tuple[float, float], a_second: float) -> float:
    """Highest local maximum of the autocorrelation of f(rows, frames), less each row's mean, over a range of lags."""
    x = series.astype(np.float64) - series.mean(axis=1, keepdims=True)
    n = x.shape[1]
    spectrum = np.abs(np.fft.rfft(x, 2 * n, axis=1)) ** 2
    total = np.fft.irfft(spectrum.sum(axis=0))[:n] / np.arange(n, 0, -1)  # each lag by the pairs it has
    low, high = int(np.ceil(lags[0] * a_second)), int(lags[1] * a_second)
    inside = total[low - 1 : high + 2] / max(total[0], 1e-12)
    maxima = inside[1:-1][(inside[1:-1] >= inside[:-2]) & (inside[1:-1] >= inside[2:])]
    return float(np.clip(maxima.max(initial=0.0), 0, 1))


def _power_of_two(samples: float) -> int:
    return 1 << max(3, round(np.log2(samples)))


# --- a recording of any length ------------------------------------------------------------------------


@dataclass(frozen=True)
class Track:
    """What was measured of one recording.

    short    f64(windows, 6), or 7 with the model's surprise as the last column: BITS
    long     f64(windows, 5), one every LONG_STEP from the beginning
    patches  f32(patches, BANDS x SLICES)
    """

    short: Floats
    long: Floats
    patches: NDArray[np.float32]

    @property
    def seconds(self) -> float:
        return len(self.short) * SHORT

    def part(self, start: float, seconds: float) -> "Track":
        """A section, or what there is of it; its start is a multiple of LONG_STEP."""
        end = min(start + seconds, self.seconds)
        first, last = round(start / SHORT), round(end / SHORT)
        begin, whole = round(start / LONG_STEP), int((end - start - LONG) // LONG_STEP) + 1
        a, b = (round(len(self.patches) * t / self.seconds) for t in (start, end))
        return Track(self.short[first:last], self.long[begin : begin + max(whole, 0)], self.patches[a:b])


class Listener:
    """Measures a recording that comes in blocks of any lengths; holds no more of it than a long window and a block."""

    def __init__(self, rate: int) -> None:
        self.rate, self.step = rate, round(LONG_STEP * rate)
        self.held, self.surprise = np.zeros(0, np.float32), np.zeros(0)
        self.before = np.zeros(0, np.float32)
        self.short: list[Floats] = []
        self.long: list[Floats] = []
        self.patches: list[NDArray[np.float32]] = []

    def add(self, block: Waveform, bits: Floats | None = None) -> None:
        """block: f(L); bits: -log2 p of each of its samples, or None throughout."""
        self.held = np.concatenate([self.held, block])
        if bits is not None:
            self.surprise = np.concatenate([self.surprise, bits])
        while len(self.held) >= self.step:
            piece, self.held = self.held[: self.step], self.held[self.step :]
            self._hear(piece)
            window = np.concatenate([self.before, piece])
            if len(window) >= round(LONG * self.rate):
                self.long.append(long_features(window, self.rate))
            self.before = window[self.step - len(window) :] if len(window) > self.step else window

    def _hear(self, piece: Waveform) -> None:
        """Short windows and patches of a piece; what is less than a window at its end is left out."""
        length = round(SHORT * self.rate)
        count = len(piece) // length
        if not count:
            return
        found = short_features(piece[: count * length], self.rate)
        if len(self.surprise):
            bits = self.surprise[: count * length].reshape(count, length).mean(axis=1)
            self.surprise = self.surprise[count * length :]
            found = np.column_stack([found, bits])
        self.short.append(found)
        self.patches.append(patches(piece, self.rate))

    def finish(self) -> Track:
        self._hear(self.held)
        if not self.short:
            raise UserError(f"nothing to measure: it is shorter than {SHORT} s")
        return Track(
            np.concatenate(self.short),
            np.array(self.long).reshape(-1, len(LONG_FEATURES)),
            np.concatenate(self.patches),
        )
