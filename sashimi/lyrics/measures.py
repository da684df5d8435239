"""What can be said of a text without a model: form, rhyme, metre, repetition, language."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sashimi.lyrics import languages, rhyme
from sashimi.lyrics.sections import marker, sung
from sashimi.lyrics.syllables import syllables
from sashimi.lyrics.words import words

Figures = dict[str, float | None]


@dataclass(frozen=True)
class Measure:
    """label: in tables; digits: after the point; percent: a share, shown as one."""

    label: str
    digits: int = 2
    percent: bool = False


MEASURES = {
    "words": Measure("words", 0),
    "lines": Measure("sung lines", 1),
    "stanzas": Measure("stanzas", 1),
    "stanza_lines": Measure("lines a stanza", 1),
    "markers": Measure("section markers", 1),
    "in_language": Measure("in the language asked for", 0, True),
    "rhymed": Measure("lines that rhyme", 0, True),
    "rhymed_loosely": Measure("lines that rhyme loosely only", 0, True),
    "same_word": Measure("lines that end in the same word only", 0, True),
    "schemes": Measure("stanzas with a rhyme scheme", 0, True),
    "in_dictionary": Measure("last words in the dictionary", 0, True),
    "syllables": Measure("syllables a line", 1),
    "unevenness": Measure("deviation of syllables in a stanza", 2),
    "repeated_lines": Measure("repeated lines", 0, True),
    "repeated_trigrams": Measure("repeated groups of three words", 0, True),
    "distinct_1": Measure("different words (distinct-1)", 0, True),
    "distinct_2": Measure("different word pairs (distinct-2)", 0, True),
    "shared_lines": Measure("lines that another of these texts has", 0, True),
    "copied": Measure("longest copied span, words", 1),
    "ended": Measure("ended by the model", 0, True),
    "bleu": Measure("BLEU, mean of songs", 4),
    "rouge_1": Measure("ROUGE-1", 4),
    "rouge_2": Measure("ROUGE-2", 4),
    "rouge_l": Measure("ROUGE-L", 4),
    "cosine": Measure("cosine similarity", 3),
}


def form(text: str, language: str) -> Figures:
    """The figures of one text by names of MEASURES, without those that need other texts or a model.

    language: ISO 639-1, that was asked for. None is what cannot be said: of rhyme in other languages than English and
    Portuguese, of anything but length in a text without words.
    """
    lines, found = sung(text), words("\n".join(sung(text)))
    given = rhyme.stanzas(text)
    figures: Figures = dict.fromkeys(_FORM)
    figures |= {"words": float(len(found)), "lines": float(len(lines)), "stanzas": float(len(given))}
    figures["markers"] = float(sum(marker(line) is not None for line in text.split("\n")))
    if not found:
        return figures
    figures["stanza_lines"] = len(lines) / len(given)
    figures["in_language"] = float(_is_in(text, language))
    figures["repeated_lines"] = 1 - len({_key(line) for line in lines}) / len(lines)
    trigrams = groups(found, 3)
    figures["repeated_trigrams"] = 1 - len(set(trigrams)) / len(trigrams) if trigrams else None
    figures["distinct_1"] = len(set(found)) / len(found)
    pairs = groups(found, 2)
    figures["distinct_2"] = len(set(pairs)) / len(pairs) if pairs else None
    density = rhyme.density(text, language)
    if density:
        figures |= {"rhymed": density.perfect, "rhymed_loosely": density.loose, "same_word": density.identical}
        figures["in_dictionary"] = density.known if language == "en" else None
    if schemes := rhyme.schemes(text, language):
        figures["schemes"] = sum(name is not None for _, name in schemes) / len(schemes)
    counted = [[n for line in stanza if (n := syllables(line, language))] for stanza in given]
    if any(counted):
        figures["syllables"] = float(np.mean([n for stanza in counted for n in stanza]))
    if deviations := [float(np.std(stanza)) for stanza in counted if len(stanza) > 1]:
        figures["unevenness"] = float(np.mean(deviations))
    return figures


_FORM = (
    "words", "lines", "stanzas", "stanza_lines", "markers", "in_language", "rhymed", "rhymed_loosely", "same_word",
    "schemes", "in_dictionary", "syllables", "unevenness", "repeated_lines", "repeated_trigrams", "distinct_1",
    "distinct_2",
)  # fmt: skip


def groups(found: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]


def _key(line: str) -> str:
    return re.sub(r"\W+", " ", line.casefold()).strip()


def _is_in(text: str, language: str) -> bool:
    identified, _ = languages.identify("\n".join(sung(text)))
    return identified == language


def shared_lines(texts: Sequence[str]) -> list[float | None]:
    """Of each text, the share of lines of three words or more that another of the texts has as well."""
    keys = [[_key(line) for line in sung(text) if len(words(line)) > 2] for text in texts]
    having = Counter(key for text in keys for key in set(text))
    return [sum(having[key] > 1 for key in text) / len(text) if text else None for text in keys]


# --- many texts ---------------------------------------------------------------------------------------

DRAWS = 2000


@dataclass(frozen=True)
class Mean:
    """Over `n` songs, and what lies between the 2.5% and 97.5% quantiles of its bootstrap; NaN for fewer than two."""

    value: float
    low: float
    high: float
    n: int


def mean(values: Sequence[float | None], seed: int = 0) -> Mean | None:
    """Of the values that there are; None for none. Songs are drawn again with replacement."""
    known = np.array([value for value in values if value is not None], float)
    if not len(known):
        return None
    if len(known) == 1:
        return Mean(float(known[0]), math.nan, math.nan, 1)
    draws = np.random.default_rng(seed).integers(len(known), size=(DRAWS, len(known)))
    low, high = np.quantile(known[draws].mean(axis=1), [0.025, 0.975])
    return Mean(float(known.mean()), float(low), float(high), len(known))


def difference(ours: Sequence[float | None], theirs: Sequence[float | None], seed: int = 0) -> Mean | None:
    """The mean of ours - theirs, song by song, where both are known: a paired bootstrap."""
    pairs = zip(ours, theirs, strict=True)
    return mean([a - b if a is not None and b is not None else None for a, b in pairs], seed)
