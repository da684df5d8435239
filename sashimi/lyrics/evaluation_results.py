"""What an evaluation has found, before it is reported."""

from dataclasses import dataclass, field
from typing import Any

from sashimi.lyrics.copying import Copied
from sashimi.lyrics.dataset import Song
from sashimi.lyrics.evaluation_settings import EvaluateSettings
from sashimi.lyrics.measures import Figures
from sashimi.lyrics.perplexity import Scored

REAL = "real lyrics"


@dataclass
class Column:
    """What one model wrote when it was asked in one way, or the real lyrics.

    figures    of every song, by names of measures.MEASURES
    copied     the longest span of every text that is in the training songs, with the title of that song
    """

    name: str
    texts: list[str]
    figures: list[Figures]
    copied: list[tuple[Copied, str] | None]
    corpus_bleu: float | None = None
    scored: list[Scored] | None = None

    def values(self, measure: str) -> list[float | None]:
        return [figures.get(measure) for figures in self.figures]


@dataclass
class Results:
    """notes: what a reader has to know of how this was measured."""

    settings: EvaluateSettings
    base: str
    data: str
    songs: list[Song]
    columns: list[Column]
    card: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)
