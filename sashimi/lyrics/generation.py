"""A language model's text: as it is written, or many texts at once.

The loop over tokens is here and not transformers' `generate`: it can be left at any moment, its errors reach whoever
asked, and it draws from numbers of its own, so that no other thread's randomness is touched. What makes a distribution
of logits (temperature, top-p, repetition penalty) is transformers'.
"""

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from sashimi.errors import UserError
from sashimi.lyrics.models import Loaded, check_figures
from sashimi.lyrics.prompts import end_ids, ids
from sashimi.progress import Update

LONGEST = 8000  # tokens: what "give me all you can" is held to
HELD = 16  # tokens that may wait for the rest of a character; four bytes are the most that UTF-8 has
# What lyrics have no use for and a terminal may obey.
CONTROL = {i: None for i in (*range(32), *range(127, 160)) if chr(i) not in "\n\t"}
CUT = "\ufffd"  # what decoding makes of a part of a character


@dataclass(frozen=True)
class Sampling:
    """
    temperature         0 always takes the likeliest token
    top_p               the likeliest tokens that make up this share; 1 is all
    max_tokens          at which a text is cut off
    repetition_penalty  divides the odds of what the text has already; 1 is off, 1.1 a little
    """

    temperature: float = 0.8
    top_p: float = 0.95
    max_tokens: int = 400
    seed: int = 0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 5:
            raise UserError(
                f"the temperature is {self.temperature:g}; it must lie between 0 (the likeliest word) and 5"
            )
        if not 0 < self.top_p <= 1:
            raise UserError(f"top-p is {self.top_p:g}; it must be above 0 and at most 1 (all words)")
        if not 1 <= self.max_tokens <= LONGEST:
            raise UserError(f"the length is {self.max_tokens} tokens; it must lie between 1 and {LONGEST}")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"the seed is {self.seed}; it must be at least 0 and below 2^63")
        if not 1 <= self.repetition_penalty <= 2:
            raise UserError(f"the repetition penalty is {self.repetition_penalty:g}; it must lie between 1 (off) and 2")


@dataclass(frozen=True)
class Written:
    """A text without special tokens and without space around it; ended: by the model itself, rather than by the limit;
    tokens: that were written, the end not counted."""

    text: str
    ended: bool
    tokens: int


def stream(loaded: Loaded, prompt: str, sampling: Sampling) -> Generator[str, None, Written]:
    """Pieces of a text as they come, whole characters; their sum is the text. Returns what was written.

    Closing it ends the work. Raises UserError for a prompt that the model has no room for.
    """
    text = _Text(loaded.tokenizer)
    for token, over in _rows(loaded, [prompt], sampling, 0):
        if over[0]:
            text.ended = True
        elif piece := text.add(token[0]):
            yield piece
    if piece := text.rest():
        yield piece
    return text.written


def write_many(
    loaded: Loaded, prompts: list[str], sampling: Sampling, batch: int = 8, progress: Update | None = None
) -> list[Written]:
    """A text for every prompt, in batches padded at their left.

    Text i draws from numbers of its own, (seed, i): with the same prompts, seed and batch it is the same again. Another
    batch size rounds otherwise, and may turn a word. Raises UserError as `stream` does.
    """
    if batch < 1:
        raise UserError(f"batch={batch} must be at least 1")
    found: list[Written] = []
    began = time.perf_counter()
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        texts = [_Text(loaded.tokenizer) for _ in part]
        for step, (tokens, over) in enumerate(_rows(loaded, part, sampling, start), 1):
            for text, token, ended in zip(texts, tokens, over, strict=True):
                if ended:
                    text.ended = True
                else:
                    text.add(token)
            if progress is not None:
                done = (start + len(part) * min(1.0, step / sampling.max_tokens)) / len(prompts)
                _report(progress, done, sum(w.tokens for w in found) + sum(t.count for t in texts), began)
        for text in texts:
            text.rest()
            found.append(text.written)
        if progress is not None:
            _report(progress, len(found) / len(prompts), sum(w.tokens for w in found), began)
    return found


def _report(progress: Update, done: float, tokens: int, began: float) -> None:
    spent = time.perf_counter() - began
    progress(done, f"{tokens / max(spent, 1e-9):.1f} tokens/s", spent / max(done, 1e-9) * (1 - done))


class _Text:
    """Tokens to text, a piece at a time: no piece holds a part of a character, or space that nothing follows."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.known = self.shown = 0  # tokens whose text is certain; those from which on it is decoded again
        self.text, self.space = "", ""
        self.ended, self.count = False, 0

    def add(self, token: int) -> str:
        if self.ended:
            return ""
        self.ids.append(token)
        self.count += 1
        before = self._decode(self.ids[self.shown : self.known])
        after = self._decode(self.ids[self.shown :])
        if after.endswith(CUT) and len(self.ids) - self.known < HELD:
            return ""
        # Decoded with what came before it: a word's first token has lost its space in some tokenisers' decoding.
        self.shown, self.known = self.known, len(self.ids)
        return self._take(after[len(before) :])

    def rest(self) -> str:
        """What was waiting for more, without a character that stayed half."""
        before, after = self._decode(self.ids[self.shown : self.known]), self._decode(self.ids[self.shown :])
        self.shown = self.known = len(self.ids)
        return self._take(after[len(before) :].rstrip(CUT))

    @property
    def written(self) -> Written:
        return Written(self.text, self.ended, self.count)

    def _take(self, new: str) -> str:
        """Keeps space back until something follows it; at the beginning, altogether."""
        whole = self.space + new.translate(CONTROL)
        piece = whole.rstrip()
        self.space = whole[len(piece) :]
        if not self.text:
            piece = piece.lstrip()
        self.text += piece
        return piece

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


# --- tokens -------------------------------------------------------------------------------------------


def _rows(loaded: Loaded, prompts: list[str], sampling: Sampling, first: int) -> Iterator[tuple[list[int], list[bool]]]:
    """A token of every row a step, and whether that row is over, until all are. first: number of the first prompt."""
    model, tokenizer = loaded.model, loaded.tokenizer
    asked = [ids(tokenizer, prompt) for prompt in prompts]
    longest = max(map(len, asked))
    if not all(asked):
        raise UserError("the prompt is empty")
    limit = _room(loaded, longest, sampling.max_tokens)
    ends = set(end_ids(tokenizer))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends)
    rows = torch.tensor([[pad] * (longest - len(row)) + row for row in asked], device=model.device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in asked], device=model.device)
    draws = [_generator(sampling.seed, first + i) for i in range(len(asked))]
    chances = _Chances(sampling, longest, _never(tokenizer, ends, model.device))
    over, cache, given = [False] * len(asked), None, rows
    for _ in range(limit):
        logits, cache = _step(model, given, mask, cache)
        chosen = chances.draw(rows, logits, draws)
        tokens = [pad if done else token for done, token in zip(over, chosen, strict=True)]
        over = [done or token in ends for done, token in zip(over, tokens, strict=True)]
        yield tokens, over
        if all(over):
            return
        given = torch.tensor(tokens, device=model.device)[:, None]
        rows = torch.cat([rows, given], dim=1)
        mask = torch.cat([mask, torch.ones_like(given)], dim=1)


# Not around the loop: between two steps of a generator the mode would be on for whoever reads it.
@torch.inference_mode()
def _step(model: Any, given: Tensor, mask: Tensor, cache: Any) -> tuple[Tensor, Any]:
    """given: i(B n) new tokens; mask: i(B L) of all so far -> logits f32(B V) of the next one, and the new cache."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -given.shape[1] :]
    try:
        out = model(
            input_ids=given, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
    except torch.OutOfMemoryError:
        raise UserError(
            f"there is not enough memory on {model.device} for {len(given)} texts of {mask.shape[1]} tokens at once; "
            "write fewer at a time, shorter ones, or take a smaller or quantised model"
        ) from None
    return out.logits[:, -1].float(), out.past_key_values


class _Chances:
    """Logits to tokens. prompt: tokens of it, which the repetition penalty leaves alone (a song may say its title);
    never: b(V) tokens that are not text."""

    def __init__(self, sampling: Sampling, prompt: int, never: Tensor) -> None:
        self.greedy, self.never = sampling.temperature == 0, never
        self.penalty = LogitsProcessorList()
        if sampling.repetition_penalty != 1:
            self.penalty.append(
                RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty, prompt_ignore_length=prompt)
            )
        self.warp = LogitsProcessorList()
        if not self.greedy and sampling.temperature != 1:
            self.warp.append(TemperatureLogitsWarper(float(sampling.temperature)))
        if not self.greedy and sampling.top_p < 1:
            self.warp.append(TopPLogitsWarper(float(sampling.top_p)))

    @torch.inference_mode()
    def draw(self, rows: Tensor, logits: Tensor, draws: list[torch.Generator]) -> list[int]:
        """rows: i(B L) all tokens so far; logits: f32(B V) -> a token of every row."""
        check_figures(logits.logsumexp(dim=-1))
        size = min(logits.shape[-1], len(self.never))
        logits[:, :size].masked_fill_(self.never[:size], -torch.inf)
        logits[:, size:] = -torch.inf  # rows of the embedding that no token has
        scores = self.penalty(rows, logits)  # type: ignore[arg-type]
        if self.greedy:
            return [int(i) for i in scores.argmax(dim=-1)]
        # From the largest down: a temperature close to 0 would else divide to infinity.
        scores = self.warp(rows, scores - scores.amax(dim=-1, keepdim=True))  # type: ignore[arg-type]
        sums = scores.softmax(dim=-1).cumsum(dim=-1)
        # One number a row, on the CPU: the same on every device, and of no other row's choosing.
        u = torch.stack([torch.rand((), generator=g) for g in draws]).to(sums.device)[:, None]
        below = torch.nextafter(sums[:, -1:], torch.zeros_like(sums[:, -1:]))
        return [int(i) for i in torch.searchsorted(sums, torch.minimum(u * sums[:, -1:], below), right=True)[:, 0]]


def _generator(seed: int, number: int) -> torch.Generator:
    state = np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)


def _never(tokenizer: Any, ends: set[int], device: Any) -> Tensor:
    """b(V): special tokens that do not end a song."""
    never = torch.zeros(len(tokenizer), dtype=torch.bool)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | set(
        tokenizer.all_special_ids
    )
    never[[i for i in special - ends if i < len(never)]] = True
    return never.to(device)


def _room(loaded: Loaded, prompt: int, wanted: int) -> int:
    """Tokens that may be written after a prompt of so many."""
    most = loaded.context or prompt + wanted
    if prompt >= most:
        raise UserError(f"the prompt has {prompt} tokens, and the model reads {most} at most; shorten it")
    return min(wanted, most - prompt)
