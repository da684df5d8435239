"""How well a model predicts real lyrics, given the request for them."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from sashimi.errors import UserError
from sashimi.lyrics.measures import DRAWS, Mean
from sashimi.lyrics.models import Loaded
from sashimi.lyrics.prompts import ids
from sashimi.lyrics.words import words
from sashimi.progress import Update

LONGEST = 400  # words of a song that are scored; by words, so that every tokeniser is asked about the same text


@dataclass(frozen=True)
class Scored:
    """nats: -log p of the beginning of a song's lyrics, given the prompt, in `tokens` tokens and `words` words."""

    nats: float
    tokens: int
    words: int


def beginning(lyrics: str, most: int = LONGEST) -> str:
    """Whole lines, of at most `most` words together, and the first one in any case."""
    kept: list[str] = []
    count = 0
    for line in lyrics.split("\n"):
        count += len(words(line))
        if kept and count > most:
            break
        kept.append(line)
    return "\n".join(kept).rstrip()


@torch.inference_mode()
def score(
    loaded: Loaded, prompts: Sequence[str], lyrics: Sequence[str], progress: Update | None = None
) -> list[Scored]:
    """One song at a time. The token that ends a song is not scored: not every tokeniser has one in the text."""
    found, began = [], time.perf_counter()
    for number, (prompt, text) in enumerate(zip(prompts, lyrics, strict=True), 1):
        found.append(_one(loaded, prompt, beginning(text)))
        if progress:
            spent = time.perf_counter() - began
            progress(
                number / len(prompts),
                f"{sum(s.tokens for s in found) / spent:.0f} tokens/s",
                spent / number * (len(prompts) - number),
            )
    return found


def _one(loaded: Loaded, prompt: str, text: str) -> Scored:
    asked = ids(loaded.tokenizer, prompt)
    most = loaded.context
    answer = ids(loaded.tokenizer, text)
    while most and len(asked) + len(answer) > most and "\n" in text:
        text = text.rpartition("\n")[0].rstrip()
        answer = ids(loaded.tokenizer, text)
    if most and len(asked) + len(answer) > most:
        raise UserError(f"the model reads {most} tokens at most, and a request with its first line has more")
    tokens = torch.tensor([[*asked, *answer]], device=loaded.model.device)
    # The logit before each token of the answer; those of the prompt are not made.
    logits = loaded.model(input_ids=tokens, use_cache=False, logits_to_keep=len(answer) + 1).logits[0, :-1]
    nats = cross_entropy(logits.float(), tokens[0, len(asked) :], reduction="sum")
    return Scored(float(nats), len(answer), len(words(text)))


def perplexity(scored: Sequence[Scored], per: str, seed: int = 0) -> Mean:
    """Of all songs together; per: words (the same for every tokeniser) or tokens. With its bootstrap over songs."""
    nats = np.array([s.nats for s in scored])
    units = np.array([getattr(s, per) for s in scored], float)
    value = math.exp(min(nats.sum() / max(units.sum(), 1), 700))
    if len(scored) < 2:
        return Mean(value, math.nan, math.nan, len(scored))
    draws = np.random.default_rng(seed).integers(len(scored), size=(DRAWS, len(scored)))
    ratios = np.exp(np.minimum(nats[draws].sum(1) / np.maximum(units[draws].sum(1), 1), 700))
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Mean(value, float(low), float(high), len(scored))
