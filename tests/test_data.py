"""Beginnings from recordings, by the published rules."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sashimi import audio
from sashimi.codec import Codec
from sashimi.config import CodecConfig
from sashimi.data import beginnings, split_files

Recording = Callable[..., Path]


@pytest.fixture
def folder(recording: Recording, tmp_path: Path) -> Path:
    for i in range(20):
        recording(f"data/{i:02}.wav", seconds=1.0 + 0.05 * i, rate=16000)
    (tmp_path / "data" / "notes.txt").touch()
    return tmp_path / "data"


def test_split_by_file(folder: Path) -> None:
    names = {split: [p.stem for p in split_files(folder, split)] for split in ("train", "val", "test")}
    assert names["train"] == [f"{i:02}" for i in range(17)]
    assert names["val"] == ["17"]
    assert names["test"] == ["18", "19"]


def test_windows_of_a_split_in_order(folder: Path) -> None:
    codec = Codec(CodecConfig(window=10000))
    found = beginnings(folder, "test", codec, 300, 5)
    for tokens, (name, start) in zip(
        found, [("18", 0), ("18", 10000), ("18", 20000), ("18", 30000), ("19", 0)], strict=True
    ):
        recording = audio.read(folder / f"{name}.wav", 16000)
        assert np.array_equal(tokens, codec.encode(recording[start : start + 300]))


def test_a_normalising_codec_hears_the_whole_window(folder: Path) -> None:
    codec = Codec(CodecConfig(normalize="window", window=12000))
    (tokens,) = beginnings(folder, "val", codec, 300, 1)
    window = audio.read(folder / "17.wav", 16000)[:12000]
    assert np.array_equal(tokens, codec.encode(window)[:300])


def test_too_little(folder: Path, tmp_path: Path) -> None:
    codec = Codec(CodecConfig())
    with pytest.raises(ValueError, match="holds 1 beginnings of 20000 samples, not 2"):
        beginnings(folder, "val", codec, 20000, 2)
    with pytest.raises(ValueError, match=r"no data set .*data.dir="):
        beginnings(tmp_path / "absent", "val", codec, 10, 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="0 recordings"):
        split_files(tmp_path / "empty", "train")
