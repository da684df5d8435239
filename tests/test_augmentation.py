"""What training hears and what it is to predict."""

import math

import numpy as np
import pytest
import torch

from sashimi import augmentation
from sashimi.augmentation import ENTRY, IGNORED, LONGEST, SHORTEST, jittered, with_gaps
from sashimi.codec import Codec
from sashimi.config import CodecConfig, DataConfig

CODEC = Codec(CodecConfig())
AMPLITUDES = torch.from_numpy(CODEC.decode(np.arange(256)))


def notes(begins: list[int], length: int = 16384) -> torch.Tensor:
    """Struck strings over a soft tone: i64(L)."""
    t = np.arange(length)
    x = 0.01 * np.sin(0.05 * t)
    for begin in begins:
        x[begin:] += 0.3 * np.sin(0.3 * (t[begin:] - begin)) * np.exp(-(t[begin:] - begin) / 2000)
    return torch.from_numpy(CODEC.encode(x.astype(np.float32)).astype(np.int64))


def test_jitter_has_every_level_up_to_the_one_given() -> None:
    torch.manual_seed(0)
    tokens = torch.full((64, 500), 128)
    moved = (jittered(tokens, 2.0, 256) - tokens).double()
    assert moved.mean().abs() < 0.05
    deviations = moved.std(dim=1)
    assert deviations.min() < 0.3
    assert deviations.max() > 1.7
    assert abs(deviations.mean() - 1.0) < 0.2
    edges = jittered(torch.tensor([[0] * 50, [255] * 50]), 5.0, 256)
    assert edges.min() >= 0
    assert edges.max() <= 255


@pytest.fixture
def all_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "FADES", 0.0)


@pytest.mark.usefixtures("all_silent")
def test_a_silent_gap_ends_where_a_note_begins() -> None:
    torch.manual_seed(0)
    begins = [6000, 12345]
    tokens = notes(begins).repeat(40, 1)
    heard, wanted = with_gaps(tokens, 1.0, AMPLITUDES)
    ends, lengths = set(), []
    for row in range(len(tokens)):
        silent = (wanted[row] == IGNORED).nonzero()[:, 0]
        start = int(silent[0])
        assert silent.tolist() == list(range(start, start + ENTRY)), "that it comes is not to be learnt"
        changed = (heard[row] != tokens[row]).nonzero()[:, 0]
        end = int(changed[-1]) + 1
        assert (heard[row, start:end] == 128).all()
        assert (wanted[row, start + ENTRY : end] == 128).all(), "that it goes on is"
        assert torch.equal(heard[row, :start], tokens[row, :start])
        assert torch.equal(heard[row, end:], tokens[row, end:])
        assert torch.equal(wanted[row, end:], tokens[row, end:])
        nearest = min(begins, key=lambda begin: abs(begin - end))
        assert abs(nearest - end) <= 40, "within milliseconds of the attack"
        ends.add(nearest)
        lengths.append(end - start)
    assert ends == set(begins)
    assert min(lengths) >= SHORTEST - 40
    assert SHORTEST < np.median(lengths) < LONGEST
    assert torch.equal(tokens, notes(begins).repeat(40, 1)), "the batch itself stays"


def test_a_fade_ends_where_a_note_begins_and_is_to_be_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "FADES", 1.0)
    torch.manual_seed(0)
    begins = [6000, 12345]
    tokens = notes(begins).repeat(40, 1)
    heard, wanted = with_gaps(tokens, 1.0, AMPLITUDES)
    assert torch.equal(heard, wanted)
    depths = []
    for row in range(len(tokens)):
        changed = (heard[row] != tokens[row]).nonzero()[:, 0]
        start, end = int(changed[0]), int(changed[-1]) + 1
        assert min(abs(begin - end) for begin in begins) <= 60, "within milliseconds of the attack"
        before, after = (AMPLITUDES[t[row, start:end]].double() for t in (tokens, heard))
        thirds = [
            10 * math.log10(a.square().mean() / b.square().mean())
            for b, a in zip(before.chunk(3), after.chunk(3), strict=True)
        ]
        if end - start > 1000:
            assert 0 > thirds[0] > thirds[1] > thirds[2], "softer and softer"
            depths.append(thirds[2])
    assert min(depths) < -30
    assert max(depths) > -20


@pytest.mark.usefixtures("all_silent")
def test_a_gap_at_the_beginning_of_a_window_hides_nothing_of_the_note() -> None:
    t = np.arange(512)
    swelling = np.where(t < 16, 0, 0.01 * np.exp(t / 120) * np.sin(0.8 * t))
    tokens = torch.from_numpy(CODEC.encode(swelling.astype(np.float32)).astype(np.int64)).repeat(8, 1)
    _, wanted = with_gaps(tokens, 1.0, AMPLITUDES)
    assert (wanted[:, :16] == IGNORED).all()
    assert torch.equal(wanted[:, 16:], tokens[:, 16:])


def test_windows_without_a_beginning_stay() -> None:
    drone = notes([]).repeat(3, 1)
    silence = torch.full((3, 300), 128)
    for tokens in (drone, silence, silence[:, :100]):
        heard, wanted = with_gaps(tokens, 1.0, AMPLITUDES)
        assert torch.equal(heard, tokens)
        assert torch.equal(wanted, tokens)


@pytest.mark.usefixtures("all_silent")
def test_the_share_is_one_of_windows() -> None:
    torch.manual_seed(1)
    _, wanted = with_gaps(notes([6000]).repeat(400, 1), 0.3, AMPLITUDES)
    share = float((wanted == IGNORED).any(dim=1).double().mean())
    assert abs(share - 0.3) < 0.08


def test_half_of_the_gaps_fade() -> None:
    torch.manual_seed(2)
    tokens = notes([6000]).repeat(400, 1)
    heard, wanted = with_gaps(tokens, 1.0, AMPLITUDES)
    silent = (wanted == IGNORED).any(dim=1)
    assert (heard != tokens).any(dim=1).all()
    assert abs(float(silent.double().mean()) - 0.5) < 0.08


def test_a_share_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.gaps=1\.5 is a share"):
        DataConfig(gaps=1.5)
