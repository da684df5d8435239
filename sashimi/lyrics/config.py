"""What the companion's training can be told, as dataclasses. YAML with the defaults: sashimi/lyrics/configs."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from sashimi.errors import UserError
from sashimi.files import finished
from sashimi.lyrics.cleaning import LINE_LIMIT
from sashimi.settings import at_least, one_of

CONFIGS = Path(__file__).parent.absolute() / "configs"
TASKS = ("writing", "understanding")
QUESTIONS = ("artist", "genre", "themes", "era", "style", "similar")
QUANTISE = ("none", "nf4")
DTYPES = ("auto", "bf16", "fp16", "fp32")
REPORTERS = ("none", "tensorboard", "wandb")


@dataclass
class Model:
    """The model that is adapted.

    name      id on the Hugging Face hub, a folder, a .gguf file, or OWNER/NAME/FILE.gguf on the hub
    quantise  none, or nf4: weights held in 4 bits (QLoRA)
    dtype     of the computation: auto, bf16, fp16, fp32
    control_tokens  teach it the tokens [ARTIST] [GENRE] [THEME] [ERA] [VERSE] [CHORUS] [BRIDGE]
    """

    name: str = "Qwen/Qwen2.5-0.5B-Instruct"
    quantise: str = "none"
    dtype: str = "auto"
    control_tokens: bool = False

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise UserError("model.name is empty; give a hub id, a folder or a .gguf file")
        one_of("model.quantise", self.quantise, QUANTISE)
        one_of("model.dtype", self.dtype, DTYPES)


@dataclass
class Data:
    """Songs to learn from.

    path        a folder made by sashimi.lyrics.prepare
    songs       of the training split, at most so many: every language and genre in proportion; None: all
    val_songs   the same for the validation split
    language    only songs in this one, as en or pt; None: all
    artist      only this artist's; None: all
    max_tokens  of prompt and song together; a longer song is cut and learns no ending
    """

    path: Path | None = None
    songs: int | None = None
    val_songs: int | None = 200
    language: str | None = None
    artist: str | None = None
    max_tokens: int = 768

    def __post_init__(self) -> None:
        at_least("data.songs", self.songs, 1)
        at_least("data.val_songs", self.val_songs, 1)
        at_least("data.max_tokens", self.max_tokens, 32)


@dataclass
class Lora:
    """The adapter.

    r, alpha  rank, and strength: the change is scaled by alpha / r
    dropout   on the adapter's input
    targets   names of the layers that are adapted; all: every linear layer but the output
    """

    r: int = 16
    alpha: int = 32
    dropout: float = 0.05
    targets: list[str] = field(default_factory=lambda: ["all"])

    def __post_init__(self) -> None:
        at_least("lora.r", self.r, 1)
        at_least("lora.alpha", self.alpha, 1)
        if not 0 <= self.dropout < 1:
            raise UserError(f"lora.dropout={self.dropout} must be from 0 to below 1")
        if not self.targets:
            raise UserError("lora.targets is empty; give names of layers, or [all]")
        if "all" in self.targets and len(self.targets) > 1:
            raise UserError("lora.targets: all stands alone; give [all], or names of layers")


@dataclass
class Understanding:
    """What a model is asked about lyrics.

    tasks            of artist, genre, themes, era, style, similar
    excerpts         of a song, at most, each with its own questions; short songs have one
    max_chars        of an excerpt, which ends with a whole line
    artists, genres  names at most that are asked for, the commonest
    min_songs        of an artist or a genre in train, below which it is not asked for
    """

    tasks: list[str] = field(default_factory=lambda: list(QUESTIONS))
    excerpts: int = 2
    max_chars: int = 1000
    artists: int = 50
    genres: int = 20
    min_songs: int = 10

    def __post_init__(self) -> None:
        for task in self.tasks:
            if task not in QUESTIONS:
                raise UserError(f"understanding.tasks has {task}; there are {', '.join(QUESTIONS)}")
        if not self.tasks:
            raise UserError(f"understanding.tasks is empty; choose of {', '.join(QUESTIONS)}")
        least_of = {"excerpts": 1, "max_chars": LINE_LIMIT, "artists": 2, "genres": 2, "min_songs": 1}
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise UserError(f"understanding.{name}={getattr(self, name)} must be at least {least}")


@dataclass
class Training:
    """How it learns.

    epochs        passes over the songs
    lr            peak learning rate;   schedule: cosine, linear or constant
    warmup        steps up to the peak; below 1: their share of all steps
    batch         songs at a time, on each device: 1 pads nothing, best on a CPU; 8 or more on a GPU
    accumulate    batches that make one step
    eval_batch    songs at a time in validation; changes no figure
    weight_decay  of AdamW;   max_grad_norm: gradients are clipped to it
    optimizer     auto: paged where CUDA and nf4 are in use; adamw; paged_adamw
    loss          completion: on the song alone; all: on the prompt too
    gradient_checkpointing  less memory for a third more time
    save_every    steps between saves to go on from, besides every epoch
    keep          how many such saves stay
    log_every     steps between lines of steps.jsonl
    """

    epochs: int = 3
    lr: float = 2e-4
    schedule: str = "cosine"
    warmup: float = 0.05
    batch: int = 1
    accumulate: int = 16
    eval_batch: int = 4
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    optimizer: str = "auto"
    loss: str = "completion"
    gradient_checkpointing: bool = False
    save_every: int = 50
    keep: int = 2
    log_every: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate", "eval_batch", "save_every", "keep", "log_every"):
            at_least(f"training.{name}", getattr(self, name), 1)
        at_least("training.warmup", self.warmup, 0)
        at_least("training.weight_decay", self.weight_decay, 0)
        if not 0 < self.lr < 1:
            raise UserError(f"training.lr={self.lr} must be above 0 and below 1, as 2e-4")
        if not self.max_grad_norm > 0:
            raise UserError(f"training.max_grad_norm={self.max_grad_norm} must be above 0")
        one_of("training.schedule", self.schedule, ("cosine", "linear", "constant"))
        one_of("training.optimizer", self.optimizer, ("auto", "adamw", "paged_adamw"))
        one_of("training.loss", self.loss, ("completion", "all"))


@dataclass
class TrainSettings:
    """`python -m sashimi.lyrics.train`. configs/train.yaml explains every key and holds the defaults.

    name       what the run is called: runs_dir/NAME/DATE
    task       writing, or understanding
    seed       of the adapter's first weights, the order of the songs and what their requests name
    resume     auto: go on with the newest unfinished run of this name; or a run's folder
    report_to  none, tensorboard or wandb
    """

    name: str = "lyrics"
    task: str = "writing"
    seed: int = 0
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    understanding: Understanding = field(default_factory=Understanding)
    lora: Lora = field(default_factory=Lora)
    training: Training = field(default_factory=Training)
    runs_dir: Path = Path("runs/lyrics")
    resume: Path | None = None
    report_to: str = "none"

    def __post_init__(self) -> None:
        one_of("task", self.task, TASKS)
        one_of("report_to", self.report_to, REPORTERS)
        at_least("seed", self.seed, 0)
        if not self.name or self.name != Path(self.name).name or self.name.startswith("."):
            raise UserError(f"name={self.name} must be the name of one folder")


def write_settings(path: Path, settings: TrainSettings) -> None:
    """As YAML, with absolute paths."""
    import yaml

    values = asdict(settings)
    values["data"]["path"] = str(settings.data.path and settings.data.path.absolute())
    values |= {"runs_dir": str(settings.runs_dir), "resume": None}
    with finished(path) as partial:
        partial.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")


def read_settings(path: Path) -> TrainSettings:
    """What `write_settings` wrote. Raises UserError for damage."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        parts = {"model": Model, "understanding": Understanding, "lora": Lora, "training": Training}
        built = {name: kind(**values.pop(name)) for name, kind in parts.items()}
        data = values.pop("data")
        built["data"] = Data(**{**data, "path": Path(data["path"])})
        return TrainSettings(**{**values, **built, "runs_dir": Path(values["runs_dir"])})
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); begin a new run") from None
