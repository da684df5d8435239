"""Questions about lyrics and their answers, for training and for measuring a model's understanding.

Every answer is grounded: `Example.source` says in what. The data's own fields (artist, genre, a year), a count
(`style`), a word list (`themes`), or shared words (`neighbours`). Nothing is said of a song that nobody knows.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sashimi.errors import UserError
from sashimi.lyrics import dataset, neighbours, style, themes
from sashimi.lyrics.cleaning import clean
from sashimi.lyrics.config import Understanding
from sashimi.lyrics.dataset import Song
from sashimi.lyrics.sections import marker
from sashimi.lyrics.selection import name_key, unit
from sashimi.lyrics.tokens import neutral

CLOSED = ("artist", "genre", "era")  # one answer out of a list: `labels`
STATED = "stated by the data"
SIMILAR = 3  # songs that the answer to `similar` names
MASK = "___"

_QUESTIONS = {
    "artist": "Who wrote these lyrics? Answer with the name alone.",
    "genre": "Which genre or form of text is this? Answer with its name alone.",
    "themes": f"Which themes and emotions do the words of these lyrics speak of? Themes: {', '.join(themes.THEMES)}. "
    f"Emotions: {', '.join(themes.EMOTIONS)}. Answer as: themes: ...; emotions: ...",
    "era": "When were these lyrics written, or when did their author die? Answer with the period alone.",
    "style": "Describe the form of these lyrics by what can be counted.",
    "similar": f"Name {SIMILAR} songs of the collection that share words with these lyrics.",
}
# What asks for the answer at a prompt's end: a control token of the founding plan, and in plain words.
_FIELDS = {
    "artist": ("[ARTIST]", "Artist:"), "genre": ("[GENRE]", "Genre:"), "themes": ("[THEME]", "Themes and emotions:"),
    "era": ("[ERA]", "Era:"), "style": ("Form:", "Form:"), "similar": ("Similar songs:", "Similar songs:"),
}  # fmt: skip
_SECTION_TOKENS = {"Verse": "[VERSE]", "Chorus": "[CHORUS]", "Bridge": "[BRIDGE]"}


@dataclass(frozen=True)
class Example:
    """prompt: a user's message, for `prompts.prompt`; answer: what a model should say; source: how it is known;
    text: the excerpt that the prompt holds."""

    prompt: str
    answer: str
    task: str
    song_id: str
    source: str = STATED
    text: str = ""


def labels(folder: Path, settings: Understanding | None = None) -> dict[str, list[str]]:
    """The answers of the closed tasks, {"artist": [...], "genre": [...], "era": [...]}, the commonest in train first.

    A task that has fewer than two answers has an empty list. Raises UserError for what is no set of songs.
    """
    settings = settings or Understanding()
    counts: dict[str, Counter[str]] = {task: Counter() for task in CLOSED}
    for song in dataset.songs(folder, "train"):
        for task in CLOSED:
            answer = stated(song, task)
            if answer:
                counts[task][answer] += 1
    most = {"artist": settings.artists, "genre": settings.genres, "era": None}
    found = {}
    for task, counted in counts.items():
        ranked = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
        names = [name for name, n in ranked if n >= settings.min_songs][: most[task]]
        found[task] = names if len(names) > 1 else []
    return found


def stated(song: Song, task: str) -> str | None:
    """What the data says of a song, as the answer to a closed task; None where it says nothing."""
    match task:
        case "artist":
            return song.artist
        case "genre":
            return song.genre
        case _:
            return era(song)


def era(song: Song) -> str | None:
    """Of a song with a year, its decade; of one with its author's death year, the half century of that; else None."""
    year = _year(song.about.get("year"))
    if year:
        return f"written in the {year // 10 * 10}s"
    died = _year(song.about.get("author_died"))
    return f"author died between {died // 50 * 50} and {died // 50 * 50 + 49}" if died else None


def _year(value: Any) -> int | None:
    found = re.fullmatch(r"\s*(\d{4})(?:\D.*)?", str(value))  # 1999, 1999-12-31, "1999.0"
    year = int(found[1]) if found else 0
    return year if 1000 <= year < 2100 else None


def question(task: str, lyrics: str, control_tokens: bool = False) -> str:
    """The prompt of a task about lyrics, whoever wrote them down: they are cleaned first, so that the only control
    tokens are ours."""
    text = clean(lyrics)
    if control_tokens:
        text = "\n".join(_section_token(line) for line in text.split("\n"))
    return f"{_QUESTIONS[task]}\n\nLyrics:\n{text}\n\n{_FIELDS[task][0 if control_tokens else 1]}"


def taught(tokenizer: Any) -> bool:
    """Whether a model's tokenizer has the control tokens: it is asked with them then, as it was trained."""
    return _FIELDS["artist"][0] in tokenizer.get_vocab()


def _section_token(line: str) -> str:
    found = marker(line)
    return _SECTION_TOKENS.get(found[0], line) if found else line


def masked(lyrics: str, artist: str | None) -> str:
    """Lyrics without their artist's name. A name of one word counts only in its own capitals: "Queen", not "queen"."""
    if not artist:
        return lyrics
    flags = re.IGNORECASE if " " in artist else 0
    return re.sub(rf"(?<!\w){re.escape(artist)}(?!\w)", MASK, lyrics, flags=flags)


def excerpts(lyrics: str, settings: Understanding, seed: int = 0, key: str = "") -> list[str]:
    """Whole lines of at most settings.max_chars in all: the beginning, and others from where a stanza begins.

    The same for the same seed and key. A text that fits has one, itself.
    """
    if len(lyrics) <= settings.max_chars:
        return [lyrics]
    lines = lyrics.split("\n")
    starts = [i for i in range(1, len(lines)) if lines[i] and (not lines[i - 1] or marker(lines[i]))]
    starts = starts or [i for i in range(1, len(lines)) if lines[i]]
    starts.sort(key=lambda i: unit(f"{seed} {key} {i}"))
    return [_from(lines, start, settings.max_chars) for start in [0, *starts[: settings.excerpts - 1]]]


def _from(lines: Sequence[str], start: int, limit: int) -> str:
    taken, size = [], -1
    for line in lines[start:]:
        size += len(line) + 1
        if size > limit:
            break
        taken.append(line)
    while len(taken) > 1 and (not taken[-1] or marker(taken[-1])):  # a marker of what is not there
        taken.pop()
    return "\n".join(taken)


def examples(
    folder: Path,
    split: str,
    limit: int | None = None,
    seed: int = 0,
    *,
    settings: Understanding | None = None,
    answers: Mapping[str, Sequence[str]] | None = None,
    language: str | None = None,
    artist: str | None = None,
    control_tokens: bool = False,
) -> list[Example]:
    """Questions and answers about the songs of a split, those of one song together.

    limit: songs at most, chosen by hash of the seed; answers: of the closed tasks, instead of `labels`; language,
    artist: only their songs; control_tokens: mark fields and sections by the plan's tokens ([ARTIST], [CHORUS]), not by
    words. The same arguments give the same list. Labels and neighbours are those of train, whatever the split. Raises
    UserError for what is no set of songs, and where no question can be asked.
    """
    settings = settings or Understanding()
    songs = chosen(folder, split, limit, seed, language, artist)
    known = {task: frozenset(names) for task, names in (answers or labels(folder, settings)).items()}
    similar = _similar(folder, songs) if "similar" in settings.tasks else {}
    found = [example for song in songs for example in _about(song, settings, seed, known, similar, control_tokens)]
    if not found:
        raise UserError(
            f"{folder} gives no example of {', '.join(settings.tasks)} in {split}: artists and genres need "
            f"{settings.min_songs} songs in train each (understanding.min_songs), eras a year"
        )
    return found


def chosen(
    folder: Path, split: str, limit: int | None, seed: int, language: str | None = None, artist: str | None = None
) -> list[Song]:
    """The songs of a split, or `limit` of them by hash, in the order of hashes."""
    songs = (
        song
        for song in dataset.songs(folder, split)
        if language in (None, song.language) and (artist is None or name_key(artist) == name_key(song.artist or ""))
    )
    return sorted(songs, key=lambda song: (unit(f"{seed} {song.id}"), song.id))[:limit]


def _about(
    song: Song,
    settings: Understanding,
    seed: int,
    known: dict[str, frozenset[str]],
    similar: dict[str, str],
    control_tokens: bool,
) -> Iterator[Example]:
    hidden = masked(song.lyrics, song.artist)
    for text in excerpts(hidden, settings, seed, song.id):
        for task in settings.tasks:
            answer, source = _answer(song, task, text, known, similar)
            if answer:
                yield Example(question(task, text, control_tokens), neutral(answer), task, song.id, source, text)


def _answer(
    song: Song, task: str, text: str, known: dict[str, frozenset[str]], similar: dict[str, str]
) -> tuple[str | None, str]:
    """What can be said of an excerpt, or None; and how it is known."""
    match task:
        case "themes":
            read = song.language[:2] in themes.LANGUAGES
            return str(themes.label(text, song.language)) if read else None, themes.SOURCE
        case "style":
            return str(style.measure(text)), style.SOURCE
        case "similar":
            return similar.get(song.id), neighbours.SOURCE
        case _:
            answer = stated(song, task)
            return answer if answer in known.get(task, ()) else None, STATED


def _similar(folder: Path, songs: Sequence[Song]) -> dict[str, str]:
    """By a song's id, the titles and artists of the songs of train most like it; itself and its namesakes are not."""
    train = [song for song in dataset.songs(folder, "train") if song.title]
    if not train or not songs:
        return {}
    places, alike = neighbours.Neighbours([song.lyrics for song in train]).nearest(
        [song.lyrics for song in songs], SIMILAR + 5
    )
    answers = {}
    for song, row, likeness in zip(songs, places, alike, strict=True):
        others = [train[i] for i, a in zip(row, likeness, strict=True) if a > 0]
        others = [other for other in others if other.id != song.id and other.title != song.title]
        if others:
            answers[song.id] = "; ".join(dict.fromkeys(named(other) for other in others[:SIMILAR]))
    return answers


def named(song: Song) -> str:
    return f"{song.title} by {song.artist}" if song.artist else str(song.title)
