"""A tiny base and its adapter, evaluated from a command line; and what is refused."""

import json
import re
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

pytest.importorskip("peft")
pytest.importorskip("sacrebleu")
pytest.importorskip("rouge_score")

import torch
from lyrics_fixtures import make_llama, make_songs
from peft import LoraConfig, get_peft_model

import sashimi.lyrics
from sashimi import cli
from sashimi.errors import UserError
from sashimi.lyrics import adapters, dataset, models
from sashimi.lyrics import evaluate as evaluate_entry
from sashimi.lyrics.before_after import write as write_page
from sashimi.lyrics.config import CONFIGS, Lora, TrainSettings
from sashimi.lyrics.evaluation import Column, Results, evaluate, request
from sashimi.lyrics.evaluation_settings import Base, EvaluateSettings, HeldOut, Similarity, Writing
from sashimi.lyrics.measures import form
from sashimi.lyrics.perplexity import Scored, beginning, perplexity, score
from sashimi.settings import build

quick = pytest.mark.usefixtures("without_plots")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_songs(tmp_path_factory.mktemp("songs") / "tiny")


def make_adapter(folder: Path, base: Path, songs: Path, **card: Any) -> Path:
    """Random, so that it is heard; it says that it was trained on these songs."""
    loaded = models.load(str(base), dtype="fp32")
    torch.manual_seed(1)
    adapted = get_peft_model(loaded.model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    values = {
        "task": "writing", "name": "tiny-adapter",
        "base": vars(loaded.base),
        "data": {"name": "tiny", "licence": "public domain", "examples": {"train": 12, "val": 4},
                 "content_hash": dataset.described(songs)["content_hash"]},
        "losses": [{"epoch": 0, "train": 6.0, "val": 6.1}, {"epoch": 1, "train": 5.0, "val": 5.2}],
        "settings": json.loads(json.dumps(asdict(TrainSettings(lora=Lora(r=4))), default=str)), "metrics": {}, **card,
    }  # fmt: skip
    adapters.save(folder, adapted, loaded.tokenizer, values)
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path, songs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tmp_path_factory.mktemp("adapter") / "adapter", base, songs)


def settings(songs: Path, out: Path, **changes: Any) -> EvaluateSettings:
    values: dict[str, Any] = {
        "data": HeldOut(path=songs), "writing": Writing(max_tokens=12), "model": Base(dtype="fp32"),
        "embedding": Similarity(use=False), "out": out,
    }  # fmt: skip
    return EvaluateSettings(**(values | changes))


@pytest.fixture(scope="module")
def made(base: Path, songs: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluation") / "of tiny"
    return evaluate(settings(songs, out, adapter=adapter, model=Base(str(base), dtype="fp32")))


def test_four_columns_beside_the_real_lyrics(made: Path) -> None:
    assert sorted(p.name for p in made.iterdir()) == [
        "before-after.html", "form.png", "losses.png", "overlap.png", "report.md", "results.json", "songs.jsonl",
    ]  # fmt: skip
    results = json.loads((made / "results.json").read_text())
    assert list(results["columns"]) == [
        "real lyrics", "base, plain", "base, described", "fine-tuned, plain", "fine-tuned, described",
    ]  # fmt: skip
    assert results["songs"] == 4
    assert list(results["differences"]) == [
        "fine-tuned, plain - base, plain", "fine-tuned, described - base, described",
        "fine-tuned, plain - base, described",
    ]  # fmt: skip
    for name, column in results["columns"].items():
        assert column["rouge_1"]["mean"] <= 1
        assert ("perplexity" in column) == (name != "real lyrics")
    ours, theirs = (results["columns"][f"{who}, plain"] for who in ("fine-tuned", "base"))
    assert ours["perplexity"]["tokens"]["mean"] != theirs["perplexity"]["tokens"]["mean"]
    change = results["differences"]["fine-tuned, plain - base, plain"]["words"]
    assert change["mean"] == pytest.approx(ours["words"]["mean"] - theirs["words"]["mean"])
    assert "| cosine similarity |" not in (made / "report.md").read_text()


def test_the_report_has_the_founding_tables(made: Path) -> None:
    report = (made / "report.md").read_text()
    assert "| measure | fine-tuned, plain request | base, task described | real lyrics of another title |" in report
    for row in ("BLEU, all songs together", "ROUGE-1", "ROUGE-2", "ROUGE-L"):
        assert f"| {row} |" in report
    assert "| 1 | 5.0000 | 5.2000 |" in report
    assert "held out of its training" not in report  # it was trained on these songs' set
    for name in re.findall(r"\]\((\S+?)\)", report):
        assert (made / name).is_file()


def test_texts_are_kept_with_their_figures(made: Path, songs: Path) -> None:
    lines = [json.loads(line) for line in (made / "songs.jsonl").read_text().splitlines()]
    assert {line["id"] for line in lines} == {song.id for song in dataset.songs(songs, "test")}
    for line in lines:
        column = line["columns"]["base, plain"]
        again = form(column["text"], line["language"])
        assert {name: column["figures"][name] for name in again} == again


@pytest.fixture
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time."""
    monkeypatch.setattr("sashimi.lyrics.evaluation_report._plot", lambda *_: None)
    monkeypatch.setattr("sashimi.lyrics.losses.draw", lambda *_: None)


@quick
def test_the_same_seed_writes_the_same(base: Path, songs: Path, tmp_path: Path) -> None:
    texts = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        given = settings(songs, tmp_path / name, model=Base(str(base), dtype="fp32"), seed=seed, perplexity=False)
        evaluate(replace(given, data=HeldOut(path=songs, songs=2)))
        texts.append((tmp_path / name / "songs.jsonl").read_text())
    assert texts[0] == texts[1] != texts[2]
    assert "fine-tuned" not in texts[0]
    assert "perplexity" not in (tmp_path / "a" / "report.md").read_text()


@quick
def test_another_data_set_than_the_adapters_is_said(base: Path, adapter: Path, tmp_path: Path) -> None:
    other = make_songs(tmp_path / "other", held_out=2, train=3)
    given = settings(other, tmp_path / "out", adapter=adapter, model=Base(str(base)), perplexity=False)
    assert "nothing says that these songs were held out" in (evaluate(given) / "report.md").read_text()


@quick
def test_embedding_that_is_not_there_is_a_note(base: Path, songs: Path, tmp_path: Path) -> None:
    given = settings(
        songs, tmp_path / "out", model=Base(str(base)), perplexity=False,
        embedding=Similarity(name=str(tmp_path / "none")), data=HeldOut(path=songs, songs=1),
    )  # fmt: skip
    assert "No cosine similarity" in (evaluate(given) / "report.md").read_text()


def test_what_is_refused(base: Path, songs: Path, adapter: Path, tmp_path: Path) -> None:
    model = Base(str(base))

    def refused(match: str, **changes: Any) -> None:
        with pytest.raises(UserError, match=match):
            evaluate(settings(changes.pop("songs", songs), tmp_path / "out", **({"model": model} | changes)))
        assert not (tmp_path / "out").exists()

    with pytest.raises(UserError, match="data.path is not set"):
        EvaluateSettings(model=model)
    with pytest.raises(UserError, match="adapter=FOLDER"):
        settings(songs, tmp_path, model=Base())
    with pytest.raises(UserError, match=r"data.split=tset"):
        HeldOut(path=songs, split="tset")
    refused("is not a set of lyrics", songs=tmp_path / "nowhere")
    refused("no song in test.jsonl with data.language=fr", data=HeldOut(path=songs, language="fr"))
    broken = make_songs(tmp_path / "broken")
    (broken / "val.jsonl").unlink()
    refused("val.jsonl cannot be read", data=HeldOut(path=broken, split="val"))
    (broken / "test.jsonl").write_text("")
    refused("no song in test.jsonl", songs=broken)
    refused("there is no adapter", adapter=tmp_path / "nothing")
    part = tmp_path / "part"
    part.mkdir()
    for path in adapter.iterdir():
        if path.name != "adapter_model.safetensors":
            (part / path.name).write_bytes(path.read_bytes())
    refused("it has no adapter_model.safetensors", adapter=part)
    strange = make_adapter(tmp_path / "strange", base, songs, task="singing")
    refused("trained for the task singing", adapter=strange)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("of mine")
    with pytest.raises(UserError, match="is not empty"):
        evaluate(settings(songs, tmp_path / "out", model=model))
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


@quick
def test_an_adapter_that_understands_is_measured_by_its_tasks(
    base: Path, songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = ModuleType("sashimi.lyrics.understanding_evaluation")
    fake.evaluate = lambda base, tuned, settings, out: [  # type: ignore[attr-defined]
        f"## Genre\n\n{base.adapter is None}, {tuned.card['task']}, {settings.data.songs}, {out.is_dir()}\n"
    ]
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    monkeypatch.setattr(sashimi.lyrics, "understanding_evaluation", fake, raising=False)
    adapter = make_adapter(tmp_path / "adapter", base, songs, task="understanding")
    out = evaluate(settings(songs, tmp_path / "out", adapter=adapter, model=Base(str(base))))
    report = (out / "report.md").read_text()
    assert "True, understanding, 100, True" in report
    assert "| 1 | 5.0000 | 5.2000 |" in report


def test_what_is_asked(songs: Path) -> None:
    song = next(dataset.songs(songs, "test"))
    assert request(song, "title").title == song.title
    assert request(song, "title").artist is None
    assert request(song, "full").artist == song.artist
    untitled = request(replace(song, title=None, lyrics="[Chorus]\nfirst words\nmore"), "title")
    assert (untitled.title, untitled.first_line) == (None, "first words")


# --- perplexity ---------------------------------------------------------------------------------------


def test_perplexity_is_that_of_the_lyrics_alone(base: Path) -> None:
    loaded = models.load(str(base), dtype="fp32")
    prompt, text = "<|im_start|>user\nlove\n<|im_end|>\n<|im_start|>assistant\n", "rain river\nmoon"
    (found,) = score(loaded, [prompt], [text])
    ids = loaded.tokenizer(prompt + text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    count = len(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
    with torch.inference_mode():
        logp = loaded.model(ids).logits[0].log_softmax(-1)
    slow = -sum(float(logp[i - 1, ids[0, i]]) for i in range(ids.shape[1] - count, ids.shape[1]))
    assert found.tokens == count
    assert found.words == 3
    assert found.nats == pytest.approx(slow, rel=1e-4)


def test_perplexity_weighs_words_and_not_songs() -> None:
    scored = [Scored(10.0, 5, 2), Scored(2.0, 5, 4)]
    assert perplexity(scored, "words").value == pytest.approx(2.718281828**2)
    assert perplexity(scored, "tokens").value == pytest.approx(2.718281828**1.2)
    assert perplexity(scored, "words").low < perplexity(scored, "words").high


def test_only_whole_lines_are_scored() -> None:
    assert beginning("a b\nc d\n\ne f g", 4) == "a b\nc d"
    assert beginning("a b c d e f", 2) == "a b c d e f"


# --- the page -----------------------------------------------------------------------------------------


def test_the_page_shows_text_and_runs_nothing(songs: Path, tmp_path: Path) -> None:
    song = replace(next(dataset.songs(songs, "test")), title='<script>alert("1")</script>', language="en")
    text = "the light</p><img src=x onerror=alert(1)>\nof night\n\n[Chorus]\nso bright!\n& more"
    figures = form(text, "en")
    columns = [Column(name, [text], [figures], [None]) for name in ("real lyrics", "base, described", "base, plain")]
    write_page(tmp_path, Results(settings(songs, tmp_path, model=Base("x")), "<b>base</b>", "tiny", [song], columns))
    page = (tmp_path / "before-after.html").read_text()
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert "default-src &#x27;none&#x27;" in page or "default-src 'none'" in page
    assert not re.search(r"(?:src|href)\s*=\s*[\"']", page)
    assert 'of <mark class="r0">night<sup>a</sup></mark>' in page
    assert '<mark class="r0">bright<sup>a</sup></mark>!' in page
    assert '<p class="line marker">[Chorus]</p>' in page


def test_the_command_line_names_the_nearest_setting() -> None:
    with pytest.raises(UserError, match=r"did you mean writing\.temperature\?"):
        cli.check(CONFIGS, "evaluate", ["writing.temprature=1"])
    assert evaluate_entry.make() == (EvaluateSettings, evaluate)


def test_the_configuration_has_every_setting_and_its_default() -> None:
    composed = yaml.safe_load((CONFIGS / "evaluate.yaml").read_text())
    composed["data"]["path"], composed["model"]["name"] = "songs", "x"
    given = build(EvaluateSettings, composed)
    assert given == EvaluateSettings(data=HeldOut(path=Path("songs")), model=Base("x"))
    assert set(composed) == {f.name for f in fields(EvaluateSettings)}
