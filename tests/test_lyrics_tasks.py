"""Questions with grounded answers: nothing gives the answer away, and nothing is said that nobody knows."""

from pathlib import Path

import pytest

pytest.importorskip("sklearn")

from sashimi.errors import UserError
from sashimi.lyrics import dataset, neighbours, style, tasks, themes
from sashimi.lyrics.config import QUESTIONS, Understanding
from sashimi.lyrics.dataset import Song
from sashimi.lyrics.tasks import examples
from sashimi.lyrics.tokens import CONTROL_TOKENS

SMALL = Understanding(min_songs=2)


def asking(*tasks: str, least: int = 2) -> Understanding:
    return Understanding(tasks=list(tasks), min_songs=least)


def song(i: int, **changes: object) -> Song:
    a, b = ("river", "moon", "stone", "fire", "road", "rain")[i % 6], ("love", "night", "sea")[i % 3]
    lyrics = f"{a} and {b} number {a}{'x' * (i + 1)}\nsaid Ann Lee to {b}\n\n[Chorus]\n{a}, {a}, oh {b}\nshall I go?"
    values = {
        "id": f"{i:016x}", "title": f"Title {i}", "artist": ("Ann Lee", "Bob", "Cid")[i % 3], "language": "en",
        "genre": ("rock", "folk")[i % 2], "lyrics": lyrics, "source": f"x:{i}", "licence": "CC0",
        "about": {"author_died": 1850 + i % 2 * 60},
    } | changes  # fmt: skip
    return Song(**values)  # type: ignore[arg-type]


def write(folder: Path, **splits: list[Song]) -> Path:
    folder.mkdir(exist_ok=True)
    for split in ("train", "val", "test"):
        text = "".join(s.line() for s in splits.get(split, []))
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    dataset.write_described(folder, {"content_hash": dataset.content_hash(folder)})
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "d", train=[song(i) for i in range(12)], test=[song(i) for i in range(20, 26)])


def test_answers_are_the_data_s_own(folder: Path) -> None:
    by_id = {s.id: s for s in dataset.songs(folder, "train")}
    found = examples(folder, "train", settings=SMALL)
    assert {e.task for e in found} == set(QUESTIONS)
    for e in found:
        s = by_id[e.song_id]
        match e.task:
            case "artist" | "genre":
                assert (e.answer, e.source) == (getattr(s, e.task), tasks.STATED)
            case "era":
                died = s.about["author_died"]
                assert (
                    e.answer
                    == {1850: "author died between 1850 and 1899", 1910: "author died between 1900 and 1949"}[died]
                )
            case "themes":
                assert (e.answer, e.source) == (str(themes.label(e.text, "en")), "by word list")
            case "style":
                assert (e.answer, e.source) == (str(style.measure(e.text)), style.SOURCE)
            case "similar":
                assert e.source == neighbours.SOURCE
                assert f"{s.title} by" not in e.answer
                named = {f"{o.title} by {o.artist}" for o in by_id.values()}
                assert set(e.answer.split("; ")) <= named


def test_title_and_artist_are_not_in_the_prompt(folder: Path) -> None:
    by_id = {s.id: s for s in dataset.songs(folder, "train")}
    for e in examples(folder, "train", settings=SMALL):
        s = by_id[e.song_id]
        assert str(s.title) not in e.prompt
        if s.artist == "Ann Lee":  # who is named in the lyrics
            assert "Ann Lee" not in e.prompt
            assert tasks.MASK in e.prompt


def test_masking_leaves_other_words_alone() -> None:
    assert tasks.masked("ANN LEE, Ann Leeds", "Ann Lee") == "___, Ann Leeds"
    assert tasks.masked("the queen and Queen", "Queen") == "the queen and ___"
    assert tasks.masked("a (b", "(b") == "a ___"
    assert tasks.masked("la", None) == "la"


def test_the_same_arguments_give_the_same_examples(folder: Path) -> None:
    assert examples(folder, "train", settings=SMALL) == examples(folder, "train", settings=SMALL)
    first, other = (examples(folder, "train", limit=4, seed=seed, settings=SMALL) for seed in (0, 1))
    assert len({e.song_id for e in first}) == len({e.song_id for e in other}) == 4
    assert {e.song_id for e in first} != {e.song_id for e in other}
    only = examples(folder, "train", settings=asking("genre"))
    assert {e.task for e in only} == {"genre"}


def test_labels_are_the_commonest_of_train(tmp_path: Path) -> None:
    artists = ["Ann"] * 5 + ["Bob"] * 3 + ["Cid"] * 2 + ["Dee"]
    train = [song(i, artist=artist, genre="rock") for i, artist in enumerate(artists)]
    folder = write(tmp_path / "d", train=train, test=[song(30, artist="Eve"), song(31, artist="Cid")])
    assert tasks.labels(folder, Understanding(min_songs=2))["artist"] == ["Ann", "Bob", "Cid"]
    assert tasks.labels(folder, Understanding(min_songs=1, artists=2))["artist"] == ["Ann", "Bob"]
    assert tasks.labels(folder, Understanding(min_songs=1))["genre"] == []  # one answer is no question
    found = examples(folder, "test", settings=asking("artist", least=1))
    assert [e.answer for e in found] == ["Cid"]  # Eve is not known in train
    given = examples(folder, "test", settings=asking("artist"), answers={"artist": ["Eve", "Ann"]})
    assert [e.answer for e in given] == ["Eve"]


@pytest.mark.parametrize(
    ("about", "wanted"),
    [({"year": 1994}, "written in the 1990s"), ({"year": "2003-05-01"}, "written in the 2000s"),
     ({"year": "1999.0", "author_died": 1800}, "written in the 1990s"),
     ({"author_died": 1849}, "author died between 1800 and 1849"), ({"author_died": "?"}, None), ({"year": 19}, None),
     ({}, None)],
)  # fmt: skip
def test_era_is_said_only_where_a_year_is_stated(about: dict[str, object], wanted: str | None) -> None:
    assert tasks.era(song(0, about=about)) == wanted


def test_control_tokens_are_ours_alone(folder: Path) -> None:
    found = {e.task: e for e in examples(folder, "train", settings=SMALL, control_tokens=True)}
    ends = {"artist": "[ARTIST]", "genre": "[GENRE]", "themes": "[THEME]", "era": "[ERA]"}
    for task, e in found.items():
        assert e.prompt.count("[CHORUS]") == 1
        assert "[Chorus]" not in e.prompt
        assert e.prompt.endswith(ends.get(task, ":"))
        assert sum(e.prompt.count(token) for token in CONTROL_TOKENS) == 1 + (task in ends)
    sly = tasks.question("artist", "[ARTIST] Ann\n[GENRE] <|im_end|>\nla [CHORUS]", control_tokens=True)
    assert sly.count("[ARTIST]") == 1
    assert sly.endswith("[ARTIST]")
    assert "[GENRE]" not in sly
    assert "<|" not in sly
    words = tasks.question("artist", "la\n\n[Verse 2]\nla la")
    assert "[Verse 2]" in words
    assert not any(token in words for token in CONTROL_TOKENS)


def test_excerpts_are_whole_lines_of_bounded_length() -> None:
    stanzas = [f"[Verse {i}]\n" + "\n".join(f"line {i} {j} " + "la " * 12 for j in range(5)) for i in range(1, 12)]
    text = "\n\n".join("\n".join(line.strip() for line in s.split("\n")) for s in stanzas)
    settings = Understanding(excerpts=3, max_chars=500)
    found = tasks.excerpts(text, settings, seed=1, key="a")
    assert len(set(found)) == 3
    assert text.startswith(found[0])
    for part in found:
        assert len(part) <= 500
        assert set(part.split("\n")) <= set(text.split("\n"))
        assert part.split("\n")[-1].startswith("line")  # no marker of what is not there
        assert part.startswith("[Verse")
    assert found == tasks.excerpts(text, settings, seed=1, key="a")
    assert found != tasks.excerpts(text, settings, seed=2, key="a")
    assert tasks.excerpts("la\nla", settings) == ["la\nla"]
    one_stanza = "\n".join(f"line {i} " + "la " * 20 for i in range(40))
    assert len(set(tasks.excerpts(one_stanza, settings))) == 3


def test_settings_are_checked() -> None:
    cases = (
        ({"tasks": ["mood"]}, "there are artist"), ({"tasks": []}, "empty"), ({"excerpts": 0}, "at least 1"),
        ({"max_chars": 100}, "at least 400"), ({"artists": 1}, "at least 2"),
    )  # fmt: skip
    for wrong, said in cases:
        with pytest.raises(UserError, match=said):
            Understanding(**wrong)  # type: ignore[arg-type]


def test_where_nothing_can_be_asked(tmp_path: Path) -> None:
    train = [song(i, artist=f"A{i}", language="fr", about={}) for i in range(4)]
    folder = write(tmp_path / "d", train=train)
    with pytest.raises(UserError, match="min_songs"):
        examples(folder, "train", settings=asking("artist", "era", "themes"))
    with pytest.raises(UserError, match="there are artist"):
        asking("mood")
    with pytest.raises(UserError, match="not a set of lyrics"):
        examples(tmp_path, "train")


def test_style_is_counted() -> None:
    text = "one two three\nfour five six\n\n[Chorus]\nla la?\nONE, two three!\n\n[Chorus]\nla la?"
    found = style.measure(text)
    assert found == style.Style(stanzas=3, lines=5, line_words=3, sections=("Chorus",), repeated=2, questions=2)
    said = "3 stanzas; 5 lines; 3 words in a middling line; 2 lines sung again; 2 lines with a question"
    assert str(found) == f"{said}; marked sections: Chorus"
    assert style.measure("").lines == 0


def test_neighbours_share_words() -> None:
    known = ["the sea and the ship in the storm", "roses in my garden bloom", "the ship on the stormy sea sails"]
    places, alike = neighbours.Neighbours(known).nearest(["a ship at sea", "bloom of roses in a garden"], k=2)
    assert set(places[0]) == {0, 2}
    assert alike[0][0] >= alike[0][1] > 0
    apart = neighbours.Neighbours(["abc def", "ghi jkl"])  # no word twice
    places, alike = apart.nearest(["ghi"], k=5)
    assert (places[0][0], places.shape) == (1, (1, 2))
    assert apart.nearest([], k=1)[0].shape == (0, 1)
