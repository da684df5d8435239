"""How well lyrics are understood: a model before and after training, beside answers that need no model.

Closed tasks (artist, genre, era) are answered by choice (`choice`) among the answers of the adapter's training data;
songs with another answer are not asked about. Themes are written by the model and read back (`themes.parse`), and
held against the word list, which is no person's judgement.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from sashimi.errors import UserError
from sashimi.files import finished
from sashimi.lyrics import baselines, calibration, choice, dataset, generation, prompts, tasks, themes
from sashimi.lyrics.config import Understanding
from sashimi.lyrics.models import Loaded
from sashimi.lyrics.neighbours import Neighbours
from sashimi.lyrics.selection import SPLITS
from sashimi.lyrics.tasks import Example
from sashimi.lyrics.understanding_report import plot, section
from sashimi.progress import bar

if TYPE_CHECKING:
    from sashimi.lyrics.evaluation_settings import EvaluateSettings

GOALS = {"artist": 0.80, "genre": 0.85, "themes": 0.75}  # of the founding plan
THEME_TOKENS = 60  # an answer with three themes and three emotions has some 30
CALIBRATION = "calibration.json"


@dataclass
class UnderstandingSettings:
    """What understanding is measured on.

    data        a folder made by sashimi.lyrics.prepare
    split       whose songs are asked about;   language: only those in it; None: all
    songs       of it at most; None: all;   val_songs: of val, on which temperatures are fitted; 0: none
    batch       songs at a time
    understanding  which tasks, and how long excerpts are; one of each song is asked about, its beginning
    """

    data: Path
    split: str = "test"
    songs: int | None = 200
    val_songs: int = 200
    batch: int = 8
    seed: int = 0
    language: str | None = None
    understanding: Understanding = field(default_factory=Understanding)

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise UserError(f"split={self.split} is not one of {', '.join(SPLITS)}")
        if self.songs is not None and self.songs < 1:
            raise UserError(f"songs={self.songs} must be at least 1, or null for all")
        if self.val_songs < 0:
            raise UserError(f"val_songs={self.val_songs} must be at least 0")


def evaluate(base: Loaded | None, tuned: Loaded | None, settings: "EvaluateSettings", out: Path) -> list[str]:
    """`measure` as `sashimi.lyrics.evaluate` asks for it. Returns the sections of its report, Markdown."""
    assert settings.data.path is not None
    trained = ((tuned.card if tuned else None) or {}).get("settings") or {}
    asked = Understanding(**(trained.get("understanding") or {}))
    what = UnderstandingSettings(
        settings.data.path, settings.data.split, settings.data.songs, batch=settings.writing.batch, seed=settings.seed,
        language=settings.data.language, understanding=asked,
    )  # fmt: skip
    text = measure(base, tuned, what, out)["markdown"]
    Console(highlight=False, soft_wrap=True, markup=False).print(text)
    return [text]


def measure(
    base: Loaded | None,
    tuned: Loaded | None,
    settings: UnderstandingSettings,
    out: Path,
    console: Console | None = None,
) -> dict[str, Any]:
    """Writes understanding.md, understanding.json, reliability.png and calibration.json (of `tuned`) into `out`.

    base, tuned: before and after training; either may be missing. Returns what understanding.json holds, with the
    Markdown as "markdown". Raises UserError where there is nothing to ask.
    """
    console = console or Console(stderr=True, highlight=False)
    models = {name: loaded for name, loaded in (("before", base), ("after", tuned)) if loaded is not None}
    card = (tuned.card if tuned else None) or {}
    answers = card.get("labels") or tasks.labels(settings.data, settings.understanding)
    train = list(dataset.songs(settings.data, "train"))
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"data": settings.data.name, "split": settings.split, "tasks": {}}
    for task in settings.understanding.tasks:
        asked = _asked(settings, task, settings.split, settings.songs, answers)
        if task in tasks.CLOSED and asked:
            held = _asked(settings, task, "val", settings.val_songs, answers) if settings.split != "val" else []
            found["tasks"][task] = _closed(models, task, asked, held, answers[task], train, settings, console)
        elif task == "themes" and asked:
            found["tasks"][task] = _themes(models, asked, train, settings, console)
        elif task == "similar":
            found["tasks"][task] = _similar(train, settings)
    if not found["tasks"]:
        raise UserError(f"{settings.data} has nothing to ask in {settings.split}: see understanding.min_songs")
    plot(out / "reliability.png", found["tasks"])
    text = section(found, GOALS)
    _write(out / "understanding.md", text)
    _write(out / "understanding.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    fitted = {
        task: {key: values["after"][key] for key in ("temperature", "threshold")}
        for task, values in (
            (task, result["systems"]) for task, result in found["tasks"].items() if task in tasks.CLOSED
        )
        if "temperature" in values.get("after", {})
    }
    if fitted:
        _write(out / CALIBRATION, json.dumps({"data": found["data"], "tasks": fitted}, indent=1) + "\n")
    return {**found, "markdown": text}


def _write(path: Path, text: str) -> None:
    with finished(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _asked(
    settings: UnderstandingSettings, task: str, split: str, limit: int | None, answers: Mapping[str, Sequence[str]]
) -> list[Example]:
    """One question about every song that can be asked about."""
    if limit == 0 or task not in (*tasks.CLOSED, "themes") or (task in tasks.CLOSED and not answers.get(task)):
        return []
    one = replace(settings.understanding, excerpts=1, tasks=[task])
    try:
        return tasks.examples(settings.data, split, limit, settings.seed, settings=one, answers=answers,
                              language=settings.language)  # fmt: skip
    except UserError:
        return []


def _prompts(loaded: Loaded, asked: Sequence[Example]) -> list[str]:
    tokens = tasks.taught(loaded.tokenizer)
    return [prompts.prompt(loaded.tokenizer, tasks.question(e.task, e.text, tokens)) for e in asked]


# --- closed tasks -------------------------------------------------------------------------------------


def _closed(
    models: Mapping[str, Loaded], task: str, asked: list[Example], held: list[Example], answers: list[str],
    train: list[dataset.Song], settings: UnderstandingSettings, console: Console,
) -> dict[str, Any]:  # fmt: skip
    truth = [example.answer for example in asked]
    systems: dict[str, dict[str, Any]] = {}
    for name, given in baselines.closed(train, task, answers, [example.text for example in asked]).items():
        systems[name] = _scored(given, truth)
    for name, loaded in models.items():
        with bar(console, f"{task}, {name} training") as update:
            p = np.stack(choice.choose(loaded, _prompts(loaded, asked), answers, settings.batch, update))
        systems[name] = _scored([answers[i] for i in p.argmax(axis=1)], truth) | _calibrated(p, truth, answers, 1.0)
        if held:
            with bar(console, f"{task}, {name} training, val") as update:
                q = np.stack(choice.choose(loaded, _prompts(loaded, held), answers, settings.batch, update))
            places = [answers.index(example.answer) for example in held]
            temperature = calibration.fitted_temperature(q, places)
            soft = calibration.softened(q, temperature)
            sure = calibration.threshold(soft.max(axis=1), soft.argmax(axis=1) == places)
            systems[name] |= {"temperature": temperature, "threshold": sure, "fitted_on": len(held),
                              "after_temperature": _calibrated(p, truth, answers, temperature)}  # fmt: skip
    return {"songs": len(asked), "answers": len(answers), "systems": systems}


def _scored(given: Sequence[str], truth: Sequence[str]) -> dict[str, Any]:
    right = sum(a == b for a, b in zip(given, truth, strict=True))
    low, high = calibration.wilson(right, len(truth))
    return {"right": right, "accuracy": right / len(truth), "low": low, "high": high,
            "macro_f1": float(f1_score(truth, list(given), average="macro", zero_division=0))}  # fmt: skip


def _calibrated(p: NDArray[np.float64], truth: Sequence[str], answers: list[str], temperature: float) -> dict[str, Any]:
    soft = calibration.softened(p, temperature)
    places = np.array([answers.index(answer) for answer in truth])
    confidence, right = soft.max(axis=1), soft.argmax(axis=1) == places
    likelihood = soft[np.arange(len(truth)), places]
    return {
        "calibration_error": calibration.expected_error(confidence, right),
        "nll": float(-np.log(np.maximum(likelihood, calibration.FLOOR)).mean()),
        "bins": [asdict(b) for b in calibration.reliability(confidence, right)],
    }


# --- open tasks ---------------------------------------------------------------------------------------


def _themes(
    models: Mapping[str, Loaded], asked: list[Example], train: list[dataset.Song], settings: UnderstandingSettings,
    console: Console,
) -> dict[str, Any]:  # fmt: skip
    truth = [themes.parse(example.answer) for example in asked]
    texts = [example.text for example in asked]
    limit = settings.understanding.max_chars
    systems = {name: _overlap(given, truth) for name, given in baselines.themed(train, texts, limit).items()}
    sampling = generation.Sampling(temperature=0, max_tokens=THEME_TOKENS)
    for name, loaded in models.items():
        with bar(console, f"themes, {name} training") as update:
            written = generation.write_many(loaded, _prompts(loaded, asked), sampling, settings.batch, update)
        systems[name] = _overlap([themes.parse(answer.text) for answer in written], truth)
    return {"songs": len(asked), "systems": systems}


def _overlap(given: Sequence[themes.Labels], truth: Sequence[themes.Labels]) -> dict[str, Any]:
    """jaccard: mean share of the labels of both that both have (1 where neither has any); exact: the same labels."""
    shares = [len(a.all & b.all) / len(a.all | b.all) if a.all | b.all else 1.0
              for a, b in zip(given, truth, strict=True)]  # fmt: skip
    names = MultiLabelBinarizer(classes=[*themes.THEMES, *themes.EMOTIONS])
    rows, wanted = names.fit_transform([a.all for a in given]), names.transform([b.all for b in truth])
    exact = sum(a.all == b.all for a, b in zip(given, truth, strict=True))
    low, high = calibration.wilson(exact, len(truth))
    return {
        "jaccard": float(np.mean(shares)),
        "micro_f1": float(f1_score(wanted, rows, average="micro", zero_division=0)),
        "exact": exact / len(truth),
        "low": low,
        "high": high,
    }


def _similar(train: list[dataset.Song], settings: UnderstandingSettings) -> dict[str, Any]:
    """How often the nearest song of train shares artist or genre, and how often any song of train would. No model."""
    asked = tasks.chosen(settings.data, settings.split, settings.songs, settings.seed, settings.language)
    nearest, _ = Neighbours([song.lyrics for song in train]).nearest([song.lyrics for song in asked])
    result: dict[str, Any] = {"songs": len(asked), "systems": {}}
    for what in ("artist", "genre"):
        stated = [(getattr(song, what), getattr(train[row[0]], what)) for song, row in zip(asked, nearest, strict=True)]
        stated = [pair for pair in stated if pair[0]]
        if stated:
            every = [getattr(song, what) for song in train]
            right = sum(a == b for a, b in stated)
            low, high = calibration.wilson(right, len(stated))
            chance = float(np.mean([every.count(a) / len(every) for a, _ in stated]))
            result["systems"][what] = {"accuracy": right / len(stated), "low": low, "high": high, "chance": chance}
    return result
