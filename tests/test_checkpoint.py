"""Our checkpoint file: says what it is, and what is wrong with what is not one."""

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from conftest import tiny_model
from safetensors.torch import load_file, save_file

from sashimi import checkpoint
from sashimi.checkpoint import CheckpointError, Metadata
from sashimi.config import CodecConfig, LayerConfig, SamplingConfig

TOKENS = torch.arange(40)[None] * 5


def test_a_model_is_rebuilt_from_its_file_alone(tmp_path: Path, kind: str) -> None:
    model = tiny_model(kind, layer=LayerConfig(kind=kind, backend="torch"))
    codec = CodecConfig(law="linear", rate=8000, normalize="window", window=100)
    provenance, metrics = {"data": "cançãο", "steps": 7, "seed": 1}, {"heldout_bpb": 2.5}
    path = tmp_path / "new folder" / "model.safetensors"
    sampling = SamplingConfig(temp=1.25, entropy=1.5)
    checkpoint.save(path, model, Metadata(model.config, codec, "mine", provenance, metrics, sampling))
    back = checkpoint.load(str(path))
    assert not back.training
    with torch.no_grad():
        assert torch.allclose(back(TOKENS), model(TOKENS), atol=1e-5)
    assert back.metadata.codec == codec
    assert back.metadata.name == "mine"
    assert back.metadata.provenance.items() >= provenance.items()
    assert "code_version" in back.metadata.provenance
    assert back.metadata.metrics == metrics
    assert back.metadata.sampling == sampling
    assert back.metadata.model.layer.backend == "auto", "how kernels are computed is the machine's affair"
    assert checkpoint.load(path, backend="torch").config.layer.backend == "torch"
    assert os.listdir(path.parent) == ["model.safetensors"]
    (tmp_path / "ordinary").touch()
    assert path.stat().st_mode == (tmp_path / "ordinary").stat().st_mode, "others may read it too"


def test_a_run_directory_means_its_best(saved_model: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "x" / "1"
    run.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="folder without best"):
        checkpoint.load(run)
    saved_model.rename(run / "best.safetensors")
    assert checkpoint.load(run).metadata.name == "tiny"


def test_the_newest_run_that_counts_is_chosen(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for age, name in enumerate(["demo", "smoke", "test", "bigband/2", "mine/1", "bigband/1"]):
        path = runs / (name if "/" in name else f"{name}/1") / "best.safetensors"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    (runs / "bigband" / "unfinished").mkdir()
    assert checkpoint.choose(None, runs, None)[0] == runs / "bigband" / "2"
    assert checkpoint.choose(None, runs, "mine")[0] == runs / "mine" / "1"
    assert checkpoint.choose(None, runs, "smoke")[0] == runs / "smoke" / "1"
    assert checkpoint.choose(Path("given"), runs, "mine") == (Path("given"), "as asked")


def test_the_shipped_checkpoint_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved_model: Path) -> None:
    monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path / "empty")
    with pytest.raises(ValueError, match="checkpoint_path="):
        checkpoint.choose(None, tmp_path / "runs", None)
    monkeypatch.setattr(checkpoint, "SHIPPED", saved_model.parent)
    path, why = checkpoint.choose(None, tmp_path / "runs", "bigband")
    assert path == saved_model
    assert "no local training run of bigband" in why


# --- files that are not one ---------------------------------------------------------------------------


def refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        checkpoint.load(path)
    assert path.name in str(error.value)


def test_absent(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        checkpoint.load(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, -1])
def test_truncated(saved_model: Path, kept: float) -> None:
    whole = saved_model.read_bytes()
    saved_model.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    refused(saved_model, "truncated" if kept not in (0, 5) else "not a safetensors file")


@pytest.mark.parametrize("content", [b"RIFF0000WAVEfmt and so on", b"{}", struct.pack("<Q", 2) + b"[]", b"\xff" * 100])
def test_foreign(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "song.safetensors"
    path.write_bytes(content)
    refused(path, "not a checkpoint of this program")


def test_safetensors_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "else.safetensors"
    save_file({"w": torch.zeros(3)}, path)
    refused(path, "of something else")


def rewritten(path: Path, change: dict[str, str], weights: dict[str, torch.Tensor] | None = None) -> None:
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])["__metadata__"]
    save_file({**load_file(path), **(weights or {})}, path, {**header, **change})


def test_from_the_future(saved_model: Path) -> None:
    rewritten(saved_model, {"format_version": "2"})
    refused(saved_model, "format 2.*update")


def test_a_description_that_does_not_fit(saved_model: Path) -> None:
    model = json.loads(json.dumps({"d_model": 16}))
    rewritten(saved_model, {"model": json.dumps(model)})
    refused(saved_model, "damaged")
    rewritten(saved_model, {"model": json.dumps({"d_modle": 16})})
    refused(saved_model, "did you mean model.d_model")
    rewritten(saved_model, {"model": "{}", "codec": json.dumps({"bits": 4})})
    refused(saved_model, "256 tokens with a 4-bit codec")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers(saved_model: Path, bad: float) -> None:
    rewritten(saved_model, {}, {"head.bias": torch.full((256,), bad)})
    refused(saved_model, "NaN or infinite weights.*head.bias")


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(tensors: object, path: Path, header: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", fails)
    model = tiny_model()
    with pytest.raises(OSError, match=r"model.safetensors.*No space left"):
        checkpoint.save(tmp_path / "model.safetensors", model, model.metadata)
    assert not list(tmp_path.iterdir())
