"""Adapters on disk: whole, on their own base, shown, merged."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from lyrics_fixtures import make_llama

from sashimi.errors import UserError
from sashimi.lyrics.config import Data, Lora, Model, Training, TrainSettings

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from sashimi.lyrics import adapters, models, training  # noqa: E402


def made(base: Path, songs: Path, runs: Path, **model: object) -> Path:
    quick = Training(epochs=1, lr=0.05, batch=2, accumulate=1, warmup=0)
    run = training.train(
        TrainSettings(
            name="tiny", model=Model(name=str(base), dtype="fp32", **model), data=Data(path=songs, songs=4),
            lora=Lora(r=4, alpha=8), training=quick, runs_dir=runs,
        )  # type: ignore[arg-type]
    )  # fmt: skip
    return run / training.ADAPTER


@pytest.fixture(scope="module")
def adapter(tiny_llama: Path, tiny_songs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tiny_llama, tiny_songs, tmp_path_factory.mktemp("runs"))


def logits(loaded: models.Loaded) -> "torch.Tensor":
    with torch.no_grad():
        return loaded.model(torch.tensor([[5, 6, 7, 8, 9]])).logits


def test_merged_is_the_same_model(adapter: Path, tiny_llama: Path, tmp_path: Path) -> None:
    adapters.merge(adapter, tmp_path / "whole")
    merged = models.load(str(tmp_path / "whole"), dtype="fp32")
    adapted = models.load(str(tiny_llama), adapter=adapter, dtype="fp32")
    torch.testing.assert_close(logits(merged), logits(adapted), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(logits(merged), logits(models.load(str(tiny_llama), dtype="fp32")), atol=1e-3)
    assert not list(tmp_path.glob(".*")), "nothing half-written is left"
    assert "adapter_config.json" not in {p.name for p in (tmp_path / "whole").iterdir()}
    with pytest.raises(UserError, match="whole exists already"):
        adapters.merge(adapter, tmp_path / "whole")


def test_over_four_bits_it_is_merged_into_whole_weights(tiny_llama: Path, tiny_songs: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    adapters.merge(made(tiny_llama, tiny_songs, tmp_path, quantise="nf4"), tmp_path / "whole")
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert "quantization_config" not in config
    assert models.load(str(tmp_path / "whole")).base.fingerprint


def test_an_adapter_keeps_to_its_base(adapter: Path, tiny_llama: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_llama, tmp_path / "copy")
    assert models.load(str(copy), adapter=adapter).adapter == adapter
    other = make_llama(tmp_path / "other", tied=True)
    with pytest.raises(UserError) as raised:
        models.load(str(other), adapter=adapter)
    assert str(tiny_llama) in str(raised.value), "both are named"
    assert str(other) in str(raised.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("adapter_model.safetensors", "it has no adapter_model.safetensors"),
        ("card.json", "it has no card.json"),
        ("adapter_config.json", "it has no adapter_config.json"),
    ],
)
def test_what_is_missing_is_said(adapter: Path, tmp_path: Path, name: str, said: str) -> None:
    copy = Path(shutil.copytree(adapter, tmp_path / "copy"))
    (copy / name).unlink()
    with pytest.raises(UserError, match=said):
        adapters.read(copy)


def test_damage_is_said(adapter: Path, tiny_llama: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(adapter, tmp_path / "copy"))
    weights = copy / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(UserError, match="copy cannot be put on its base"):
        models.load(str(tiny_llama), adapter=copy)
    (copy / "card.json").write_text("{")
    with pytest.raises(UserError, match=r"card\.json is damaged"):
        adapters.read(copy)
    with pytest.raises(UserError, match=r"did you mean .*adapter\?"):
        adapters.read(adapter.parent)
    with pytest.raises(UserError, match="there is no adapter"):
        adapters.read(tmp_path / "absent")


def test_the_card_says_what_it_is(adapter: Path) -> None:
    text = (adapter / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\nlibrary_name: peft\n")
    card = adapters.read(adapter)
    for said in (card["base"]["fingerprint"], "public domain", "4 train, 4 val", "before training", "kept"):
        assert said in text
    assert card["versions"].keys() == set(adapters.PACKAGES)


def test_command_line(adapter: Path, tmp_path: Path) -> None:
    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sashimi.lyrics.adapters", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    shown = call("show", adapter)
    assert shown.returncode == 0
    assert shown.stdout.startswith("# tiny") or shown.stdout.startswith("tiny")
    assert "before training" in shown.stdout
    wrong = call("merge", tmp_path, "--out", tmp_path / "x")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: ")
    assert wrong.stderr.count("\n") == 1
