"""Batches of windows and of lanes."""

from itertools import pairwise

import numpy as np
import pytest

from sashimi.batches import FRESH, Batches, LaneBatches
from sashimi.codec import Codec
from sashimi.config import CodecConfig
from sashimi.data import Lanes, TokenStore, TrainingWindows

LENGTHS = [1000, 64, 63, 700, 129]


@pytest.fixture
def store() -> TokenStore:
    """Recordings whose values are their own places in the store, so that a window tells where it is from."""
    offsets = [0, *np.cumsum(LENGTHS).tolist()]
    return TokenStore(Codec(CodecConfig()), np.arange(offsets[-1]), offsets)


def recording(store: TokenStore, value: int) -> int:
    return int(np.searchsorted(store.offsets, value, side="right")) - 1


def test_a_lane_hears_each_recording_once_in_an_epoch_window_after_window(store: TokenStore) -> None:
    lanes = Lanes(store, 64, seed=1)
    assert lanes.per_epoch == 15 + 1 + 0 + 10 + 2
    for epoch in range(3):
        walked = [lanes.at(4, epoch * lanes.per_epoch + i) for i in range(lanes.per_epoch)]
        begun = [recording(store, int(tokens[0])) for tokens, before in walked if before is None]
        assert sorted(begun) == [0, 1, 3, 4]
        for (earlier, _), (tokens, before) in pairwise(walked):
            if before is not None:
                assert before == earlier[-1] == tokens[0] - 1
        for tokens, _ in walked:
            assert np.array_equal(tokens, np.arange(64) + tokens[0])
            assert recording(store, int(tokens[0])) == recording(store, int(tokens[-1]))


def test_lanes_are_functions_of_seed_lane_and_index(store: TokenStore) -> None:
    def firsts(seed: int, lane: int, order: list[int]) -> list[int]:
        lanes = Lanes(store, 64, seed)
        return [int(lanes.at(lane, i)[0][0]) for i in order]

    forwards = firsts(0, 2, list(range(80)))
    assert firsts(0, 2, [79, 3, 30]) == [forwards[i] for i in (79, 3, 30)]
    assert firsts(1, 2, list(range(80))) != forwards != firsts(0, 3, list(range(80)))
    assert forwards[:28] != forwards[28:56], "the next epoch is another order, from other places"


def test_processes_share_out_the_lanes(store: TokenStore) -> None:
    lanes = Lanes(store, 64, seed=0)
    ranks = [iter(LaneBatches(lanes, 2, first=5, rank=rank)) for rank in range(2)]
    for index in range(5, 40):
        windows, before = (np.concatenate(parts) for parts in zip(*(next(rank) for rank in ranks), strict=True))
        for lane in range(4):
            expected, token = lanes.at(lane, index)
            assert np.array_equal(windows[lane], expected)
            assert before[lane] == (FRESH if token is None else token)


def test_batches_go_on_from_any(store: TokenStore) -> None:
    windows = TrainingWindows(store, 64, seed=0)
    batches = iter(Batches(windows, 3, first=4, rank=0, world=1))
    assert np.array_equal(next(batches).numpy(), np.stack([windows[i] for i in (12, 13, 14)]))
    assert np.array_equal(next(batches).numpy(), np.stack([windows[i] for i in (15, 16, 17)]))
