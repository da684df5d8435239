"""Collections of lyrics as they are published -> rows, one at a time. A layout is told by its columns.

Vagalume          a folder with artists-data.csv and lyrics-data.csv (genres are the artist's)
tables            .csv, .tsv, .jsonl, .json, .parquet with lyrics and a title, under any of their usual names
5M-Songs-Lyrics   a table of Instruction ("... in the style of ARTIST in the genre of GENRE") and Label (the lyrics)
Hugging Artists   a table of `text` alone: one artist, named by the folder, no titles
texts             a folder of .txt: [ARTIST/]TITLE.txt or ARTIST - TITLE.txt
hf://datasets/OWNER/NAME[@REVISION]   any of these on the Hugging Face hub
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sashimi.errors import UserError

TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
NAMES = {  # of columns, in lower case; the first that a table has counts
    "lyrics": ("lyrics", "lyric", "song_lyrics", "letra", "text"),
    "title": ("title", "song_title", "song_name", "track_name", "sname", "song", "track", "name"),
    "artist": ("artist", "artist_name", "author", "singer", "performer", "interpreter", "alink"),
    "genre": ("genre", "genre_name", "genres", "tag"),
    "language": ("language", "lang", "idiom", "language_code"),
    "licence": ("licence", "license"),
    "identity": ("id",),
}
_STYLE = re.compile(r"in the style of (?P<artist>.+?)(?: in the genre of (?P<genre>.+?))?\.?\s*\Z", re.S)
_ABOUT_LIMIT = 300  # characters of a value that is kept beside a song


@dataclass(frozen=True)
class Row:
    """What a source says of a song, as it says it. where: file and line, for a message; about: its other columns."""

    where: str
    lyrics: str
    title: str | None = None
    artist: str | None = None
    genre: str | None = None
    language: str | None = None
    licence: str | None = None
    identity: str | None = None
    titled: bool = True  # whether its layout has titles at all
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Damaged:
    """A row that cannot be read. reason: from a short list, for counting; detail: for a person."""

    where: str
    reason: str
    detail: str


class Source:
    """A file or folder of lyrics. `done` of `total` bytes were read so far."""

    def __init__(self, path: Path, encoding: str = "utf-8", artist: str | None = None) -> None:
        """artist: of every song for which the source names none. Raises UserError for what holds no lyrics."""
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise UserError(f"there is no encoding {encoding}; try utf-8, cp1252, latin-1, shift_jis ...") from None
        if not path.exists():
            raise UserError(f"there is no {path}")
        self.path, self.encoding, self.artist, self.done = path, encoding, artist, 0
        self.read, self.files = self._layout()
        self.total = sum(file.stat().st_size for file in self.files)
        if not self.total:
            raise UserError(f"{path} is empty")

    def name(self, path: Path) -> str:
        """Of a file of the source, the same wherever the source lies."""
        return path.relative_to(self.path).as_posix() if path != self.path and self.path.is_dir() else path.name

    def rows(self) -> Iterator[Row | Damaged]:
        """Raises UserError for a file whose columns are not those of lyrics."""
        self.done = 0
        yield from self.read(self.files)

    def _layout(self) -> tuple[Callable[[list[Path]], Iterator[Row | Damaged]], list[Path]]:
        path = self.path
        if path.is_file() and path.name == "lyrics-data.csv":
            path = path.parent
        if path.is_file():
            if path.suffix.lower() == ".txt":
                return self._texts, [path]
            if path.suffix.lower() not in TABLES:
                raise UserError(f"{path} is none of {', '.join(TABLES)}, .txt, or a folder of them")
            return self._tables, [path]
        artists, lyrics = path / "artists-data.csv", path / "lyrics-data.csv"
        if lyrics.is_file():
            if not artists.is_file():
                raise UserError(f"{artists} is missing: the artists' names and genres of lyrics-data.csv are in it")
            return self._vagalume, [artists, lyrics]
        files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        tables = [p for p in files if p.suffix.lower() in TABLES and _is_table(p)]
        if tables:
            return self._tables, tables
        texts = [p for p in files if p.suffix.lower() == ".txt"]
        if texts:
            return self._texts, texts
        raise UserError(f"{path} has no lyrics in it: no {', '.join(TABLES)} and no .txt")

    # --- layouts

    def _vagalume(self, files: list[Path]) -> Iterator[Row | Damaged]:
        artists: dict[str, Mapping[str, Any]] = {}
        for _, values in self._csv(files[0]):
            if isinstance(values, Damaged):
                yield values
                continue
            known = {str(key).strip().casefold(): value for key, value in values.items()}
            if not {"artist", "link"} <= set(known):
                raise UserError(f"{files[0]} lacks the columns Artist, Link; it has {', '.join(values)}")
            artists.setdefault(str(known["link"]).strip("/ "), known)
        for where, values in self._csv(files[1]):
            if isinstance(values, Damaged):
                yield values
                continue
            row = self._row(files[1], where, values)
            artist = artists.get((row.artist or "").strip("/ "))
            if artist is None:
                yield Damaged(where, "unknown artist", f"{row.artist} is not in {files[0].name}")
                continue
            genre, about = _first(artist.get("genre") or artist.get("genres"))
            about |= {"popularity": artist["popularity"]} if artist.get("popularity") else {}
            yield Row(where, row.lyrics, row.title, str(artist["artist"]), genre, row.language, row.licence,
                      row.identity, about=row.about | about)  # fmt: skip

    def _tables(self, files: list[Path]) -> Iterator[Row | Damaged]:
        readers = {".csv": self._csv, ".tsv": self._csv, ".jsonl": self._jsonl, ".json": self._json,
                   ".parquet": self._parquet}  # fmt: skip
        for path in files:
            for where, values in readers[path.suffix.lower()](path):
                yield values if isinstance(values, Damaged) else self._row(path, where, values)

    def _texts(self, files: list[Path]) -> Iterator[Row | Damaged]:
        for path in files:
            data = path.read_bytes()
            self.done += len(data)
            where = self.name(path)
            encoding = _marked(data) or self.encoding
            try:
                text = data.decode(encoding)
            except UnicodeDecodeError as error:
                damage = "binary" if b"\0" in data else "wrong encoding"
                yield Damaged(where, damage, f"not {encoding} at byte {error.start}")
                continue
            folder = path.parent.name if path.parent != self.path and path != self.path else None
            artist, dash, title = path.stem.partition(" - ")
            yield Row(where, text, title if dash else path.stem, artist if dash else (folder or self.artist))

    def _row(self, path: Path, where: str, values: Mapping[str, Any]) -> Row:
        """Raises UserError, naming columns, where there are no lyrics or no titles among them."""
        columns = {str(key).strip().casefold(): key for key in values}
        names = {part: next((columns[n] for n in known if n in columns), None) for part, known in NAMES.items()}
        about: dict[str, Any] = {}
        if {"instruction", "label"} <= set(columns):
            found = _STYLE.search(str(values[columns["instruction"]]))
            artist, genre = (found["artist"], found["genre"]) if found else (None, None)
            return Row(where, _text(values[columns["label"]]) or "", None, artist or self.artist, genre, titled=False)
        only_text = names["lyrics"] == "text" and names["title"] is None and names["artist"] is None
        lacking = [part for part in ("lyrics", "title") if names[part] is None and not only_text]
        if lacking:
            needed = "; ".join(f"{part} (or {', '.join(NAMES[part][1:])})" for part in lacking)
            raise UserError(f"{path} lacks a column of {needed}; it has {', '.join(map(str, values)) or 'none'}")
        given = {part: values[column] for part, column in names.items() if column is not None}
        genre, more = _first(given.get("genre"))
        used = set(filter(None, names.values()))
        about = {str(key): v for key, v in values.items() if key not in used and _is_short(v)} | more
        artist = _text(given.get("artist")) or self.artist or (path.parent.name if only_text else None)
        return Row(where, _text(given["lyrics"]) or "", _text(given.get("title")), artist, genre,
                   _text(given.get("language")), _text(given.get("licence")), _text(given.get("identity")),
                   not only_text, about)  # fmt: skip

    # --- formats: where, and the values of a row or its damage

    def _csv(self, path: Path) -> Iterator[tuple[str, Mapping[str, Any] | Damaged]]:
        with self._opened(path) as file:
            first = file.readline()
            delimiter = max(",;\t", key=first.count)
            header = next(csv.reader([first], delimiter=delimiter), [])
            reader = csv.reader(file, delimiter=delimiter)
            while True:
                where = f"{self.name(path)}:{reader.line_num + 2}"
                try:
                    fields = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:  # such as a quote that is never closed; reading goes on behind it
                    yield where, Damaged(where, "damaged line", str(error))
                    continue
                if not fields:
                    continue
                if len(fields) != len(header):
                    yield where, Damaged(where, "damaged line", f"{len(fields)} fields, {len(header)} columns")
                    continue
                yield where, dict(zip(header, fields, strict=True))

    def _jsonl(self, path: Path) -> Iterator[tuple[str, Mapping[str, Any] | Damaged]]:
        with self._opened(path) as file:
            for number, line in enumerate(file, 1):
                where = f"{self.name(path)}:{number}"
                if not line.strip():
                    continue
                try:
                    values = json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield where, Damaged(where, "damaged line", str(error))
                    continue
                if isinstance(values, dict):
                    yield where, values
                else:
                    yield where, Damaged(where, "damaged line", "not a JSON object")

    def _json(self, path: Path) -> Iterator[tuple[str, Mapping[str, Any] | Damaged]]:
        """A list of songs, or lists of them by split. Read whole: such files are one artist's, or small."""
        with self._opened(path) as file:
            try:
                found = json.load(file)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path} is damaged: {error}") from None
        lists: Sequence[Any] = list(found.values()) if isinstance(found, dict) else [found]
        if not all(isinstance(songs, list) and all(isinstance(song, (dict, str)) for song in songs) for songs in lists):
            raise UserError(f"{path} is not a list of songs, nor lists of songs by split")
        for number, song in enumerate((song for songs in lists for song in songs), 1):
            yield f"{self.name(path)}, song {number}", song if isinstance(song, dict) else {"text": song}

    def _parquet(self, path: Path) -> Iterator[tuple[str, Mapping[str, Any] | Damaged]]:
        import pyarrow
        from pyarrow import parquet

        before, size = self.done, path.stat().st_size
        try:
            table = parquet.ParquetFile(path)
            number, rows = 0, max(table.metadata.num_rows, 1)
            for batch in table.iter_batches(batch_size=500):
                for values in batch.to_pylist():
                    number += 1
                    yield f"{self.name(path)}, row {number}", values
                self.done = before + size * number // rows
        except pyarrow.ArrowException as error:
            raise UserError(f"{path} is damaged or no Parquet file: {error}") from None

    def _opened(self, path: Path) -> io.TextIOWrapper:
        """Text whose undecodable bytes stay as surrogates, so that a row can be dropped and the others kept."""
        with path.open("rb") as file:
            start = file.read(4096)
        encoding = _marked(start) or self.encoding
        if b"\0" in start and "16" not in encoding and "32" not in encoding:
            raise UserError(f"{path} is a binary file, not text")
        errors = "replace" if "16" in encoding or "32" in encoding else "surrogateescape"
        return io.TextIOWrapper(io.BufferedReader(_Counted(path, self)), encoding, errors, newline="")


class _Counted(io.FileIO):
    """A file that tells its source how much of it was read."""

    def __init__(self, path: Path, source: Source) -> None:
        super().__init__(path)
        self.source = source

    def readinto(self, buffer: Any) -> int | None:
        count = super().readinto(buffer)
        self.source.done += count or 0
        return count

    def readall(self) -> bytes:
        data = super().readall()
        self.source.done += len(data)
        return data


def _marked(data: bytes) -> str | None:
    """The encoding that a byte order mark names."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig" if data.startswith(codecs.BOM_UTF8) else None


def _is_table(path: Path) -> bool:
    """Whether a file of a folder may be a table of songs: JSON is also used for lists of splits and settings."""
    if path.suffix.lower() != ".json":
        return True
    with path.open("rb") as file:
        start = file.read(500).lstrip(b"\xef\xbb\xbf \r\n\t")
    return re.match(rb'\[\s*[{"]|\{\s*"(train|validation|test|data)"\s*:\s*\[\s*[{"]', start) is not None


def _text(value: Any) -> str | None:
    return str(value).strip() or None if value is not None else None


def _is_short(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and value != "" and len(str(value)) <= _ABOUT_LIMIT


def _first(genres: Any) -> tuple[str | None, dict[str, Any]]:
    """The first of several genres ("Rock; Pop", a list), and all of them for `about`."""
    every = genres if isinstance(genres, list) else re.split(r"[;|]", _text(genres) or "")
    every = [str(genre).strip() for genre in every if str(genre).strip()]
    return (every[0] if every else None), ({"genres": every} if len(every) > 1 else {})
