"""Layouts of published collections, whole and damaged."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from sashimi.errors import UserError
from sashimi.lyrics.sources import Damaged, Row, Source


def write_csv(path: Path, *rows: list[Any], encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows(rows)
    return path


def read(path: Path, **options: Any) -> tuple[list[Row], list[Damaged]]:
    source = Source(path, **options)
    found = list(source.rows())
    assert source.done == source.total
    return [r for r in found if isinstance(r, Row)], [r for r in found if isinstance(r, Damaged)]


@pytest.mark.parametrize(
    ("header", "language"),
    [(["Artist", "Genres", "Songs", "Popularity", "Link"], "language"),
     (["Artist", "Songs", "Popularity", "Link", "Genre", "Genres"], "Idiom")],
)  # fmt: skip
def test_vagalume_of_either_year(tmp_path: Path, header: list[str], language: str) -> None:
    values = {"Artist": "Ána", "Genre": "MPB", "Genres": "MPB; Samba", "Songs": 1, "Popularity": 0.5, "Link": "/ana/"}
    write_csv(tmp_path / "artists-data.csv", header, [values[name] for name in header])
    write_csv(
        tmp_path / "lyrics-data.csv", ["ALink", "SName", "SLink", "Lyric", language],
        ["/ana/", "Canção", "/ana/c.html", "um\ndois", "pt"], ["/bob/", "x", "/b.html", "y", "en"],
    )  # fmt: skip
    for path in (tmp_path, tmp_path / "lyrics-data.csv"):
        (row,), (lost,) = read(path)
        assert (row.title, row.artist, row.genre, row.lyrics, row.language) == (
            "Canção",
            "Ána",
            "MPB",
            "um\ndois",
            "pt",
        )
        assert lost.reason == "unknown artist"
        assert "/bob/" in lost.detail


def test_vagalume_without_its_artists(tmp_path: Path) -> None:
    write_csv(tmp_path / "lyrics-data.csv", ["ALink", "SName", "SLink", "Lyric", "language"])
    with pytest.raises(UserError, match=r"artists-data.csv is missing"):
        Source(tmp_path)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_tables_of_every_format(tmp_path: Path, suffix: str) -> None:
    songs = [{"Title": "A, b", "artist": "Ann", "tag": "pop", "year": 1999, "lyrics": 'um "dois"\ntrês', "id": "7"}] * 2
    path = tmp_path / f"songs.{suffix}"
    match suffix:
        case "csv":
            write_csv(path, list(songs[0]), *(list(s.values()) for s in songs))
        case "tsv":
            with path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file, delimiter="\t").writerows([list(songs[0]), *(list(s.values()) for s in songs)])
        case "jsonl":
            path.write_text("".join(json.dumps(s) + "\n" for s in songs))
        case "json":
            path.write_text(json.dumps(songs))
        case "parquet":
            pyarrow = pytest.importorskip("pyarrow")
            parquet = pytest.importorskip("pyarrow.parquet")
            parquet.write_table(pyarrow.Table.from_pylist(songs), path)
    rows, damaged = read(path)
    assert len(rows) == 2
    assert not damaged
    row = rows[1]
    expected = ("A, b", "Ann", "pop", 'um "dois"\ntrês', "7")
    assert (row.title, row.artist, row.genre, row.lyrics, row.identity) == expected
    assert str(row.about["year"]) == "1999"
    assert row.where.startswith("songs.")


def test_instruction_and_label(tmp_path: Path) -> None:
    instruction = "Generate a song verse in the style of Ann (and Bob) in the genre of hip hop."
    rows, _ = read(write_csv(tmp_path / "a.csv", ["Instruction", "Label"], [instruction, "la\nla"]))
    assert (rows[0].artist, rows[0].genre, rows[0].lyrics) == ("Ann (and Bob)", "hip hop", "la\nla")
    assert not rows[0].titled


def test_hugging_artists(tmp_path: Path) -> None:
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "datasets.json").write_text(json.dumps({"train": ["la\nla"], "test": ["lo"]}))
    (tmp_path / "ann" / "dataset_infos.json").write_text(json.dumps({"default": {"features": {}}}))
    rows, _ = read(tmp_path / "ann")
    assert [(r.artist, r.title, r.lyrics, r.titled) for r in rows] == [
        ("ann", None, "la\nla", False), ("ann", None, "lo", False),
    ]  # fmt: skip
    assert read(tmp_path / "ann", artist="Ann")[0][0].artist == "Ann"


def test_folder_of_texts(tmp_path: Path) -> None:
    (tmp_path / "Ann").mkdir()
    (tmp_path / "Ann" / "Song One.txt").write_text("um\ndois")
    (tmp_path / "Bob - Song Two.txt").write_text("\ufeffdez\nonze", encoding="utf-16")
    (tmp_path / "latin.txt").write_bytes("coração".encode("latin-1"))
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)))
    rows, damaged = read(tmp_path)
    assert {(r.artist, r.title) for r in rows} == {("Ann", "Song One"), ("Bob", "Song Two")}
    assert {(d.where, d.reason) for d in damaged} == {("latin.txt", "wrong encoding"), ("binary.txt", "binary")}
    assert "coração" in [r.lyrics for r in read(tmp_path, encoding="latin-1")[0]]


def test_damaged_lines_are_named_and_the_others_read(tmp_path: Path) -> None:
    path = tmp_path / "songs.csv"
    path.write_bytes(b'title,lyrics\none,la\nthree,fields,here\nbad,cora\xe7ao\n\ntwo,"l\na"\n"never closed,lo\n')
    rows, damaged = read(path)
    assert [r.title for r in rows] == ["one", "bad", "two"]
    assert "\udce7" in rows[1].lyrics  # for the cleaner to find
    assert [(d.where, d.reason) for d in damaged] == [("songs.csv:3", "damaged line"), ("songs.csv:8", "damaged line")]
    path = tmp_path / "songs.jsonl"
    path.write_text('{"title": "a", "lyrics": "b"}\n{"title": \n[1]\n\n{"title": "c", "lyrics": "d"}\n')
    rows, damaged = read(path)
    assert [r.title for r in rows] == ["a", "c"]
    assert [d.where for d in damaged] == ["songs.jsonl:2", "songs.jsonl:3"]


def test_a_field_without_end_does_not_end_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "songs.csv"
    path.write_text("title,lyrics\n" + 'x,"' + "la\n" * 60000 + "last,lo\n")
    rows, damaged = read(path)
    assert rows[-1].title == "last"
    assert damaged


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"foo,bar\n1,2\n", r"a.csv lacks a column of lyrics \(or lyric.*title \(or.*it has foo, bar"),
        ("a.jsonl", b'{"lyrics": "x", "who": "y"}\n', r"lacks a column of title .*it has lyrics, who"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"title,lyrics\n\0\1\2", "binary"),
        ("a.json", b"{", "damaged"),
        ("a.json", b'{"a": 1}', "not a list of songs"),
        ("a.mp3", b"x", "none of .csv"),
        ("a.parquet", b"x" * 100, "damaged or no Parquet"),
    ],
)
def test_what_holds_no_lyrics(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        list(Source(tmp_path / name).rows())


def test_wrong_paths_and_encodings(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no"):
        Source(tmp_path / "missing")
    with pytest.raises(UserError, match="has no lyrics in it"):
        Source(tmp_path)
    with pytest.raises(UserError, match="no encoding klingon"):
        Source(tmp_path, encoding="klingon")
