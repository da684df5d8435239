"""What can be set, as dataclasses. YAML files and command lines become these at the entry points."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from sashimi.errors import UserError
from sashimi.settings import at_least, build, one_of

LAYER_KINDS = ("s4", "s4d")
INITS = ("legs", "lin", "inv")
DT_TRANSFORMS = ("softplus", "exp")
# How a layer runs over a sequence: by itself, or by a convolution with its kernel.
SCANS = ("recurrence", "chunked")
KERNELS = ("two_level", "keops", "torch")
BACKENDS = (*SCANS, *KERNELS)
ENGINES = ("native", "eager")
SPLITS = ("train", "val", "test")
DISCRETIZATIONS = ("zoh", "bilinear")

T = TypeVar("T")


@dataclass
class LayerConfig:
    """One S4 layer. Defaults are those of the published SaShiMi, but for the kind: docs/experiments.md.

    kind            s4: diagonal plus low rank; s4d: diagonal
    init            legs (both kinds), lin, inv (s4d)
    discretization  null: bilinear for s4, zero-order hold (zoh) for s4d
    dt_min, dt_max  range of the initial step sizes
    dt_transform    dt = softplus or exp of its parameter
    n_ssm           copies of (A, B) shared by the channels; must divide every tier's width
    backend         how layers run: auto, recurrence, chunked, two_level, keops, torch
    """

    kind: str = "s4d"
    init: str = "legs"
    discretization: str | None = None
    dt_min: float = 0.001
    dt_max: float = 0.1
    dt_transform: str = "softplus"
    n_ssm: int = 1
    backend: str = "auto"

    def __post_init__(self) -> None:
        one_of("model.layer.kind", self.kind, LAYER_KINDS)
        one_of("model.layer.init", self.init, INITS if self.kind == "s4d" else ("legs",))
        one_of("model.layer.dt_transform", self.dt_transform, DT_TRANSFORMS)
        one_of("model.layer.backend", self.backend, ("auto", *BACKENDS))
        if self.discretization is None:
            self.discretization = "zoh" if self.kind == "s4d" else "bilinear"
        choices = DISCRETIZATIONS if self.kind == "s4d" else ("bilinear",)
        one_of("model.layer.discretization", self.discretization, choices)
        if not 0 < self.dt_min <= self.dt_max:
            raise UserError(f"model.layer.dt_min={self.dt_min} and dt_max={self.dt_max}: need 0 < dt_min <= dt_max")
        at_least("model.layer.n_ssm", self.n_ssm, 1)


@dataclass
class ModelConfig:
    """SaShiMi. Defaults are those of the published 8-block model.

    d_model   width of the top tier; each tier below is `expand` times wider
    n_layers  pairs of S4 block and feed-forward block a tier
    pool      pooling factors from the top tier down
    ff        feed-forward expansion; 0: none
    d_state   state size N of an S4 layer, counting both of each conjugate pair
    glu       gated linear unit after an S4 layer, else linear
    vocab     number of tokens, 2^bits of the codec
    """

    d_model: int = 64
    n_layers: int = 8
    pool: list[int] = field(default_factory=lambda: [4, 4])
    expand: int = 2
    ff: int = 2
    d_state: int = 64
    dropout: float = 0.0
    glu: bool = True
    vocab: int = 256
    layer: LayerConfig = field(default_factory=LayerConfig)

    def __post_init__(self) -> None:
        for name in ("d_model", "n_layers", "expand"):
            at_least(f"model.{name}", getattr(self, name), 1)
        at_least("model.ff", self.ff, 0)
        at_least("model.vocab", self.vocab, 2)
        if self.d_state < 2 or self.d_state % 2:
            raise UserError(f"model.d_state={self.d_state} must be even and at least 2")
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout={self.dropout} must be at least 0 and below 1")
        if any(p < 2 for p in self.pool):
            raise UserError(f"model.pool={self.pool}: every factor must be at least 2")
        if self.d_model % self.layer.n_ssm:
            raise UserError(f"model.layer.n_ssm={self.layer.n_ssm} must divide model.d_model={self.d_model}")


@dataclass
class CodecConfig:
    """Waveform to tokens and back.

    bits       2^bits tokens
    law        mu-law or linear
    rate       samples a second
    normalize  none, or window: every window is min-max scaled by itself, as in the published code
    window     samples in such a window; null: training takes data.window
    """

    bits: int = 8
    law: str = "mu-law"
    rate: int = 16000
    normalize: str = "none"
    window: int | None = None

    def __post_init__(self) -> None:
        one_of("codec.law", self.law, ("mu-law", "linear"))
        one_of("codec.normalize", self.normalize, ("none", "window"))
        if not 2 <= self.bits <= 8:
            raise UserError(f"codec.bits={self.bits} must be 2 to 8: a token is one byte")
        at_least("codec.rate", self.rate, 1)
        at_least("codec.window", self.window, 1)


@dataclass
class SamplingConfig:
    """How a token is drawn from the model's distribution. Truncations apply after the temperature, all at once.

    temp    temperature; 0: greedy, always the most likely token
    top_k   keep the k most likely tokens; 0: all
    top_p   keep the most likely tokens until their probability reaches top_p
    min_p   drop tokens less likely than min_p times the most likely one
    floor   drop tokens less likely than this
    entropy  bits from which on the temperature falls, as entropy over that of the distribution, so that a model draws
            with care where it is unsure; 0: never
    """

    temp: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    floor: float = 0.0
    entropy: float = 0.0

    def __post_init__(self) -> None:
        at_least("temp", self.temp, 0)
        at_least("entropy", self.entropy, 0)
        at_least("top_k", self.top_k, 0)
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} must be above 0 and at most 1")
        for name in ("min_p", "floor"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 0 and below 1")

    def telling(self) -> dict[str, float]:
        """The temperature, and the settings that change something."""
        plain = asdict(SamplingConfig())
        return {name: value for name, value in asdict(self).items() if name == "temp" or value != plain[name]}

    def __str__(self) -> str:
        """As people read it, and as the command line takes it."""
        return " ".join(f"{name}={value:g}" for name, value in self.telling().items())


@dataclass
class SamplingChoice:
    """The settings of SamplingConfig that a user chose; null: as the checkpoint says that it is best played."""

    temp: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    floor: float | None = None
    entropy: float | None = None

    def __post_init__(self) -> None:
        self.sampling(SamplingConfig())

    def sampling(self, suggested: SamplingConfig) -> SamplingConfig:
        """What was chosen, and what is suggested where nothing was."""
        chosen = {name: getattr(self, name) for name in asdict(suggested)}
        return replace(suggested, **{name: value for name, value in chosen.items() if value is not None})


@dataclass
class EngineConfig:
    """What plays the model.

    name       native (compiled on first use; eager where that cannot be), or eager (plain torch)
    precision  fp32, or bf16: the dense weights rounded to bfloat16, all else in fp32; native only.
               null: bf16 where the engine has it, for it is faster and costs nothing that is heard
    threads    at most; null: as many as torch uses
    """

    name: str = "native"
    precision: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        one_of("engine.name", self.name, ENGINES)
        one_of("engine.precision", self.precision, (None, "fp32", "bf16"))
        if self.name == "eager" and self.precision == "bf16":
            raise UserError(f"engine.precision={self.precision} needs engine.name=native")
        at_least("engine.threads", self.threads, 1)


@dataclass
class DataConfig:
    """The recordings of an experiment.

    dir      a data set of data_tools.prepare, or a folder of audio files: what a run is about, and scored on
    also     further data sets, heard in training only
    weights  of dir, then of each in also: their shares of the training windows; null: as they are long
    window   samples in a training window
    batch    windows in a training batch, on each device
    carry_state  whether each window of a batch goes on where that of the batch before ended, with the state it left
    jitter   noise on what the model hears, not on what it is to predict, in training: its standard deviation in
             levels of the codec, drawn for every window from 0 to this. The model learns to go on without the noise
             that its own playing brings in (LPCNet trains so: Valin and Skoglund, arXiv:1810.11846)
    gaps     share of the training windows in which silence, or a fade, goes before one of their notes: so the model
             learns how silence ends and that tones die away. When silence comes is not learnt from them; train/bpb
             counts it
    """

    dir: Path | None = None
    also: list[Path] = field(default_factory=list)
    weights: list[float] | None = None
    window: int = 131072
    batch: int = 1
    carry_state: bool = False
    jitter: float = 0.0
    gaps: float = 0.0

    def __post_init__(self) -> None:
        at_least("data.window", self.window, 2)
        at_least("data.jitter", self.jitter, 0)
        if not 0 <= self.gaps <= 1:
            raise UserError(f"data.gaps={self.gaps} is a share, from 0 to 1")
        at_least("data.batch", self.batch, 1)
        if self.carry_state and self.also:
            raise UserError("data.carry_state=true walks through one data set: leave out data.also")
        if self.weights is None:
            return
        given, count = f"data.weights={self.weights}".replace(" ", ""), 1 + len(self.also)
        if not self.also:
            raise UserError(f"{given} weighs several data sets: name the others, data.also=[FOLDER]")
        if len(self.weights) != count:
            raise UserError(f"{given}: give {count}, one for data.dir and one for each in data.also")
        if not all(math.isfinite(weight) and weight > 0 for weight in self.weights):
            raise UserError(f"{given} must all be above 0; leave a data set out of data.also instead")


@dataclass
class ExperimentConfig:
    """What every entry point shares: the experiment's name, model, codec and data."""

    name: str = "sashimi"
    model: ModelConfig = field(default_factory=ModelConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    data: DataConfig = field(default_factory=DataConfig)
    runs_dir: Path = Path("runs")
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise UserError(f"seed={self.seed} must be at least 0 and below 2^64")


@dataclass
class OptimizerConfig:
    """AdamW. ssm_lr: the learning rate of A, B and dt, at most lr; they take no weight decay."""

    lr: float = 1e-3
    ssm_lr: float = 1e-3
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("lr", "ssm_lr"):
            if not getattr(self, name) > 0:
                raise UserError(f"optimizer.{name}={getattr(self, name)} must be above 0")
        at_least("optimizer.weight_decay", self.weight_decay, 0)


@dataclass
class SchedulerConfig:
    """How the learning rates change.

    name      plateau: times `factor` after `patience` validations without progress, as published;
              cosine: down to nothing over the run; constant
    warmup    steps of linear warm-up, before any of them
    """

    name: str = "plateau"
    warmup: int = 0
    patience: int = 20
    factor: float = 0.2

    def __post_init__(self) -> None:
        one_of("scheduler.name", self.name, ("plateau", "cosine", "constant"))
        at_least("scheduler.warmup", self.warmup, 0)
        at_least("scheduler.patience", self.patience, 0)
        if not 0 < self.factor < 1:
            raise UserError(f"scheduler.factor={self.factor} must be above 0 and below 1")


@dataclass
class TrainerConfig:
    """How long and on what. Steps are optimizer steps; null where an epoch is meant, one pass over the windows.

    max_steps      null: max_epochs
    val_every      steps between validations; null: an epoch
    val_window     samples in a window of validation, longer than one of training where the state is carried: short ones
                   measure how a model begins; null: data.window
    val_windows    windows of the validation split to score, spread evenly; null: all
    save_every     steps between saves of last.ckpt, besides every validation
    sample_every   steps between clips that the model plays, to hear how it comes along; null: none
    sample_seconds of such a clip
    wandb          project at Weights & Biases to log to, beside TensorBoard; null: none
    gradient_clip  by norm; 0: none
    accumulate     batches whose gradients make one step
    ema            decay of a running mean of the weights, which is scored, played and kept as best; null: none
    activation_checkpointing  keep the activations of one block at a time and compute the others again where
                   gradients need them: half the memory, 40% slower, the same numbers
    precision      32-true or bf16-mixed
    accelerator, devices, strategy   as Lightning's Trainer takes them
    """

    max_steps: int | None = None
    max_epochs: int = 1000
    val_every: int | None = None
    val_window: int | None = None
    val_windows: int | None = None
    save_every: int = 500
    sample_every: int | None = 1000
    sample_seconds: float = 1.0
    log_every: int = 10
    wandb: str | None = None
    gradient_clip: float = 0.0
    accumulate: int = 1
    ema: float | None = None
    activation_checkpointing: bool = False
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"

    def __post_init__(self) -> None:
        for name in (
            "max_steps",
            "max_epochs",
            "val_every",
            "val_window",
            "val_windows",
            "save_every",
            "sample_every",
            "log_every",
            "accumulate",
        ):
            at_least(f"trainer.{name}", getattr(self, name), 1)
        at_least("trainer.devices", self.devices, 1)
        at_least("trainer.sample_seconds", self.sample_seconds, 0.01)
        at_least("trainer.gradient_clip", self.gradient_clip, 0)
        if self.ema is not None and not 0 < self.ema < 1:
            raise UserError(f"trainer.ema={self.ema} must be above 0 and below 1")
        one_of("trainer.precision", self.precision, ("32-true", "bf16-mixed"))


@dataclass
class TrainConfig(ExperimentConfig):
    """`python train.py`. configs/train.yaml explains every key and holds the defaults.

    resume     auto: go on with the newest unfinished run of the experiment; or a run directory
    init_from  start from a checkpoint's weights, with its model settings and codec
    """

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    resume: Path | None = None
    init_from: Path | None = None


# What an experiment says for init_from where one must be given. (OmegaConf's ??? gives way to train.yaml's null.)
REQUIRED = Path("required")

# What train.yaml says and only training reads: the other entry points start from the same file.
TRAINING_ONLY = {f.name for f in fields(TrainConfig)} - {f.name for f in fields(ExperimentConfig)}


@dataclass
class GenerateConfig(SamplingChoice, ExperimentConfig):
    """`python generate.py`. configs/generate.yaml explains every key and holds the defaults."""

    checkpoint_path: Path | None = None
    dt_transform: str | None = None
    n_samples: int = 4
    n_free: int = 0
    n_reps: int = 1
    n_batch: int | None = None
    l_sample: int | None = None
    clips: list[int] | None = None
    load_data: bool = True
    split: str = "val"
    l_prefix: int = 0
    prompt: Path | None = None
    prompt_start: float = 0.0
    prompt_end: float | None = None
    include_prompt: bool = True
    save_dir: Path | None = None
    overwrite: bool = False
    format: str = "wav"
    keep: str = "all"
    plots: bool = False
    again: Path | None = None
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        SamplingChoice.__post_init__(self)
        ExperimentConfig.__post_init__(self)
        if self.dt_transform is not None:
            one_of("dt_transform", self.dt_transform, DT_TRANSFORMS)
        for name in ("n_samples", "n_reps", "n_batch", "l_sample"):
            at_least(name, getattr(self, name), 1)
        for name in ("n_free", "l_prefix", "prompt_start"):
            at_least(name, getattr(self, name), 0)
        one_of("split", self.split, SPLITS)
        one_of("format", self.format, ("wav", "flac"))
        one_of("keep", self.keep, ("all", "middle"))
        if self.prompt_end is not None and self.prompt_end <= self.prompt_start:
            raise UserError(f"prompt_end={self.prompt_end} must be after prompt_start={self.prompt_start}")
        if self.l_prefix and self.prompt:
            raise UserError("prompt= and l_prefix= both give a beginning; use one")
        if self.l_prefix and not self.load_data:
            raise UserError(f"l_prefix={self.l_prefix} takes its beginnings from data.dir: it needs load_data=true")
        for clip in () if self.again else self.clips or ():  # the folder named by again= says how many there are
            if not 0 <= clip < (count := (self.n_samples + self.n_free) * self.n_reps):
                raise UserError(f"clips={self.clips}: clip numbers run from 0 to {count - 1}")


@dataclass
class EvaluationConfig:
    """How checkpoints are scored.

    window   tokens in a window; the headline is cold: every window starts from nothing
    batch    windows at a time; changes no figure
    splits   of the data set; none: nothing is scored
    carried  also score with the state carried from window to window
    yardstick_minutes  of each split, that linear prediction hears beside the models; null: all; 0: no yardsticks
    """

    window: int = 131072
    batch: int = 1
    splits: list[str] = field(default_factory=lambda: ["test", "val"])
    carried: bool = True
    yardstick_minutes: float | None = 120.0

    def __post_init__(self) -> None:
        at_least("evaluation.window", self.window, 1)
        at_least("evaluation.yardstick_minutes", self.yardstick_minutes, 0)
        at_least("evaluation.batch", self.batch, 1)
        for split in self.splits:
            one_of("evaluation.splits", split, SPLITS)


@dataclass
class SurvivalConfig(SamplingChoice):
    """What rollout=true plays, and how samples are drawn, as everywhere.

    clips         that start from nothing
    continued     clips besides, that continue beginnings of test recordings; measured from where they are played
    prompt        seconds of such a beginning
    seconds       played of each clip
    keep          whether the clips stay, as FLAC, beside the tables
    memorisation  whether each clip is also looked up in the training set
    """

    clips: int = 16
    continued: int = 0
    prompt: float = 5.0
    seconds: float = 60.0
    keep: bool = False
    memorisation: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("clips", "continued"):
            at_least(f"survival.{name}", getattr(self, name), 0)
        if not self.clips + self.continued:
            raise UserError("survival.clips=0 and survival.continued=0 leave nothing to play; raise one")
        if not self.prompt > 0:
            raise UserError(f"survival.prompt={self.prompt} must be above 0; for none set survival.continued=0")
        at_least("survival.seconds", self.seconds, 8)


@dataclass
class EvaluateConfig(ExperimentConfig):
    """`python evaluate.py`. configs/evaluate.yaml explains every key and holds the defaults.

    rollout   also play the models, and measure how long their music stays music; survival: how
    """

    checkpoints: list[Path] = field(default_factory=list)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    rollout: bool = False
    survival: SurvivalConfig = field(default_factory=SurvivalConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    save_dir: Path | None = None


def build_settings(cls: type[T], composed: Mapping[str, Any]) -> T:
    """`build` for an entry point's composed settings: what only training reads is left out elsewhere."""
    unread = TRAINING_ONLY - {f.name for f in fields(cls)}  # type: ignore[arg-type]
    return build(cls, {key: value for key, value in composed.items() if key not in unread})
