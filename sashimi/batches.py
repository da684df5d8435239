"""Windows of tokens as batches for a training loop, each a function of its index: a run can go on from any."""

from collections.abc import Iterator
from itertools import count

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from sashimi.data import Lanes, MixedWindows, TokenStore, TrainingWindows

FRESH = -1  # in place of the token before a window: there is none, a recording begins


class Batches(IterableDataset):
    """Training batches uint8(B L) of one process, from a given batch on, without end."""

    def __init__(self, windows: TrainingWindows | MixedWindows, batch: int, first: int, rank: int, world: int) -> None:
        self.windows, self.batch, self.first, self.rank, self.world = windows, batch, first, rank, world

    def __iter__(self) -> Iterator[Tensor]:
        index = (self.first * self.world + self.rank) * self.batch
        while True:
            yield torch.from_numpy(np.stack([self.windows[index + i] for i in range(self.batch)]))
            index += self.world * self.batch


class LaneBatches(IterableDataset):
    """The same of lanes, with the token before each window i(B): FRESH where a recording begins."""

    def __init__(self, lanes: Lanes, batch: int, first: int, rank: int) -> None:
        self.lanes, self.first = lanes, first
        self.own = range(rank * batch, (rank + 1) * batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in count(self.first):
            windows, before = zip(*(self.lanes.at(lane, index) for lane in self.own), strict=True)
            yield torch.from_numpy(np.stack(windows)), torch.tensor([FRESH if b is None else b for b in before])


class Windows(Dataset):
    """Validation windows uint8(L), in order, of one process; `limit` of them spread evenly over all (None: all)."""

    def __init__(self, store: TokenStore, window: int, limit: int | None, rank: int, world: int) -> None:
        places = [(r, start) for r, length in enumerate(store.lengths) for start in range(0, length, window)]
        chosen = np.linspace(0, len(places) - 1, min(limit or len(places), len(places))).round().astype(int)
        self.store, self.window = store, window
        self.places = [places[i] for i in chosen][rank::world]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> Tensor:
        recording, start = self.places[i]
        return torch.from_numpy(self.store.window(recording, start, self.window))
