"""Words are counted, and labels say no more than that."""

import pytest

from sashimi.lyrics import themes
from sashimi.lyrics.dataset import Song
from sashimi.lyrics.words import words


def test_words_of_a_theme_give_its_label() -> None:
    text = "the waves and the ocean take my ship\nthe sailor is weeping, tears and sorrow"
    found = themes.label(text, "en")
    assert found == themes.Labels(("sea",), ("sorrow",))
    assert str(found) == "themes: sea; emotions: sorrow"


def test_portuguese_has_its_own_lists() -> None:
    text = "a noite e a lua no mar, o navio e as ondas\nque saudade, que desejo"
    assert themes.label(text, "pt") == themes.Labels(("sea", "night and dreams"), ("longing",))
    assert themes.label(text, "en").all == frozenset()


def test_one_word_is_not_a_theme() -> None:
    assert themes.label("love, table, chair", "en") == themes.Labels()
    assert themes.label("love love love love", "en") == themes.Labels()
    assert "love" in themes.label("love and kisses", "en").themes


def test_few_words_of_many_are_not_a_theme() -> None:
    filler = " ".join(f"w{chr(97 + i)}{chr(97 + j)}x" for i in range(20) for j in range(10))
    assert themes.label(f"love kisses {filler}", "en") == themes.Labels()


def test_other_languages_have_no_labels() -> None:
    assert themes.label("l'amour et les baisers", "fr") == themes.Labels()
    assert themes.label("love and kisses", "en-GB").themes == ("love",)


@pytest.mark.parametrize(
    ("language", "word", "name"),
    [("en", "glades", "joy"), ("en", "pathetic", "journey"), ("en", "sight", "sorrow"), ("en", "painted", "sorrow"),
     ("pt", "amarelo", "love"), ("pt", "amargura", "love"), ("pt", "tempo", "fear"), ("en", "forgets", "work")],
)  # fmt: skip
def test_words_that_only_begin_alike_do_not_count(language: str, word: str, name: str) -> None:
    kinds = {"emotions": themes.EMOTIONS, "themes": themes.THEMES}
    kind = next(kind for kind, names in kinds.items() if name in names)
    whole, beginnings = themes._lists(kind, language)[name]
    assert word not in whole
    assert not themes._begins(word, beginnings, language)


def test_every_list_is_of_words_as_they_are_counted() -> None:
    for kind in ("themes", "emotions"):
        for language in themes.LANGUAGES:
            for name, (whole, beginnings) in themes._lists(kind, language).items():
                assert len(whole) + len(beginnings) >= 8, name
                for entry in (*whole, *beginnings):
                    assert words(entry) == [entry], (name, entry)


def test_labels_are_read_back_from_an_answer() -> None:
    wanted = themes.Labels(("sea", "night and dreams"), ("sorrow",))
    assert themes.parse(str(wanted)) == wanted
    assert themes.parse("I think it speaks of NATURE, then of love.") == themes.Labels(("nature", "love"))
    assert themes.parse("themes: none; emotions: none") == themes.Labels()
    assert len(themes.parse(", ".join(themes.THEMES)).themes) == themes.MOST


def test_coverage_counts_songs() -> None:
    texts = [("love and kisses", "en"), ("tables, chairs", "en"), ("tears, sorrow, love, kisses", "en"), ("la", "fr")]
    songs = [Song(str(i), None, None, language, None, text, "x") for i, (text, language) in enumerate(texts)]
    assert themes.coverage(songs) == {
        "en": {"songs": 3, "a theme": 2, "love": 2, "an emotion": 1, "neither": 1, "sorrow": 1},
        "fr": {"songs": 1, "neither": 1},
    }
