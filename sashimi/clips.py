"""Clips on disk: `generate.py`'s work from settings to a folder of sound files.

A folder of clips holds the sound files, `samples.csv` (a row a clip, in the order of their names) and
`metadata.json`, from which any clip alone can be made again.
"""

import csv
import hashlib
import json
import platform
import re
import time
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import torch
from rich.console import Console

from sashimi import __version__, audio, checkpoint, generation
from sashimi.checkpoint import LoadedModel, Metadata
from sashimi.codec import Codec, Tokens
from sashimi.config import GenerateConfig, SamplingConfig
from sashimi.engines import make_engine
from sashimi.errors import UserError
from sashimi.files import finished
from sashimi.generation import Block
from sashimi.progress import bar, stop_on_interrupt
from sashimi.settings import build, plain

METADATA, TABLE = "metadata.json", "samples.csv"
# Settings that change where and how clips are written, not what they are.
OUTPUT_SETTINGS = {"save_dir", "overwrite", "plots", "again", "n_batch", "runs_dir"}
CHECKPOINT_SETTINGS = {"model", "codec"}  # a checkpoint's own win
FLUSH_SECONDS = 10  # what an interrupted machine may lose of a clip
MIDDLE = (0.40, 0.05)  # shares of lowest and highest likelihood that keep=middle drops, as published


def generate_files(config: GenerateConfig, experiment: str | None = None) -> Path:
    """Generate what `config` asks for, show progress, and return the folder. `experiment`: its name, if chosen.

    Raises UserError (and OSError) for everything that is wrong before the first sample is played.
    Ctrl-C leaves finished clips, and those under way marked partial, and raises KeyboardInterrupt.
    """
    console = Console(highlight=False, soft_wrap=True, markup=False)
    again = None
    if config.again is not None:
        config, again = made_again(config)
    path, why = checkpoint.choose(config.checkpoint_path, config.runs_dir, experiment)
    model = checkpoint.load(path, backend=config.model.layer.backend, dt_transform=config.dt_transform)
    identity = {"path": str(checkpoint.resolve(path).resolve()), "sha256": sha256(checkpoint.resolve(path))}
    codec = Codec(model.metadata.codec)
    beginnings = generation.prompts(config, model.metadata, model.period)
    prompt = max(map(len, beginnings))
    length = generation.clip_length(config, prompt, codec.config.rate)
    sampling = config.sampling(model.metadata.sampling)
    config = replace(config, checkpoint_path=path, l_sample=length, **asdict(sampling))
    heard = [hashlib.sha256(tokens.tobytes()).hexdigest() for tokens in beginnings]
    if again is not None:
        check_sources(again, identity, heard)
    numbers = config.clips if config.clips is not None else list(range(len(beginnings) * config.n_reps))
    if config.keep == "middle" and len(numbers) < 20:
        text = f"warning: keep=middle judges {len(numbers)} clips against each other; use 20 or more"
        console.print(text, style="yellow")

    name = config.name if experiment else model.metadata.name
    engine = make_engine(config.engine, model)
    folder = ClipFolder(config, model.metadata, name, identity, heard, length - prompt, engine.description)
    console.print(f"checkpoint  {path} ({why})")
    console.print(f"model       {describe(model)}")
    after = f" after {prompt / codec.config.rate:.2f} s" if prompt else ""
    free = f", {config.n_free} by itself" if config.n_free and config.clips is None else ""
    seconds = (length - prompt) / codec.config.rate
    console.print(f"playing     {len(numbers)} x {seconds:.2f} s{after}{free}, seed {config.seed}")
    console.print(f"drawn with  {sampling}")
    console.print(f"engine      {engine.description}")
    console.print(f"into        {folder.path}")
    blocks = generation.generate(
        engine, beginnings, length, sampling, config.seed,
        n_reps=config.n_reps, numbers=numbers, n_batch=config.n_batch,
    )  # fmt: skip
    try:
        with bar(console, "playing") as update, stop_on_interrupt() as stop:
            for block in blocks:
                folder.add(block)
                update(*summary(block, folder.whole, len(numbers), codec.config.rate))
                if stop() and folder.whole < len(numbers):
                    raise KeyboardInterrupt
    except BaseException:
        folder.finish(keep="all")
        console.print(f"stopped     {folder.count} clips in {folder.path}, unfinished ones marked partial")
        raise
    dropped = folder.finish(config.keep)
    kept = f" ({dropped} dropped by keep=middle)" if dropped else ""
    console.print(f"done        {folder.count} clips{kept}, lowest likelihood first; see {folder.path / TABLE}")
    return folder.path


def describe(model: LoadedModel) -> str:
    """One line about a model, for people."""
    config = model.config
    kind = {"s4": "S4", "s4d": "S4D"}[config.layer.kind]
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    bits = model.metadata.metrics.get("heldout_bpb", {}).get("q50")
    return (
        f"{model.metadata.name or 'unnamed'}: SaShiMi, {config.n_layers} blocks of {kind}, "
        f"{parameters:.2f} M parameters, "
        f"{model.metadata.codec.rate} Hz" + (f", {bits:.3f} bits per byte on held-out recordings" if bits else "")
    )


def summary(block: Block, whole: int, clips: int, rate: int) -> tuple[float, str, float]:
    """Progress as fraction, text and seconds left, of so many clips of which some are whole."""
    batch = 0 if block.last else len(block.numbers)  # under way
    made, samples = whole * block.steps + batch * block.played, block.rate * len(block.numbers)
    text = f"{block.rate:,.0f} steps/s, {samples / rate:.2g} x real time"
    return made / (clips * block.steps), text, (clips * block.steps - made) / samples


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- a clip made again --------------------------------------------------------------------------------


def made_again(config: GenerateConfig) -> tuple[GenerateConfig, dict[str, Any]]:
    """The settings of a finished folder, for the clips, output and moved files that `config` names."""
    assert config.again is not None
    path = config.again / METADATA if config.again.is_dir() else config.again
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        settings = saved["settings"]
    except FileNotFoundError:
        raise UserError(f"there is no {path}; again= takes a folder of clips or its {METADATA}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not a {METADATA} of generated clips: {error!r}") from None
    given = {key: getattr(config, key) for key in ("clips", "save_dir", "checkpoint_path", "prompt", "n_batch")}
    made = build(GenerateConfig, settings)
    return replace(
        made, plots=config.plots, overwrite=config.overwrite, keep=config.keep, runs_dir=config.runs_dir,
        **{key: value for key, value in given.items() if value is not None},
    ), saved  # fmt: skip


def check_sources(saved: dict[str, Any], identity: dict[str, str], heard: list[str]) -> None:
    """Raises UserError where the checkpoint or the prompt is not what the clips were made with."""
    if saved["checkpoint"]["sha256"] != identity["sha256"]:
        raise UserError(
            f"{identity['path']} is not the checkpoint these clips were made with "
            f"({saved['checkpoint']['path']}); set checkpoint_path= to where that is now"
        )
    if saved["prompts_sha256"] != heard:
        raise UserError("the recording that these clips continue has changed; set prompt= to where the original is now")


# --- the folder ---------------------------------------------------------------------------------------


class Recorder:
    """A clip on disk, growing block by block: its file is named partial until it is whole."""

    def __init__(self, path: Path, codec: Codec, number: int, prompt: Tokens, with_prompt: bool) -> None:
        self.path = path.with_stem(f"{path.stem}_partial")
        self.codec, self.number, self.prompt, self.played, self.log_likelihood = codec, number, len(prompt), 0, 0.0
        self.file = audio.Writer(self.path, codec.config.rate)
        self.seam = self.prompt if with_prompt else 0  # samples in the file before the first that is played
        self.file.write(codec.decode(prompt[: self.seam]))

    def add(self, tokens: Tokens, log_likelihood: float) -> None:
        """tokens: uint8(L), log_likelihood: of all that is played so far."""
        self.file.write(self.codec.decode(tokens))
        self.played, self.log_likelihood = self.played + len(tokens), log_likelihood

    def close(self, whole: bool) -> None:
        self.file.close()
        if whole:
            self.path = self.path.rename(self.path.with_stem(self.path.stem.removesuffix("_partial")))


class ClipFolder:
    """Writes clips while they are played, and at the end gives all their ranks by likelihood.

    Raises UserError for a folder that holds clips of other settings, unless overwrite=true; OSError for
    one that cannot be written to.
    """

    def __init__(
        self,
        config: GenerateConfig,
        played: Metadata,
        name: str,
        checkpoint: dict[str, str],
        prompts: list[str],
        steps: int,
        engine: str,
    ) -> None:
        self.name = name = re.sub(r"[^\w-]+", "-", name) or "sashimi"
        self.config, self.codec, self.steps = config, Codec(played.codec), steps
        self.sampling = config.sampling(played.sampling)
        self.path = config.save_dir or Path("samples") / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
        self.rows: list[dict[str, Any]] = []
        self.recorders: list[Recorder] = []
        self.flushed = time.monotonic()
        left_out = OUTPUT_SETTINGS | CHECKPOINT_SETTINGS
        self.metadata = {
            "settings": {k: v for k, v in plain(asdict(config)).items() if k not in left_out},
            "checkpoint": {**checkpoint, "model": asdict(played.model), "codec": asdict(played.codec)},
            "prompts_sha256": prompts,
            "made_with": {
                "program": __version__, "torch": torch.__version__, "numpy": np.__version__,
                "engine": engine, "machine": platform.machine(), "cpu": torch.backends.cpu.get_cpu_capability(),
            },
        }  # fmt: skip
        self._make_room()

    @property
    def count(self) -> int:
        return len(self.rows)

    @property
    def whole(self) -> int:
        return sum(row["complete"] for row in self.rows)

    def _make_room(self) -> None:
        """An empty or matching folder, after removing what an earlier run of the same settings left."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise UserError(f"save_dir={self.path} cannot be written to: {error.strerror}; choose another") from None
        try:
            saved = json.loads((self.path / METADATA).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except ValueError:
            saved = {}
        what = ("settings", "checkpoint", "prompts_sha256")
        if not self.config.overwrite and any(saved.get(key) != self.metadata[key] for key in what):
            raise UserError(
                f"{self.path} holds clips of other settings, another checkpoint or another prompt; choose another "
                "save_dir, or overwrite=true"
            )
        for clip in saved.get("clips", []):
            for suffix in (".wav", ".flac", ".png"):
                (self.path / Path(clip["file"]).name).with_suffix(suffix).unlink(missing_ok=True)

    def add(self, block: Block) -> None:
        """Write what was played on, in a file for each clip, and enter the clips when they are whole."""
        if block.first:
            self.recorders = [
                Recorder(self._file(n, len(prompt)), self.codec, n, prompt, self.config.include_prompt)
                for n, prompt in zip(block.numbers, block.prompts, strict=True)
            ]
        for recorder, *played in zip(self.recorders, block.tokens, block.log_likelihoods, strict=True):
            recorder.add(*played)
        if time.monotonic() - self.flushed > FLUSH_SECONDS:
            self.flushed = time.monotonic()
            for recorder in self.recorders:
                recorder.file.flush()
        if block.last:
            self._close(whole=True)

    def _file(self, number: int, prompt: int) -> Path:
        name = stem(self.name, self.sampling, self.config.seed, prompt, self.steps, self.codec.config.rate)
        return self.path / f"{name}_clip{number:04}.{self.config.format}"

    def _close(self, whole: bool) -> None:
        """Enter the clips under way."""
        while self.recorders:  # those left by an error are entered when all is finished
            recorder = self.recorders.pop(0)
            recorder.close(whole)
            self.rows.append({
                "file": recorder.path.name,
                "clip": recorder.number,
                "seed": self.config.seed,
                "log_likelihood": recorder.log_likelihood,
                "bits_per_byte": generation.bits_per_byte(recorder.log_likelihood, recorder.played),
                "samples": recorder.played,
                "prompt_samples": recorder.prompt,
                "complete": whole,
                **asdict(self.sampling),
            })  # fmt: skip
            self._write_tables()
            if self.config.plots:
                self._plot(recorder)

    def _plot(self, recorder: Recorder) -> None:
        from sashimi import plots

        path, rate = recorder.path, self.codec.config.rate
        seam = recorder.seam / rate if recorder.seam else None
        length = recorder.seam + recorder.played
        plots.spectrogram(path.with_suffix(".png"), audio.stream(path, rate), length, rate, path.stem, seam)

    def finish(self, keep: str) -> int:
        """Rank by likelihood, lowest first, and name files so; drop what `keep` says. Returns how many.

        Clips under way stay partial.
        """
        self._close(whole=False)
        self.rows.sort(key=lambda row: (row["log_likelihood"], row["clip"]))
        low, high = (int(share * self.count) for share in MIDDLE) if keep == "middle" else (0, 0)
        dropped = self.rows[:low] + self.rows[self.count - high :]
        self.rows = self.rows[low : self.count - high]
        for row in dropped:
            for path in self._files(row):
                path.unlink()
        digits = len(str(self.count))
        for rank, row in enumerate(self.rows, start=1):
            before, _, after = row["file"].rpartition("_clip")
            name = f"{before}_gen{rank:0{digits}}_clip{after}"
            for path in self._files(row):
                path.rename((self.path / name).with_suffix(path.suffix))
            row["file"] = name
        self._write_tables()
        return len(dropped)

    def _files(self, row: dict[str, Any]) -> list[Path]:
        path = self.path / row["file"]
        return [p for p in (path, path.with_suffix(".png")) if p.exists()]

    def _write_tables(self) -> None:
        if self.rows:
            with finished(self.path / TABLE) as partial, partial.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self.rows[0].keys())
                writer.writeheader()
                writer.writerows(self.rows)
        with finished(self.path / METADATA) as partial:
            text = json.dumps({**self.metadata, "clips": self.rows}, indent=1, ensure_ascii=False)
            partial.write_text(text, encoding="utf-8")


def stem(name: str, sampling: SamplingConfig, seed: int, prompt: int, steps: int, rate: int) -> str:
    """What a clip of a prompt and `steps` played samples is called before its number: what sets it apart."""
    parts = [name, "continuation" if prompt else "unconditional"]
    parts += [f"len{(prompt + steps) / rate:.2f}s"]
    parts += [f"{setting.replace('_', '')}{value:g}" for setting, value in sampling.telling().items()]
    return "_".join([*parts, f"seed{seed}"])
