"""How well a model predicts recordings: bits per byte and accuracies, exact over a split.

Cold: every window starts from nothing, as in the published evaluation. Carried: the state runs on from
window to window through a recording, and the first input of a window is the last token of the one before.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sashimi.checkpoint import LoadedModel
from sashimi.codec import Tokens
from sashimi.data import TokenStore

TOP = (3, 5, 10)
BLOCK = 8192  # positions scored at a time: bounds what float64 logits take


@dataclass
class Score:
    """Sums over the tokens seen so far, in float64.

    nats   negative log-likelihood
    ranks  how many tokens were among the k most likely, for k = 1 and those of TOP
    """

    tokens: int = 0
    nats: float = 0.0
    ranks: dict[int, int] = field(default_factory=lambda: dict.fromkeys((1, *TOP), 0))

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """logits: f(L V), targets: i(L)."""
        for l, t in zip(logits.split(BLOCK), targets.split(BLOCK), strict=True):
            l, t = l.double(), t.long()[:, None]
            self.nats -= l.log_softmax(-1).gather(-1, t).sum().item()
            rank = (l > l.gather(-1, t)).sum(-1)
            for k in self.ranks:
                self.ranks[k] += int((rank < k).sum())
            self.tokens += len(t)

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def bpb(self) -> float:
        """Bits per byte: bits per token, of one byte each."""
        return self.loss / math.log(2)

    def accuracy(self, k: int = 1) -> float:
        return self.ranks[k] / self.tokens


Report = Callable[[int], None]  # is given the number of tokens that were scored


@torch.inference_mode()
def cold(
    model: LoadedModel, store: TokenStore, window: int, batch: int = 1, report: Report = lambda tokens: None
) -> Score:
    """Every window of every recording by itself, each after the start token. The short last ones count too.

    A window is padded at its end, which no causal model sees, and the padding is not scored.
    """
    score = Score()
    waiting: list[Tokens] = []

    def run() -> None:
        length = max(len(tokens) for tokens in waiting)
        targets = torch.from_numpy(np.stack([np.pad(t, (0, length - len(t))) for t in waiting]))
        inputs = torch.nn.functional.pad(targets[:, :-1], (1, 0), value=model.start_token)
        for logits, target, tokens in zip(model(inputs), targets, waiting, strict=True):
            score.add(logits[: len(tokens)], target[: len(tokens)])
        report(sum(len(tokens) for tokens in waiting))
        waiting.clear()

    for _, _, tokens in store.windows(window):
        waiting.append(tokens)
        if len(waiting) == batch:
            run()
    if waiting:
        run()
    return score


def carries(model: LoadedModel) -> bool:
    """Whether the model's windows are one signal, through which a state can be carried."""
    return model.metadata.codec.normalize == "none"


@torch.inference_mode()
def carried(model: LoadedModel, store: TokenStore, window: int, report: Report = lambda tokens: None) -> Score | None:
    """The state carried through every recording, `window` tokens at a time.

    None for a codec that normalises by window: its windows are not one signal.
    """
    if not carries(model):
        return None
    score, current, state, last = Score(), -1, model.start(1), model.start_token
    for recording, _, tokens in store.windows(window):
        if recording != current:
            current, state, last = recording, model.start(1), model.start_token
        targets = torch.from_numpy(tokens)
        inputs = torch.nn.functional.pad(targets[:-1], (1, 0), value=last)
        logits, state = model.scan(inputs[None], state)
        score.add(logits[0], targets)
        last = int(tokens[-1])
        report(len(tokens))
    return score


@torch.inference_mode()
def heldout_bpb(
    model: LoadedModel, stores: list[TokenStore], limit: int = 200, report: Callable[[float], None] = lambda share: None
) -> dict[str, float]:
    """How bits per byte vary over held-out music: quantiles over cold 5-second windows, a second apart.

    Keys q05, q25, q50, q75, q95. At most `limit` windows, spread evenly; `report` is given the
    share that is done. Empty where no recording has 5 s.
    """
    rate = model.metadata.codec.rate
    length, hop = 5 * rate, rate
    places = [
        (store, recording, start)
        for store in stores
        for recording, total in enumerate(store.lengths)
        for start in range(0, total - length + 1, hop)
    ]
    if not places:
        return {}
    figures = []
    chosen = np.linspace(0, len(places) - 1, min(limit, len(places))).round().astype(int)
    for i in chosen:
        store, recording, start = places[i]
        targets = torch.from_numpy(store.window(recording, start, length))
        score = Score()
        score.add(model(torch.nn.functional.pad(targets[None, :-1], (1, 0), value=model.start_token))[0], targets)
        figures.append(score.bpb)
        report(len(figures) / len(chosen))
    return {f"q{q:02}": float(np.quantile(figures, q / 100)) for q in (5, 25, 50, 75, 95)}
