"""Pictures of rollouts, from plain values with gaps."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from sashimi import plots, rollout_plots


def coloured(path: Path) -> int:
    """Pixels that are neither grey nor white."""
    drawn = plots.pixels(path).astype(int)
    return int((drawn.max(axis=2) - drawn.min(axis=2) > 60).sum())


def test_survival_curves(tmp_path: Path) -> None:
    seconds, path = [0.0, 0.5, 1.0], tmp_path / "a.png"
    sides = {"low": [0.9, 0.8, None], "high": [1.0, 1.0, None]}
    rollout_plots.survival_curves(
        path, {"real music": {"seconds": seconds, "share": [1.0, 1.0, None], **sides}}, "real music"
    )
    assert coloured(path) == 0, "real music is grey"
    both = {
        "real music": {"seconds": seconds, "share": [1, 1, 1], **sides},
        "mine": {"seconds": seconds, "share": [1, 0.5, 0], **sides},
    }
    rollout_plots.survival_curves(path, both, "real music")
    assert coloured(path) > 500
    assert not plt.get_fignums(), "figures are closed"


def test_features_over_time(tmp_path: Path) -> None:
    values = np.array([[1.0, np.nan, 3.0], [2.0, np.nan, np.nan]])
    silent = np.full((2, 3), np.nan)
    clips = {"mine": {"level": (0.5, values), "pulse": (4.0, silent)}}
    path = tmp_path / "a.png"
    limits = {"level": (0.0, np.inf), "pulse": (-np.inf, np.inf)}
    rollout_plots.features_over_time(path, [("level", "dBFS"), ("pulse", "")], clips, limits, {"level": (0.5, 2.5)})
    assert coloured(path) > 500


def test_slopes(tmp_path: Path) -> None:
    drift = {
        "real music": {"level": {"per minute": 1.0, "standard error": 0.5}},
        "mine": {"level": {"per minute": -2.0, "standard error": None}, "bits": {"per minute": 1.0}},
    }
    path = tmp_path / "a.png"
    rollout_plots.slopes(path, drift, {"level": 2.0, "pulse": 0.5}, "real music")
    assert coloured(path) > 20
