"""What many tests need: small models, small recordings."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from signals import heard, music

from sashimi import checkpoint
from sashimi.checkpoint import LoadedModel, Metadata
from sashimi.config import CodecConfig, LayerConfig, ModelConfig
from sashimi.metrics import Track

pytest_plugins = ["lyrics_fixtures"]  # of the companion

FIXTURES = Path(__file__).parent / "fixtures"
ROOT = Path(__file__).parents[1]


def tiny_config(kind: str = "s4", **changes: object) -> ModelConfig:
    settings = {"d_model": 8, "n_layers": 2, "d_state": 8, "layer": LayerConfig(kind=kind), **changes}
    return ModelConfig(**settings)  # type: ignore[arg-type]


def tiny_model(kind: str = "s4", seed: int = 0, **changes: object) -> LoadedModel:
    """Random weights, every parameter away from its initial value."""
    torch.manual_seed(seed)
    model = LoadedModel(Metadata(tiny_config(kind, **changes), CodecConfig(), name="tiny"))
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn_like(p)
    return model.eval()


@pytest.fixture(params=["s4", "s4d"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def saved_model(tmp_path: Path) -> Path:
    """A tiny checkpoint file."""
    model = tiny_model()
    checkpoint.save(tmp_path / "tiny.safetensors", model, model.metadata)
    return tmp_path / "tiny.safetensors"


@pytest.fixture
def recording(tmp_path: Path) -> Callable[..., Path]:
    """Writes a stereo recording of two tones with a beat, for libsndfile's formats."""

    def make(name: str = "tone.wav", seconds: float = 2.0, rate: int = 44100, level: float = 0.5) -> Path:
        t = np.arange(round(seconds * rate)) / rate
        beat = 0.5 + 0.5 * np.sin(2 * np.pi * 2 * t)
        left, right = np.sin(2 * np.pi * 220 * t) * beat, np.sin(2 * np.pi * 330 * t)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, level * np.stack([left, right], axis=1), rate)
        return path

    return make


@functools.cache
def notes(seconds: float, seed: int, voices: int = 3, rate: int = 16000) -> np.ndarray:
    """Music of a kind: every voice plays a note of five partials each quarter of a second, with a decay. Peak 0.5."""
    rng = np.random.default_rng(seed)
    sound = np.zeros(round(seconds * rate))
    step = rate // 4
    t = np.arange(2 * step) / rate
    for start in range(0, len(sound), step):
        for _ in range(voices):
            pitch = 110 * 2 ** (rng.integers(36) / 12)
            partials = rng.uniform(0, 1, 5) / np.arange(1, 6)
            note = sum(a * np.sin(2 * np.pi * pitch * k * t) for k, a in enumerate(partials, 1)) * np.exp(-6 * t)
            sound[start : start + len(note)] += rng.uniform(0.3, 1) * note[: len(sound) - start]
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


@pytest.fixture(scope="session")
def damaged() -> dict[str, Track]:
    """Small music damaged on purpose, measured, by the names of benchmarks.damage; "none" is the music itself."""
    from benchmarks.damage import DAMAGES

    x, rng = music(16), np.random.default_rng(0)
    return {name: heard(np.asarray(damage(x, rng), np.float32)) for name, damage in DAMAGES.items()}
