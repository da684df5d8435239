"""Clips that come with the program: checkpoints/clips/NAME.flac (or .mp3, .wav), and NAME.md that says where from."""

from dataclasses import dataclass
from pathlib import Path

from sashimi import checkpoint

CLIPS = checkpoint.SHIPPED / "clips"
TYPES = {".flac": "audio/flac", ".mp3": "audio/mpeg", ".wav": "audio/wav"}


@dataclass(frozen=True)
class Clip:
    path: Path
    provenance: str

    @property
    def name(self) -> str:
        return self.path.stem.replace("-", " ")

    @property
    def media(self) -> str:
        return TYPES[self.path.suffix]


def clips() -> list[Clip]:
    """In the order of their names. One without its text is left out: nobody could say what it is."""
    found = [(path, path.with_suffix(".md")) for path in sorted(CLIPS.glob("*")) if path.suffix in TYPES]
    return [Clip(path, text.read_text(encoding="utf-8").strip()) for path, text in found if text.is_file()]
