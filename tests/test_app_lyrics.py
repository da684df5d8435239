"""Lyrics for the page, without it: whose turn it is, stopping, and what is said where something is missing."""

import itertools
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the app extra is not installed")
pytest.importorskip("peft", reason="the lyrics extra is not installed")
from test_app import until

from app import lyrics as module
from app.lyrics import PLAIN, Lyrics, Progress
from sashimi.errors import UserError

SHORT = {"temperature": 0.8, "max_tokens": 6, "seed": 1}
LONG = {"temperature": 0.8, "max_tokens": 900, "seed": 1}


@pytest.fixture
def lyrics(tiny_llama: Path, tmp_path: Path) -> Lyrics:
    return Lyrics(tmp_path / "runs", str(tiny_llama))


def write(lyrics: Lyrics, sampling: dict[str, Any] = SHORT, stop: threading.Event | None = None) -> Any:
    return lyrics.write(PLAIN, {"title": "Night"}, sampling, stop or threading.Event())


def test_a_text_comes_as_it_is_written(lyrics: Lyrics) -> None:
    seen = list(write(lyrics))
    assert seen[0].said.startswith("Reading")
    texts = [now.text for now in seen]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert seen[-1].over
    assert "tokens in" in seen[-1].said
    assert list(write(lyrics))[-1].text == texts[-1]


def test_one_at_a_time_and_the_others_are_told(lyrics: Lyrics) -> None:
    first, second = write(lyrics, LONG), write(lyrics)
    while not next(first).text:
        pass
    assert next(second) == Progress("", "Waiting: 1 before it.")
    first.close()  # its page is gone
    assert list(second)[-1].over
    assert not lyrics._queue


def test_it_stops_while_it_writes_and_while_it_waits(lyrics: Lyrics) -> None:
    end, other = threading.Event(), threading.Event()
    first, second = write(lyrics, LONG, end), write(lyrics, LONG, other)
    while not next(first).text:
        pass
    next(second)
    other.set()
    assert list(second) == [Progress("", "Stopped before it began.", True)]
    end.set()
    seen = list(first)
    assert seen[-1].said == "Stopped."
    assert seen[-1].text
    assert not lyrics._queue


def test_a_full_queue_says_so(lyrics: Lyrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 1)
    first, second, third = (write(lyrics, LONG) for _ in range(3))
    next(first), next(second)
    with pytest.raises(UserError, match="waiting already"):
        next(third)
    first.close(), second.close()
    assert not lyrics._queue


def test_a_failure_gives_the_turn_away(lyrics: Lyrics, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no")

    with monkeypatch.context() as m:
        m.setattr(lyrics, "_load", fail)
        with pytest.raises(RuntimeError):
            list(write(lyrics))
    assert list(write(lyrics))[-1].over


def test_what_is_missing_is_said(lyrics: Lyrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lyrics.advice() is None
    empty = Lyrics(tmp_path / "runs")
    assert "--lyrics-model" in (empty.advice() or "")
    for asked, said in (({"title": " "}, "title first"), ({"title": "x" * 201}, "201 characters"),
                        ({"title": "x", "language": "portugese"}, "Portuguese")):  # fmt: skip
        with pytest.raises(UserError, match=said):
            list(lyrics.write(PLAIN, asked, SHORT, threading.Event()))
    with pytest.raises(UserError, match="not there any more"):
        list(lyrics.write("gone", {"title": "x"}, SHORT, threading.Event()))
    monkeypatch.setattr(module, "NEEDED", ("no_such_package",))
    assert 'pip install -e ".[lyrics]"' in (empty.advice() or "")
    assert lyrics.voices("writing") == []
    with pytest.raises(UserError, match="not installed"):
        list(lyrics.analyze("la", None, threading.Event()))


def test_a_text_is_looked_into(lyrics: Lyrics) -> None:
    *_, (_, lines) = lyrics.analyze("The river runs\nand I weep", None, threading.Event())
    assert ("Language", "English") in [(line.what, line.answer) for line in lines]
    for text, said in (("  ", "paste a text"), ("x" * 9000, "9,000 characters")):
        with pytest.raises(UserError, match=said):
            list(lyrics.analyze(text, None, threading.Event()))


def test_other_threads_wait_their_turn(lyrics: Lyrics) -> None:
    found: list[Progress] = []
    threads = [threading.Thread(target=lambda: found.append(list(write(lyrics))[-1])) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: len(found) == 3)
    assert len({now.text for now in found}) == 1
