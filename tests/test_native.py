"""The native engine against the eager one, its oracle, and what can go wrong in building it."""

import logging
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, tiny_model

from sashimi import compiler
from sashimi.compiler import BuildError
from sashimi.config import EngineConfig, LayerConfig, ModelConfig, SamplingConfig
from sashimi.engines import make_engine
from sashimi.engines.eager import EagerEngine
from sashimi.engines.native import SOURCE, NativeEngine, Pace, bfloat16_pairs, packed
from sashimi.errors import UserError
from sashimi.model import SaShiMi

SHAPES = [
    {"d_model": 8, "n_layers": 1, "d_state": 6, "pool": [4, 4]},
    {"d_model": 20, "n_layers": 2, "d_state": 10, "pool": [2, 3], "glu": False},
    {"d_model": 48, "n_layers": 1, "d_state": 4, "pool": [3], "ff": 0, "expand": 1},
    {"d_model": 17, "n_layers": 1, "d_state": 8, "pool": [], "vocab": 37},
    {"d_model": 12, "n_layers": 1, "d_state": 8, "pool": [2, 2, 2], "ff": 3, "expand": 3},
]


def shaped(shape: dict[str, object], kind: str = "s4d", seed: int = 0) -> SaShiMi:
    torch.manual_seed(seed)
    model = SaShiMi(ModelConfig(**shape, layer=LayerConfig(kind=kind))).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():  # biases and scales that begin as 0 and 1 would hide mistakes
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def teacher_forced(model: SaShiMi, length: int, batch: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Tokens, and the oracle's logits of each: f(B L V)."""
    tokens = np.random.default_rng(length).integers(0, model.config.vocab, (batch, length)).astype(np.uint8)
    with torch.no_grad():
        inputs = torch.from_numpy(np.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=model.start_token))
        return tokens, model.double()(inputs).numpy()


@pytest.fixture
def lanes() -> Iterator[None]:
    yield
    compiler.library.cache_clear()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_logits_of_any_shape(kind: str, shape: dict[str, object], threads: int) -> None:
    model = shaped(shape, kind)
    engine = NativeEngine(model, threads=threads)
    tokens, expected = teacher_forced(model, 150)
    logits = engine.logits(engine.start(2), tokens)
    assert np.abs(logits - expected).max() < 2e-6 * np.abs(expected).max()
    logp, after = engine.score(engine.start(2), tokens)
    normalised = torch.from_numpy(expected).log_softmax(-1).numpy()
    assert np.abs(logp - np.take_along_axis(normalised, tokens[..., None].astype(int), -1)[..., 0]).max() < 1e-4
    assert after.position.tolist() == [150, 150]


@pytest.mark.slow
def test_logits_after_20_000_steps(kind: str) -> None:
    """At published sizes, of one stream, in fp32."""
    model = shaped({"n_layers": 1}, kind)
    engine = NativeEngine(model)
    tokens, expected = teacher_forced(model, 20_000, batch=1)
    assert np.abs(engine.logits(engine.start(1), tokens) - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("width", [4, 8, 16])
def test_every_vector_width_gives_the_same(lanes: None, kind: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The widths of other processors, emulated here by the compiler; bf16 too."""
    library = compiler.library
    monkeypatch.setattr(compiler, "library", lambda source: library(source, (f"-DLANES={width}", "-Wno-psabi")))
    model = shaped(SHAPES[1], kind)
    for half, tolerance in ((False, 2e-6), (True, 0.02)):
        engine = NativeEngine(model.float(), half=half, threads=2)
        assert engine.library.sashimi_lanes() == width
        tokens, expected = teacher_forced(model, 60, batch=7)
        assert np.abs(engine.logits(engine.start(7), tokens) - expected).max() < tolerance * np.abs(expected).max()


def test_states_are_shared_with_the_eager_engine(kind: str) -> None:
    """A stream goes back and forth between the engines at every phase, and plays the same."""
    model = tiny_model(kind)
    eager, native = EagerEngine(model), NativeEngine(model)
    keys, sampling = [(1, 0), (1, 1)], SamplingConfig(temp=0.9)
    expected, expected_logp, expected_after = eager.run(eager.start(2), 70, sampling, keys)
    state, tokens, logps = native.start(2), [], []
    for turn, n in enumerate((1, 6, 9, 16, 5, 33)):
        block, logp, state = (native, eager)[turn % 2].run(state, n, sampling, keys)
        tokens.append(block)
        logps.append(logp)
    assert np.array_equal(np.concatenate(tokens, axis=1), expected)
    assert np.abs(np.concatenate(logps, axis=1) - expected_logp).max() < 1e-5
    assert torch.allclose(state.values, expected_after.values, atol=1e-5, rtol=1e-4)
    assert state.pending is not None
    assert expected_after.pending is not None
    assert torch.equal(state.pending, expected_after.pending)


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig(),
        SamplingConfig(temp=0),
        SamplingConfig(temp=1.3, top_k=5),
        SamplingConfig(top_p=0.5),
        SamplingConfig(min_p=0.6, temp=0.8),
        SamplingConfig(floor=0.003, top_p=0.9, top_k=40),
        SamplingConfig(top_k=1),
        SamplingConfig(entropy=2.0),
        SamplingConfig(temp=1.2, entropy=1.5, floor=0.002),
        SamplingConfig(temp=0, entropy=1.0),
    ],
)
def test_draws_are_those_of_the_eager_engine(sampling: SamplingConfig) -> None:
    model = shaped(SHAPES[0])
    keys = [(2**63 + 5, 2**40 + i) for i in range(3)]
    eager, native = EagerEngine(model), NativeEngine(model)
    tokens, logp, _ = eager.run(eager.start(3), 200, sampling, keys)
    ours, our_logp, _ = native.run(native.start(3), 200, sampling, keys)
    assert np.array_equal(ours, tokens)
    assert np.abs(our_logp - logp).max() < 1e-5


def test_a_clip_depends_on_no_batch_and_no_threads(kind: str) -> None:
    """Bit for bit, through tiles of every size, at widths that fill several panels."""
    model = shaped({"d_model": 40, "n_layers": 1, "d_state": 8, "pool": [2]}, kind)
    keys = [(3, i) for i in range(11)]
    for half in (False, True):
        one = NativeEngine(model, half=half, threads=1)
        tokens, logp, after = one.run(one.start(11), 40, SamplingConfig(), keys)
        for threads in (1, 2, 4):
            engine = NativeEngine(model, half=half, threads=threads)
            for chosen in ([0], [4, 9], list(range(5)), [1, 10, 3, 5, 7, 8, 2]):
                for _ in range(2):  # the second time another number of threads may play
                    some = engine.run(engine.start(len(chosen)), 40, SamplingConfig(), [keys[i] for i in chosen])
                    assert np.array_equal(some[0], tokens[chosen])
                    assert np.array_equal(some[1], logp[chosen])
                    assert torch.equal(some[2].values, after.values[chosen])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_hearing_is_stepping_bit_for_bit(kind: str, shape: dict[str, object]) -> None:
    """What was played is heard again, whole and in parts, and gives the same state and log-probabilities."""
    model = shaped(shape, kind)
    for half in (False, True):
        engine = NativeEngine(model, half=half, threads=2)
        played, logp, after = engine.run(engine.start(2), 600, SamplingConfig(), [(0, 0), (0, 1)])
        whole = engine.prefill(played, engine.start(2))
        heard_logp, scored = engine.score(engine.start(2), played)
        state, done = engine.start(2), 0
        for n in (1, 2, 16, 5, 300, 276):
            state, done = engine.prefill(played[:, done : done + n], state), done + n
        for other in (whole, scored, state):
            assert torch.equal(other.values, after.values)
            assert torch.equal(other.position, after.position)
            assert other.pending is not None
            assert after.pending is not None
            assert torch.equal(other.pending, after.pending)
        assert np.array_equal(heard_logp, logp)


def test_bf16_rounds_to_nearest_and_only_dense_weights() -> None:
    model = shaped(SHAPES[0])
    dense = packed(model, 8)[2]
    words = bfloat16_pairs(dense).reshape(-1, 16, 2)  # [column pairs][rows][even, odd]
    bits = words.swapaxes(1, 2).astype(np.uint32) << 16
    rounded = bits.reshape(-1).view(np.float32)
    assert np.array_equal(rounded, torch.from_numpy(dense).bfloat16().float().numpy())
    full, half = NativeEngine(model), NativeEngine(model, half=True)
    tokens, _ = teacher_forced(model, 100)
    model.float()
    difference = np.abs(full.logits(full.start(2), tokens) - half.logits(half.start(2), tokens))
    assert 0 < difference.max() < 0.1


def test_damaged_weights_and_states_are_named() -> None:
    model = tiny_model()
    engine = NativeEngine(model)
    state = engine.start(2)
    state.values[1, -1] = torch.nan
    with pytest.raises(UserError, match="at sample 20 is not a number"):
        engine.run(state, 40, SamplingConfig(), [(0, 0), (0, 1)])
    with torch.no_grad():
        model.head.weight[0, 0] = torch.inf
    with pytest.raises(UserError, match=r"infinite weights in head.weight"):
        NativeEngine(model)


def test_a_batch_too_large_for_memory_is_refused() -> None:
    """In a process of its own, with little address space."""
    code = """
import resource, sys, torch
sys.path.insert(0, "tests")
from conftest import tiny_model
from sashimi.config import SamplingConfig
from sashimi.engines.native import NativeEngine
engine = NativeEngine(tiny_model())
state = engine.start(30_000)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 150_000_000,) * 2)
try:
    engine.run(state, 1000, SamplingConfig(), [(0, i) for i in range(30_000)])
except ValueError as error:
    print(error)
"""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs /proc")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "30000 streams at a time do not fit into memory; lower n_batch" in done.stdout, done.stderr


def test_pace_prefers_what_is_faster_and_tries_the_other_now_and_then() -> None:
    pace = Pace(2)
    assert pace.threads(2) == pace.threads(30) == 2
    chosen = []
    for _ in range(60):
        threads = pace.threads(1)
        pace.note(1, threads, {1: 100.0, 2: 50.0}[threads])
        chosen.append(threads)
    assert chosen[:2] == [2, 1]
    assert 1 <= chosen[2:].count(2) <= 3
    assert Pace(1).threads(1) == 1


# --- building -----------------------------------------------------------------------------------------


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache; returns where it will be."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    compiler.library.cache_clear()
    yield tmp_path / "cache" / "sashimi-music"
    compiler.library.cache_clear()


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return str(path)


def test_built_once_and_kept(builds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-O0"))
    compiler.library(SOURCE)
    (kept,) = builds.iterdir()
    first = kept.stat().st_mtime_ns
    compiler.library.cache_clear()
    compiler.library(SOURCE)
    assert [path.stat().st_mtime_ns for path in builds.iterdir()] == [first]
    monkeypatch.setattr(compiler, "processor", lambda: "another processor")
    compiler.library.cache_clear()
    compiler.library(SOURCE)
    assert len(list(builds.iterdir())) == 2, "what was built for another processor is not loaded"


def test_a_damaged_build_is_built_again(builds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "build", lambda command, path: path.write_bytes(b"no library"))
    with pytest.raises(BuildError, match="cannot be loaded"):
        compiler.library(SOURCE)
    assert not list(builds.iterdir())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('[ "$1" = --version ] && echo 1 && exit; echo "x.cpp:1: error: bad flag" >&2; exit 1', "error: bad flag"),
        ('[ "$1" = --version ] && echo 1 && exit; sleep 20', "more than 1 s"),
        ("exit 3", "does not run"),
    ],
    ids=["fails", "hangs", "broken"],
)
def test_without_a_working_compiler_the_eager_engine_plays(
    builds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    body: str, message: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("CXX", script(tmp_path / "c++", body))
    monkeypatch.setattr(compiler, "PATIENCE", 1)
    with caplog.at_level(logging.WARNING):
        assert isinstance(make_engine(EngineConfig(), tiny_model()), EagerEngine)
    assert message in caplog.text
    assert "eager engine" in caplog.text
    assert not list(builds.glob("*.so"))


def test_no_compiler_at_all(builds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compiler, "COMPILERS", ("no-such-compiler",))
    with pytest.raises(BuildError, match=r"no C\+\+ compiler.*apt install g\+\+"):
        compiler.library(SOURCE)


def test_a_cache_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = compiler.cache_folder()
    assert tmp_path not in folder.parents
    assert os.access(folder, os.W_OK)
    assert folder == compiler.cache_folder()
