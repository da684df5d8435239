"""What each feature of sashimi.metrics sees: real music damaged on purpose, as a Markdown table (docs/metrics.md).

    python -m benchmarks.damage data/piano

Excerpts of test recordings, through the 8-bit codec, are judged by the band that val recordings set.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.report import RATE
from sashimi import survival
from sashimi.audio import Waveform
from sashimi.cli import reported_errors
from sashimi.codec import Codec
from sashimi.config import CodecConfig
from sashimi.data import open_tokens
from sashimi.metrics import Listener, Track
from sashimi.real_music import listen
from sashimi.rollout_tables import number
from sashimi.survival import JUDGED, Band

Damage = Callable[[Waveform, np.random.Generator], Waveform]


def noise_like(x: Waveform, rng: np.random.Generator, exponent: float) -> Waveform:
    """Noise as loud as x on the whole, of power 1/f^exponent: 0 white, 1 pink."""
    spectrum = np.fft.rfft(rng.standard_normal(len(x)))
    noise = np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 1) ** (exponent / 2), len(x))
    return (noise / noise.std() * x.std()).astype(np.float32)


def coloured(x: Waveform, rng: np.random.Generator) -> Waveform:
    """Noise with the very mean spectrum of x: what a model plays that has learned colours and no notes."""
    frames = x[: len(x) // 4096 * 4096].reshape(-1, 4096)
    level = np.sqrt((np.abs(np.fft.rfft(frames * np.hanning(4096), axis=1)) ** 2).mean(axis=0))
    spectrum = np.fft.rfft(rng.standard_normal(len(x)))
    smooth = np.exp(np.convolve(np.log(np.pad(level, 16, mode="edge") + 1e-9), np.ones(33) / 33, "valid"))
    shape = np.interp(np.linspace(0, 1, len(spectrum)), np.linspace(0, 1, len(smooth)), smooth)
    noise = np.fft.irfft(spectrum * shape, len(x))
    return (noise / noise.std() * x.std()).astype(np.float32)


def growing(x: Waveform, rng: np.random.Generator) -> Waveform:
    """x and white noise, from 40 dB under it to 10 dB over it."""
    gain = 10 ** (np.linspace(-40, 10, len(x)) / 20)
    return x + (noise_like(x, rng, 0) * gain).astype(np.float32)


def drone(x: Waveform, rng: np.random.Generator) -> Waveform:
    """A chord that is held, each note with six partials."""
    t = np.arange(len(x)) / RATE
    partials = [np.sin(2 * np.pi * f * k * t) / k**2 for k in range(1, 7) for f in (130.8, 164.8, 196.0)]
    chord = np.sum(partials, axis=0)
    return (chord / chord.std() * x.std()).astype(np.float32)


def loop(x: Waveform, rng: np.random.Generator, seconds: float = 1.0) -> Waveform:
    """A second of x again and again, from where it is loudest."""
    n = round(seconds * RATE)
    pieces = x[: len(x) // n * n].reshape(-1, n)
    return np.resize(pieces[np.argmax((pieces**2).sum(axis=1))], len(x))


def grains(x: Waveform, rng: np.random.Generator, seconds: float) -> Waveform:
    """x cut into grains in random order."""
    n = round(seconds * RATE)
    pieces = x[: len(x) // n * n].reshape(-1, n)
    return rng.permutation(pieces).ravel()


DAMAGES: dict[str, Damage] = {
    "none": lambda x, rng: x,
    "white noise": lambda x, rng: noise_like(x, rng, 0),
    "pink noise": lambda x, rng: noise_like(x, rng, 1),
    "coloured noise": coloured,
    "noise growing": growing,
    "drone": drone,
    "1-s loop": loop,
    "grains 0.1 s": lambda x, rng: grains(x, rng, 0.1),
    "grains 0.5 s": lambda x, rng: grains(x, rng, 0.5),
    "silence": lambda x, rng: np.zeros_like(x),
    "clipped": lambda x, rng: np.clip(x / max(float(np.abs(x).max()), 1e-9) * 8, -1, 1),
    "louder, 12 dB": lambda x, rng: np.clip(x * np.float32(4), -1, 1),
    "fade to -60 dB": lambda x, rng: (x * 10 ** (np.linspace(0, -60, len(x)) / 20)).astype(np.float32),
}


def measured(x: Waveform, codec: Codec) -> Track:
    listener = Listener(RATE)
    listener.add(codec.decode(codec.encode(x)))
    return listener.finish()


def table(tracks: dict[str, list[Track]], band: Band) -> list[str]:
    """Markdown: a row a damage; medians of each feature; in brackets the share of excerpts that it alone sees leave."""
    found = {damage: [survival.series(track) for track in of] for damage, of in tracks.items()}
    lines = [f"| damage | {' | '.join(f.name for f in JUDGED)} | left | as |", "|---" * (len(JUDGED) + 3) + "|"]
    for damage, each in found.items():
        cells = []
        for feature in JUDGED:
            values = np.concatenate([of[feature.name][1] for of in each])
            limits = band.low[feature.name], band.high[feature.name]
            only = Band({feature.name: limits[0]}, {feature.name: limits[1]}, band.kept)
            out = np.mean([bool(survival.outs({feature.name: of[feature.name]}, only)) for of in each])
            middle = number(float(np.nanmedian(values))) if np.isfinite(values).any() else "-"
            cells.append(f"**{middle}** ({out:.0%})" if out >= 0.5 else f"{middle} ({out:.0%})" if out else middle)
        ends = [survival.end_of(track, band) for track in tracks[damage]]
        left = [end.cause for end in ends if end.cause]
        causes = ", ".join(cause for cause, _ in Counter(left).most_common())
        lines.append(f"| {damage} | {' | '.join(cells)} | {len(left) / len(ends):.0%} | {causes or '-'} |")
    return lines


def main(arguments: list[str] | None = None) -> list[str]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.damage", description=__doc__)
    parser.add_argument("data", type=Path, help="a data set at 16 kHz with val and test splits")
    parser.add_argument("--excerpts", type=int, default=12, help="of test recordings, spread evenly (default: 12)")
    parser.add_argument("--seconds", type=float, default=32.0, help="of each (default: 32)")
    args = parser.parse_args(arguments)
    codec, console = Codec(CodecConfig(rate=RATE)), Console(soft_wrap=True, markup=False, highlight=False)
    band = listen(args.data, codec, console).band
    store, length = open_tokens(args.data, "test", codec), round(args.seconds * RATE)
    places = [
        (recording, start)
        for recording, total in enumerate(store.lengths)
        for start in range(0, total - length + 1, length)
    ]
    chosen = np.linspace(0, len(places) - 1, min(args.excerpts, len(places))).round().astype(int)
    cut = [store.window(recording, start, length) for recording, start in (places[i] for i in chosen)]
    excerpts = [codec.decode(tokens) for tokens in cut]
    rng = np.random.default_rng(0)
    tracks = {name: [measured(damage(x, rng), codec) for x in excerpts] for name, damage in DAMAGES.items()}
    lines = table(tracks, band)
    console.print("\n".join(lines))
    return lines


if __name__ == "__main__":
    with reported_errors():
        main()
