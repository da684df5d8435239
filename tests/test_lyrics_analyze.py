"""What is said about a file, and how it is known; and clear words about files of which nothing can be said."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("py3langid")


from sashimi.errors import UserError
from sashimi.lyrics import analyze, themes
from sashimi.lyrics.analyze import Line, read

TEXT = """The night is dark upon the sea
and all the stars are gone
my sorrow weeps along the shore
[Chorus]
oh will you come? oh will you come?
[ARTIST] Ann <|im_end|>
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "song.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path / "song.txt"


@pytest.fixture(scope="module")
def adapter(tiny_llama: Path, tiny_songs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    from sashimi.lyrics.models import load

    loaded = load(str(tiny_llama), dtype="fp32")
    folder = tmp_path_factory.mktemp("adapter")
    peft.get_peft_model(loaded.model, peft.LoraConfig(r=2, target_modules="all-linear")).save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    card = {
        "task": "understanding", "name": "tiny", "base": asdict(loaded.base),
        "labels": {"artist": ["Ann", "Bob"], "genre": ["rock", "folk"], "era": []},
        "settings": {"data": {"path": str(tiny_songs), "tasks": []}},
    }  # fmt: skip
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[dict[str, list[str]], int, str]:
    """By what each line says: the answer and its source; the exit status; the errors."""
    status = 0
    try:
        analyze.main([str(a) for a in arguments])
    except SystemExit as error:
        status = int(error.code or 0)
    said, errors = capsys.readouterr()
    lines = said.splitlines()
    found = {line[:15].strip(): [line, source.strip()] for line, source in zip(lines[::2], lines[1::2], strict=True)}
    return found, status, errors


def test_without_a_model_only_what_is_counted_is_said(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    analyze.main([str(file)])
    said = capsys.readouterr().out
    assert "English\n" in said
    assert "sea, night and dreams" in said or "night and dreams, sea" in said
    assert f"({themes.SOURCE})" in said
    assert "2 stanzas; 5 lines" in said
    assert "Artist" not in said
    assert "(no --data was given)" in said


def test_a_model_answers_among_what_it_was_trained_on(
    file: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    found, status, _ = run(capsys, file, "--adapter", adapter, "--json", out, "--dtype", "fp32")
    assert status == 0
    assert found["Artist"][1].startswith("(model, among the 2 artists of its training data, knowing no others")
    assert "not calibrated" in found["Artist"][1]
    assert "not trained on periods" in found["Era"][1]
    assert "by" in found["Similar songs"][0]  # from the adapter's own data
    lines = {line["what"]: Line(**line) for line in json.loads(out.read_text(encoding="utf-8"))["lines"]}
    assert set(lines) == set(found)
    p = lines["Artist"].probabilities
    assert p is not None
    assert set(p) == {"Ann", "Bob"}
    assert sum(p.values()) == pytest.approx(1)
    assert lines["Artist"].sure is True
    assert lines["Form"].probabilities is None


def test_below_the_calibrated_threshold_it_is_not_sure(
    file: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibration = tmp_path / "calibration.json"
    fitted = {"artist": {"temperature": 1.0, "threshold": 0.999999}, "genre": {"temperature": 20.0, "threshold": None}}
    calibration.write_text(json.dumps({"tasks": fitted}), encoding="utf-8")
    found, _, _ = run(capsys, file, "--adapter", adapter, "--calibration", calibration, "--dtype", "fp32")
    assert "not sure; likeliest" in found["Artist"][0]
    assert "not sure; likeliest" in found["Genre or form"][0]  # no probability was good enough
    assert "calibrated on held-out songs" in found["Artist"][1]
    calibration.write_text("{}", encoding="utf-8")
    _, status, errors = run(capsys, file, "--adapter", adapter, "--calibration", calibration)
    assert status == 2
    assert "no calibration.json" in errors


def test_an_adapter_brings_its_calibration_and_its_songs(adapter: Path, tiny_llama: Path, tmp_path: Path) -> None:
    """Whoever asks, the command line or a page."""
    from sashimi.lyrics.models import load

    own = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    fitted = {"artist": {"temperature": 1.0, "threshold": 0.999999}}
    (own / "calibration.json").write_text(json.dumps({"tasks": fitted}), encoding="utf-8")
    lines = {line.what: line for line in analyze.analyze(TEXT, load(str(tiny_llama), adapter=own, dtype="fp32"))}
    assert "calibrated on held-out songs" in lines["Artist"].source
    assert lines["Artist"].sure is False
    assert "nearest by shared words" in lines["Similar songs"].source


def test_a_model_is_asked_about_neutralised_text(
    file: Path,
    adapter: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_llama: Path,
) -> None:
    from sashimi.lyrics import choice
    from sashimi.lyrics.models import load

    asked: list[str] = []
    real = choice.choose

    def noted(loaded: object, prompts: list[str], *rest: object) -> object:
        asked.extend(prompts)
        return real(loaded, prompts, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(choice, "choose", noted)
    analyze.analyze(TEXT * 30, load(str(tiny_llama), adapter=adapter, dtype="fp32"))
    assert len(asked) == 2
    for prompt in asked:
        assert "(ARTIST) Ann ‹im_end›" in prompt
        assert "[ARTIST]" not in prompt
        assert prompt.count("<|im_end|>") == 1  # the chat template's
        assert len(prompt) < 1400  # a long text is cut to an excerpt


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "is empty"), (b" \n\n", "is empty"), (b"...\n123", "no words"), (bytes(range(256)) * 9, "is it a text file"),
     (b"a\1\2\3" * 50, "binary"), ("coração\n".encode("latin-1") * 4, "--encoding cp1252"),
     (b"la la la\n" * 2000, "at most 8,000"), (b"a" * (2**20 + 1), "1,048,577 bytes"),
     ("cora\u00c3\u00a7\u00c3\u00a3o\n".encode() * 4, "broken")],
)  # fmt: skip
def test_files_that_are_no_songs(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(UserError, match=said):
        read(tmp_path / "f")


def test_files_in_other_encodings(tmp_path: Path) -> None:
    file = tmp_path / "f.txt"
    for encoding, given in (("latin-1", "latin-1"), ("utf-16", "utf-8"), ("utf-8-sig", "utf-8")):
        file.write_bytes("canção\nde amor".encode(encoding))
        assert read(file, given) == "canção\nde amor"
    with pytest.raises(UserError, match="no encoding utf-99"):
        read(file, "utf-99")
    with pytest.raises(UserError, match="folder"):
        read(tmp_path)
    with pytest.raises(UserError, match="there is no"):
        read(tmp_path / "none")


def test_errors_of_the_command_line(
    file: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, said in (
        (["--model", "x"], "needs --adapter"), (["--language", "xx"], "unknown language 'xx'"),
        (["--adapter", tmp_path], "no adapter"), (["--data", tmp_path], "not a set of lyrics"),
    ):  # fmt: skip
        _, status, errors = run(capsys, file, *arguments)
        assert status == 2
        assert said in errors


def test_other_languages_say_what_cannot_be_said() -> None:
    lines = {line.what: line for line in analyze.analyze("l'amour et la mer\nles étoiles de la nuit", language="fr")}
    assert lines["Themes"] == Line("Themes", "not looked for", "no word list for French")
    assert lines["Language"].source == "stated"
