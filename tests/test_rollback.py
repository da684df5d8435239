"""Back to good weights: when, to what, and that it lasts."""

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT
from pytorch_lightning import Trainer
from rich.console import Console
from test_training import folder, settings, weights

from sashimi.config import SchedulerConfig
from sashimi.errors import UserError
from sashimi.learning import Training
from sashimi.rollback import EVERY, LASTING, LEAST, SETTLED, Rollback
from sashimi.training import LAST, train

assert folder  # a fixture


def poisoned(monkeypatch: pytest.MonkeyPatch, *steps: int) -> dict[int, list[torch.Tensor]]:
    """The loss is NaN in the given steps. Gives the weights before each step."""
    seen: dict[int, list[torch.Tensor]] = {}
    step = Training.training_step

    def training_step(module: Training, batch: Any, index: int) -> torch.Tensor:
        seen.setdefault(module.global_step, [p.detach().clone() for p in module.model.parameters()])
        loss = step(module, batch, index)
        if module.global_step in steps:
            module.losses[-1] = module.losses[-1] * math.nan
            return loss * math.nan
        return loss

    monkeypatch.setattr(Training, "training_step", training_step)
    return seen


@pytest.mark.parametrize("schedule", ["plateau", "cosine", "constant"])
def test_one_loss_that_is_no_number_halves_the_rates_for_good(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], schedule: str
) -> None:
    seen = poisoned(monkeypatch, 4)
    monkeypatch.setattr("sashimi.rollback.EVERY", 3)
    run = train(settings(folder, scheduler=SchedulerConfig(schedule), trainer_max_steps=6, trainer_ema=0.9))
    assert "the loss became NaN: back to the weights of step 3, learning rates halved (optimizer.lr now 0.002)" in (
        capsys.readouterr().out.replace("\n", " ")
    )
    assert all(torch.equal(a, b) for a, b in zip(seen[5], seen[3], strict=True)), "what the copy was, and no step"
    assert any(not torch.equal(a, b) for a, b in zip(seen[4], seen[3], strict=True))
    state = torch.load(run / LAST, weights_only=True)
    share = 0.5 * (1 + math.cos(math.pi)) if schedule == "cosine" else 1
    assert state["optimizer_states"][0]["param_groups"][1]["lr"] == pytest.approx(0.002 * share)
    assert all(torch.isfinite(t).all() for t in weights(run).values())


def test_a_run_resumed_after_a_rollback_goes_on_exactly(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Carried lanes too; a second NaN soon after is an error, and names what to lower."""
    poisoned(monkeypatch, 4)
    given = {"scheduler": SchedulerConfig("constant")}
    whole = train(settings(folder, **given, runs_dir=folder.parent / "whole"))
    part = train(settings(folder, **given, trainer_max_steps=7))
    poisoned(monkeypatch, 12)
    assert train(settings(folder, **given, resume=Path("auto"))) == part
    assert all(torch.equal(weights(part)[name], t) for name, t in weights(whole).items())
    with pytest.raises(UserError, match=r"NaN at step 12, 8 steps after .*lower optimizer.lr=0.004"):
        train(settings(folder, **given, resume=Path("auto"), trainer_max_steps=14))
    assert all(torch.equal(weights(part)[name], t) for name, t in weights(whole).items()), "nothing bad was saved"


class Alone:
    """A rollback with a trainer and a model of one weight."""

    def __init__(self) -> None:
        self.rollback = Rollback(Console(quiet=True), None)
        self.p = torch.nn.Parameter(torch.zeros(1))
        self.optimizer = torch.optim.AdamW([{"params": [self.p], "lr": 1.0, "initial_lr": 1.0}])
        self.step = 0

    def __call__(self, *losses: float, gradient: float = 1.0) -> None:
        for loss in losses:
            module = SimpleNamespace(
                mean_loss=lambda loss=loss: torch.tensor(loss),
                parameters=lambda: iter([self.p]),
                model=SimpleNamespace(config=SimpleNamespace(vocab=256)),
                config=SimpleNamespace(optimizer=SimpleNamespace(lr=1.0)),
            )
            strategy = SimpleNamespace(reduce=lambda t, reduce_op: t)
            trainer: Any = SimpleNamespace(
                global_step=self.step, strategy=strategy, lr_scheduler_configs=[], is_global_zero=True
            )
            assert isinstance(trainer, Trainer | SimpleNamespace)
            self.p.grad = torch.full((1,), gradient)
            self.rollback.on_before_optimizer_step(trainer, module, self.optimizer)
            self.optimizer.step()
            self.step += 1

    @property
    def rolled(self) -> int:
        return self.rollback.rolled


def test_what_is_out_of_bounds() -> None:
    """Never a hard recording, nor a few bad steps; one huge loss, or many above what knowing nothing costs."""
    run = Alone()
    run(*[5.6] * LEAST, *[1.5] * 200)
    run(*[4.8] * 30, *[1.5] * 200)
    assert run.rolled == -1, "a noisy recording"
    run(*[7.0] * (LASTING - 1))
    assert not run.rollback.calm
    run(1.5)
    assert run.rollback.calm
    assert run.rolled == -1
    run(*[7.0] * LASTING)
    assert run.rolled == run.step - 1
    assert run.rollback.calm
    assert run.optimizer.param_groups[0]["lr"] == 0.5
    run(*[1.5] * SETTLED, 30.0)
    assert run.rolled == run.step - 1
    assert run.optimizer.param_groups[0]["lr"] == 0.25


def test_gradients_that_overflow_are_bad_too() -> None:
    run = Alone()
    run(*[1.5] * (EVERY + 3))
    before = run.p.detach().clone()
    run(1.5, gradient=1e30)
    assert run.rolled == EVERY + 3
    assert not torch.equal(run.p, before)
    assert float(run.optimizer.state[run.p]["step"]) == EVERY
    with pytest.raises(UserError, match="the gradients became infinite at step"):
        run(1.5, gradient=math.inf)


def test_nan_from_the_beginning_has_nothing_to_go_back_to() -> None:
    with pytest.raises(UserError, match="became NaN at step 0: .*lower optimizer.lr"):
        Alone()(math.nan)


def test_two_processes_go_back_together(folder: Path) -> None:
    """The loss of one of them is NaN."""
    code = (
        "import math, os, sys, torch; from pathlib import Path\n"
        f"sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
        "from sashimi.learning import Training\n"
        "from sashimi.training import train; from test_training import settings\n"
        "step = Training.training_step\n"
        "def poisoned(module, batch, index):\n"
        "    loss = step(module, batch, index)\n"
        "    if module.global_step == 2 and module.global_rank == 1: module.losses[-1] = loss.detach() * math.nan\n"
        "    return loss\n"
        "Training.training_step = poisoned\n"
        f"train(settings(Path({str(folder)!r}), trainer_max_steps=4, trainer_devices=2, trainer_strategy='ddp',\n"
        "    trainer_sample_every=None))\n"
    )
    script = folder.parent / "two.py"
    script.write_text(code)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("back to the weights of step 0") == 1
