"""Which of some answers a language model finds likeliest: every answer is scored, none is invented.

An answer's score is the sum of the log-probabilities of its tokens and of the end after it: without the end, "Ann"
would always beat "Ann Lee". Nothing is divided by length: scores are log-probabilities of whole answers, and over the
answers they become probabilities. A long answer is not at a disadvantage once its first tokens have settled which one
it is, as they do in a model that was trained on the answers; in one that was not, common words win, and that is what
it knows.

All answers share the prompt: their tokens make a tree, which follows the prompt in one sequence, where every token
attends to the prompt and to those before it in its own answer. One pass does for all answers. That needs a model of
attention alone: one with a running state (Mamba and its kin) would carry it from one answer into the next.
Layers with a sliding window see the whole prompt here; excerpts are shorter than the windows in use (512 and more).
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sashimi.errors import UserError
from sashimi.lyrics import prompts as prompts_of
from sashimi.lyrics.models import Loaded, check_figures
from sashimi.progress import Update

_LOGITS = 2**28  # bytes of logits that may be held at once; a batch is made smaller for it


def choose(
    loaded: Loaded,
    prompts: Sequence[str],
    options: Sequence[str] | Sequence[Sequence[str]],
    batch: int = 8,
    progress: Update | None = None,
) -> list[NDArray[np.float64]]:
    """For every prompt the probabilities of its options, which sum to 1.

    prompts: whole, as from `prompts.prompt`; options: the same for all, or a list for each. Raises UserError for fewer
    than two options, one that stands there twice or is empty, and a prompt that the model has no room for.
    """
    found = []
    for scores in log_likelihoods(loaded, prompts, options, batch, progress):
        odds = np.exp(scores - scores.max())
        found.append(odds / odds.sum())
    return found


@torch.inference_mode()
def log_likelihoods(
    loaded: Loaded,
    prompts: Sequence[str],
    options: Sequence[str] | Sequence[Sequence[str]],
    batch: int = 8,
    progress: Update | None = None,
) -> list[NDArray[np.float64]]:
    """The log-probability of every option as the whole answer to its prompt, end included. Arguments as `choose`."""
    if batch < 1:
        raise UserError(f"batch={batch} must be at least 1")
    _check_attends(loaded)
    lists = _lists(prompts, options)
    if len(lists) != len(prompts):
        raise UserError(f"{len(prompts)} prompts have {len(lists)} lists of options")
    rows = [prompts_of.ids(loaded.tokenizer, prompt) for prompt in prompts]
    trees = {names: _Tree(loaded.tokenizer, names) for names in dict.fromkeys(lists)}
    found: list[NDArray[np.float64]] = [np.empty(0)] * len(prompts)
    began, done = time.perf_counter(), 0
    for names, tree in trees.items():
        places = sorted((i for i, own in enumerate(lists) if own == names), key=lambda i: len(rows[i]))
        for part in _parts(places, min(batch, tree.batch(loaded.model))):
            for place, scores in zip(part, _scores(loaded, [rows[i] for i in part], tree), strict=True):
                found[place] = scores
            done += len(part)
            if progress is not None:
                spent = time.perf_counter() - began
                text = f"{done / max(spent, 1e-9):.1f} songs/s"
                progress(done / len(prompts), text, spent / done * (len(prompts) - done))
    return found


def _check_attends(loaded: Loaded) -> None:
    kinds = getattr(loaded.model.config.get_text_config(), "layer_types", None) or []
    others = sorted({str(kind) for kind in kinds if not str(kind).endswith("attention") or "linear" in str(kind)})
    if others or getattr(loaded.model, "_is_stateful", False):
        raise UserError(
            f"{loaded.base.name} has layers with a running state ({', '.join(others) or 'all'}), which cannot weigh "
            "answers side by side; use a model of attention alone, as Llama, Qwen2.5 or SmolLM2"
        )


def _lists(prompts: Sequence[str], options: Sequence[str] | Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """The options of every prompt."""
    if all(isinstance(option, str) for option in options):
        return [tuple(str(option) for option in options)] * len(prompts)
    return [tuple(own) for own in options]


def _parts(places: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(places), size):
        yield places[start : start + size]


class _Tree:
    """The tokens of some answers, those that begin alike together.

    tokens, parents: (N) of its nodes, -1 the prompt's last token; paths: of every answer, (place that predicts, token
    that is predicted), where place 0 is the prompt's last token and place i + 1 node i; lasts: (O) where each ends.
    """

    def __init__(self, tokenizer: Any, options: Sequence[str]) -> None:
        if len(options) < 2 or len(set(options)) < len(options):
            raise UserError(f"there must be two or more answers, all different, not {', '.join(options) or 'none'}")
        self.ends = prompts_of.end_ids(tokenizer)
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.paths: list[list[tuple[int, int]]] = []
        self.lasts: list[int] = []
        nodes: dict[tuple[int, int], int] = {}
        for option in options:
            ids = prompts_of.ids(tokenizer, option)
            if not ids:
                raise UserError("an answer is empty")
            at, path = -1, []
            for token in ids:
                path.append((at + 1, token))
                if (at, token) not in nodes:
                    nodes[at, token] = len(self.tokens)
                    self.tokens.append(token)
                    self.parents.append(at)
                at = nodes[at, token]
            self.paths.append(path)
            self.lasts.append(at + 1)
        n = len(self.tokens)
        self.depths = torch.zeros(n, dtype=torch.long)
        self.sees = torch.eye(n, dtype=torch.bool)  # b(N N): itself and what comes before it in its answer
        for i, parent in enumerate(self.parents):
            if parent >= 0:
                self.depths[i] = self.depths[parent] + 1
                self.sees[i] |= self.sees[parent]

    def batch(self, model: Any) -> int:
        """Prompts at once, by the memory that the logits of all nodes take."""
        each = 4 * (len(self.tokens) + 1) * model.get_input_embeddings().num_embeddings
        return max(1, _LOGITS // each)


def _scores(loaded: Loaded, rows: list[list[int]], tree: _Tree) -> list[NDArray[np.float64]]:
    model, device, n = loaded.model, loaded.model.device, len(tree.tokens)
    longest = max(map(len, rows))
    deepest = longest + int(tree.depths.max()) + 1
    if loaded.context and deepest > loaded.context:
        raise UserError(
            f"the prompt and an answer have {deepest} tokens, and the model reads {loaded.context} at most; shorten it"
        )
    ids = torch.tensor([[0] * (longest - len(row)) + row + tree.tokens for row in rows])
    padding = torch.tensor([longest - len(row) for row in rows])[:, None]
    positions = torch.cat(
        [
            (torch.arange(longest)[None] - padding).clamp(min=0),
            longest - padding + tree.depths[None],
        ],
        dim=1,
    )
    dtype = model.get_input_embeddings().weight.dtype
    out = model(
        input_ids=ids.to(device), attention_mask=_mask(padding, longest, tree, dtype).to(device),
        position_ids=positions.to(device), use_cache=False, logits_to_keep=n + 1,
    )  # fmt: skip
    logits = out.logits if out.logits.dtype == torch.float64 else out.logits.float()  # (B N+1 V)
    total = logits.logsumexp(dim=-1)  # (B N+1)
    check_figures(total)
    ended = (logits[..., tree.ends].logsumexp(dim=-1) - total).double().cpu()
    places = torch.tensor([place for path in tree.paths for place, _ in path], device=device)
    tokens = torch.tensor([token for path in tree.paths for _, token in path], device=device)
    steps = (logits[:, places, tokens] - total[:, places]).double().cpu()
    sums = torch.stack([part.sum(dim=1) for part in steps.split([len(path) for path in tree.paths], dim=1)], dim=1)
    return list((sums + ended[:, tree.lasts]).numpy())


def _mask(padding: Tensor, longest: int, tree: _Tree, dtype: torch.dtype) -> Tensor:
    """(B 1 L L), 0 where a token (row) attends to another (column), the lowest number elsewhere.

    padding: i(B 1). What pads a row sees itself, as a softmax over nothing is not a number.
    """
    n = len(tree.tokens)
    sees = torch.zeros(longest + n, longest + n, dtype=torch.bool)
    sees[:longest, :longest] = torch.ones(longest, longest, dtype=torch.bool).tril()
    sees[longest:, :longest] = True
    sees[longest:, longest:] = tree.sees
    real = torch.arange(longest + n)[None] >= padding  # b(B L)
    allowed = (sees[None] & real[:, None]) | torch.eye(longest + n, dtype=torch.bool)[None]
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)[:, None]
