"""A base and its adapter side by side on held-out songs: what they write, measured; `evaluate`'s work."""

import gc
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from sashimi.errors import UserError
from sashimi.lyrics import (
    adapters,
    before_after,
    dataset,
    evaluation_report,
    examples,
    measures,
    overlap,
    prompts,
)
from sashimi.lyrics.config import Data
from sashimi.lyrics.copying import Index
from sashimi.lyrics.dataset import Song
from sashimi.lyrics.evaluation_results import REAL, Column, Results
from sashimi.lyrics.evaluation_settings import EvaluateSettings
from sashimi.lyrics.models import Loaded, load
from sashimi.lyrics.perplexity import score
from sashimi.lyrics.prompts import Request
from sashimi.progress import bar

FEW = 20  # songs
STYLES = {"plain": prompts.instruction, "described": prompts.described}  # the request alone; the task described first


def evaluate(settings: EvaluateSettings, experiment: str | None = None) -> Path:
    """Writes, measures and reports. Returns the folder: report.md with its plots, before-after.html, results.json,
    songs.jsonl.

    Raises UserError for data, adapters and models that cannot be used, before anything is written.
    """
    console = Console(highlight=False, soft_wrap=True, markup=False)
    out = settings.out or Path("evaluations") / "lyrics" / time.strftime("%Y%m%d-%H%M%S")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty; give a new folder with out=")
    path = settings.data.path
    assert path is not None
    card = adapters.read(settings.adapter) if settings.adapter else None
    described = dataset.described(path)
    name = settings.model.name or (card or {})["base"]["name"]
    notes = _notes(card, described, settings)
    data = str(described.get("name", path.name))
    with dataset.swapped(out) as folder:
        match card["task"] if card else "writing":
            case "writing":
                _writing(settings, name, data, card, notes, folder, console)
            case "understanding":
                assert card is not None
                _understanding(settings, name, card, notes, folder)
            case task:
                raise UserError(f"{settings.adapter} was trained for the task {task}, which this program does not know")
    console.print(f"saved in    {out}: {', '.join(sorted(p.name for p in out.iterdir()))}")
    return out


def _understanding(settings: EvaluateSettings, name: str, card: dict[str, Any], notes: list[str], folder: Path) -> None:
    from sashimi.lyrics import understanding_evaluation

    of = settings.model
    base, tuned = (
        load(name, adapter=adapter, quantise=of.quantise, dtype=of.dtype) for adapter in (None, settings.adapter)
    )
    sections = understanding_evaluation.evaluate(base, tuned, settings, folder)
    evaluation_report.write_understanding(folder, name, card, notes, sections)


def _notes(card: dict[str, Any] | None, described: dict[str, Any], settings: EvaluateSettings) -> list[str]:
    notes = []
    trained = ((card or {}).get("data") or {}).get("content_hash")
    if card and trained != described["content_hash"]:
        notes.append(
            f"The adapter was trained on another data set ({(card.get('data') or {}).get('name')}) than the one it is "
            "evaluated on: nothing says that these songs were held out of its training, and copied spans are looked up "
            "in the training songs of this one."
        )
    if settings.data.songs is not None and settings.data.songs < FEW:
        notes.append(f"Of fewer than {FEW} songs, means say little, and their intervals are too narrow.")
    if settings.data.split != "test":
        notes.append(f"The songs are those of {settings.data.split}, not of test.")
    return notes


def _writing(
    settings: EvaluateSettings, name: str, data: str, card: dict[str, Any] | None, notes: list[str], folder: Path,
    console: Console,
) -> None:  # fmt: skip
    path = settings.data.path
    assert path is not None
    songs = examples.chosen(Data(path=path, language=settings.data.language), settings.data.split, settings.data.songs)
    requests = [request(song, settings.data.request) for song in songs]
    train = list(dataset.songs(path, "train"))
    index = Index(song.lyrics for song in train)
    results = Results(settings, Path(name).name if Path(name).exists() else name, data, songs, [], card, notes)
    results.columns.append(_real(songs, index, train))
    models = {"base": None} | ({"fine-tuned": settings.adapter} if settings.adapter else {})
    for model, adapter in models.items():
        loaded = load(name, adapter=adapter, quantise=settings.model.quantise, dtype=settings.model.dtype)
        for style, ask in STYLES.items():
            asked = [prompts.prompt(loaded.tokenizer, ask(one)) for one in requests]
            column = _written(loaded, f"{model}, {style}", asked, songs, settings, index, train, console)
            results.columns.append(column)
        del loaded
        gc.collect()
    _add_cosines(results)
    evaluation_report.write(folder, results)
    before_after.write(folder, results)
    _save(folder, results)
    evaluation_report.show(results, console)


def request(song: Song, given: str) -> Request:
    """given: title, or full; a song without a title is asked for by its first line."""
    language = song.language if song.language != "und" else "en"
    first = next((line for line in song.lyrics.split("\n") if line and line[0] != "["), None)
    more = {"artist": song.artist, "genre": song.genre} if given == "full" else {}
    return Request(song.title, language, first_line=first if song.title is None else None, **more)


def _written(
    loaded: Loaded, name: str, asked: list[str], songs: Sequence[Song], settings: EvaluateSettings, index: Index,
    train: Sequence[Song], console: Console,
) -> Column:  # fmt: skip
    from sashimi.lyrics.generation import Sampling, write_many

    w = settings.writing
    sampling = Sampling(
        temperature=w.temperature, top_p=w.top_p, max_tokens=w.max_tokens, seed=settings.seed,
        repetition_penalty=w.repetition_penalty,
    )  # fmt: skip
    with bar(console, f"{name}: writing") as update:
        written = write_many(loaded, asked, sampling, w.batch, update)
    column = _column(name, [one.text for one in written], songs, index, train)
    for one, figures in zip(written, column.figures, strict=True):
        figures["ended"] = float(one.ended)
    _add_overlap(column, column.texts, songs)
    if settings.perplexity:
        with bar(console, f"{name}: perplexity") as update:
            column.scored = score(loaded, asked, [song.lyrics for song in songs], update)
    return column


def _real(songs: Sequence[Song], index: Index, train: Sequence[Song]) -> Column:
    """The real lyrics; their overlap is that of another song's, which is what is reached without knowing the title."""
    column = _column(REAL, [song.lyrics for song in songs], songs, index, train)
    others = _others(songs)
    _add_overlap(column, [other.lyrics if other else None for other in others], songs)
    return column


def _others(songs: Sequence[Song]) -> list[Song | None]:
    """For each song the next one in its language, around the end; None for one that has no other."""
    by_language: dict[str, list[Song]] = {}
    for song in songs:
        by_language.setdefault(song.language, []).append(song)
    following = {song.id: alike[(i + 1) % len(alike)] for alike in by_language.values() for i, song in enumerate(alike)}
    return [None if following[song.id] is song else following[song.id] for song in songs]


def _add_overlap(column: Column, texts: Sequence[str | None], songs: Sequence[Song]) -> None:
    pairs = [(text, song.lyrics) for text, song in zip(texts, songs, strict=True)]
    for figures, (text, real) in zip(column.figures, pairs, strict=True):
        if text is not None:
            figures |= {"bleu": overlap.bleu(text, real), **overlap.rouge(text, real)}
    known = [(text, real) for text, real in pairs if text is not None]
    column.corpus_bleu = overlap.corpus_bleu(*map(list, zip(*known, strict=True))) if known else None


def _column(name: str, texts: list[str], songs: Sequence[Song], index: Index, train: Sequence[Song]) -> Column:
    figures = [measures.form(text, song.language) for text, song in zip(texts, songs, strict=True)]
    found = [index.longest(text) for text in texts]
    shared = measures.shared_lines(texts)
    for own, copied, lines in zip(figures, found, shared, strict=True):
        own |= {"copied": float(copied.words if copied else 0), "shared_lines": lines}
    titled = [(copied, _called(train[copied.song])) if copied else None for copied in found]
    return Column(name, texts, figures, titled)


def _called(song: Song) -> str:
    return ", ".join(filter(None, (song.title, song.artist))) or song.id


def _add_cosines(results: Results) -> None:
    if not results.settings.embedding.use:
        return
    model = overlap.embedding(results.settings.embedding.name)
    if isinstance(model, str):
        results.notes.append(f"No cosine similarity: {model}.")
        return
    reals = model.vectors([song.lyrics for song in results.songs])
    for column in results.columns:
        texts = column.texts
        if column.name == REAL:
            texts = [other.lyrics if other else "" for other in _others(results.songs)]
        for figures, value in zip(column.figures, overlap.cosines(model, texts, reals), strict=True):
            figures["cosine"] = value


def _save(folder: Path, results: Results) -> None:
    """results.json: the figures of all songs together; songs.jsonl: every text with its own."""
    settings = json.loads(json.dumps(asdict(results.settings), default=str))
    values = {"kind": "lyrics evaluation", "base": results.base, "data": results.data, "settings": settings,
              "notes": results.notes, **evaluation_report.summary(results)}  # fmt: skip
    (folder / "results.json").write_text(json.dumps(values, ensure_ascii=False, indent=1), encoding="utf-8")
    with (folder / "songs.jsonl").open("w", encoding="utf-8") as file:
        for i, song in enumerate(results.songs):
            columns = {
                column.name: {
                    "text": column.texts[i], "figures": column.figures[i],
                    "copied": _span(column, i),
                    "scored": column.scored and asdict(column.scored[i]),
                }
                for column in results.columns
            }  # fmt: skip
            line = {"id": song.id, "title": song.title, "language": song.language, "columns": columns}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _span(column: Column, i: int) -> dict[str, str] | None:
    found = column.copied[i]
    return {"words": found[0].text, "song": found[1]} if found else None
