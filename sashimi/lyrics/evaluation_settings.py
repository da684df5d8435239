"""What `python -m sashimi.lyrics.evaluate` can be told; configs/evaluate.yaml explains every key."""

from dataclasses import dataclass, field
from pathlib import Path

from sashimi.errors import UserError
from sashimi.lyrics.config import DTYPES, QUANTISE
from sashimi.lyrics.selection import SPLITS
from sashimi.settings import at_least, one_of


@dataclass
class Base:
    """name: hub id, folder or .gguf; None: the adapter's base;   quantise: none, nf4;   dtype: of the computation."""

    name: str | None = None
    quantise: str = "none"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        one_of("model.quantise", self.quantise, QUANTISE)
        one_of("model.dtype", self.dtype, DTYPES)


@dataclass
class HeldOut:
    """
    path      a folder made by sashimi.lyrics.prepare;   split: which of its songs;   language: only those in it
    songs     at most so many; None: all
    request   title: the title alone is given; full: artist and genre as well
    """

    path: Path | None = None
    split: str = "test"
    songs: int | None = 100
    language: str | None = None
    request: str = "title"

    def __post_init__(self) -> None:
        one_of("data.split", self.split, SPLITS)
        one_of("data.request", self.request, ("title", "full"))
        at_least("data.songs", self.songs, 1)


@dataclass
class Writing:
    """temperature, top_p, max_tokens, repetition_penalty: of sampling;   batch: texts at a time."""

    temperature: float = 0.8
    top_p: float = 0.95
    max_tokens: int = 400
    repetition_penalty: float = 1.0
    batch: int = 8

    def __post_init__(self) -> None:
        at_least("writing.batch", self.batch, 1)


@dataclass
class Similarity:
    """name: of a sentence-transformers model, None: all-MiniLM-L6-v2;   use: whether cosines are measured at all."""

    name: str | None = None
    use: bool = True


@dataclass
class EvaluateSettings:
    """
    adapter     a folder made by sashimi.lyrics.train; None: the base alone
    out         a new or empty folder; None: evaluations/lyrics/DATE
    perplexity  also of the real lyrics, given the request
    """

    adapter: Path | None = None
    out: Path | None = None
    seed: int = 0
    model: Base = field(default_factory=Base)
    data: HeldOut = field(default_factory=HeldOut)
    writing: Writing = field(default_factory=Writing)
    perplexity: bool = True
    embedding: Similarity = field(default_factory=Similarity)

    def __post_init__(self) -> None:
        at_least("seed", self.seed, 0)
        if self.data.path is None:
            raise UserError("data.path is not set; give a folder made by sashimi.lyrics.prepare")
        if self.adapter is None and not self.model.name:
            raise UserError("set adapter=FOLDER, or model.name=NAME for a base alone")
