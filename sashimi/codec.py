"""Waveform to tokens and back: 8-bit mu-law or linear.

`codec.normalize=window` is the published quantiser to the last digit: every window is min-max scaled by
itself and quantised downwards. `none` keeps the recording's level and takes the nearest level instead,
which halves the error and lets decoded audio encode to the tokens it came from.
"""

import numpy as np
from numpy.typing import NDArray

from sashimi.config import CodecConfig
from sashimi.errors import UserError

Tokens = NDArray[np.uint8]


class Codec:
    """The quantiser that a `CodecConfig` describes. Waveforms are float in [-1, 1], mono."""

    def __init__(self, config: CodecConfig) -> None:
        self.config = config
        self.levels = 1 << config.bits

    @property
    def zero(self) -> int:
        """The token of silence."""
        return self.levels // 2

    def encode(self, waveform: NDArray[np.floating]) -> Tokens:
        """f(... L) -> uint8(... L). With `normalize=window`, the last axis is one window.

        Values outside [-1, 1] are clipped. Raises UserError for NaN and infinity.
        """
        x: NDArray[np.floating] = np.asarray(waveform, dtype=np.float32)
        if not np.isfinite(x).all():
            raise UserError("the waveform holds NaN or infinite samples")
        if self.config.normalize == "window":
            low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
            x = (x - low) / (high - low + np.float32(1e-6)) * 2 - 1
        else:
            x = np.clip(x, -1, 1)
        if self.config.law == "mu-law":
            mu = np.float32(self.levels - 1)
            x = np.sign(x) * (np.log1p(mu * np.abs(x + np.float32(1e-8))) / np.log1p(mu))
        x = (x + 1) / 2
        if self.config.normalize == "window":
            return np.floor(x * np.float32(self.levels - 0.01) + np.float32(0.005)).astype(np.uint8)
        return np.minimum(np.rint(x * self.levels), self.levels - 1).astype(np.uint8)

    def decode(self, tokens: NDArray[np.integer] | NDArray[np.floating]) -> NDArray[np.float32]:
        """i(...) -> f32(...), in [-1, 1]. Half between two tokens: where their cells meet."""
        x = np.asarray(tokens, dtype=np.float32) / (self.levels / 2) - 1
        if self.config.law == "mu-law":
            mu = np.float32(self.levels - 1)
            x = np.sign(x) * ((1 + mu) ** np.abs(x) - 1) / mu
        return x.astype(np.float32)
