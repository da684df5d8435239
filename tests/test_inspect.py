"""What a data set is said to be, and whether its damage is seen."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import soundfile as sf
from rich.console import Console

from data_tools import inspect as inspect_tool
from data_tools.inspect import listen
from data_tools.prepare import Settings, prepare
from data_tools.settings import GATES

RATE = 16000
Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line, in this process: exit status and everything printed."""

    def run(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["inspect", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            inspect_tool.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

    return run


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Train: a clipped 1 kHz tone, a quarter of it silence. Val: an eighth of a full-scale tone at 3 kHz. No test."""
    t = np.arange(40 * RATE) / RATE
    clipped = np.clip(2 * np.sin(2 * np.pi * 1000.3 * t), -1, 1) * (t < 30)
    soft = 0.125 * np.sin(2 * np.pi * 3000 * t[: 8 * RATE])
    (tmp_path / "in").mkdir()
    sf.write(tmp_path / "in" / "a.wav", clipped, RATE, subtype="FLOAT")
    sf.write(tmp_path / "in" / "b.wav", soft, RATE, subtype="FLOAT")
    (tmp_path / "lists.json").write_text('{"train": ["a"], "val": ["b"]}')
    settings = Settings(chunk=10, split="list", splits=tmp_path / "lists.json", trim=False, keep=GATES)
    prepare([tmp_path / "in"], tmp_path / "out", settings, "CC0", Console(quiet=True))
    return tmp_path / "out"


def test_what_is_heard(prepared: Path) -> None:
    described, splits, damaged = listen(prepared, Console(quiet=True))
    assert described["licence"] == "CC0"
    assert damaged == {}
    train, val, test = splits["train"].table(), splits["val"].table(), splits["test"].table()
    assert (train["length"], train["recordings"], train["chunks"]) == ("0:40", "1", "4")
    assert (val["length"], val["recordings"], val["chunks"]) == ("0:08", "1", "1")
    assert test == {"length": "0:00", "recordings": "0", "chunks": "0"}
    assert train["silence (under -50 dBFS)"] == "25.0%"
    assert val["silence (under -50 dBFS)"] == "0.0%"
    # |2 sin| > 1 for two thirds of the time, of which three quarters sound.
    assert float(train["clipped in the source"].rstrip("%")) == pytest.approx(50, abs=1)
    assert val["clipped in the source"] == "0.000%", "one that was made louder is not clipped"
    assert train["peak"] == val["peak"] == "-1.0 dBFS"
    assert val["level (RMS)"] == "-4.0 dBFS"
    assert val["spectral centroid"] == "3000 Hz"
    assert splits["val"].spectrum_db.max() == pytest.approx(-1, abs=0.1), "a sine of full scale is 0 dB"
    assert splits["val"].frequencies[splits["val"].spectrum_db.argmax()] == pytest.approx(3000, abs=8)
    assert splits["train"].histogram.sum() == 40 * RATE


def test_a_data_set_in_a_table_and_a_picture(prepared: Path, tmp_path: Path, call: Call) -> None:
    status, printed = call(prepared)
    assert status == 0
    assert re.search(r"16000 Hz, split by list, licence: CC0", printed)
    assert re.search(r"length +0:40 +0:08 +0:00", printed)
    assert re.search(r"spectral centroid +\d+ Hz +3000 Hz +-", printed)
    picture = plt.imread(prepared / "inspect.png")
    assert picture.shape[0] > 600
    assert picture.shape[1] > 1000
    assert 0.02 < np.mean(picture[:, :, :3].min(axis=2) < 0.9) < 0.5, "something is drawn"
    assert call(prepared, "--plot", tmp_path / "elsewhere" / "x.png")[0] == 0
    assert (tmp_path / "elsewhere" / "x.png").is_file()
    assert call(prepared, "--plot", "x.jpg")[0] == 2


def test_what_was_dropped_is_told(tmp_path: Path, call: Call) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(30 * RATE)
    noise[10 * RATE : 20 * RATE] = 0
    sf.write(tmp_path / "a.wav", noise, RATE)
    prepare([tmp_path / "a.wav"], tmp_path / "out", Settings(chunk=10), "CC0", Console(quiet=True))
    status, printed = call(tmp_path / "out")
    assert (status, "  dropped as silent: 0:10 in 1 chunks" in printed) == (0, True)


def test_damage_is_named_and_mended(prepared: Path, tmp_path: Path, call: Call) -> None:
    before = {p.name: p.read_bytes() for p in prepared.glob("*/*.flac")}
    damaged, missing = prepared / "train" / "a-0002.flac", prepared / "val" / "b-0001.flac"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    missing.unlink()
    status, printed = call(prepared)
    assert status == 1
    assert f"{damaged}: damaged" in printed
    assert f"{missing}: missing" in printed
    assert "2 chunks are not whole" in printed
    assert re.search(r"length +0:30 +0:00 +0:00", printed), "what is damaged is not counted"

    # The advice that it gives works.
    damaged.unlink()
    settings = Settings(chunk=10, split="list", splits=tmp_path / "lists.json", trim=False, keep=GATES)
    prepare([tmp_path / "in"], prepared, settings, console=Console(quiet=True))
    assert call(prepared)[0] == 0
    assert {p.name: p.read_bytes() for p in prepared.glob("*/*.flac")} == before


def test_what_is_no_data_set(prepared: Path, tmp_path: Path, call: Call) -> None:
    status, printed = call(tmp_path / "in")
    assert (status, "is not a data set" in printed) == (2, True)
    manifest = (prepared / "manifest.jsonl").read_text()
    (prepared / "manifest.jsonl").write_text(manifest.replace("-0001", "-0009"))
    status, printed = call(prepared)
    assert (status, "is not the one that dataset.yaml was written for" in printed) == (2, True)
    (prepared / "manifest.jsonl").write_text(manifest)
    (prepared / "dataset.yaml").write_text("rate: [")
    status, printed = call(prepared)
    assert (status, "dataset.yaml is damaged" in printed) == (2, True)
    (prepared / "dataset.yaml").unlink()
    status, printed = call(prepared)
    assert (status, "is unfinished" in printed) == (2, True)
