"""A collection becomes a data set: nothing leaks, nothing is half written, everything left out is counted."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from sashimi.errors import UserError
from sashimi.lyrics import dataset, selection
from sashimi.lyrics.settings import Settings

pytest.importorskip("datasketch")
pytest.importorskip("py3langid")

from sashimi.lyrics.duplicates import Near, alike, exact_key, shingles
from sashimi.lyrics.prepare import main, prepare

quick = pytest.mark.usefixtures("without_plots")

EN_TEXT = """
walking alone under the moon tonight river carries every word you said before morning light breaks over the
quiet town and nobody knows where the road will go when summer has gone away from these old hills my heart
keeps singing songs about freedom while children dance around burning fires waiting for rain and thunder to
come
"""
EN = EN_TEXT.split()
PT_TEXT = """
caminhando sozinho na noite escura o rio leva cada palavra que você falou antes da manhã chegar sobre a cidade
quieta e ninguém sabe onde a estrada vai quando o verão acabou meu coração continua cantando canções de
liberdade enquanto as crianças dançam ao redor do fogo esperando a chuva e o trovão chegarem depressa
"""
PT = PT_TEXT.split()


def text(seed: int, vocabulary: list[str] = EN, lines: int = 8) -> str:
    draw = random.Random(seed)
    return "\n".join(" ".join(draw.choices(vocabulary, k=6)) for _ in range(lines))


@pytest.fixture
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time."""
    monkeypatch.setattr("sashimi.lyrics.report._plots", lambda *_: None)


def collection(path: Path, songs: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(song, ensure_ascii=False) + "\n" for song in songs), encoding="utf-8")
    return path


def ordinary(n: int = 60) -> list[dict[str, Any]]:
    """Two languages, three genres, twelve artists; every title twice."""
    return [
        {"id": f"s{i}", "title": f"{EN[i // 2]} {PT[i // 2]}{'' if i % 2 else ' (Live)'}",
         "artist": f"Artist {i % 12}",
         "genre": ("rock", "samba", "folk")[i % 3], "language": "pt" if i % 3 == 1 else "en",
         "lyrics": text(i, PT if i % 3 == 1 else EN), "year": 1990 + i, "licence": "CC0"}
        for i in range(n)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A data set with one song of every kind that is left out."""
    folder = tmp_path_factory.mktemp("lyrics")
    songs = ordinary()
    near = songs[0]["lyrics"].replace("\n", "\n\n[Chorus]\n", 1).rsplit(" ", 1)[0] + " end"
    bad = [
        {"lyrics": ""}, {"lyrics": "la\nla"}, {"lyrics": text(900).replace("\n", " ") * 3},
        {"lyrics": text(901, lines=500)},
        {"title": None, "lyrics": text(902)}, {"title": "x" * 5000, "lyrics": text(903)}, {"lyrics": "...\n" * 40},
        {"lyrics": "coraÃ§Ã£o nÃ£o\n" * 10}, {"lyrics": text(904, PT), "language": "en"}, {"lyrics": near},
        {"lyrics": songs[1]["lyrics"].upper()}, {"lyrics": "a\0\1\2\3" * 50},
    ]  # fmt: skip
    source = collection(folder / "songs.jsonl", songs + [{"title": f"Bad {i}", **song} for i, song in enumerate(bad)])
    values = prepare(str(source), folder / "set", Settings(held_out=0.15))
    return folder / "set", values


def all_songs(folder: Path) -> dict[str, list[dataset.Song]]:
    return {split: list(dataset.songs(folder, split)) for split in selection.SPLITS}


def test_everything_left_out_is_counted_with_an_example(made: tuple[Path, dict[str, Any]]) -> None:
    folder, values = made
    assert {reason: group["songs"] for reason, group in values["dropped"].items()} == {
        "no words": 2, "too short": 1, "no line breaks": 1, "too long": 1, "no title": 1, "title too long": 1,
        "broken characters": 1, "not in its stated language": 1, "nearly the same words": 1, "the same words": 1,
        "binary": 1,
    }  # fmt: skip
    assert values["songs"] + 12 == values["rows"] == 72
    assert "songs.jsonl:69" in values["dropped"]["not in its stated language"]["examples"][0]
    assert dataset.described(folder)["dropped"] == values["dropped"]


def test_titles_do_not_leak(made: tuple[Path, dict[str, Any]]) -> None:
    found = all_songs(made[0])
    titles = {split: {selection.title_key(s.title, "") for s in songs} for split, songs in found.items()}
    assert all(found.values())
    assert sum(map(len, titles.values())) == len(set.union(*titles.values()))
    assert sum(map(len, found.values())) == 60


def test_manifest(made: tuple[Path, dict[str, Any]]) -> None:
    folder, values = made
    assert values["languages"] == {"en": 40, "pt": 20}
    assert values["licences"] == {"CC0": 60}
    assert values["licence"] == "as each song states it: 1 notes"
    assert values["content_hash"] == dataset.content_hash(folder)
    assert sorted(p.name for p in folder.iterdir()) == [
        "dataset.yaml", "lengths.png", "report.md", "songs.png", "test.jsonl", "train.jsonl", "val.jsonl",
        "words-en.png", "words-pt.png",
    ]  # fmt: skip
    song = next(dataset.songs(folder, "train"))
    assert song.about["year"] >= 1990
    assert song.id == exact_key(song.lyrics)


def test_report_leaves_stop_words_out(made: tuple[Path, dict[str, Any]]) -> None:
    report = (made[0] / "report.md").read_text(encoding="utf-8")
    assert "| English | 41 | 40 |" in report
    assert "| Portuguese | 21 | 20 |" in report
    assert "| heart | " in report
    assert "| coração | " in report
    assert "| the | " not in report
    assert "| você | " not in report


@quick
def test_the_same_songs_in_another_order_give_the_same_set(tmp_path: Path) -> None:
    songs = ordinary(30)
    hashes = []
    for name, order in (("a", songs), ("b", songs[::-1])):
        prepare(str(collection(tmp_path / "songs.jsonl", order)), tmp_path / name, Settings(songs=15))
        found = all_songs(tmp_path / name)
        hashes.append({split: [s.id for s in part] for split, part in found.items()})
    assert hashes[0] == hashes[1]


@quick
def test_artists_do_not_leak_and_few_songs_of_each(tmp_path: Path) -> None:
    source = collection(tmp_path / "songs.jsonl", ordinary())
    values = prepare(str(source), tmp_path / "set", Settings(split="artist", per_artist=3, held_out=0.15))
    artists = {split: {s.artist for s in songs} for split, songs in all_songs(tmp_path / "set").items()}
    assert sum(map(len, artists.values())) == 12
    assert values["songs"] == 36
    assert values["dropped"]["more of one artist than wanted"]["songs"] == 24


def test_a_sample_keeps_proportions_or_is_even() -> None:
    strata = np.array([0] * 60 + [1] * 30 + [2] * 10)
    keys = np.random.default_rng(0).integers(0, 2**63, 100).astype(np.uint64)
    for n in (10, 20, 50):
        first = strata[selection.stratified_order(keys, strata)[:n]]
        assert np.abs(np.bincount(first, minlength=3) - n * np.array([0.6, 0.3, 0.1])).max() <= 1
    even = strata[selection.stratified_order(keys, strata, even=True)[:30]]
    assert np.bincount(even).tolist() == [10, 10, 10]


@quick
def test_splits_from_a_list(tmp_path: Path) -> None:
    source = collection(tmp_path / "songs.jsonl", ordinary(12))
    ids = [f"s{i}" for i in range(12)]
    listed = tmp_path / "splits.json"
    listed.write_text(json.dumps({"rule": "x", "en": {"train": ids[:6], "val": ids[6:8], "test": ids[8:11]}}))
    values = prepare(str(source), tmp_path / "set", Settings(), splits=listed)
    assert values["splits"] == {"train": 6, "val": 2, "test": 3}
    assert values["dropped"]["not in the list of splits"]["songs"] == 1
    listed.write_text(json.dumps({"train": ["s1"], "val": ["s1"], "test": ["s2"]}))
    with pytest.raises(UserError, match="puts s1 into train and val"):
        prepare(str(source), tmp_path / "set", Settings(), splits=listed)


def test_groups_by_share_of_songs() -> None:
    groups = {f"g{i}": 1 + i % 5 for i in range(200)} | {"giant": 2000}
    split = selection.assign(groups, 0.05)
    total = sum(groups.values())
    for name in ("val", "test"):
        share = sum(n for g, n in groups.items() if split[g] == name) / total
        assert 0.04 < share < 0.065
    assert split["giant"] == "train"
    assert set(selection.assign({"a": 1, "b": 1, "c": 9}, 0.05).values()) == {"train", "val", "test"}
    with pytest.raises(UserError, match="too few"):
        selection.assign({"a": 5, "b": 5}, 0.05)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Coração", "CORACAO"), ("Yellow (Live)", "Yellow"), ("Sonnet II", "Sonnet 14"), ("Song No. 2", "Song no 3")],
)
def test_titles_that_stay_together(one: str, other: str) -> None:
    assert selection.title_key(one, "") == selection.title_key(other, "")


def test_titles_that_are_others() -> None:
    titles = ["1999", "I", "Vivid", "Love", "(Live)", "Lovely", "99 Luftballons", "歌"]
    assert len({selection.title_key(title, "") for title in titles}) == len(titles)
    assert selection.title_key(None, "[Verse]\nFirst line\nSecond") == "first line"


def test_near_duplicates_by_share_of_word_triples() -> None:
    first, second = text(1, lines=30), text(2, lines=30)
    words = first.split(" ")
    changed = " ".join(w if i % 20 else "other" for i, w in enumerate(words))
    near = Near(0.5, {0: first, 1: second}.__getitem__)
    assert near.find_or_add(0, first) is None
    assert near.find_or_add(1, second) is None
    assert near.find_or_add(2, changed) == 0
    assert alike(shingles(first), shingles(second)) < 0.2 < 0.7 < alike(shingles(first), shingles(changed)) < 1


def test_scripts_without_spaces_have_shingles() -> None:
    assert len(shingles("歌を歌うよ君のために今夜も明日もずっと歌い続ける")) > 15


@quick
def test_untitled_songs_of_one_artist(tmp_path: Path) -> None:
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "datasets.json").write_text(json.dumps({"train": [text(i) for i in range(20)]}))
    values = prepare(str(tmp_path / "ann"), tmp_path / "set", Settings(), licence="asked Ann")
    assert (values["songs"], values["untitled"], values["licence"]) == (20, 20, "asked Ann")
    assert next(dataset.songs(tmp_path / "set", "test")).artist == "ann"
    with pytest.raises(UserError, match="--split title"):
        prepare(str(tmp_path / "ann"), tmp_path / "set", Settings(split="artist"))
    assert dataset.described(tmp_path / "set")["songs"] == 20  # the one that was there stays


def test_nothing_is_left_of_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    source = collection(tmp_path / "songs.jsonl", ordinary(12))
    monkeypatch.setattr("sashimi.lyrics.prepare.write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(str(source), tmp_path / "set", Settings())
    assert [p.name for p in tmp_path.iterdir()] == ["songs.jsonl"]


@quick
def test_what_a_killed_run_left_goes(tmp_path: Path) -> None:
    source = collection(tmp_path / "songs.jsonl", ordinary(12))
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    for name in (f".set.{gone.stdout.strip()}.partial", f".set.{os.getppid()}.partial", ".set.mine.partial"):
        (tmp_path / name).mkdir()
    prepare(str(source), tmp_path / "set", Settings())
    assert {p.name for p in tmp_path.iterdir()} == {
        "songs.jsonl", "set", f".set.{os.getppid()}.partial", ".set.mine.partial",
    }  # fmt: skip


def test_foreign_folders_stay(tmp_path: Path) -> None:
    source = collection(tmp_path / "songs.jsonl", ordinary(12))
    with pytest.raises(UserError, match="no set of lyrics of this program"):
        prepare(str(source), tmp_path, Settings())
    with pytest.raises(UserError, match="is a file"):
        prepare(str(source), source, Settings())


@quick
def test_another_encoding_is_named(tmp_path: Path) -> None:
    rows = "".join(f'"Canção {PT[i]}","{text(i, PT)}"\n' for i in range(9))
    (tmp_path / "songs.csv").write_bytes(f"title,lyrics\n{rows}".encode("cp1252"))
    with pytest.raises(UserError, match="--encoding"):
        prepare(str(tmp_path / "songs.csv"), tmp_path / "set", Settings())
    values = prepare(str(tmp_path / "songs.csv"), tmp_path / "set", Settings(), encoding="cp1252")
    assert values["languages"] == {"pt": 9}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"languages": ("xx",)}, "unknown language 'xx'"),
        ({"held_out": 0.6}, "share held out"),
        ({"near": 0.1}, "--near"),
        ({"min_chars": 90, "max_chars": 80}, "characters"),
        ({"per_artist": 0}, "--per-artist is 0"),
    ],
)
def test_bad_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Settings(**changes)


@quick
def test_damaged_sets_are_named(tmp_path: Path) -> None:
    prepare(str(collection(tmp_path / "songs.jsonl", ordinary(12))), tmp_path / "set", Settings())
    with (tmp_path / "set" / "val.jsonl").open("a") as file:
        file.write("{half a li")
    with pytest.raises(UserError, match=r"val.jsonl:\d+ is damaged"):
        list(dataset.songs(tmp_path / "set", "val"))
    with pytest.raises(UserError, match="is not a set of lyrics"):
        list(dataset.songs(tmp_path, "val"))


@quick
def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    source = collection(tmp_path / "songs.jsonl", ordinary(12))
    command = ["prepare", str(source), "--out"]
    monkeypatch.setattr(sys, "argv", [*command, str(tmp_path / "set"), "--language", "EN", "--licence", "mine"])
    main()
    shown = capsys.readouterr().out
    assert "8 of 12 songs" in shown
    assert "another language: 4" in shown
    assert dataset.described(tmp_path / "set")["licence"] == "mine"
    monkeypatch.setattr(sys, "argv", [*command, str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err.startswith("error: ")


def test_help_needs_neither_torch_nor_the_extra() -> None:
    hidden = "import sys; sys.modules |= dict.fromkeys(['torch', 'datasketch', 'py3langid', 'pyarrow', 'matplotlib'])"
    code = f"{hidden}; sys.argv = ['x', '--help']; from sashimi.lyrics.prepare import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--per-artist" in done.stdout
