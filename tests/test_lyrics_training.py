"""What is learnt, what is kept, and how a run goes on after it was stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from lyrics_fixtures import make_llama

from sashimi.errors import UserError
from sashimi.lyrics.config import Data, Lora, Model, Training, TrainSettings

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from transformers import AutoTokenizer  # noqa: E402

from sashimi.lyrics import adapters, examples, keeping, losses, models, prompts, training  # noqa: E402
from sashimi.lyrics.losses import Epoch  # noqa: E402

FEW = Training(epochs=3, lr=0.05, batch=2, accumulate=2, warmup=0)


def settings(llama: Path, songs: Path, runs: Path, **changes: Any) -> TrainSettings:
    usual = TrainSettings(
        model=Model(name=str(llama)), data=Data(path=songs), lora=Lora(r=8, alpha=16), training=FEW, runs_dir=runs
    )
    return replace(usual, **changes)


@pytest.fixture(scope="module")
def run(tiny_llama: Path, tiny_songs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three epochs."""
    return training.train(settings(tiny_llama, tiny_songs, tmp_path_factory.mktemp("runs")))


# --- what is learnt


def test_the_end_of_a_song_is_learnt(tiny_llama: Path, tiny_songs: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    end = prompts.end_ids(tokenizer)[0]
    found = examples.load(TrainSettings(data=Data(path=tiny_songs)), tokenizer, "train", None)
    assert len(found.rows) == 12
    assert (found.cut, found.dropped) == (0, 0)
    for row, song in zip(found.rows, examples.chosen(Data(path=tiny_songs), "train", None), strict=True):
        learnt = [label for label in row["labels"] if label != examples.IGNORED]
        assert learnt[-1] == end
        assert tokenizer.decode(learnt[:-1]) == song.lyrics
        asked = row["input_ids"][: -len(learnt)]
        assert tokenizer.decode(asked).endswith("<|im_start|>assistant\n")
        assert row["labels"][: len(asked)] == [examples.IGNORED] * len(asked)
    # The tokenizer whose padding is its end token: labels keep the end, and lose the padding alone.
    tokenizer.pad_token_id = end
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    batch = DataCollatorForLanguageModeling(pad_token_id=end)(found.rows[:4])
    assert ((batch["labels"] == end).sum(1) == 1).all()
    whole = examples.load(
        TrainSettings(data=Data(path=tiny_songs), training=Training(loss="all")), tokenizer, "train", None
    )
    assert all(row["labels"] == row["input_ids"] for row in whole.rows)


def test_a_song_that_is_cut_learns_no_ending(tiny_llama: Path, tiny_songs: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    end = prompts.end_ids(tokenizer)[0]
    longest = Data(path=tiny_songs, max_tokens=90)
    found = examples.load(TrainSettings(data=longest), tokenizer, "train", None)
    assert found.cut > 0
    assert max(len(row["input_ids"]) for row in found.rows) == 90
    uncut = examples.load(TrainSettings(data=Data(path=tiny_songs)), tokenizer, "train", None)
    for row, before in zip(found.rows, uncut.rows, strict=True):
        learnt = [label for label in row["labels"] if label != examples.IGNORED]
        assert (end in learnt) == (len(before["input_ids"]) <= 90)
    with pytest.raises(UserError, match=r"nothing in train\.jsonl that fits data\.max_tokens=32"):
        examples.load(TrainSettings(data=Data(path=tiny_songs, max_tokens=32)), tokenizer, "train", None)
    answers = examples.encoded(tokenizer, [("a" * 500, "b"), ("c", "d")], 90, "completion", cut=False)
    assert (len(answers.rows), answers.dropped) == (1, 1), "an answer is never cut"


def test_songs_are_chosen_in_proportion(tiny_songs: Path) -> None:
    few = examples.chosen(Data(path=tiny_songs), "train", 4)
    assert few == examples.chosen(Data(path=tiny_songs), "train", 4)
    assert len({(song.language, song.genre) for song in few}) == 4
    assert {song.language for song in examples.chosen(Data(path=tiny_songs, language="pt"), "train", None)} == {"pt"}
    assert {song.artist for song in examples.chosen(Data(path=tiny_songs, artist="ANN"), "train", None)} == {"Ann"}
    with pytest.raises(UserError, match=r"no song in train\.jsonl with data\.artist=Eve"):
        examples.chosen(Data(path=tiny_songs, artist="Eve"), "train", None)


# --- a run


def test_a_run_learns_and_keeps_its_best(run: Path, tiny_llama: Path, tiny_songs: Path) -> None:
    lines = [json.loads(line) for line in (run / losses.LOSSES).read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    assert lines[-1]["train"] < lines[0]["train"] - 0.1
    assert lines[-1]["val"] < lines[0]["val"] - 0.1
    assert (run / losses.PLOT).stat().st_size > 5000
    assert not (run / keeping.CHECKPOINTS).exists()
    card = adapters.read(run / training.ADAPTER)
    assert [e["epoch"] for e in card["losses"]] == [0, 1, 2, 3]
    assert card["data"]["examples"] == {"train": 12, "val": 4}
    kept = min(lines[1:], key=lambda e: e["val"])
    loaded = models.load(str(tiny_llama), adapter=run / training.ADAPTER, dtype="fp32")
    assert loaded.card == card
    assert loss_of(loaded, tiny_songs) == pytest.approx(kept["val"], abs=2e-3)


def loss_of(loaded: models.Loaded, songs: Path) -> float:
    """The slow way: a song at a time, in plain words."""
    total, count = 0.0, 0
    rows = examples.load(TrainSettings(data=Data(path=songs)), loaded.tokenizer, "val", None).rows
    for row in rows:
        with torch.no_grad():
            logp = loaded.model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        for i, label in enumerate(row["labels"][1:]):
            if label != examples.IGNORED:
                total, count = total - float(logp[i, label]), count + 1
    return total / count


def test_epoch_0_is_the_base(run: Path, tiny_llama: Path, tiny_songs: Path) -> None:
    first = json.loads((run / losses.LOSSES).read_text().splitlines()[0])
    assert loss_of(models.load(str(tiny_llama), dtype="fp32"), tiny_songs) == pytest.approx(first["val"], abs=2e-3)


def test_a_stopped_run_goes_on(
    run: Path, tiny_llama: Path, tiny_songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = replace(FEW, save_every=1)
    s = settings(tiny_llama, tiny_songs, tmp_path, training=every)
    step_end = keeping.Keeper.on_step_end

    def interrupt(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 5:  # the middle of the second epoch
            os.kill(os.getpid(), signal.SIGINT)
        step_end(self, args, state, control, **kwargs)

    monkeypatch.setattr(keeping.Keeper, "on_step_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        training.train(s)
    monkeypatch.setattr(keeping.Keeper, "on_step_end", step_end)
    (stopped,) = (tmp_path / "lyrics").iterdir()
    saved = stopped / keeping.CHECKPOINTS
    assert (saved / "checkpoint-5" / keeping.WHOLE).is_file()
    shutil.copytree(saved / "checkpoint-5", saved / "checkpoint-6")  # as a kill in the middle of a save leaves it
    (saved / "checkpoint-6" / keeping.WHOLE).unlink()
    again = training.train(replace(s, resume=Path("auto"), training=replace(every, lr=0.5)))
    assert again == stopped
    assert (again / losses.LOSSES).read_text() == (run / losses.LOSSES).read_text(), "as if it had not been stopped"
    with pytest.raises(UserError, match="is finished; its adapter is"):
        training.train(replace(s, resume=again))
    assert training.train(replace(s, resume=Path("auto"), training=replace(every, epochs=1))) != again
    with pytest.raises(UserError, match=r"no settings\.yaml in it"):
        training.train(replace(s, resume=tmp_path))


def test_two_seeds_differ_and_one_repeats(run: Path, tiny_llama: Path, tiny_songs: Path, tmp_path: Path) -> None:
    other = training.train(settings(tiny_llama, tiny_songs, tmp_path, seed=1))
    assert (other / losses.LOSSES).read_text() != (run / losses.LOSSES).read_text()


def test_what_cannot_be_learnt_from(tiny_llama: Path, tiny_songs: Path, tmp_path: Path) -> None:
    s = settings(tiny_llama, tiny_songs, tmp_path)
    with pytest.raises(UserError, match=r"data\.path is not set"):
        training.train(replace(s, data=Data()))
    with pytest.raises(UserError, match="is not a set of lyrics"):
        training.train(replace(s, data=Data(path=tmp_path)))
    with pytest.raises(UserError, match=r"the model has no layer query; it has down_proj, .*v_proj"):
        training.train(replace(s, lora=Lora(targets=["query"])))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"model\.dtype=fp16 learns on NVIDIA GPUs only"):
            training.train(replace(s, model=replace(s.model, dtype="fp16")))
    assert not (tmp_path / "lyrics").exists()


# --- the plan's preset


@pytest.mark.parametrize("tied", [True, False])
def test_control_tokens_and_the_output_layer(
    tied: bool, tiny_songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = make_llama(tmp_path / "base", tied=tied)
    s = settings(
        base, tiny_songs, tmp_path, training=replace(FEW, epochs=1),
        model=Model(name=str(base), control_tokens=True), lora=Lora(r=4, alpha=8, targets=["q_proj", "lm_head"]),
    )  # fmt: skip
    run = training.train(s)
    said = capsys.readouterr().out
    assert ("lm_head is left out" in said) == tied
    assert "only those of the 7 new tokens are learnt" in said
    loaded = models.load(str(base), adapter=run / training.ADAPTER, dtype="fp32")
    chorus = prompts.ids(loaded.tokenizer, "[CHORUS]")
    assert len(chorus) == 1
    assert chorus[0] >= len(AutoTokenizer.from_pretrained(base))
    last = json.loads((run / losses.LOSSES).read_text().splitlines()[-1])
    assert loss_of(loaded, tiny_songs) == pytest.approx(last["val"], abs=2e-3)


def test_four_bits_learn(tiny_llama: Path, tiny_songs: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    s = settings(tiny_llama, tiny_songs, tmp_path, model=Model(name=str(tiny_llama), quantise="nf4"))
    run = training.train(replace(s, training=replace(FEW, gradient_checkpointing=True)))
    lines = [json.loads(line) for line in (run / losses.LOSSES).read_text().splitlines()]
    assert lines[-1]["val"] < lines[0]["val"] - 0.1
    from safetensors.torch import load_file

    learnt = load_file(run / training.ADAPTER / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in learnt.values()} == {torch.float32}


# --- pieces


def test_best_is_the_first_of_the_lowest_after_training() -> None:
    epochs = [Epoch(0, 1.0, 0.5), Epoch(1, 1.0, 2.0), Epoch(2, 1.0, 1.5), Epoch(3, 1.0, 1.5)]
    assert losses.best(epochs) == epochs[2]


@pytest.mark.slow
def test_two_processes(tiny_llama: Path, tiny_songs: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m",
        "sashimi.lyrics.train", f"model.name={tiny_llama}", f"data.path={tiny_songs}", f"runs_dir={tmp_path / 'runs'}",
        "training.epochs=2", "training.lr=0.02", "training.accumulate=2",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("adapter     rank") == 1, "one of them speaks"
    (run,) = (tmp_path / "runs" / "lyrics").iterdir()
    assert len((run / losses.LOSSES).read_text().splitlines()) == 3
    assert adapters.read(run / training.ADAPTER)["data"]["examples"] == {"train": 12, "val": 4}
    first = json.loads((run / losses.LOSSES).read_text().splitlines()[0])
    base = models.load(str(tiny_llama), dtype="fp32")
    assert loss_of(base, tiny_songs) == pytest.approx(first["val"], abs=2e-3)
