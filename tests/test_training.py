"""Training: the windows it sees, what it optimises, and that it goes on exactly where it stopped."""

import csv
import io
import os
import random
import re
import signal
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from conftest import ROOT, tiny_config, tiny_model
from pytorch_lightning.loggers import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from sashimi import checkpoint
from sashimi.augmentation import IGNORED
from sashimi.batches import FRESH, Batches
from sashimi.callbacks import Listener
from sashimi.codec import Codec
from sashimi.config import (
    REQUIRED,
    CodecConfig,
    DataConfig,
    OptimizerConfig,
    SchedulerConfig,
    TrainConfig,
    TrainerConfig,
)
from sashimi.data import TokenStore, TrainingWindows, open_tokens, training_windows
from sashimi.errors import UserError
from sashimi.evaluation import cold
from sashimi.learning import Training, parameter_groups
from sashimi.training import LAST, start_model, train


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A melody of four tones, 17 files: 14 to train on, one to validate."""
    data = tmp_path / "data"
    data.mkdir()
    t = np.arange(16000) / 16000
    for i in range(17):
        pitch = np.repeat([220, 277, 330, 440], 4000) * (1 + 0.001 * i)
        sf.write(data / f"{i:02}.wav", 0.5 * np.sin(2 * np.pi * np.cumsum(pitch) / 16000 + 0 * t), 16000)
    return data


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Noise, three files: two to train on, one to test."""
    data = tmp_path / "other"
    data.mkdir()
    for i in range(3):
        sf.write(data / f"{i}.wav", 0.3 * np.random.default_rng(i).uniform(-1, 1, 12000), 16000)
    return data


def settings(folder: Path, **changes: object) -> TrainConfig:
    """A tiny run of 12 steps; `trainer_...` changes go to the trainer."""
    trainer = {"max_steps": 12, "val_every": 6, "save_every": 2, "log_every": 1, "accelerator": "cpu"}
    trainer |= {key.removeprefix("trainer_"): changes.pop(key) for key in [*changes] if key.startswith("trainer_")}
    given = {
        "name": "test",
        "model": tiny_config("s4d"),
        "data": DataConfig(folder, window=1024, batch=2),
        "optimizer": OptimizerConfig(lr=4e-3),
        "scheduler": SchedulerConfig("cosine", warmup=3),
        "trainer": TrainerConfig(**trainer),  # type: ignore[arg-type]
        "runs_dir": folder.parent / "runs",
        **changes,
    }
    return TrainConfig(**given)  # type: ignore[arg-type]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return loaded(run / LAST, (run / LAST).stat().st_mtime_ns)


@lru_cache(maxsize=8)
def loaded(path: Path, written: int) -> dict[str, torch.Tensor]:
    """Read once: tests ask for one weight after the other."""
    return torch.load(path, weights_only=True)["state_dict"]


def tiny_start(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that `settings` starts from."""
    return {f"model.{name}": p.detach() for name, p in start_model(settings(folder)).named_parameters()}


# --- windows ------------------------------------------------------------------------------------------


def test_windows_are_a_function_of_seed_and_index(folder: Path) -> None:
    store = open_tokens(folder, "train", Codec(CodecConfig()))
    windows = TrainingWindows(store, 1024, seed=3)
    assert windows.per_epoch == 14 * 15
    order = [windows[i] for i in (5, 400, 6, 5, 211)]
    assert np.array_equal(order[0], order[3])
    again = TrainingWindows(store, 1024, seed=3)
    assert np.array_equal(again[400], order[1])
    assert not np.array_equal(TrainingWindows(store, 1024, seed=4)[5], order[0])
    assert all(len(tokens) == 1024 for tokens in order)


def test_an_epoch_covers_the_recordings(folder: Path) -> None:
    store = open_tokens(folder, "train", Codec(CodecConfig()))
    counted = TokenStore(store.codec, np.arange(store.offsets[-1]), store.offsets)
    windows = TrainingWindows(counted, 1024, seed=0)
    starts = [int(windows[i][0]) for i in range(windows.per_epoch)]
    assert len(set(starts)) == len(starts)
    heard = np.zeros(store.offsets[-1], bool)
    for start in starts:
        assert start // 16000 == (start + 1023) // 16000, "no window crosses from one recording into the next"
        heard[start : start + 1024] = True
    assert heard.mean() > 0.6
    assert starts != sorted(starts)
    assert {int(windows[windows.per_epoch + i][0]) for i in range(windows.per_epoch)} != set(starts)


def test_processes_share_out_the_mixed_windows(folder: Path, other: Path) -> None:
    stores = [open_tokens(each, "train", Codec(CodecConfig())) for each in (folder, other)]
    windows = training_windows(stores, [3, 1], 1024, seed=0)
    ranks = [iter(Batches(windows, 2, first=5, rank=rank, world=2)) for rank in range(2)]
    batches = np.concatenate([next(rank).numpy() for _ in range(10) for rank in ranks])
    assert np.array_equal(batches, np.stack([windows[i] for i in range(20, 60)]))
    assert len({tokens.tobytes() for tokens in batches}) == 40


# --- the optimizer ------------------------------------------------------------------------------------


def test_parameter_groups(kind: str) -> None:
    model = tiny_model(kind)
    groups = parameter_groups(model, OptimizerConfig(lr=0.004, ssm_lr=0.001, weight_decay=0.1))
    where = {id(p): group for group in groups for p in group["params"]}
    assert len(where) == sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    for name, p in model.named_parameters():
        ssm = name.rsplit(".", 1)[-1] in ("inv_dt", "log_A_real", "A_imag", "B", "P")
        assert where[id(p)]["lr"] == (0.001 if ssm else 0.004), name
        decayed = not ssm and name.endswith((".weight", ".weight_v", ".C")) and "norm" not in name
        assert where[id(p)]["weight_decay"] == (0.1 if decayed else 0.0), name
    assert parameter_groups(model, OptimizerConfig(lr=1e-4))[0]["lr"] == 1e-4, "ssm_lr is at most lr"


def test_a_parameter_that_fits_nowhere_raises() -> None:
    model = nn.Module()
    model.surprise = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="surprise"):
        parameter_groups(model, OptimizerConfig())


# --- runs ---------------------------------------------------------------------------------------------


def test_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It learns, writes down what it says, and its checkpoint scores what it claims."""
    run = train(settings(folder, trainer_max_steps=60, trainer_val_every=20))
    assert re.search(
        r"held out +\d\.\d+ bits per byte on val.*order 0 \d.*linear prediction \d.*FLAC \d", capsys.readouterr().out
    )
    files = sorted(p.name for p in run.iterdir())
    assert files[:2] + files[3:] == ["best.safetensors", "config.yaml", "last.ckpt", "metrics.csv"], "nothing empty"
    assert files[2].startswith("events.out.tfevents")
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    val = {int(row["step"]): float(row["val/bpb"]) for row in rows if row["val/bpb"]}
    assert list(val) == [20, 40, 60]
    assert val[60] < val[20] - 0.3 < 7.7, "it learns"
    model = checkpoint.load(run)
    provenance = model.metadata.provenance
    assert provenance["data"]["dir"] == str(folder)
    assert (provenance["steps"], provenance["seed"]) == (60, 0)
    store = open_tokens(folder, "val", Codec(model.metadata.codec))
    assert cold(model, store, 1024).bpb == pytest.approx(model.metadata.metrics["val/bpb"], abs=1e-4)
    assert model.metadata.metrics["val/bpb"] == pytest.approx(min(val.values()), abs=1e-4)
    assert model.metadata.metrics["heldout_bpb"] == {}, "no recording of 5 seconds"


def test_resuming_is_going_on(folder: Path) -> None:
    """Stopped at step 7 of 12 in the same process, dropout, clips and all: the weights of an uninterrupted run."""
    model = tiny_config("s4d", dropout=0.2)
    heard = {"trainer_sample_every": 3, "trainer_sample_seconds": 0.01}
    whole = train(settings(folder, model=model, runs_dir=folder.parent / "whole"))
    part = train(settings(folder, model=model, scheduler=SchedulerConfig("constant"), trainer_max_steps=7, **heard))
    reference = train(
        settings(folder, model=model, scheduler=SchedulerConfig("constant"), runs_dir=folder.parent / "c")
    )
    resumed = train(settings(folder, model=model, resume=Path("auto")))
    assert resumed == part
    assert {p.stem for p in (part / "samples").iterdir()} == {f"step-{step:07}" for step in (3, 6, 9, 12)}
    for name, tensor in weights(reference).items():
        assert torch.equal(weights(resumed)[name], tensor), name
    assert any(not torch.equal(weights(whole)[name], tensor) for name, tensor in weights(reference).items())


# --- the state goes with the windows ------------------------------------------------------------------


def test_windows_in_a_lane_are_one_sequence() -> None:
    """Logits as if a lane had been heard in one piece, a new recording from nothing; gradients end at the window."""
    config = TrainConfig(model=tiny_config("s4", dropout=0.0))
    model = tiny_model("s4")
    module = Training(config, model, None, None)  # type: ignore[arg-type]
    tokens = torch.randint(256, (2, 96))
    # Lane 0: one recording of 96. Lane 1: one of 32, one of 64.
    befores = [(FRESH, FRESH), (int(tokens[0, 31]), FRESH), (int(tokens[0, 63]), int(tokens[1, 63]))]
    found = [
        module.carried_logits(tokens[:, i * 32 : i * 32 + 32], torch.tensor(before)) for i, before in enumerate(befores)
    ]
    for lane, begin, end in ((0, 0, 96), (1, 0, 32), (1, 32, 96)):
        logits = torch.cat(found, dim=1)[lane, begin:end]
        inputs = torch.cat([torch.tensor([128]), tokens[lane, begin : end - 1]])
        assert torch.allclose(logits, model(inputs[None])[0], atol=1e-4)
    assert module.carried is not None
    assert not module.carried.requires_grad


def test_augmentation_is_of_training_alone(folder: Path) -> None:
    """What is heard has noise and gaps, the loss leaves out where they begin, and validation hears recordings."""
    data = DataConfig(folder, window=1024, batch=2, jitter=1.0, gaps=1.0)
    module = Training(settings(folder, data=data), tiny_model("s4d"), None, None)  # type: ignore[arg-type]
    torch.manual_seed(0)
    tokens = torch.full((32, 9000), 128, dtype=torch.uint8)
    tokens[:, 4096:] = torch.randint(0, 256, (32, 4904)).to(torch.uint8)
    heard, wanted = module.augmented(tokens)
    assert heard.dtype == wanted.dtype == torch.int64
    assert not torch.equal(heard, tokens.long())
    assert bool((wanted == IGNORED).any())
    assert torch.equal(module.augmented(tokens[:, :64])[1], tokens[:, :64].long()), "no note begins"
    plainly = Training(settings(folder, data=DataConfig(folder)), module.model, None, None)  # type: ignore[arg-type]
    for each in (module, plainly):
        each.on_validation_epoch_start()
        each.validation_step(tokens[:1], 0)
    assert module.score.nats == plainly.score.nats, "validation hears recordings"
    module.config.data.jitter = module.config.data.gaps = 0.0
    assert all(torch.equal(part, tokens.long()) for part in module.augmented(tokens))

    data = DataConfig(folder, window=1024, batch=2, jitter=1.0, gaps=1.0)
    plain = DataConfig(folder, window=1024, batch=2)
    first = [train(settings(folder, data=d, trainer_max_steps=2, trainer_val_every=1)) for d in (data, plain)]
    with_both, without = (weights(run) for run in first)
    assert with_both.keys() == without.keys(), "a checkpoint knows nothing of it"
    assert any(not torch.equal(with_both[name], tensor) for name, tensor in without.items())


def test_carrying_runs_go_on_exactly(folder: Path) -> None:
    """Stopped at step 7 of 12; validation and clips on the way touch no lane."""
    data = DataConfig(folder, window=1024, batch=2, carry_state=True)
    constant = {"data": data, "scheduler": SchedulerConfig("constant")}
    whole = train(settings(folder, **constant, runs_dir=folder.parent / "whole", trainer_val_every=12))
    part = train(settings(folder, **constant, trainer_max_steps=7, trainer_val_every=2))
    state = torch.load(part / LAST, weights_only=True)
    assert state["carried"].shape[0] == 2
    assert state["carried"].abs().max() > 0
    assert train(settings(folder, **constant, resume=Path("auto"))) == part
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(part)[name], tensor), name
    cold_start = train(settings(folder, data=DataConfig(folder, window=1024, batch=2), runs_dir=folder.parent / "n"))
    assert "carried" not in torch.load(cold_start / LAST, weights_only=True)


def test_two_processes_carry_as_one(folder: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    runs, more = [], ["data.carry_state=true", "trainer.val_every=6", "trainer.sample_every=null"]
    for name, batch, way in (("one", 2, []), ("two", 1, ["trainer.devices=2", "trainer.strategy=ddp"])):
        for steps in (4, 8):  # in two pieces: what is saved are the lanes of both
            todo = [*more, f"data.batch={batch}", f"trainer.max_steps={steps}", *way, *(["resume=auto"] * (steps > 4))]
            done = subprocess.run(
                command(folder, folder.parent / name, *todo), capture_output=True, text=True, env=environment
            )
            assert done.returncode == 0, done.stderr
        runs += (folder.parent / name).glob("*/*")
    for name, tensor in weights(runs[0]).items():
        assert torch.allclose(weights(runs[1])[name], tensor, atol=2e-5), name


def test_lanes_that_would_be_lost_are_refused(folder: Path) -> None:
    data = DataConfig(folder, window=1024, batch=2, carry_state=True)
    run = train(settings(folder, data=data, trainer_max_steps=2, trainer_val_every=2))
    state = torch.load(run / LAST, weights_only=True)
    state["carried"] = state["carried"].repeat(2, 1)  # as of two processes
    torch.save(state, run / LAST)
    with pytest.raises(ValueError, match="carries 4 lanes and would go on with 2: .*trainer.devices=2"):
        train(settings(folder, data=data, resume=run))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 1000}, "multiple of 16"),
        ({"also": [Path("x")]}, "leave out data.also"),
        ({"codec": CodecConfig(normalize="window")}, "not one signal"),
    ],
)
def test_what_cannot_be_carried(folder: Path, changes: dict[str, object], message: str) -> None:
    codec = {"codec": changes.pop("codec")} if "codec" in changes else {}
    with pytest.raises(ValueError, match=message):
        train(settings(folder, data=DataConfig(folder, **{"window": 1024, "carry_state": True, **changes}), **codec))  # type: ignore[arg-type]


def test_the_mean_of_the_weights_is_what_is_scored_played_and_kept(folder: Path) -> None:
    """Training itself is as without; the mean is the recursion over the weights after each step."""

    def run(steps: int, name: str, **changes: object) -> Path:
        constant = SchedulerConfig("constant")
        given = {"trainer_max_steps": steps, "trainer_val_every": 5, "scheduler": constant, **changes}
        return train(settings(folder, **given, runs_dir=folder.parent / name))

    steps = [tiny_start(folder), *(weights(run(n, f"to-{n}")) for n in range(1, 6))]
    averaged = run(5, "averaged", trainer_ema=0.5, trainer_sample_every=5, trainer_sample_seconds=0.01)
    for name, tensor in weights(averaged).items():
        assert torch.equal(tensor, steps[5][name]), name
    best = checkpoint.load(averaged)
    for name, p in best.named_parameters():
        mean = steps[0][f"model.{name}"]
        for n in range(1, 6):
            decay = min(0.5, (1 + n) / (10 + n))
            mean = decay * mean + (1 - decay) * steps[n][f"model.{name}"]
        assert torch.allclose(p, mean, atol=1e-6), name
    store = open_tokens(folder, "val", Codec(best.metadata.codec))
    assert cold(best, store, 1024).bpb == pytest.approx(best.metadata.metrics["val/bpb"], abs=1e-4)
    last = checkpoint.load(next((folder.parent / "to-5" / "test").iterdir()))
    assert best.metadata.metrics["val/bpb"] != pytest.approx(last.metadata.metrics["val/bpb"], abs=1e-4)


def test_the_mean_goes_on_where_it_stopped(folder: Path) -> None:
    given = {"scheduler": SchedulerConfig("constant"), "trainer_ema": 0.9, "trainer_val_every": 2}
    whole = train(settings(folder, **given, runs_dir=folder.parent / "whole"))
    part = train(settings(folder, **given, trainer_max_steps=7))
    assert train(settings(folder, **given, resume=Path("auto"))) == part
    for ours, theirs in zip(checkpoint.load(part).parameters(), checkpoint.load(whole).parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_run_keeps_its_settings_when_it_goes_on(folder: Path) -> None:
    run = train(settings(folder, trainer_max_steps=4, trainer_val_every=2))
    other = TrainConfig(resume=run, runs_dir=folder.parent / "runs")
    assert train(other) == run, "nothing is left to do"
    longer = TrainConfig(resume=run, trainer=TrainerConfig(max_steps=7), runs_dir=folder.parent / "runs")
    train(longer)
    state = torch.load(run / LAST, weights_only=True)
    assert state["global_step"] == 7
    model = checkpoint.load(run)
    assert model.config.d_model == 8
    assert model.metadata.provenance["steps"] == 7, "the end is validated too, whatever val_every"


def test_a_run_shorter_than_val_every_has_a_checkpoint(folder: Path) -> None:
    run = train(settings(folder, trainer_max_steps=3, trainer_val_every=100))
    assert checkpoint.load(run).metadata.provenance["steps"] == 3


def command(folder: Path, runs: Path, *more: str) -> list[str]:
    return [
        sys.executable, str(ROOT / "train.py"), "experiment=smoke", f"data.dir={folder}", f"runs_dir={runs}",
        "model.d_model=8", "model.d_state=8", "data.window=1024", "trainer.max_steps=40", "trainer.val_every=10",
        "trainer.save_every=3", "trainer.accelerator=cpu", *more,
    ]  # fmt: skip


def test_killed_and_resumed_reaches_the_same_weights(folder: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole, killed = folder.parent / "whole", folder.parent / "killed"
    subprocess.run(command(folder, whole), check=True, capture_output=True, env=environment)
    process = subprocess.Popen(command(folder, killed), stdout=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 120
    while not list(killed.glob(f"*/*/{LAST}")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (run,) = killed.glob("*/*")
    assert torch.load(run / LAST, weights_only=True)["global_step"] < 40, "killed too late to prove anything"
    done = subprocess.run(command(folder, killed, "resume=auto"), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "resumed" in done.stdout
    (reference,) = whole.glob("*/*")
    for name, tensor in weights(reference).items():
        assert torch.allclose(weights(run)[name], tensor, atol=1e-7), name
    assert (run / "metrics.csv").read_text() == (reference / "metrics.csv").read_text()


def test_two_processes_train_as_one(folder: Path) -> None:
    """Gloo on the CPU: two of batch 1 give what one of batch 2 gives."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    alone, together = folder.parent / "alone", folder.parent / "together"
    one = command(folder, alone, "trainer.max_steps=6", "trainer.val_every=6", "data.batch=2")
    two = command(folder, together, "trainer.max_steps=6", "trainer.val_every=6", "data.batch=1")
    two += ["trainer.sample_every=3", "trainer.sample_seconds=0.01"]
    subprocess.run(one, check=True, capture_output=True, env=environment)
    done = subprocess.run(
        [*two, "trainer.devices=2", "trainer.strategy=ddp"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    (first,), (second,) = alone.glob("*/*"), together.glob("*/*")
    assert len(list((second / "samples").iterdir())) == 4
    for name, tensor in weights(first).items():
        assert torch.allclose(weights(second)[name], tensor, atol=2e-5), name
    val = [checkpoint.load(run).metadata.metrics["val/bpb"] for run in (first, second)]
    assert val[0] == pytest.approx(val[1], abs=1e-4)


def test_a_sweep_is_a_run_for_each_choice(folder: Path) -> None:
    runs = folder.parent / "runs"
    done = subprocess.run(
        [
            *command(folder, runs),
            "--multirun",
            "trainer.max_steps=1",
            "trainer.val_every=1",
            "optimizer.lr=0.001,0.002",
        ],
        capture_output=True,
        text=True,
        cwd=folder.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    models = [checkpoint.load(run) for run in sorted(runs.glob("smoke/*"))]
    assert [m.metadata.provenance["settings"]["optimizer"]["lr"] for m in models] == [0.001, 0.002]


def test_a_loss_that_becomes_nan_stops_with_the_last_good_checkpoint(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"(loss|gradients) became \S+ at step \d+, \d+ steps after .*lower optimizer.lr"
    ):
        train(settings(folder, optimizer=OptimizerConfig(lr=1e8, ssm_lr=1e8), trainer_max_steps=40))
    (run,) = (folder.parent / "runs").glob("*/*")
    if (run / LAST).exists():
        assert all(torch.isfinite(t).all() for t in weights(run).values())


def test_ctrl_c_saves_and_says_how_to_go_on(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pressed: list[int] = []

    def interrupt(*rest: object) -> None:
        if not pressed:
            pressed.append(1)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("sashimi.callbacks.MetricsFile.write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(settings(folder))
    (run,) = (folder.parent / "runs").glob("*/*")
    assert torch.load(run / LAST, weights_only=True)["global_step"] < 12
    assert f"resume={run}" in capsys.readouterr().out
    monkeypatch.undo()
    assert train(settings(folder, resume=run)) == run
    whole = train(settings(folder, runs_dir=folder.parent / "whole"))
    assert all(torch.equal(weights(run)[name], tensor) for name, tensor in weights(whole).items())


def test_clips_along_the_way_change_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is heard every few steps, in files and in TensorBoard, and trains as if it had not been."""
    model = tiny_config("s4d", dropout=0.2)
    silent = train(settings(folder, model=model, runs_dir=folder.parent / "silent"))
    play = Listener.play
    played: list[int] = []

    def watched(listener: Listener, model: nn.Module, step: int, to: list[Logger]) -> None:
        before = torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # noqa: NPY002
        play(listener, model, step, to)  # type: ignore[arg-type]
        after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # noqa: NPY002
        assert torch.equal(before[0], after[0])
        assert np.array_equal(before[1], after[1])
        assert before[2] == after[2]
        assert all(module.training for module in model.modules())
        played.append(step)

    monkeypatch.setattr(Listener, "play", watched)
    run = train(settings(folder, model=model, trainer_sample_every=5, trainer_sample_seconds=0.02))
    assert played == [5, 10]
    assert sorted(p.name for p in (run / "samples").iterdir()) == [
        "step-0000005.png", "step-0000005.wav", "step-0000010.png", "step-0000010.wav",
    ]  # fmt: skip
    assert sf.info(run / "samples" / "step-0000010.wav").frames == 320
    assert all(torch.equal(weights(run)[name], tensor) for name, tensor in weights(silent).items())
    board = EventAccumulator(str(run), size_guidance={"audio": 0, "images": 0}).Reload()
    assert board.Tags()["audio"] == ["clip"]
    assert sorted(board.Tags()["images"]) == ["spectrogram", "waveform"]
    for step, event in zip((5, 10), board.Audio("clip"), strict=True):
        assert (event.step, event.sample_rate, event.length_frames) == (step, 16000, 320)
        sound, _ = sf.read(io.BytesIO(event.encoded_audio_string))
        assert np.abs(sound - sf.read(run / "samples" / f"step-{step:07}.wav")[0]).max() < 1e-4
    for name, height in (("spectrogram", 550), ("waveform", 330)):
        assert [(e.step, e.width, e.height) for e in board.Images(name)] == [(5, 1100, height), (10, 1100, height)]


def test_validation_windows_of_their_own_length(folder: Path) -> None:
    """The figure is that of longer windows, which training does not see; where windows are normalised it cannot be."""
    run = train(settings(folder, trainer_val_window=4096))
    rows = list(csv.DictReader((run / "metrics.csv").open(encoding="utf-8")))
    said = [float(row["val/bpb"]) for row in rows if row["val/bpb"]]
    model = checkpoint.load(run)
    store = open_tokens(folder, "val", Codec(model.metadata.codec))
    assert min(said) == pytest.approx(cold(model, store, 4096).bpb, abs=1e-4)
    assert min(said) != pytest.approx(cold(model, store, 1024).bpb, abs=1e-4)
    with pytest.raises(UserError, match=r"trainer.val_window needs codec.normalize=none"):
        train(settings(folder, trainer_val_window=4096, codec=CodecConfig(normalize="window", window=1024)))


def test_a_clip_that_fails_does_not_end_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*rest: object, **more: object) -> None:
        raise RuntimeError("out of memory")

    model = tiny_config("s4d", dropout=0.2)
    silent = train(settings(folder, model=model, runs_dir=folder.parent / "silent"))
    monkeypatch.setattr("sashimi.callbacks.generate", fails)
    run = train(settings(folder, model=model, trainer_sample_every=5))
    assert [r.getMessage() for r in caplog.records if r.name == "sashimi.callbacks"] == [
        f"no clip at step {step}: RuntimeError: out of memory" for step in (5, 10)
    ]
    assert all(torch.equal(weights(run)[name], tensor) for name, tensor in weights(silent).items())


def test_a_clip_that_ctrl_c_cuts_short_is_not_kept(tmp_path: Path) -> None:
    Listener(tmp_path, every=1, seconds=600, seed=0, stop=lambda: True).play(tiny_model(), 1, [])
    assert not list(tmp_path.iterdir())


def test_weights_and_biases(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline: figures, clips and pictures arrive in the run directory; a resumed run goes on in the same one."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    listened = {"trainer_wandb": "toy", "trainer_sample_every": 5, "trainer_sample_seconds": 0.02}
    run = train(settings(folder, trainer_max_steps=7, **listened))
    (offline,) = (run / "wandb").glob("offline-run-*")
    (log,) = offline.glob("*.wandb")
    assert all(key in log.read_bytes() for key in (b"train/bpb", b"val/bpb", b"clip", b"test/" + run.name.encode()))
    (clip,) = (offline / "files" / "media" / "audio").iterdir()
    assert np.array_equal(sf.read(clip)[0], sf.read(run / "samples" / "step-0000005.wav")[0])
    pictures = {p.name.split("_")[0] for p in (offline / "files" / "media" / "images").iterdir()}
    assert pictures == {"spectrogram", "waveform"}
    time.sleep(1)  # its folders are named by the second
    train(settings(folder, resume=run))
    assert [p.name.rsplit("-", 1)[-1] for p in (run / "wandb").glob("offline-run-*")] == [log.stem[4:]] * 2
    other = train(settings(folder, trainer_max_steps=1, trainer_wandb="toy"))
    (separate,) = (other / "wandb").glob("offline-run-*")
    assert not separate.name.endswith(log.stem[4:])


def test_weights_and_biases_without_its_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wandb", "wandb.errors"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"trainer.wandb=toy needs the package wandb: pip install wandb"):
        train(settings(folder, trainer_wandb="toy"))
    assert not (folder.parent / "runs").exists(), "before anything is begun"


def test_starting_from_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    """Its model settings and codec win, its weights are where training begins."""
    given = tiny_model("s4", d_model=4)
    given.metadata.codec = CodecConfig(law="linear")
    checkpoint.save(tmp_path / "given.safetensors", given, given.metadata)
    run = train(settings(folder, init_from=tmp_path / "given.safetensors", trainer_max_steps=1, trainer_val_every=1))
    model = checkpoint.load(run)
    assert model.config.d_model == 4
    assert model.metadata.codec.law == "linear"
    assert model.metadata.name == "test"
    assert (model.head.weight - given.head.weight).abs().max() < 0.01


def test_several_data_sets(folder: Path, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Heard in their shares, said so, written down; scored on the first alone; gone on with exactly."""
    data = DataConfig(folder, [other], [1, 3], window=1024, batch=2)
    constant = SchedulerConfig("constant")
    whole = train(settings(folder, data=data, scheduler=constant, runs_dir=folder.parent / "whole"))
    said = capsys.readouterr().out
    assert re.search(r"recordings  \S*/data: 0.2 minutes to train on, 25.0% of the windows\n", said)
    assert re.search(r"\n {12}\S*/other: 0.0 minutes to train on, 75.0% of the windows\n", said)
    train(settings(folder, data=data, scheduler=constant, trainer_max_steps=7))
    run = train(settings(folder, scheduler=constant, resume=Path("auto")))
    assert all(torch.equal(weights(run)[name], tensor) for name, tensor in weights(whole).items())
    alone = train(settings(folder, scheduler=constant, runs_dir=folder.parent / "alone"))
    assert any(not torch.equal(weights(alone)[name], tensor) for name, tensor in weights(whole).items())
    model = checkpoint.load(run)
    provenance = model.metadata.provenance
    assert provenance["data"] == {"dir": str(folder), "name": "data", "share": 0.25}
    assert provenance["also"] == [{"dir": str(other), "name": "other", "share": 0.75}]
    store = open_tokens(folder, "val", Codec(model.metadata.codec))
    assert cold(model, store, 1024).bpb == pytest.approx(model.metadata.metrics["val/bpb"], abs=1e-4)


def test_fine_tuning_begins_where_the_checkpoint_is(folder: Path, other: Path) -> None:
    """From the command line: the first validation is the checkpoint's score, far from a new model's."""
    trained = train(settings(folder, trainer_max_steps=60, trainer_val_every=60))
    known = checkpoint.load(trained)
    done = subprocess.run(
        [
            sys.executable, str(ROOT / "train.py"), "experiment=finetune", f"init_from={trained}", f"data.dir={folder}",
            f"data.also=[{other}]", "data.weights=[3,1]", f"runs_dir={folder.parent / 'tuned'}", "data.window=1024",
            "trainer.max_steps=2", "trainer.val_every=1", "trainer.val_windows=null", "trainer.accelerator=cpu",
        ],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = (folder.parent / "tuned").glob("finetune/*")
    with (run / "metrics.csv").open(newline="") as file:
        first = next(float(row["val/bpb"]) for row in csv.DictReader(file) if row["val/bpb"])
    assert first == pytest.approx(known.metadata.metrics["val/bpb"], abs=0.02)
    assert first < 7
    tuned = checkpoint.load(run)
    assert tuned.config == known.config
    assert tuned.metadata.provenance["init_from"] == str(trained)
    assert [tuned.metadata.provenance[key] for key in ("data", "also")] == [
        {"dir": str(folder), "name": "data", "share": 0.75}, [{"dir": str(other), "name": "other", "share": 0.25}],
    ]  # fmt: skip


def test_fine_tuning_needs_a_checkpoint_and_nothing_else_does(saved_model: Path, tmp_path: Path) -> None:
    def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / program), "experiment=finetune", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    refused = run("train.py", f"data.dir={tmp_path}")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: this experiment goes on from a trained model: set init_from=CHECKPOINT")
    assert run("train.py", "--help").returncode == 0
    played = run("generate.py", f"checkpoint_path={saved_model}", "n_samples=1", "l_sample=16")
    assert played.returncode == 0, played.stderr
    # Far enough to miss the data set and nothing else.
    assert "no data set absent" in run("evaluate.py", f"checkpoints=[{saved_model}]", "data.dir=absent").stderr


def test_windows_that_normalise_are_those_trained_on(folder: Path) -> None:
    """A codec that does not say how long its windows are takes those it was trained with, and says so."""
    codec = CodecConfig(normalize="window")
    run = train(settings(folder, codec=codec, trainer_max_steps=1, trainer_val_every=1))
    assert checkpoint.load(run).metadata.codec == CodecConfig(normalize="window", window=1024)
    given = tiny_model("s4d")
    given.metadata.codec = codec
    checkpoint.save(folder.parent / "given.safetensors", given, given.metadata)
    start = {"init_from": folder.parent / "given.safetensors", "runs_dir": folder.parent / "from"}
    run = train(settings(folder, trainer_max_steps=1, trainer_val_every=1, **start))
    assert checkpoint.load(run).metadata.codec.window == 1024
    plain = train(settings(folder, trainer_max_steps=1))
    assert checkpoint.load(plain).metadata.codec.window is None


def test_half_precision_runs_and_agrees_roughly(folder: Path) -> None:
    exact = train(settings(folder, runs_dir=folder.parent / "a"))
    half = train(settings(folder, runs_dir=folder.parent / "b", trainer_precision="bf16-mixed"))
    bpb = [checkpoint.load(run).metadata.metrics["val/bpb"] for run in (exact, half)]
    assert abs(bpb[0] - bpb[1]) < 0.1


def test_plateau_lowers_the_rate(folder: Path) -> None:
    run = train(settings(folder, scheduler=SchedulerConfig("plateau", patience=0, factor=0.5),
                         optimizer=OptimizerConfig(lr=1e-7), trainer_max_steps=12, trainer_val_every=2))  # fmt: skip
    state = torch.load(run / LAST, weights_only=True)
    assert state["optimizer_states"][0]["param_groups"][1]["lr"] < 1e-7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": DataConfig(None)}, "set data.dir"),
        ({"data": DataConfig(Path("absent"))}, "no data set absent.*data_tools.prepare"),
        ({"data": DataConfig(Path("absent"), [Path("other")])}, "no data set absent.*data_tools.prepare"),
        ({"resume": Path("absent")}, "nothing to go on from"),
        ({"init_from": REQUIRED}, "set init_from=CHECKPOINT"),
    ],
)
def test_what_cannot_be_trained(folder: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(settings(folder, **changes))


def test_a_further_data_set_that_cannot_be_heard_is_named(folder: Path, other: Path) -> None:
    with pytest.raises(ValueError, match=r"no data set .*absent; make it with .*prepare RECORDINGS --out .*absent"):
        train(settings(folder, data=DataConfig(folder, [folder.parent / "absent"], window=1024)))
    with pytest.raises(ValueError, match=r"data.window=14000 is longer than .* recording of .*other \(0.8 s\)"):
        train(settings(folder, data=DataConfig(folder, [other], window=14000)))
    assert not (folder.parent / "runs").exists()


def test_windows_longer_than_the_recordings(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"data.window=20000 is longer than every training recording of .*data \(1.0 s\)"
    ):
        train(settings(folder, data=DataConfig(folder, window=20000)))
