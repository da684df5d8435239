"""What a run takes of memory: the estimate, what there is, and activations that are computed again."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT, tiny_model

from sashimi import memory
from sashimi.config import DataConfig, TrainConfig, TrainerConfig
from sashimi.memory import Activations, Estimate, available, below, estimate, is_exhausted, preflight


def config(window: int = 1024, batch: int = 4, **trainer: object) -> TrainConfig:
    return TrainConfig(data=DataConfig(window=window, batch=batch), trainer=TrainerConfig(**trainer))  # type: ignore[arg-type]


# --- activation checkpointing -------------------------------------------------------------------------


@pytest.mark.parametrize("carry", [False, True])
def test_gradients_are_those_of_a_run_that_keeps_all(kind: str, carry: bool) -> None:
    """With dropout, in float64; and autograd keeps less."""
    model = tiny_model(kind, dropout=0.3).double().train()
    tokens = torch.randint(256, (2, 64))
    gradients, kept = [], []
    for model.recompute in (False, True):
        torch.manual_seed(1)
        sizes: dict[int, int] = {}

        def pack(t: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[t.untyped_storage()._cdata] = t.untyped_storage().nbytes()
            return t.detach()

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            logits = model.scan(tokens, model.start(2))[0] if carry else model(tokens)
        kept.append(sum(sizes.values()))
        model.zero_grad()
        logits.square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert kept[1] < kept[0] / 3


# --- the estimate -------------------------------------------------------------------------------------


def test_the_estimate_is_of_what_autograd_keeps(kind: str) -> None:
    """Later blocks are not measured but counted; what is measured leaves model, mode and random numbers alone."""
    model = tiny_model(kind, n_layers=3, dropout=0.1).train()
    before = torch.get_rng_state()
    found = estimate(model, config(window=256, batch=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())
    assert len(model.tier(0)) == 6
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    sizes: dict[int, int] = {p.untyped_storage()._cdata: 0 for p in model.parameters()}

    def pack(t: torch.Tensor) -> torch.Tensor:
        sizes.setdefault(t.untyped_storage()._cdata, t.untyped_storage().nbytes())
        return t.detach()

    tokens = torch.zeros(1, 256, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
    logits = 256 * 256 * 4 * memory.LOGITS
    assert found.kept(256) == pytest.approx(memory.SPREAD * (sum(sizes.values()) + logits), rel=0.02)
    weights = sum(p.nbytes for p in model.parameters())
    assert found.states == 6 * weights
    assert estimate(model, config(window=256, ema=0.9)).states == 8 * weights
    assert found.total(1024, 4, True) < found.total(1024, 4, False) < 4.1 * found.total(1024, 1, False)


def test_what_does_not_fit_is_told_with_what_would() -> None:
    need = Estimate(1e6, Activations(0, 1000), Activations(0, 200))
    assert preflight(need, config(), 10_000_000, 16) == ("about 5 MB of 10 MB free", None)
    assert preflight(need, config(), None, 16) == ("about 5 MB", None)
    line, warning = preflight(need, config(), 3_500_000, 16)
    assert line == "about 5 MB of 4 MB free"
    assert warning is not None
    assert warning.endswith(
        "set data.batch=4 -> 2, or data.window=1024 -> 512, or trainer.activation_checkpointing=true, "
        "which needs about 2 MB"
    )
    _, warning = preflight(need, config(activation_checkpointing=True), 1_000_000, 16)
    assert warning is not None
    assert warning.endswith("no batch or window of this model would")


def test_shorter_windows_keep_the_period() -> None:
    assert [below(131072, 16), below(1000, 16), below(960, 15), below(16, 16)] == [65536, 512, 480, 0]


# --- what there is ------------------------------------------------------------------------------------


def test_the_lowest_limit_counts(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"

    def write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    assert available(False, proc, groups) is None
    write(proc / "meminfo", "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    assert available(False, proc, groups) == 8000 * 1024
    write(proc / "self" / "cgroup", "0::/a/b\n")
    write(groups / "a" / "b" / "memory.max", "max\n")
    assert available(False, proc, groups) == 8000 * 1024
    write(groups / "a" / "memory.max", "5000000\n")
    write(groups / "a" / "memory.current", "3000000\n")
    write(groups / "a" / "memory.stat", "anon 1\ninactive_file 1000000\n")
    assert available(False, proc, groups) == 3_000_000, "the group above, less what it could drop"
    write(proc / "self" / "cgroup", "5:cpu:/x\n4:memory:/c\n")
    write(groups / "memory" / "memory.limit_in_bytes", "1000000\n")
    write(groups / "memory" / "memory.usage_in_bytes", "400000\n")
    write(groups / "memory" / "memory.stat", "total_inactive_file 0\n")
    assert available(False, proc, groups) == 600_000


def test_errors_of_a_full_memory() -> None:
    assert is_exhausted(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_exhausted(MemoryError())
    assert not is_exhausted(RuntimeError("shapes differ"))


def test_a_real_allocation_that_fails_is_known() -> None:
    code = (
        "import resource, torch; from sashimi.memory import is_exhausted\n"
        "resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))\n"
        "try: torch.ones(1 << 32)\n"
        "except RuntimeError as error: raise SystemExit(0 if is_exhausted(error) else f'unknown: {error}')\n"
        "raise SystemExit('no error')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="page faults are counted as Linux does")
def test_memory_is_held_where_the_library_is_glibc() -> None:
    """Blocks of 8 to 128 MB, taken and freed in turn: few faults after the first time, wherever they lie."""
    code = (
        "import resource, torch; from sashimi.memory import hold\n"
        "if not hold(): raise SystemExit(0)\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for n in (2, 8, 32): torch.ones(n << 20)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "first, second = faults(), faults()\n"
        "raise SystemExit(0 if first > 1000 and second < first / 4 else f'{first} {second}')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_settings_reach_the_model() -> None:
    from sashimi.learning import Training

    model = tiny_model()
    Training(replace(config(), trainer=TrainerConfig(activation_checkpointing=True)), model, None, None)  # type: ignore[arg-type]
    assert model.recompute
