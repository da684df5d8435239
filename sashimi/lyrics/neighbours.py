"""Texts that share words: cosine similarity of term frequencies, weighted by rarity (TF-IDF, by scikit-learn)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from sashimi.lyrics.sections import sung
from sashimi.lyrics.words import STOP_WORDS, words

SOURCE = "nearest by shared words (cosine of TF-IDF)"
_AT_ONCE = 256  # texts whose similarities to all others are held in memory

_ALL_STOP_WORDS = frozenset().union(*STOP_WORDS.values())


def _style(text: str) -> list[str]:
    return words("\n".join(sung(text)))


def _content(text: str) -> list[str]:
    return [word for word in _style(text) if word not in _ALL_STOP_WORDS]


class Neighbours:
    """Finds, among known texts, those most like a new one.

    content: without the words that say nothing of what a text is about; with them, they tell who writes.
    """

    def __init__(self, texts: Sequence[str], content: bool = True) -> None:
        few = min(2, len(texts))  # a word of one text alone finds nothing
        self._weights = TfidfVectorizer(analyzer=_content if content else _style, sublinear_tf=True, min_df=few)
        try:
            self._known = self._weights.fit_transform(texts)
        except ValueError:  # no word in common
            self._weights.set_params(min_df=1)
            self._known = self._weights.fit_transform([*texts, "a word"])[: len(texts)]

    def nearest(self, texts: Sequence[str], k: int = 1) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Places among the known texts and similarities, each (texts, k), most similar first; k at most all."""
        places, similarities = [], []
        for start in range(0, len(texts), _AT_ONCE):
            found = (self._weights.transform(texts[start : start + _AT_ONCE]) @ self._known.T).toarray()
            order = np.argsort(-found, axis=1, kind="stable")[:, :k]
            places.append(order)
            similarities.append(np.take_along_axis(found, order, axis=1))
        width = min(k, self._known.shape[0])
        if not places:
            return np.empty((0, width), np.int64), np.empty((0, width))
        return np.concatenate(places), np.concatenate(similarities)
