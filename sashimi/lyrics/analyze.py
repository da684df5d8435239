"""What can be said about a text: python -m sashimi.lyrics.analyze FILE --adapter ADAPTER

Every line says how it is known: by the model, with its probability, among the answers of its training data and no
others; measured, that is counted; by word list; or nearest by shared words. A model's answer below the probability
that held-out songs showed to be reliable is called unsure. Without --adapter only what needs no model is said.
Exit status: 0, or 2 where the file cannot be read.
"""

import argparse
import codecs
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from sashimi.cli import reported_errors
from sashimi.errors import UserError
from sashimi.files import finished
from sashimi.lyrics import dataset, languages, neighbours, style, tasks, themes
from sashimi.lyrics.cleaning import clean, unreadable
from sashimi.lyrics.config import QUESTIONS, Understanding
from sashimi.lyrics.sections import sung
from sashimi.lyrics.settings import LONGEST_ORDINARY

if TYPE_CHECKING:
    from sashimi.lyrics.models import Loaded

LARGEST = 2**20  # bytes of a file
SURE = 0.5  # probability below which an answer is unsure, where no held-out songs said another
SHOWN = 3  # answers with their probabilities
_NAMES = {"artist": "Artist", "genre": "Genre or form", "era": "Era"}
_MANY = {"artist": "artists", "genre": "genres", "era": "periods"}


@dataclass(frozen=True)
class Line:
    """what: is answered; answer: for a person; source: how it is known; probabilities: of a model's likeliest answers;
    sure: None where nothing is guessed."""

    what: str
    answer: str
    source: str
    probabilities: dict[str, float] | None = None
    sure: bool | None = None


def read(path: Path, encoding: str = "utf-8") -> str:
    """The prepared text of a file. Raises UserError for what is no song: empty, binary, another encoding, too long."""
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise UserError(f"there is no encoding {encoding}; try utf-8, cp1252, latin-1, shift_jis ...") from None
    if not path.is_file():
        raise UserError(f"{path} is a folder; give a text file" if path.is_dir() else f"there is no {path}")
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes; a song has fewer than {LARGEST:,}")
    raw = path.read_bytes()
    marked = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = raw.decode("utf-16" if marked else encoding)
    except UnicodeDecodeError as error:
        binary = b"\0" in raw
        hint = "is it a text file?" if binary else "name its encoding, as in --encoding cp1252"
        raise UserError(f"{path} cannot be read as {encoding} (byte {error.start}); {hint}") from None
    reason = unreadable(text)
    if reason:
        raise UserError(f"{path} is not a readable text: {reason}; is it a text file, and --encoding {encoding} right?")
    if not text.strip():
        raise UserError(f"{path} is empty")
    text = clean(text.removeprefix("\ufeff"))
    if not any(c.isalpha() for line in sung(text) for c in line):
        raise UserError(f"{path} has no words in it")
    if len(text) > LONGEST_ORDINARY:
        raise UserError(f"{path} has {len(text):,} characters; a song has at most {LONGEST_ORDINARY:,}, give a part")
    return text


def analyze(
    text: str,
    loaded: "Loaded | None" = None,
    data: Path | None = None,
    language: str | None = None,
    calibration: Path | None = None,
) -> list[Line]:
    """What can be said about a text, whoever wrote it down (it is cleaned first).

    data: a set of songs, for similar ones; None: those that the adapter learnt from. calibration: a file as
    `understanding_evaluation` writes it for this adapter; None: calibration.json in its folder. Raises UserError for
    either where it is damaged.
    """
    text = clean(text)
    identified, probability = languages.identify("\n".join(sung(text)))
    lines = [
        Line("Language", languages.name(language), "stated")
        if language
        else Line("Language", languages.name(identified), f"identified by its letters, {probability:.0%}")
    ]
    why = None
    if loaded is not None:
        card = loaded.card or {}
        lines += _answered(text, loaded, card, _calibration(calibration, loaded.adapter))
        if data is None:
            data, why = _trained_on(card)
    lines += _themes(text, language or identified)
    lines.append(Line("Form", str(style.measure(text)), style.SOURCE))
    if data is not None:
        lines += _similar(text, data)
    elif why:
        lines.append(Line("Similar songs", "left out", why))
    return lines


def _answered(text: str, loaded: "Loaded", card: Mapping[str, Any], calibration: Mapping[str, Any]) -> list[Line]:
    from sashimi.lyrics import choice, prompts
    from sashimi.lyrics.calibration import softened

    known = card.get("labels") or {}
    taught = (card.get("settings") or {}).get("understanding", {}).get("tasks") or QUESTIONS
    shown = tasks.excerpts(text, Understanding(excerpts=1))[0]
    part = "" if shown == text else f"; it read the first {len(shown):,} characters"
    lines = []
    for task in tasks.CLOSED:
        options = list(known.get(task, ()))
        if task not in taught or len(options) < 2:
            lines.append(Line(_NAMES[task], "not asked", f"the model was not trained on {_MANY[task]}"))
            continue
        asked = tasks.question(task, shown, tasks.taught(loaded.tokenizer))
        p = choice.choose(loaded, [prompts.prompt(loaded.tokenizer, asked)], options)[0]
        fitted = calibration.get("tasks", {}).get(task)
        if fitted:
            p, least = softened(p, fitted["temperature"]), fitted["threshold"]
            how = "calibrated on held-out songs"
        else:
            least, how = SURE, "not calibrated"
        best = {options[i]: float(p[i]) for i in (-p).argsort(kind="stable")[:SHOWN]}
        sure = least is not None and max(best.values()) >= least
        listed = ", ".join(f"{name} {share:.0%}" for name, share in best.items())
        among = f"model, among the {len(options)} {_MANY[task]} of its training data, knowing no others; {how}{part}"
        lines.append(Line(_NAMES[task], listed if sure else f"not sure; likeliest {listed}", among, best, sure))
    return lines


def _themes(text: str, language: str) -> list[Line]:
    if language[:2] not in themes.LANGUAGES:
        why = f"no word list for {languages.name(language)}"
        return [Line("Themes", "not looked for", why), Line("Emotions", "not looked for", why)]
    found = themes.label(text, language)
    return [
        Line("Themes", ", ".join(found.themes) or "none found", themes.SOURCE),
        Line("Emotions", ", ".join(found.emotions) or "none found", themes.SOURCE),
    ]


def _similar(text: str, data: Path) -> list[Line]:
    known = [song for song in dataset.songs(data, "train") if song.title]
    if not known:
        return [Line("Similar songs", "left out", f"{data} has no titles")]
    places, alike = neighbours.Neighbours([song.lyrics for song in known]).nearest([text], tasks.SIMILAR)
    found = [f"{tasks.named(known[i])} ({a:.2f})" for i, a in zip(places[0], alike[0], strict=True) if a > 0]
    return [Line("Similar songs", "; ".join(found) or "none shares a word", f"{neighbours.SOURCE} in {data.name}")]


def _trained_on(card: Mapping[str, Any]) -> tuple[Path | None, str]:
    """The data that an adapter learnt from, where it is still there and the same; else why not."""
    path = ((card.get("settings") or {}).get("data") or {}).get("path")
    if not path or not (Path(path) / dataset.DATASET).is_file():
        return None, "the songs that the adapter learnt from are not here; name them with --data"
    stated = (card.get("data") or {}).get("content_hash")
    if stated and dataset.described(Path(path))["content_hash"] != stated:
        return None, f"{path} has other songs now than the adapter learnt from; name a set with --data"
    return Path(path), ""


def _calibration(named: Path | None, adapter: Path | None) -> Mapping[str, Any]:
    """That of a file, or the adapter's own; empty where it has none."""
    path = named or (adapter and adapter / "calibration.json")
    if path is None or (named is None and not path.is_file()):
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for fitted in found["tasks"].values():
            float(fitted["temperature"]), fitted["threshold"]
        return dict(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no calibration.json of an evaluation ({error!r})") from None


# --- the command line ---------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    settings = _parser().parse_args(arguments)
    with reported_errors():
        console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
        text = read(settings.file, settings.encoding)
        language = settings.language and languages.required(settings.language)
        loaded = None
        if settings.adapter:
            from sashimi.lyrics import adapters, models

            card = adapters.read(settings.adapter)
            if card["task"] != "understanding":
                raise UserError(f"{settings.adapter} was trained for {card['task']}, not for understanding")
            name = settings.model or card["base"]["name"]
            console.print(f"loading {name}")
            loaded = models.load(name, adapter=settings.adapter, quantise=settings.quantise, dtype=settings.dtype)
        elif settings.model:
            raise UserError("--model needs --adapter: its training data say which artists and genres there are")
        lines = analyze(text, loaded, settings.data, language, settings.calibration)
        if loaded is None and settings.data is None:
            lines.append(Line("Similar songs", "left out", "no --data was given"))
        _show(lines)
        if settings.json:
            with finished(settings.json) as partial:
                said = {"file": settings.file.name, "lines": [asdict(line) for line in lines]}
                partial.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sashimi.lyrics.analyze", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("file", type=Path, metavar="FILE", help="a text file with lyrics")
    parser.add_argument("--adapter", type=Path, help="made by sashimi.lyrics.train experiment=understanding")
    parser.add_argument("--model", help="the adapter's base, where it is called otherwise now")
    parser.add_argument("--data", type=Path, help="a set of songs, for similar ones (default: the adapter's)")
    parser.add_argument("--calibration", type=Path, help="calibration.json of an evaluation (default: the adapter's)")
    parser.add_argument("--language", help="of the text, as en or pt (default: identified)")
    parser.add_argument("--encoding", default="utf-8", help="of FILE (default: %(default)s)")
    parser.add_argument("--quantise", default="none", choices=("none", "nf4"))
    parser.add_argument("--dtype", default="auto", choices=("auto", "bf16", "fp16", "fp32"))
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all of it there too")
    return parser


def _show(lines: Sequence[Line]) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    width = max(len(line.what) for line in lines)
    for line in lines:
        console.print(f"{line.what:<{width}}  {line.answer}")
        console.print(f"{'':<{width}}  ({line.source})", style="dim")


if __name__ == "__main__":
    main()
