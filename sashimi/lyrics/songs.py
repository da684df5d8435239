"""A row of a source -> a song, or why not."""

from dataclasses import dataclass

from sashimi.lyrics import languages
from sashimi.lyrics.cleaning import LINE_LIMIT, TITLE_LIMIT, clean, clean_line, unreadable
from sashimi.lyrics.dataset import Song
from sashimi.lyrics.duplicates import exact_key
from sashimi.lyrics.sections import sung
from sashimi.lyrics.settings import Settings
from sashimi.lyrics.sources import Row


@dataclass(frozen=True)
class Unusable:
    """reason: from a short list, for counting; detail: for a person."""

    reason: str
    detail: str


def song_of(row: Row, settings: Settings) -> Song | Unusable:
    """The song that a row of a source is, or why it is none that can be used."""

    name = " ".join((row.title or row.artist or "").split())[:80].encode("utf-8", "replace").decode()
    reason = unreadable(row.lyrics) or unreadable(row.title or "") or unreadable(row.artist or "")
    if reason:
        return Unusable(reason, name)
    lyrics, title, artist = clean(row.lyrics), clean_line(row.title), clean_line(row.artist)
    lines = sung(lyrics)
    size = len("\n".join(lines))
    longest = max(map(len, lines), default=0)
    if not any(c.isalpha() for line in lines for c in line):
        return Unusable("no words", name)
    if row.titled and title is None:
        return Unusable("no title", repr(lines[0][:60]))
    if len(title or "") > TITLE_LIMIT or len(artist or "") > TITLE_LIMIT:
        return Unusable("title too long", f"{name} ({max(len(title or ''), len(artist or ''))} characters)")
    if size < settings.min_chars:
        return Unusable("too short", f"{name} ({size} characters)")
    if size > settings.max_chars:
        return Unusable("too long", f"{name} ({size} characters)")
    if longest > LINE_LIMIT:
        return Unusable("no line breaks", f"{name} (a line of {longest} characters)")
    if len(lines) < settings.min_lines:
        return Unusable("too short", f"{name} ({len(lines)} lines)")
    identified, probability = languages.identify("\n".join(lines))
    stated = languages.code(row.language)
    if stated and languages.contradicts(stated, identified, probability):
        return Unusable("not in its stated language", f"{name} (stated {stated}, reads as {identified})")
    return Song(
        exact_key(lyrics), title, artist, stated or identified, clean_line(row.genre), lyrics, row.where,
        clean_line(row.licence), {key: clean_line(v) if isinstance(v, str) else v for key, v in row.about.items()},
    )  # fmt: skip
