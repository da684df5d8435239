"""`python -m sashimi.lyrics.write`: what is printed, which model writes, and what is said of bad input."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lyrics_fixtures import make_llama

from sashimi.errors import UserError

pytest.importorskip("peft", reason="the lyrics extra is not installed")
from sashimi.lyrics import models, trained, weights, write
from sashimi.lyrics.prompts import Request

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the command in a folder of its own -> status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TQDM_DISABLE", "1")

    def now(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["write", *map(str, arguments)])
        status = 0
        try:
            write.main()
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return now


def make_adapter(run: Path, base: Path, task: str = "writing", languages: dict[str, int] | None = None) -> Path:
    """An adapter that changes nothing yet, as a training run leaves it."""
    from peft import LoraConfig, get_peft_model

    loaded = models.load(str(base))
    folder = run / "adapter"
    get_peft_model(loaded.model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained(
        folder
    )
    of = weights.find(str(base)).base
    card = {"base": {"name": of.name, "fingerprint": of.fingerprint}, "task": task, "data": {"languages": languages}}
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    (run / trained.FINISHED).write_text("{}", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def runs(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs, from old to new: Portuguese, English, understanding; one that is not finished, and a damaged one."""
    folder = tmp_path_factory.mktemp("runs")
    made = [
        make_adapter(folder / "pt" / "2026-01-01", tiny_llama, languages={"pt": 90, "gl": 1}),
        make_adapter(folder / "en" / "2026-01-02", tiny_llama, languages={"en": 100}),
        make_adapter(folder / "mood" / "2026-01-03", tiny_llama, task="understanding"),
    ]
    for age, adapter in enumerate(made):
        os.utime(adapter / "card.json", (age, age))
    (make_adapter(folder / "en" / "2026-01-05", tiny_llama).parent / trained.FINISHED).unlink()
    (folder / "en" / "2026-01-04" / "adapter").mkdir(parents=True)
    (folder / "en" / "2026-01-04" / "adapter" / "card.json").write_text("{", encoding="utf-8")
    return folder


def test_it_writes_the_same_again(run: Run, tiny_llama: Path) -> None:
    usual = ("Night", "--model", tiny_llama, "--length", 12, "--seed", 3)
    status, out, err = run(*usual)
    assert status == 0
    assert "as it is, without an adapter" in err
    assert run(*usual)[1] == out
    assert run(*usual[:-1], 4)[1] != out
    assert "cut off at 12 tokens; --length" in err


def test_copies_are_those_of_the_next_seeds_and_the_file_is_what_was_printed(run: Run, tiny_llama: Path) -> None:
    usual = ("Night", "--model", tiny_llama, "--length", 9)
    status, out, _ = run(*usual, "--seed", 5, "--copies", 2, "--out", "new/song.txt")
    assert status == 0
    texts = Path("new/song.txt").read_text(encoding="utf-8").removesuffix("\n").split(write.BETWEEN)
    assert [run(*usual, "--seed", seed)[1] for seed in (5, 6)] == [f"{text}\n" for text in texts]
    assert out == f"{texts[0]}\n\n---\n\n{texts[1]}\n"
    assert [path.name for path in Path("new").iterdir()] == ["song.txt"]


def test_the_newest_fitting_adapter_is_taken_and_named(run: Run, runs: Path) -> None:
    status, _, err = run("Noite", "--language", "Português", "--runs", runs, "--length", 4)
    assert status == 0
    assert f"writing with {runs / 'pt' / '2026-01-01' / 'adapter'}, the newest for Portuguese" in err
    status, _, err = run("Nuit", "--language", "fr", "--runs", runs)
    assert status == 2
    assert "no adapter that writes French" in err
    assert "2026-01-02" in err  # there is one of another language
    assert [one.path.parent.name for one in trained.trained(runs, "writing")] == ["2026-01-02", "2026-01-01"]
    assert trained.trained(runs, "writing")[1].languages == ("pt",)


def test_an_adapted_model_is_asked_in_short(tiny_llama: Path, runs: Path) -> None:
    request = Request("Night")
    plain = models.load(str(tiny_llama))
    adapted = models.load(str(tiny_llama), adapter=runs / "en" / "2026-01-02" / "adapter")
    assert len(write.asked(adapted, request)) < len(write.asked(plain, request))
    assert "Night" in write.asked(adapted, request)


def test_an_adapter_alone_brings_its_base(runs: Path, tiny_llama: Path) -> None:
    adapter = runs / "en" / "2026-01-02" / "adapter"
    assert write.choose(None, adapter, "pt", runs).name == str(tiny_llama)
    with pytest.raises(UserError, match="for understanding"):
        write.choose(None, runs / "mood" / "2026-01-03" / "adapter", "en", runs)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([""], "the title is empty"),
        ([" \t"], "the title is empty"),
        (["x" * 5000], "5,000 characters"),
        (["Night", "--language", "portugese"], "did you mean pt (Portuguese)?"),
        (["Night", "--language", "@@"], "give a code as en"),
        (["Night", "--model", "nowhere/at/all"], "there is no nowhere/at/all"),
        (["Night", "--adapter", "nowhere"], "there is no adapter nowhere"),
        (["Night"], "Train one with"),
        (["Night", "--model", "x", "--temperature", "-1"], "temperature"),
        (["Night", "--model", "x", "--temperature", "nan"], "temperature"),
        (["Night", "--model", "x", "--length", "0"], "length"),
        (["Night", "--model", "x", "--copies", "0"], "--copies"),
        (["Night", "--model", "x", "--out", "."], "is a folder"),
    ],
)
def test_bad_input_is_one_line(run: Run, arguments: list[str], said: str) -> None:
    status, out, err = run(*arguments)
    assert status == 2
    assert out == ""
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]


def test_an_adapter_of_another_base_is_refused(run: Run, runs: Path, tmp_path: Path) -> None:
    other = make_llama(tmp_path / "other", tied=True)
    status, _, err = run("Night", "--model", other, "--adapter", runs / "en" / "2026-01-02" / "adapter")
    assert status == 2
    assert "was trained on" in err


def test_stopped_it_leaves_no_file(run: Run, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "write", stop)
    status, _, err = run("Night", "--model", tiny_llama, "--out", "song.txt")
    assert status == 130
    assert "nothing was written to song.txt" in err
    assert not list(Path().iterdir())
