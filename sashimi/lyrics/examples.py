"""Songs of a data set -> tokens to learn from: a prompt, its answer, and what the loss is on."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sashimi.errors import UserError
from sashimi.lyrics import dataset, prompts
from sashimi.lyrics.config import Data, TrainSettings
from sashimi.lyrics.dataset import Song
from sashimi.lyrics.selection import name_key, stratified_order, unit

IGNORED = -100  # a label that is not learnt


@dataclass
class Encoded:
    """rows: of input_ids and labels, lists of one length; cut: songs that were; dropped: that had no room at all."""

    rows: list[dict[str, list[int]]]
    cut: int = 0
    dropped: int = 0

    @property
    def tokens(self) -> int:
        return sum(len(row["input_ids"]) for row in self.rows)


def chosen(data: Data, split: str, limit: int | None) -> list[Song]:
    """Songs of a split, at most `limit` of them, every language and genre in proportion, in the order of the file.

    The same data and settings give the same songs. Raises UserError where there are none.
    """
    assert data.path is not None
    keys, strata, places = [], [], []
    kinds: dict[tuple[str, str | None], int] = {}
    for place, song in enumerate(_wanted(data, split)):
        keys.append(int(unit(song.id) * 2**56))
        strata.append(kinds.setdefault((song.language, song.genre), len(kinds)))
        places.append(place)
    if not places:
        asked = ", ".join(f"data.{k}={v}" for k in ("language", "artist") if (v := getattr(data, k)) is not None)
        raise UserError(f"{data.path} has no song in {split}.jsonl" + (f" with {asked}" if asked else ""))
    order = stratified_order(np.array(keys, np.uint64), np.array(strata, np.int64))[:limit]
    taken = set(order.tolist())
    return [song for place, song in enumerate(_wanted(data, split)) if place in taken]


def _wanted(data: Data, split: str) -> Iterator[Song]:
    assert data.path is not None
    artist = data.artist and name_key(data.artist)
    for song in dataset.songs(data.path, split):
        if data.language in (None, song.language) and (artist is None or artist == name_key(song.artist or "")):
            yield song


def written(tokenizer: Any, songs: list[Song], max_tokens: int, loss: str, seed: int) -> Encoded:
    """For task=writing. A song that is longer than `max_tokens` is cut and has no end token: it did not end there."""
    pairs = [(prompts.instruction(prompts.asked(song, seed)), song.lyrics) for song in songs]
    return encoded(tokenizer, pairs, max_tokens, loss, cut=True)


def encoded(tokenizer: Any, pairs: list[tuple[str, str]], max_tokens: int, loss: str, cut: bool) -> Encoded:
    """Requests and answers as tokens. What is too long is cut at its end, or dropped where `cut` is false.

    loss: completion, on the answer and its end token alone; all, on the prompt too.
    """
    end = prompts.end_ids(tokenizer)[0]
    asked = tokenizer([prompts.prompt(tokenizer, text) for text, _ in pairs], add_special_tokens=False)["input_ids"]
    answers = tokenizer([answer for _, answer in pairs], add_special_tokens=False)["input_ids"]
    found = Encoded([])
    for prompt, answer in zip(asked, answers, strict=True):
        tokens = [*prompt, *answer, end]
        if len(tokens) > max_tokens:
            if not cut or len(prompt) >= max_tokens:
                found.dropped += 1
                continue
            found.cut += 1
            tokens = tokens[:max_tokens]
        labels = tokens if loss == "all" else [IGNORED] * len(prompt) + tokens[len(prompt) :]
        found.rows.append({"input_ids": list(tokens), "labels": list(labels)})
    return found


def load(s: TrainSettings, tokenizer: Any, split: str, limit: int | None) -> Encoded:
    """The examples of a split, of `limit` songs at most. Raises UserError where none is left."""
    data, loss, seed = s.data, s.training.loss, s.seed
    assert data.path is not None
    path: Path = data.path
    if s.task == "writing":
        found = written(tokenizer, chosen(data, split, limit), data.max_tokens, loss, seed)
    else:
        from sashimi.lyrics import tasks

        asked = tasks.examples(
            path, split, limit, seed, settings=s.understanding, language=data.language, artist=data.artist,
            control_tokens=s.model.control_tokens,
        )  # fmt: skip
        pairs = [(example.prompt, example.answer) for example in asked]
        found = encoded(tokenizer, pairs, data.max_tokens, loss, cut=False)
    if not found.rows:
        raise UserError(
            f"{path} has nothing in {split}.jsonl that fits data.max_tokens={data.max_tokens}; raise it"
            if found.dropped
            else f"{path} has nothing to learn in {split}.jsonl for task={s.task}"
        )
    return found
