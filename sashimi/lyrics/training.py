"""Adapts a language model to lyrics with LoRA: peft's adapters, trained by trl's SFTTrainer.

A run is runs_dir/NAME/DATE with settings.yaml, losses.jsonl, losses.png, checkpoints/ to go on from, and adapter/:
the best epoch by validation loss.
"""

import json
import os
import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive the forks of data loaders

import datasets
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from rich.console import Console
from transformers import Trainer, set_seed
from transformers.trainer_callback import PrinterCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from sashimi.errors import UserError
from sashimi.files import finished
from sashimi.lyrics import adapters, dataset, examples, lora, losses, models, tasks
from sashimi.lyrics.config import TrainSettings, read_settings, write_settings
from sashimi.lyrics.examples import Encoded
from sashimi.lyrics.keeping import CHECKPOINTS, Keeper, last_whole
from sashimi.lyrics.losses import Epoch
from sashimi.lyrics.models import Loaded
from sashimi.lyrics.trained import FINISHED
from sashimi.progress import bar, clock, stop_on_interrupt

ADAPTER, SETTINGS = "adapter", "settings.yaml"


def train(settings: TrainSettings, experiment: str | None = None) -> Path:
    """Trains, or goes on with a run. Returns the run's folder. Ctrl-C saves and raises KeyboardInterrupt.

    Raises UserError for settings, data and models that cannot be used.
    """
    quiet()
    process = PartialState()
    console = Console(highlight=False, soft_wrap=True, markup=False, quiet=not process.is_main_process)
    run, settings, new = _run(settings, process)
    if settings.data.path is None:
        raise UserError("data.path is not set; give a folder of sashimi.lyrics.prepare, as data.path=data/lyrics/NAME")
    described = dataset.described(settings.data.path)
    s = settings
    set_seed(s.seed)
    with process.main_process_first():
        loaded = models.load(s.model.name, quantise=s.model.quantise, dtype=s.model.dtype, training=True)
    dtype = loaded.model.get_input_embeddings().weight.dtype
    if dtype == torch.float16 and not torch.cuda.is_available():
        raise UserError("model.dtype=fp16 learns on NVIDIA GPUs only, and there is none; set model.dtype=auto")
    new_tokens = lora.teach_tokens(loaded.model, loaded.tokenizer) if s.model.control_tokens else []
    rows = {
        split: examples.load(s, loaded.tokenizer, split, limit)
        for split, limit in (("train", s.data.songs), ("val", s.data.val_songs))
    }
    loaded.model, fused, notes = lora.adapted(loaded.model, s.lora, new_tokens)
    _announce(console, run, new, s, loaded, rows, notes, dtype)
    if new and process.is_main_process:
        write_settings(run / SETTINGS, s)
    began = time.monotonic()
    with stop_on_interrupt() as stopped, bar(console, "learning") as update:
        trainer = _trainer(s, run, loaded, rows["train"], fused, dtype)
        few = rows["train"].rows[: len(rows["val"].rows)]
        measured = {"train": few, "val": rows["val"].rows}
        keeper = Keeper(
            run, process.is_main_process,
            lambda split: losses.measure(trainer, measured[split], s.training.eval_batch, fused),
            lambda epochs: _keep(run, s, loaded, described, rows, epochs, process),
            stopped, update, s.training.save_every,
        )  # fmt: skip
        checkpoint = None if new else last_whole(run)
        process.wait_for_everyone()
        if checkpoint is not None:
            keeper.go_on(checkpoint)
        trainer.add_callback(keeper)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if keeper.halted:
        console.print(f"stopped     go on with resume={run}")
        raise KeyboardInterrupt
    if process.is_main_process:
        _finish(run, s, keeper.epochs, time.monotonic() - began, console)
    process.wait_for_everyone()
    return run


def quiet() -> None:
    """Mutes what the libraries say besides errors: the program shows its own progress."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch|transformers|peft|trl|bitsandbytes")


def _run(settings: TrainSettings, process: PartialState) -> tuple[Path, TrainSettings, bool]:
    """The run's folder, the same in every process; its settings; whether it is new."""
    chosen: list[Any] = [None]
    if process.is_main_process:
        try:
            chosen = [_resumed(settings)]
        except UserError as error:
            chosen = [error]
    broadcast_object_list(chosen)
    if isinstance(chosen[0], UserError):
        raise chosen[0]
    if chosen[0] is not None:
        saved = read_settings(chosen[0] / SETTINGS)
        return chosen[0], replace(saved, resume=settings.resume, runs_dir=settings.runs_dir), False
    named = [settings.runs_dir / settings.name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")]
    broadcast_object_list(named)
    return named[0], settings, True


def _resumed(settings: TrainSettings) -> Path | None:
    if settings.resume is None:
        return None
    if str(settings.resume) == "auto":
        runs = sorted((settings.runs_dir / settings.name).glob(f"*/{SETTINGS}"), reverse=True)
        return next((path.parent for path in runs if not (path.parent / FINISHED).is_file()), None)
    if not (settings.resume / SETTINGS).is_file():
        raise UserError(f"resume={settings.resume}: there is no {SETTINGS} in it, so nothing to go on from")
    if (settings.resume / FINISHED).is_file():
        raise UserError(f"resume={settings.resume} is finished; its adapter is {settings.resume / ADAPTER}")
    return settings.resume


def _trainer(s: TrainSettings, run: Path, loaded: Loaded, rows: Encoded, fused: bool, dtype: torch.dtype) -> Trainer:
    """trl's trainer, which reads the output layer's weights past an adapter; where the adapter changes that layer, or
    tokens are learnt that it is tied to, transformers' own."""
    t, cuda = s.training, torch.cuda.is_available()
    paged = t.optimizer == "paged_adamw" or (t.optimizer == "auto" and cuda and s.model.quantise == "nf4")
    args = SFTConfig(
        output_dir=str(run / CHECKPOINTS), seed=s.seed, data_seed=s.seed, num_train_epochs=t.epochs,
        learning_rate=t.lr, lr_scheduler_type=t.schedule, warmup_steps=t.warmup, weight_decay=t.weight_decay,
        max_grad_norm=t.max_grad_norm, optim="paged_adamw_32bit" if paged else "adamw_torch",
        per_device_train_batch_size=t.batch, gradient_accumulation_steps=t.accumulate,
        gradient_checkpointing=t.gradient_checkpointing, gradient_checkpointing_kwargs={"use_reentrant": False},
        bf16=cuda and dtype == torch.bfloat16, fp16=cuda and dtype == torch.float16,
        use_cpu=not cuda and not torch.backends.mps.is_available(), dataloader_pin_memory=cuda,
        eval_strategy="no", save_strategy="no", save_total_limit=t.keep, logging_steps=t.log_every,
        report_to=s.report_to, run_name=s.name, disable_tqdm=True, log_level="error",
        include_num_input_tokens_seen="non_padding", max_length=None, dataset_kwargs={"skip_prepare_dataset": True},
        pad_to_multiple_of=None, ddp_find_unused_parameters=False,
    )  # fmt: skip
    collator = DataCollatorForLanguageModeling(pad_token_id=loaded.tokenizer.pad_token_id)
    kind = SFTTrainer if fused else Trainer
    trainer = kind(
        loaded.model, args, data_collator=collator, train_dataset=datasets.Dataset.from_list(rows.rows),
        processing_class=loaded.tokenizer,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    for p in loaded.model.parameters():
        if p.requires_grad:  # trl makes them bf16 over a quantised base, where small steps are lost
            p.data = p.data.float()
    return trainer


def _announce(
    console: Console, run: Path, new: bool, s: TrainSettings, loaded: Loaded, rows: dict[str, Encoded],
    notes: list[str], dtype: torch.dtype,
) -> None:  # fmt: skip
    learnt = sum(p.numel() for p in loaded.model.parameters() if p.requires_grad)
    count = loaded.model.num_parameters()
    device = loaded.model.device
    bits = "4-bit weights, " if s.model.quantise == "nf4" else ""
    console.print(f"run         {run} ({'new' if new else 'resumed, with its own settings'})")
    console.print(f"model       {loaded.base.name}, {bits}{str(dtype).removeprefix('torch.')} on {device}")
    console.print(f"adapter     rank {s.lora.r}, {learnt / 1e6:.2f} million parameters learn, of {count / 1e6:.0f}")
    for note in notes:
        console.print(f"            {note}")
    for split, found in rows.items():
        cut = f"; {found.cut:,} longer than {s.data.max_tokens} are cut, and learn no ending" if found.cut else ""
        lost = f"; {found.dropped:,} longer than {s.data.max_tokens} left out" if found.dropped else ""
        what = "songs" if s.task == "writing" else "questions"
        console.print(f"{split:<11} {len(found.rows):,} {what}, {found.tokens:,} tokens{cut}{lost}")


def _keep(
    run: Path, s: TrainSettings, loaded: Loaded, described: dict[str, Any], rows: dict[str, Encoded],
    epochs: Sequence[Epoch], process: PartialState,
) -> None:  # fmt: skip
    if process.is_main_process:
        card = {
            "task": s.task, "name": s.name, "base": asdict(loaded.base),
            "data": {
                "name": described.get("name"), "licence": described.get("licence"),
                "content_hash": described["content_hash"],
                "examples": {split: len(found.rows) for split, found in rows.items()},
                "languages": described.get("languages", {}),
            },
            "settings": json.loads(json.dumps(asdict(s), default=str)),
            "losses": [vars(epoch) for epoch in epochs], "metrics": {},
        }  # fmt: skip
        if s.task == "understanding":
            assert s.data.path is not None
            card["labels"] = tasks.labels(s.data.path, s.understanding)
        adapters.save(run / ADAPTER, loaded.model, loaded.tokenizer, card)


def _finish(run: Path, s: TrainSettings, epochs: Sequence[Epoch], seconds: float, console: Console) -> None:
    adapters.note_losses(run / ADAPTER, [vars(epoch) for epoch in epochs])
    losses.draw(run, epochs, s.name)
    shutil.rmtree(run / CHECKPOINTS, ignore_errors=True)
    with finished(run / FINISHED) as partial:
        partial.write_text(json.dumps({"seconds": round(seconds, 1), "kept": losses.best(epochs).epoch}))
    console.print(losses.table(epochs))
    console.print(f"took        {clock(seconds)}")
    console.print(f"curves      {run / losses.PLOT}")
    console.print(f"adapter     {run / ADAPTER}")
