"""Music of the training set is found where it is; other music is not."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import notes
from rich.console import Console

from sashimi import fingerprints, memorisation
from sashimi.codec import Codec
from sashimi.config import CodecConfig
from sashimi.data import TokenStore, open_tokens
from sashimi.memorisation import SECONDS, WINDOW, Index, Near, held_out, nearest, open_index, verdict

RATE = 16000
CODEC = Codec(CodecConfig())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of recordings, of which the first fourteen are to train on: a few are long, one is too short."""
    folder = tmp_path_factory.mktemp("data")
    for i in range(17):
        seconds = {0: 20, 1: 3, 2: 12, 13: 15}.get(i, 5 if i < 14 else 12)
        sf.write(folder / f"{i:02}.wav", notes(seconds, 100 + i), RATE)
    return folder


@pytest.fixture(scope="module")
def index(folder: Path) -> Index:
    return open_index(folder)


@pytest.fixture(scope="module")
def control(folder: Path, index: Index) -> list[Near | None]:
    return nearest(index, held_out(open_tokens(folder, "test", CODEC), 6, 10))


def changed(waveform: np.ndarray, how: str) -> np.ndarray:
    match how:
        case "noise":
            return waveform + 0.1 * waveform.std() * np.random.default_rng(0).standard_normal(len(waveform))
        case "softer":
            return 0.1 * waveform
        case "codec":
            return CODEC.decode(CODEC.encode(0.2 * waveform))
        case _:
            return waveform


@pytest.mark.parametrize("how", ["as it is", "noise", "softer", "codec"])
@pytest.mark.parametrize(("recording", "second"), [(0, 0.0), (0, 11.2345), (2, 4.05), (13, 9.0)])
def test_training_music_is_found_at_its_place(
    index: Index, control: list[Near | None], recording: int, second: float, how: str
) -> None:
    seconds = {0: 20, 2: 12, 13: 15}[recording]
    waveform = notes(seconds, 100 + recording)[round(second * RATE) :][: 6 * RATE]
    (found,) = nearest(index, [changed(waveform, how).astype(np.float32)])
    assert found is not None
    assert found.recording == f"{recording:02}.wav"
    assert found.second - found.at == pytest.approx(second, abs=0.11)
    assert found.distance < 0.08 < min(near.distance for near in control if near)


def test_other_music_is_not_near(index: Index, control: list[Near | None]) -> None:
    assert len(control) == 4  # two recordings of 12 s in excerpts of 6
    assert all(near and near.distance > 0.12 for near in control)


def test_the_nearest_is_that_of_every_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """The obvious way: every window with every window, in no blocks."""
    rng = np.random.default_rng(0)
    lengths = [70, WINDOW - 1, 33, WINDOW]
    codes = rng.integers(0, 1 << 32, (sum(lengths), 2), np.uint32)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    clip = rng.integers(0, 1 << 32, (61, 2), np.uint32)
    index = Index(["a", "b", "c", "d"], starts, codes, RATE)
    obvious = []
    for at in range(0, 61 - WINDOW + 1, memorisation.STEP):
        for name, begin, end in zip(index.names, starts, starts[1:], strict=False):
            for frame in range(end - begin - WINDOW + 1):
                one, other = clip[at : at + WINDOW], codes[begin + frame :][:WINDOW]
                known = one[:, 1] & other[:, 1]
                differ = np.bitwise_count(known & (one[:, 0] ^ other[:, 0])).sum() / np.bitwise_count(known).sum()
                obvious.append(Near(float(differ), at / 10, name, frame / 10))
    best = min(obvious, key=lambda near: near.distance)
    monkeypatch.setattr(memorisation, "_codes", lambda blocks, rate: clip)
    for block in (1 << 15, 7, 32):
        monkeypatch.setattr(memorisation, "BLOCK", block)
        assert nearest(index, [np.zeros(0, np.float32)]) == [best]


def test_what_cannot_be_compared(index: Index) -> None:
    done: list[int] = []
    steady = (0.5 * np.sin(np.arange(8 * RATE) * 0.2)).astype(np.float32)
    # Music that went through the codec at -90 dBFS is its noise, or nothing.
    silent = CODEC.decode(CODEC.encode(0.0003 * notes(20, 100)))
    short = notes(20, 100)[: round(SECONDS * RATE) - 1]
    just = notes(20, 100)[: round(SECONDS * RATE)]
    found = nearest(index, [steady, silent, short, just], done.append)
    assert [near is None for near in found] == [True, True, True, False]
    assert done == [1, 2, 3, 4]
    nothing = Index(["a"], np.array([0, 5]), index.codes[:5], RATE)
    assert nearest(nothing, [just]) == [None]


def test_windows_that_are_partly_silent_are_left_out(index: Index) -> None:
    """What few bits they have is soon like something."""
    codes = index.codes[20:60].copy()
    assert memorisation.look_up(index, codes) == Near(0.0, 0.0, "00.wav", 2.0)
    codes[3, 1] = 0
    assert memorisation.look_up(index, codes) == Near(0.0, 0.5, "00.wav", 2.5)
    codes[22, 1] = 0
    assert memorisation.look_up(index, codes) is None


def test_the_index_is_kept_and_made_anew_for_other_recordings(folder: Path, index: Index, tmp_path: Path) -> None:
    kept = list((folder / ".cache").glob("train-*.npz"))
    assert len(kept) == 1
    before = kept[0].stat().st_mtime_ns
    again = open_index(folder)
    assert kept[0].stat().st_mtime_ns == before
    assert again.names == index.names == [f"{i:02}.wav" for i in range(14)]
    assert np.array_equal(again.codes, index.codes)
    assert len(index.codes) == index.starts[-1]
    assert index.starts[1] == 200 - fingerprints.SPAN + 1

    for i in range(17):
        sf.write(tmp_path / f"{i:02}.wav", notes(3, i), RATE)
    output = io.StringIO()
    first = open_index(tmp_path, console=Console(file=output))
    assert "14 of 14 recordings" in output.getvalue()
    sf.write(tmp_path / "00.wav", notes(5, 0), RATE)
    assert len(open_index(tmp_path).codes) == len(first.codes) + 20
    with pytest.raises(ValueError, match="no data set"):
        open_index(tmp_path / "none")


def test_held_out_excerpts_are_spread_evenly() -> None:
    tokens = np.repeat(np.arange(20, dtype=np.uint8), RATE)
    store = TokenStore(CODEC, tokens, [0, 15 * RATE, 20 * RATE])
    heard = [[int(t) for t in np.unique(CODEC.encode(w))] for w in held_out(store, 2, 3)]
    assert heard == [[0, 1], [8, 9], [17, 18]]
    assert len(list(held_out(store, 2, 100))) == 7 + 2
    assert list(held_out(store, 16, 3)) == []


def test_the_verdict() -> None:
    control = [Near(0.2, 0, "r", 1), None, Near(0.3, 0, "r", 2)]
    (line,) = verdict({"1": Near(0.25, 0, "r", 3), "2": None}, control)
    assert "clips 0.250 to 0.250 (median 0.250), held-out music 0.200 to 0.300" in line
    assert "no clip is nearer to the training set than held-out music is (1 more" in line
    near = verdict({"1": Near(0.1, 2, "r", 63), "2": Near(0.25, 0, "r", 3), "3": Near(0.05, 0, "q", 1)}, control)
    assert "2 of 3 clips nearer than any of 2 held-out excerpts" in near[0]
    assert near[1:] == ["3: 0.050 at 0.0 s, q 0:01", "1: 0.100 at 2.0 s, r 1:03"]
    assert "no clip can be compared" in verdict({"1": None}, control)[0]
    assert "no held-out excerpt can" in verdict({"1": Near(0.1, 2, "r", 63)}, [])[0]
