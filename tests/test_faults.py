"""A memory or a disk that is full: what a run says and what it leaves."""

import csv
import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from test_training import folder, settings, weights

from sashimi.callbacks import MetricsFile
from sashimi.config import DataConfig, SchedulerConfig
from sashimi.errors import UserError
from sashimi.files import is_full
from sashimi.learning import Training
from sashimi.training import LAST, train

assert folder  # a fixture
FULL = OSError(errno.ENOSPC, "No space left on device")
CONSTANT = SchedulerConfig("constant")


class Full:
    """A file that takes no more."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, data: Any) -> int:
        self.file.write(data[:5])
        self.file.flush()
        raise FULL

    def __enter__(self) -> "Full":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def begun(folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    run = train(settings(folder, scheduler=CONSTANT, trainer_max_steps=3, trainer_val_every=3, trainer_save_every=50))
    return run, weights(run)


def untouched(run: Path, before: dict[str, torch.Tensor]) -> None:
    """The checkpoint is as it was, nothing half-written is left, and the run goes on from it."""
    assert all(torch.equal(t, before[name]) for name, t in weights(run).items())
    assert not [p.name for p in run.rglob("*") if "partial" in p.name]


@pytest.mark.parametrize("name", ["last.ckpt", "metrics.csv"])
def test_a_disk_that_fills(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    run, before = begun(folder)
    metrics = (run / "metrics.csv").read_text()
    opened = Path.open

    def full(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        file = opened(path, mode, *rest, **more)
        meant = ".last." in path.name if name == "last.ckpt" else path.name == name and "a" in mode
        return Full(file) if meant and "r" not in mode else file

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match=rf"disk of {run} is full .*{name}.*step 3 is intact; make room .*resume={run}"):
        train(settings(folder, scheduler=CONSTANT, resume=run, trainer_max_steps=6))
    monkeypatch.undo()
    untouched(run, before)
    rows = (run / "metrics.csv").read_text()
    assert rows.startswith(metrics)
    assert all(None not in row.values() for row in csv.DictReader(rows.splitlines())), "no half a line"
    assert train(settings(folder, scheduler=CONSTANT, resume=run, trainer_max_steps=6)) == run
    assert torch.load(run / LAST, weights_only=True)["global_step"] == 6


def test_a_disk_that_fills_at_the_best(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = begun(folder)
    best = (run / "best.safetensors").read_bytes()

    def full(tensors: object, path: Path, header: object) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("sashimi.checkpoint.save_file", full)
    with pytest.raises(UserError, match=rf"disk of {run} is full .*os error 28.*step \d is intact"):
        train(settings(folder, scheduler=CONSTANT, resume=run, trainer_max_steps=30))
    assert (run / "best.safetensors").read_bytes() == best
    untouched(run, weights(run))


def test_a_disk_that_fills_under_tensorboard(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its thread finds it; the run stops all the same, without a traceback beside the message."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    write, count = RecordWriter.write, iter(range(1000))

    def full(writer: RecordWriter, data: bytes) -> None:
        if next(count) > 3:
            raise FULL
        write(writer, data)

    monkeypatch.setattr(RecordWriter, "write", full)
    with pytest.raises(UserError, match="the disk of .* is full .*No space left"):
        train(settings(folder, trainer_max_steps=200))
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of resources")
def test_a_limit_that_the_system_sets(folder: Path) -> None:
    """Files above 60 kB cannot be written: last.ckpt is one, at once."""
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        f"sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
        "from test_training import settings; from sashimi.training import train\n"
        "from sashimi.codec import Codec; from sashimi.config import CodecConfig\n"
        "from sashimi.data import open_tokens\n"
        f"for split in ('train', 'val'): open_tokens(Path({str(folder)!r}), split, Codec(CodecConfig()))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
        f"try: train(settings(Path({str(folder)!r}), trainer_max_steps=2))\n"
        "except ValueError as error: print('told:', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "told: the disk of" in done.stdout, done.stderr
    assert "there is no last.ckpt yet; make room and begin again" in done.stdout
    (run,) = (folder.parent / "runs").glob("*/*")
    assert not [p for p in run.iterdir() if "partial" in p.name or p.name == LAST]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
)
def test_memory_that_runs_out(folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    run, before = begun(folder)
    step = Training.training_step

    def fails(module: Training, batch: Any, index: int) -> torch.Tensor:
        if module.global_step == 5:
            raise error
        return step(module, batch, index)

    monkeypatch.setattr(Training, "training_step", fails)
    data = DataConfig(folder, window=1024, batch=2)
    message = (
        r"out of memory; about \d+ MB were expected. Set data.batch=2 -> 1 \(about \d+ MB\), or "
        r"data.window=1024 -> 512 \(about \d+ MB\), or trainer.activation_checkpointing=true .*step \d is intact: "
        rf"resume={run} trainer.activation_checkpointing=true goes on"
    )
    with pytest.raises(UserError, match=message):
        train(settings(folder, data=data, scheduler=CONSTANT, resume=run))
    untouched(run, before)
    monkeypatch.undo()
    more = {"resume": run, "trainer_max_steps": 6, "trainer_activation_checkpointing": True}
    assert train(settings(folder, scheduler=CONSTANT, **more)) == run
    whole = train(settings(folder, scheduler=CONSTANT, trainer_max_steps=6, runs_dir=folder.parent / "whole"))
    assert all(torch.equal(t, weights(run)[name]) for name, t in weights(whole).items()), "it changes no number"


def test_other_errors_stay_what_they_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*rest: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(MetricsFile, "write", fails)
    with pytest.raises(RuntimeError, match="something else"):
        train(settings(folder))
    assert not is_full(RuntimeError("something else"))
