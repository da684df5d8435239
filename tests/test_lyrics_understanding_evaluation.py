"""A model before and after training beside answers without one: figures, table, plot; with a model that is known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("sklearn")

from rich.console import Console

from sashimi.errors import UserError
from sashimi.lyrics import baselines, choice, themes, understanding_evaluation
from sashimi.lyrics.config import QUESTIONS, Understanding
from sashimi.lyrics.models import Loaded, load
from sashimi.lyrics.understanding_evaluation import UnderstandingSettings, evaluate, measure

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def loaded(tiny_llama: Path) -> Loaded:
    return load(str(tiny_llama), dtype="fp32")


def settings(data: Path, *asked: str, **changes: Any) -> UnderstandingSettings:
    return UnderstandingSettings(data, understanding=Understanding(list(asked or QUESTIONS), min_songs=1), **changes)


@pytest.fixture(scope="module")
def everything(loaded: Loaded, tiny_songs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("out")
    return out, measure(loaded, loaded, settings(tiny_songs, batch=2), out, QUIET)


def test_all_files_are_written(everything: tuple[Path, Any]) -> None:
    out, found = everything
    names = {"understanding.md", "understanding.json", "reliability.png", "calibration.json"}
    assert {p.name for p in out.iterdir()} == names
    said = json.loads((out / "understanding.json").read_text(encoding="utf-8"))
    assert set(said["tasks"]) == {"artist", "genre", "themes", "similar"}  # no song states a year
    assert (out / "reliability.png").stat().st_size > 5000
    fitted = json.loads((out / "calibration.json").read_text(encoding="utf-8"))["tasks"]
    assert set(fitted) == {"artist", "genre"}
    assert found["markdown"] == (out / "understanding.md").read_text(encoding="utf-8")


def test_the_table_has_models_baselines_and_goals(everything: tuple[Path, Any]) -> None:
    text = everything[1]["markdown"]
    for said in ("4 songs, 2 answers; the plan's goal is 80%", "the plan's goal is 85%", "the plan's goal is 75%",
                 "| model before training |", "| model after training |", f"| {baselines.COMMONEST} |",
                 f"| {baselines.NEAREST} |", f"| {baselines.COUNTS} |", "Truth is the word list, not people",
                 "![reliability](reliability.png)", "(T = "):  # fmt: skip
        assert said in text, said


def test_figures_of_a_model_that_is_known(
    loaded: Loaded,
    tiny_songs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says the first answer with 0.9, always: half of the songs are Ann's."""

    def choose(loaded: Any, prompts: list[str], options: list[str], *rest: object) -> list[np.ndarray]:
        return [np.array([0.9, 0.1])] * len(prompts)

    monkeypatch.setattr(choice, "choose", choose)
    found = measure(None, loaded, settings(tiny_songs, "artist"), tmp_path, QUIET)["tasks"]["artist"]
    assert set(found["systems"]) == {baselines.COMMONEST, baselines.NEAREST, baselines.COUNTS, "after"}
    after = found["systems"]["after"]
    assert (after["right"], after["accuracy"]) == (2, 0.5)
    assert after["low"] < 0.5 < after["high"]
    assert after["macro_f1"] == pytest.approx(1 / 3)  # F1 of 2/3 and of 0
    assert after["calibration_error"] > 0.39
    assert after["nll"] == pytest.approx(-np.log([0.9, 0.1]).mean())
    assert after["temperature"] > 5  # 0.9 becomes close to a half
    assert after["after_temperature"]["nll"] == pytest.approx(np.log(2), abs=0.01)
    assert after["threshold"] is None
    assert found["systems"][baselines.COMMONEST]["accuracy"] == 0.5


def test_labels_of_the_card_are_what_is_asked_for(loaded: Loaded, tiny_songs: Path, tmp_path: Path) -> None:
    tuned = Loaded(loaded.model, loaded.tokenizer, loaded.base, None, {"labels": {"genre": ["folk", "rock"]}})
    found = measure(None, tuned, settings(tiny_songs, "artist", "genre", val_songs=0), tmp_path, QUIET)["tasks"]
    assert set(found) == {"genre"}
    assert "temperature" not in found["genre"]["systems"]["after"]
    assert not (tmp_path / "calibration.json").exists()


def test_overlap_by_hand() -> None:
    given = [themes.Labels(("sea", "love")), themes.Labels(), themes.Labels(("war",))]
    truth = [themes.Labels(("sea",), ("joy",)), themes.Labels(), themes.Labels(("love",))]
    found = understanding_evaluation._overlap(given, truth)
    assert found["jaccard"] == pytest.approx((1 / 3 + 1 + 0) / 3)
    assert found["micro_f1"] == pytest.approx(2 * 1 / (3 + 3))
    assert found["exact"] == pytest.approx(1 / 3)


def test_baselines_find_what_words_tell(tiny_songs: Path) -> None:
    from sashimi.lyrics import dataset

    train = list(dataset.songs(tiny_songs, "train"))
    texts = [song.lyrics for song in train[:6]]
    found = baselines.closed(train, "artist", ["Ann", "Bob"], texts)
    assert found[baselines.NEAREST] == [song.artist for song in train[:6]]  # each is nearest to itself
    assert set(found[baselines.COMMONEST]) == {"Ann"}
    assert set(found[baselines.COUNTS]) <= {"Ann", "Bob"}
    assert baselines.closed(train, "artist", ["Nobody"], texts) == {}


def test_errors(loaded: Loaded, tiny_songs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to ask"):
        measure(None, None, settings(tiny_songs, "era"), tmp_path, QUIET)
    for wrong, said in (
        ({"split": "all"}, "val, test"),
        ({"songs": 0}, "at least 1"),
        ({"val_songs": -1}, "least 0"),
    ):
        with pytest.raises(UserError, match=said):
            settings(tiny_songs, **wrong)


def test_as_the_evaluation_s_command_asks_for_it(
    loaded: Loaded,
    tiny_songs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from sashimi.lyrics.evaluation_settings import EvaluateSettings, HeldOut

    card = {"labels": {"genre": ["folk", "rock"]}, "settings": {"data": {"tasks": ["genre", "style"]}}}
    tuned = Loaded(loaded.model, loaded.tokenizer, loaded.base, None, card)
    asked = EvaluateSettings(tmp_path / "adapter", data=HeldOut(tiny_songs, language="pt"))
    (text,) = evaluate(loaded, tuned, asked, tmp_path)
    assert "### Genre or form\n\n2 songs, 2 answers" in text  # of the four of test, those in Portuguese
    assert "### Artist" not in text  # it was not trained on that
    assert text.strip() in capsys.readouterr().out
