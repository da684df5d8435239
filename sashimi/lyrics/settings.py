"""What of a collection of lyrics is used."""

from dataclasses import dataclass

from sashimi.errors import UserError
from sashimi.lyrics import languages

LONGEST_ORDINARY = 8000  # characters; a rap of six minutes has some 6,000


@dataclass(frozen=True)
class Settings:
    """
    languages   codes or names of those to keep; empty keeps all
    min_chars, max_chars, min_lines   of a prepared text
    per_artist  songs at most of one artist; songs: in all, a stratified sample by language and genre
    even        as many songs of every genre as there are, rather than in proportion
    split       title or artist: what never is in two splits;   held_out: share of val, and of test
    near        songs that share this much of their three-word groups (Jaccard) are one; 1 is off
    """

    languages: tuple[str, ...] = ()
    min_chars: int = 80
    max_chars: int = LONGEST_ORDINARY
    min_lines: int = 4
    per_artist: int | None = None
    songs: int | None = None
    even: bool = False
    split: str = "title"
    held_out: float = 0.05
    near: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "languages", tuple(g if g == languages.UNKNOWN else languages.required(g) for g in self.languages)
        )
        if not 0 < self.held_out < 0.5:
            raise UserError(f"the share held out is {self.held_out:g}; it must lie between 0 and 0.5")
        if not 0.2 <= self.near <= 1:
            raise UserError(f"--near is {self.near:g}; it must lie between 0.2 and 1")
        if not 0 < self.min_chars <= self.max_chars:
            raise UserError(f"a text cannot have from {self.min_chars} to {self.max_chars} characters")
        for name in ("per_artist", "songs", "min_lines"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} is {value}; it must be 1 or more")
