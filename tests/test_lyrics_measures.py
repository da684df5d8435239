"""Figures of texts damaged on purpose."""

import math

import pytest
from test_lyrics_rhyme import CAMOES, TYGER

pytest.importorskip("py3langid")

from sashimi.lyrics.measures import MEASURES, difference, form, mean, shared_lines


def test_a_text_and_what_is_done_to_it() -> None:
    real = form(TYGER, "en")
    assert set(real) <= set(MEASURES)
    assert real["stanzas"] == 2
    assert real["lines"] == 8
    assert real["stanza_lines"] == 4
    assert real["in_language"] == 1
    assert real["repeated_lines"] == 0
    assert real["rhymed"] == 1
    assert real["schemes"] == 1
    looped = form("\n".join(["Tyger Tyger, burning bright"] * 20), "en")
    assert looped["repeated_lines"] == 0.95
    assert (looped["repeated_trigrams"] or 0) > 0.9
    assert (looped["distinct_2"] or 1) < 0.1
    assert looped["rhymed"] == 0
    assert looped["same_word"] == 1


def test_metre_that_is_lost_is_seen() -> None:
    even = form(CAMOES, "pt")
    ragged = form("\n".join(line[: 60 if i % 2 else 12] for i, line in enumerate(CAMOES.split("\n"))), "pt")
    assert even["unevenness"] is not None
    assert ragged["unevenness"] is not None
    assert even["unevenness"] < 0.6 < 2 < ragged["unevenness"]
    assert even["syllables"] == pytest.approx(10.2, abs=0.3)


def test_markers_are_no_lyrics() -> None:
    plain, marked = form(TYGER, "en"), form(f"[Verse 1]\n{TYGER}\n\n[Chorus]", "en")
    assert marked["markers"] == 2
    assert {**marked, "markers": 0} == {**plain, "markers": 0}


def test_another_language_than_asked_for() -> None:
    assert form(CAMOES, "en")["in_language"] == 0
    spanish = form("Caminante, son tus huellas\nel camino y nada más;\ncaminante, no hay camino,\nse hace camino", "es")
    assert spanish["in_language"] == 1
    assert spanish["rhymed"] is spanish["schemes"] is spanish["syllables"] is None


@pytest.mark.parametrize("text", ["", "...", "[Chorus]", "\n\n"])
def test_nothing_written(text: str) -> None:
    figures = form(text, "en")
    assert figures["words"] == 0
    assert figures["rhymed"] is figures["distinct_1"] is None


def test_lines_that_outputs_share() -> None:
    assert shared_lines(["my heart is on fire\none of its own kind\nla la", "My heart is on fire!", "", "no"]) == [
        0.5, 1.0, None, None,
    ]  # fmt: skip


def test_means_and_their_doubt() -> None:
    values = [0.1, 0.2, None, 0.3, 0.4] * 10
    found = mean(values)
    assert found is not None
    assert (found.value, found.n) == (pytest.approx(0.25), 40)
    assert 0.2 < found.low < 0.25 < found.high < 0.3
    assert mean(values) == found  # the same again
    assert mean([None, None]) is None
    one = mean([1.0])
    assert one is not None
    assert math.isnan(one.low)


def test_a_paired_difference_is_surer_than_two_means() -> None:
    theirs = [float(i % 7) for i in range(40)]
    ours = [value + 0.5 + 0.01 * (i % 3) for i, value in enumerate(theirs)]
    found, a, b = difference(ours, theirs), mean(ours), mean(theirs)
    assert found is not None
    assert a is not None
    assert b is not None
    assert found.value == pytest.approx(a.value - b.value)
    assert found.high - found.low < 0.05 < a.high - a.low
    gap = difference([1.0, None, 3.0], [0.0, 1.0, None])
    assert gap is not None
    assert gap.n == 1
