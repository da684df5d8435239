"""Write lyrics to a title, on the terminal as they come.

With --adapter, or with the newest adapter of a finished run that writes in the language, the model is asked as it was
in training. With --model alone, a model as it is, the prompt describes the task first. The same settings write the
same text again; text 2 of --copies is text 1 of the next seed. Exit status: 0, or 2 if nothing could be written.
"""

import argparse
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sashimi.cli import reported_errors
from sashimi.errors import UserError
from sashimi.files import finished
from sashimi.lyrics import languages

if TYPE_CHECKING:
    from sashimi.lyrics.generation import Sampling
    from sashimi.lyrics.models import Loaded
    from sashimi.lyrics.prompts import Request

BETWEEN = "\n\n---\n\n"  # texts in a file
MOST_COPIES = 1000


@dataclass(frozen=True)
class Choice:
    """A model to write with. name: as `models.load` takes it; said: for people, why this one."""

    name: str
    adapter: Path | None
    said: str


def choose(model: str | None, adapter: Path | None, language: str, runs: Path) -> Choice:
    """What to write with. Raises UserError where there is nothing.

    model alone: as it is; adapter alone: on the base that its card names; neither: the newest adapter that fits.
    """
    from sashimi.lyrics import adapters, trained

    if adapter is not None:
        card = adapters.read(adapter)
        if card["task"] != "writing":
            raise UserError(f"{adapter} was trained for {card['task']}, not for writing; choose another adapter")
        name = model or str(card["base"]["name"])
        return Choice(name, adapter, f"writing with {adapter} on {name}")
    if model is not None:
        return Choice(model, None, f"writing with {model} as it is, without an adapter")
    found = trained.fitting(runs, language)
    if found is None:
        others = trained.trained(runs, "writing")
        there = f"only {others[0].path}, which learnt another language; name it with --adapter" if others else "none"
        raise UserError(
            f"no adapter that writes {languages.name(language)} was found in {runs}: {there}. Train one with "
            "python -m sashimi.lyrics.train, or give a --model to use as it is"
        )
    return Choice(found.base, found.path, f"writing with {found.path}, the newest for {languages.name(language)}")


def asked(loaded: "Loaded", request: "Request") -> str:
    """The prompt for a request: in short for an adapted model, with the task described for one as it is."""
    from sashimi.lyrics import prompts

    text = prompts.instruction(request) if loaded.adapter else prompts.described(request)
    return prompts.prompt(loaded.tokenizer, text)


def write(loaded: "Loaded", request: "Request", sampling: "Sampling", copies: int = 1) -> list[str]:
    """Texts, printed as they come; what is to be said about them goes to stderr."""
    from sashimi.lyrics.generation import stream

    prompt, texts = asked(loaded, request), []
    for number in range(copies):
        if number:
            print("\n---\n")
        pieces = stream(loaded, prompt, replace(sampling, seed=sampling.seed + number))
        while True:
            try:
                print(next(pieces), end="", flush=True)
            except StopIteration as over:
                written = over.value
                break
        print(flush=True)
        if not written.text:
            _note("the model ended before it wrote anything; try another --seed or a higher --temperature")
        elif not written.ended:
            _note(f"cut off at {written.tokens} tokens; --length sets how many there may be")
        texts.append(written.text)
    return texts


def _note(text: str) -> None:
    print(f"({text})", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sashimi.lyrics.write",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("title", metavar="TITLE", help="of the song")
    add("--language", default="en", metavar="CODE", help="of the song, as en or pt (default en)")
    add("--artist", metavar="NAME", help="in whose manner")
    add("--genre", metavar="NAME", help="as rock, folk")
    add("--first-line", metavar="TEXT", help="how it begins")
    add("--model", metavar="NAME", help="a hub id, a folder or a .gguf file (default: the adapter's base)")
    add("--adapter", type=Path, metavar="FOLDER", help="as sashimi.lyrics.train made it (default: the newest)")
    add("--runs", type=Path, default=Path("runs/lyrics"), metavar="FOLDER", help="where adapters are looked for "
        "(default %(default)s)")  # fmt: skip
    add("--quantise", choices=("none", "nf4"), default="none", help="nf4: weights in 4 bits (default none)")
    add("--temperature", type=float, default=0.8, metavar="T", help="0: always the likeliest token (default 0.8)")
    add("--top-p", type=float, default=0.95, metavar="P", help="the likeliest tokens with this share (default 0.95)")
    add("--repetition-penalty", type=float, default=1.0, metavar="R", help="1 is off, 1.1 a little (default 1)")
    add(
        "--length", type=int, default=400, metavar="TOKENS", help="at most so many; a song has 200 to 600 (default 400)"
    )
    add("--seed", type=int, default=0, metavar="N", help="another number, another text (default 0)")
    add("--copies", type=int, default=1, metavar="N", help="texts, one after another (default 1)")
    add("--out", type=Path, metavar="FILE.txt", help="keep the texts in a file as well")
    return parser


def main() -> None:
    given = _parser().parse_args()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # bars of loading fill a log
    for output in (sys.stdout, sys.stderr):
        output.reconfigure(errors="replace")  # type: ignore[union-attr]
    with reported_errors():
        try:
            _run(given)
        except KeyboardInterrupt:
            print(f"\nstopped{'; nothing was written to ' + str(given.out) if given.out else ''}", file=sys.stderr)
            raise


def _run(given: argparse.Namespace) -> None:
    """What is wrong with the request is said before a model is loaded."""
    from sashimi.lyrics.generation import Sampling
    from sashimi.lyrics.prompts import Request

    sampling = Sampling(given.temperature, given.top_p, given.length, given.seed, given.repetition_penalty)
    language = languages.required(given.language)
    if not given.title.strip():
        raise UserError("the title is empty")
    request = Request(given.title, language, given.artist, given.genre, given.first_line)
    if not 1 <= given.copies <= MOST_COPIES:
        raise UserError(f"--copies is {given.copies}; it must lie between 1 and {MOST_COPIES}")
    if given.out is not None and given.out.is_dir():
        raise UserError(f"--out {given.out} is a folder; name a file in it")
    choice = choose(given.model, given.adapter, language, given.runs)
    _note(choice.said)
    from sashimi.lyrics import models

    loaded = models.load(choice.name, adapter=choice.adapter, quantise=given.quantise)
    texts = write(loaded, request, sampling, given.copies)
    if given.out is not None:
        with finished(given.out) as path:
            path.write_text(BETWEEN.join(texts) + "\n", encoding="utf-8")
        _note(f"written to {given.out}")


if __name__ == "__main__":
    main()
