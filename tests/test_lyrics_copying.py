"""What is copied from the training songs is found, wherever it stands."""

import random

from sashimi.lyrics.copying import SHORTEST, Index

WORDS = [a + b for a in ("ba", "ke", "li", "mo", "nu", "ra", "so", "ti") for b in ("d", "gle", "nce", "ry", "st", "x")]


def songs(n: int) -> list[str]:
    draw = random.Random(0)
    return ["\n".join(" ".join(draw.choices(WORDS, k=6)) for _ in range(12)) for _ in range(n)]


def test_a_copied_verse_is_found_with_its_song() -> None:
    trained = songs(50)
    verse = trained[31].split("\n")[3:6]
    own = (
        "entirely different words stand here\n"
        + "\n\n[Chorus]\n".join(verse).replace("ba", "BA")
        + "!\nand more of our own"
    )
    found = Index(trained).longest(own)
    assert found is not None
    assert (found.words, found.song) == (18, 31)
    assert found.text == " ".join(verse)


def test_nothing_is_copied_across_songs_or_by_chance() -> None:
    trained = ["one two three four five six", "seven eight nine ten eleven twelve"]
    index = Index(trained)
    found = index.longest("five six seven eight nine ten eleven")
    assert found is not None
    assert (found.words, found.song, found.text) == (5, 1, "seven eight nine ten eleven")
    assert index.longest("four five six seven eight nine") is None
    assert index.longest("something else altogether it is") is None
    assert index.longest("three four five") is None
    assert SHORTEST == 4


def test_loops_and_edges() -> None:
    index = Index(["la la la la la la la la", "my love is like a red red rose"])
    found = index.longest("la " * 30)
    assert found is not None
    assert found.words == 8
    assert index.longest("") is None
    assert Index([]).longest("a b c d e") is None
    whole = index.longest("My love is like a red, red rose")
    assert whole is not None
    assert (whole.words, whole.song) == (8, 1)


def test_agrees_with_the_slow_way() -> None:
    trained, draw = songs(8), random.Random(3)
    index = Index(trained)
    padded = [f" {' '.join(song.split())} " for song in trained]
    for _ in range(20):
        own = draw.choices(WORDS, k=10)
        parts = [own]
        for _ in range(3):
            source = draw.choice(trained).split()
            start, size = draw.randrange(50), draw.randrange(2, 12)
            parts += [source[start : start + size], draw.choices(WORDS, k=3)]
        text = [word for part in parts for word in part]
        slow = max(
            (j - i for i in range(len(text)) for j in range(i + 1, len(text) + 1)
             if any(f" {' '.join(text[i:j])} " in song for song in padded)), default=0,
        )  # fmt: skip
        found = index.longest(" ".join(text))
        assert (found.words if found else 0) == (slow if slow >= SHORTEST else 0)
