"""Beginnings from recordings, by the published rules."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from sashimi import audio
from sashimi.codec import Codec
from sashimi.config import CodecConfig
from sashimi.data import TokenStore, TrainingWindows, beginnings, open_tokens, recordings, slot_counts, training_windows

Recording = Callable[..., Path]


@pytest.fixture
def folder(recording: Recording, tmp_path: Path) -> Path:
    for i in range(20):
        recording(f"data/{i:02}.wav", seconds=1.0 + 0.05 * i, rate=16000)
    (tmp_path / "data" / "notes.txt").touch()
    return tmp_path / "data"


def test_split_by_file(folder: Path) -> None:
    names = {split: [r.name for r in recordings(folder, split)] for split in ("train", "val", "test")}
    assert names["train"] == [f"{i:02}.wav" for i in range(17)]
    assert names["val"] == ["17.wav"]
    assert names["test"] == ["18.wav", "19.wav"]


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
    assert np.array_equal(tokens, codec.encode(np.rint(window * 32768) / 32768)[:300]), "samples are kept in 16 bits"


def test_too_little(folder: Path, tmp_path: Path) -> None:
    codec = Codec(CodecConfig())
    with pytest.raises(ValueError, match="holds 1 beginnings of 20000 samples, not 2"):
        beginnings(folder, "val", codec, 20000, 2)
    with pytest.raises(ValueError, match=r"no data set .*data.dir="):
        beginnings(tmp_path / "absent", "val", codec, 10, 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="0 recordings"):
        recordings(tmp_path / "empty", "train")


# --- prepared data sets -------------------------------------------------------------------------------


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Two recordings of noise in 1-second chunks; the first has a gap after its second chunk."""
    rng, folder = np.random.default_rng(0), tmp_path / "prepared"
    (folder / "val").mkdir(parents=True)
    rows = []
    for recording, start in (("a", 0.0), ("a", 1.0), ("a", 5.0), ("b", 0.0)):
        file = f"val/{recording}-{start:.0f}.flac"
        sf.write(folder / file, 0.3 * rng.standard_normal(16000), 16000)
        rows.append({"file": file, "split": "val", "recording": recording, "start": start, "samples": 16000})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "dataset.yaml").write_text("name: noise\nrate: 16000\n")
    return folder


def test_chunks_are_joined_where_time_goes_on(prepared: Path) -> None:
    found = recordings(prepared, "val")
    assert [[f.name for f in r.files] for r in found] == [["a-0.flac", "a-1.flac"], ["a-5.flac"], ["b-0.flac"]]
    with pytest.raises(ValueError, match="nothing in its test split"):
        recordings(prepared, "test")


def test_tokens_are_those_of_the_recordings(prepared: Path) -> None:
    codec = Codec(CodecConfig())
    store = open_tokens(prepared, "val", codec)
    assert store.lengths == [32000, 16000, 16000]
    sound = np.concatenate([audio.read(prepared / "val" / f"a-{i}.flac", 16000) for i in (0, 1)])
    assert np.array_equal(store.window(0, 15000, 2000), codec.encode(sound[15000:17000]))
    assert len(store.window(0, 31999, 50)) == 1, "a window ends with its recording"
    lengths = [(recording, start, len(tokens)) for recording, start, tokens in store.windows(12000)]
    assert lengths[:4] == [(0, 0, 12000), (0, 12000, 12000), (0, 24000, 8000), (1, 0, 12000)]


def test_a_normalising_codec_encodes_each_window(prepared: Path) -> None:
    codec = Codec(CodecConfig(normalize="window", window=8000))
    store = open_tokens(prepared, "val", codec)
    sound = audio.read(prepared / "val" / "b-0.flac", 16000)
    assert np.array_equal(store.window(2, 4000, 8000), codec.encode(sound[4000:12000]))


def test_the_cache_is_used_and_follows_codec_and_recordings(prepared: Path) -> None:
    def cached() -> set[str]:
        return {p.name for p in (prepared / ".cache").iterdir()}

    first = open_tokens(prepared, "val", Codec(CodecConfig()))
    one = cached()
    assert len(one) == 2
    open_tokens(prepared, "val", Codec(CodecConfig()), report=lambda fraction: pytest.fail("encoded again"))
    open_tokens(prepared, "val", Codec(CodecConfig(law="linear")))
    assert len(cached()) == 4
    sf.write(prepared / "val" / "b-0.flac", np.zeros(16000), 16000)
    changed = open_tokens(prepared, "val", Codec(CodecConfig()))
    assert (changed.window(2, 0, 100) == 128).all()
    assert not (first.window(2, 0, 100) == 128).all()


def test_an_interrupted_encoding_is_done_again(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_tokens(prepared, "val", Codec(CodecConfig()), report=interrupted)
    assert not list((prepared / ".cache").iterdir())
    assert open_tokens(prepared, "val", Codec(CodecConfig())).offsets[-1] == 64000


def test_data_sets_that_cannot_be_used(prepared: Path) -> None:
    with pytest.raises(ValueError, match=r"prepared at 16000 Hz .* --rate 8000"):
        open_tokens(prepared, "val", Codec(CodecConfig(rate=8000)))
    (prepared / "val" / "b-0.flac").unlink()
    with pytest.raises(ValueError, match=r"b-0.flac is missing"):
        recordings(prepared, "val")
    (prepared / "dataset.yaml").write_text("name: noise\n")
    with pytest.raises(ValueError, match=r"dataset.yaml is damaged"):
        recordings(prepared, "val")
    (prepared / "dataset.yaml").unlink()
    with pytest.raises(ValueError, match="unfinished"):
        recordings(prepared, "val")


# --- data sets mixed ----------------------------------------------------------------------------------

MIX = [40, 16, 3]  # windows of three data sets


def numbered(windows: int, first: int) -> TokenStore:
    """A recording of some windows of 8 and a bit, whose samples are numbered from `first` on."""
    length = 8 * windows + 4
    return TokenStore(Codec(CodecConfig()), np.arange(first, first + length), [0, length])


def mixed(weights: list[float] | None, seed: int = 0) -> Any:
    return training_windows([numbered(n, 1000 * i) for i, n in enumerate(MIX)], weights, 8, seed)


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        ([3.0, 1.0], [150, 50]),
        ([1.0, 1.0, 1.0], [100, 100, 100]),
        ([0.5, 0.25, 0.25], [150, 75, 75]),
        ([2.0, 1.0], [133, 67]),
        ([1e9, 1.0], [199, 1]),
        ([1.0, 1e-9, 1e-9, 1.0], [199, 1, 1, 199]),
    ],
)
def test_weights_as_slots(weights: list[float], counts: list[int]) -> None:
    assert slot_counts(weights) == counts


def test_shares_are_exact_in_every_block() -> None:
    windows = mixed([3, 2, 1])
    assert windows.shares == [0.5, pytest.approx(1 / 3), pytest.approx(1 / 6)]
    assert windows.per_epoch == sum(MIX)
    for block in range(3):
        sets = [int(windows[block * 300 + i][0]) // 1000 for i in range(300)]
        assert [sets.count(i) for i in range(3)] == [150, 100, 50]
        longest = max(len(run) for run in "".join(map(str, sets)).replace("1", " ").replace("2", " ").split())
        assert longest < 20, "the sets are mixed, not one after another"
    assert mixed(None).counts == slot_counts([40.0, 16.0, 3.0]), "as many as there are"


def test_a_set_among_others_is_heard_in_its_own_order() -> None:
    """So no window of a set comes twice before all of its epoch have come."""
    windows = mixed([3, 2, 1])
    heard: list[list[int]] = [[], [], []]
    for i in range(900):
        start = int(windows[i][0])
        heard[start // 1000].append(start)
    for starts, alone in zip(heard, windows.sets, strict=True):
        assert starts == [int(alone[i][0]) for i in range(len(starts))]
    assert [len(starts) for starts in heard] == [450, 300, 150]
    assert len({windows.seed, *(alone.seed for alone in windows.sets)}) == 4, "each draws for itself"


def test_mixed_windows_are_a_function_of_seed_and_index() -> None:
    windows, again = mixed([3, 2, 1], seed=2**64 - 1), mixed([3, 2, 1], seed=2**64 - 1)
    expected = {i: windows[i] for i in range(700)}
    for i in (699, 3, 340, 0, 341):
        assert np.array_equal(again[i], expected[i])
    assert any(not np.array_equal(mixed([3, 2, 1], seed=1)[i], expected[i]) for i in range(5))


def test_one_data_set_is_what_it_is_alone() -> None:
    store = numbered(40, 0)
    windows = training_windows([store], None, 8, 5)
    assert isinstance(windows, TrainingWindows)
    assert windows.shares == [1.0]
    assert [int(windows[i][0]) for i in range(8)] == [17, 205, 71, 230, 255, 283, 27, 245], (
        "runs from before there were others"
    )
