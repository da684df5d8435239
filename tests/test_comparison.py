"""evaluate.py: the table of checkpoints."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import ROOT, tiny_model

from sashimi import checkpoint
from sashimi.comparison import compare
from sashimi.config import CodecConfig, DataConfig, EvaluateConfig, EvaluationConfig


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng, data = np.random.default_rng(0), tmp_path / "data"
    data.mkdir()
    for i in range(17):
        sf.write(data / f"{i:02}.wav", 0.3 * rng.standard_normal(500), 16000)
    return data


@pytest.fixture
def two(tmp_path: Path, folder: Path) -> list[Path]:
    """Checkpoints of both kinds; the first says what it was trained on."""
    paths = []
    for kind in ("s4", "s4d"):
        model = tiny_model(kind)
        model.metadata.name = kind
        if kind == "s4":
            model.metadata.provenance = {"data": {"dir": str(folder)}}
        paths.append(tmp_path / f"epoch=1-{kind}.safetensors")
        checkpoint.save(paths[-1], model, model.metadata)
    return paths


def settings(tmp_path: Path, checkpoints: list[Path], data: Path | None, **changes: object) -> EvaluateConfig:
    evaluation = EvaluationConfig(window=100, **changes)  # type: ignore[arg-type]
    return EvaluateConfig(
        checkpoints=checkpoints, data=DataConfig(data), evaluation=evaluation, save_dir=tmp_path / "out"
    )


def test_the_founding_table(tmp_path: Path, two: list[Path], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = compare(settings(tmp_path, two, folder))
    with (out / "evaluation.csv").open(newline="", encoding="utf-8") as file:
        rows = {row[0]: row[1:] for row in csv.reader(file)}
    assert rows[""] == ["s4", "s4d"]
    for split in ("test", "val"):
        names = ["accuracy", "accuracy@3", "accuracy@5", "accuracy@10", "bpb", "loss", "bpb carried"]
        figures = [[float(v) for v in rows[f"final/{split}/{name}"]] for name in names]
        assert all(0 <= a <= b <= 1 for a, b in zip(figures[0], figures[3], strict=True))
        assert np.allclose(np.array(figures[4]) * np.log(2), figures[5], atol=1e-5)
        assert all(7 < v < 10 for v in figures[4])
    assert rows["parameters"][0] == f"{sum(p.numel() for p in checkpoint.load(two[0]).parameters()):,}"
    saved = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert saved["window"] == 100
    assert [c["title"] for c in saved["checkpoints"]] == ["s4", "s4d"]
    saved_bpb = saved["checkpoints"][1]["figures"]["final/val/bpb"]
    assert saved_bpb == pytest.approx(float(rows["final/val/bpb"][1]), abs=1e-5)
    assert "| final/test/bpb |" in (out / "evaluation.md").read_text(encoding="utf-8")
    yardsticks = [float(rows[f"final/val/{name}"][1]) for name in ("order 0", "order 1", "linear prediction", "FLAC")]
    assert yardsticks[1] < yardsticks[0] < 8 < yardsticks[3]  # noise, in short files with headers
    assert 6 < yardsticks[2] < 10
    line = f"s4d on val: cold ({saved_bpb:.3f}) loses to order 1 by {saved_bpb - yardsticks[1]:.3f}, order 0 by"
    assert line in (out / "evaluation.md").read_text(encoding="utf-8")
    assert line in capsys.readouterr().out


def test_yardsticks_of_a_part_and_none(
    tmp_path: Path, two: list[Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare(settings(tmp_path, two[:1], folder, splits=["val"], carried=False, yardstick_minutes=0.0001))
    assert "(linear prediction over 0.0001 of 0 minutes, spread evenly)" in capsys.readouterr().out
    out = compare(settings(tmp_path, two[:1], folder, splits=["val"], carried=False, yardstick_minutes=0))
    (column,) = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))["checkpoints"]
    assert "final/val/FLAC" not in column["figures"]
    assert " on val: " not in capsys.readouterr().out
    assert (out / "evaluation.png").read_bytes()[:4] == b"\x89PNG"


def test_a_checkpoint_knows_its_data_set(tmp_path: Path, two: list[Path], folder: Path) -> None:
    out = compare(settings(tmp_path, two[:1], None, splits=["val"], carried=False))
    (column,) = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))["checkpoints"]
    assert column["data"] == str(folder)
    assert "final/val/bpb carried" not in column["figures"]
    with pytest.raises(ValueError, match=r"does not say what it was trained on; set data.dir"):
        compare(settings(tmp_path, two, None))
    folder.rename(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"no data set .*data_tools.prepare"):
        compare(settings(tmp_path, two[:1], None))


def test_what_cannot_be_compared_is_said(
    tmp_path: Path, two: list[Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model()
    model.metadata.codec = CodecConfig(normalize="window", window=131072)
    checkpoint.save(tmp_path / "normalised.safetensors", model, model.metadata)
    out = compare(settings(tmp_path, [two[0], tmp_path / "normalised.safetensors"], folder))
    text = capsys.readouterr().out
    assert "codecs differ" in text
    assert "evaluation.window=100" in text
    columns = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))["checkpoints"]
    assert columns[0]["figures"]["final/test/bpb carried"] is not None
    assert columns[1]["figures"]["final/test/bpb carried"] is None


def test_the_command_line(tmp_path: Path, two: list[Path], folder: Path) -> None:
    command = [sys.executable, str(ROOT / "evaluate.py"), f"checkpoints=[{two[0]},{two[1]}]", f"data.dir={folder}"]
    settings = ["evaluation.window=100", "evaluation.splits=[val]", f"save_dir={tmp_path}/a=b"]
    done = subprocess.run([*command, *settings], cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "final/val/bpb" in done.stdout
    assert (tmp_path / "a=b" / "evaluation.csv").is_file()
    failed = subprocess.run([*command, "evaluation.splits=[dev]"], cwd=tmp_path, capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr == "error: evaluation.splits=dev is not one of train, val, test\n"
