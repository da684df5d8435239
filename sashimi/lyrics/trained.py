"""The adapters that local training runs left, RUNS/NAME/DATE/adapter, and which of them fits. Reads no weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sashimi.errors import UserError
from sashimi.lyrics import adapters, languages

FINISHED = "finished.json"  # in a run's folder once its training is over


@dataclass(frozen=True)
class Trained:
    """languages: codes of what it learnt, empty where the card does not say; base: as `models.load` takes it."""

    path: Path
    task: str
    base: str
    languages: tuple[str, ...]
    made: float  # seconds since 1970

    @property
    def title(self) -> str:
        """For people: name of the run, date, what it learnt."""
        spoken = f" ({', '.join(map(languages.name, self.languages))})" if self.languages else ""
        run = self.path.parent
        return f"{run.parent.name} {run.name}{spoken} on {Path(self.base).name}"


def trained(runs: Path, task: str) -> list[Trained]:
    """The newest first. What is unfinished or damaged is left out: naming it to `models.load` says what is wrong."""
    found = []
    for card in sorted(runs.glob(f"*/*/adapter/{adapters.CARD}")):
        if not (card.parents[1] / FINISHED).is_file():
            continue
        try:
            values = adapters.read(card.parent)
            if values["task"] == task:
                made = card.stat().st_mtime
                found.append(Trained(card.parent, task, str(values["base"]["name"]), _languages(values), made))
        except (UserError, OSError, KeyError):
            continue
    return sorted(found, key=lambda one: (one.made, str(one.path)), reverse=True)


def fitting(runs: Path, language: str) -> Trained | None:
    """The newest adapter for writing in a language; one that does not say which it learnt fits too."""
    return next((one for one in trained(runs, "writing") if not one.languages or language in one.languages), None)


def _languages(card: dict[str, Any]) -> tuple[str, ...]:
    """What training was held to, else codes of at least a tenth of the songs: a few strays teach no language."""
    held = ((card.get("settings") or {}).get("data") or {}).get("language")
    if held:
        return (str(held),)
    counts = card.get("data", {}).get("languages") or {}
    if not isinstance(counts, dict):
        return tuple(counts)
    return tuple(code for code, songs in counts.items() if songs >= 0.1 * sum(counts.values()))
