"""What a language model's understanding is held against: answers that need none. They see the same excerpts."""

from collections import Counter
from collections.abc import Sequence

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.naive_bayes import ComplementNB
from sklearn.pipeline import make_pipeline

from sashimi.lyrics import tasks, themes
from sashimi.lyrics.config import Understanding
from sashimi.lyrics.dataset import Song
from sashimi.lyrics.neighbours import Neighbours
from sashimi.lyrics.words import words

COMMONEST = "commonest answer"
NEAREST = "nearest song of train (TF-IDF)"
COUNTS = "word counts (naive Bayes)"


def closed(train: Sequence[Song], task: str, answers: Sequence[str], texts: Sequence[str]) -> dict[str, list[str]]:
    """By the name of each baseline, its answer about every text.

    answers: those asked for, the commonest in train first; songs of train with another are not looked at.
    """
    known = [(tasks.masked(song.lyrics, song.artist), answer) for song in train
             if (answer := tasks.stated(song, task)) in set(answers) and answer]  # fmt: skip
    if not known:
        return {}
    lyrics, given = [text for text, _ in known], [answer for _, answer in known]
    nearest, _ = Neighbours(lyrics, content=False).nearest(texts)
    # Complement naive Bayes is made for answers of unequal frequency: Rennie et al., 2003.
    counts = make_pipeline(TfidfVectorizer(analyzer=words, sublinear_tf=True), ComplementNB()).fit(lyrics, given)
    return {
        COMMONEST: [answers[0]] * len(texts),
        NEAREST: [given[row[0]] for row in nearest],
        COUNTS: [str(answer) for answer in counts.predict(texts)],
    }


def themed(train: Sequence[Song], texts: Sequence[str], limit: int) -> dict[str, list[themes.Labels]]:
    """The same for themes. limit: characters of a song of train that are looked at, as of the texts."""
    shown = [(text, song.language) for song in train
             for text in tasks.excerpts(song.lyrics, Understanding(excerpts=1, max_chars=limit))]  # fmt: skip
    labels = [themes.label(text, language) for text, language in shown]
    frequent = Counter(name for label in labels for name in label.themes).most_common(1)
    nearest, _ = Neighbours([text for text, _ in shown]).nearest(texts)
    return {
        COMMONEST: [themes.Labels(tuple(name for name, _ in frequent))] * len(texts),
        NEAREST: [labels[row[0]] for row in nearest],
    }
