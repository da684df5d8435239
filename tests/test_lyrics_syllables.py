"""Syllables of lines whose metre is known."""

import pytest

from sashimi.lyrics.syllables import syllables


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("Shall I compare thee to a summer's day?", 10),
        ("Rough winds do shake the darling buds of May,", 10),
        ("Twinkle, twinkle, little star", 7),
        ("How I wonder what you are", 7),
        ("'Tis o'er", 2),
        ("", 0),
        ("...", 0),
    ],
)
def test_english(line: str, count: int) -> None:
    assert syllables(line, "en") == count


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("Amor é um fogo que arde sem se ver", 11),  # sung with "é um" as one: ten
        ("É ferida que dói, e não se sente", 10),  # up to "sen"
        ("As armas e os barões assinalados", 10),
        ("Que da ocidental praia Lusitana", 10),
        ("Minha terra tem palmeiras", 7),
        ("Onde canta o Sabiá", 7),
        ("As aves que aqui gorjeiam", 7),
        ("Não gorjeiam como lá", 7),
        ("música", 1),
        ("", 0),
    ],
)
def test_portuguese_up_to_the_last_stress_with_elision(line: str, count: int) -> None:
    assert syllables(line, "pt") == count


def test_other_languages() -> None:
    assert syllables("uno dos tres", "es") is None
