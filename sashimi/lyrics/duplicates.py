"""Songs that are there twice: the same words, or nearly so (MinHash by datasketch, then counted exactly)."""

import hashlib
import re
from collections.abc import Callable

from sashimi.lyrics.sections import sung
from sashimi.lyrics.words import words

SHINGLE = 3  # words
PERMUTATIONS = 64


def exact_key(lyrics: str) -> str:
    """16 hexadecimal digits of the letters and digits sung: case, marks, blank lines and markers make no difference."""
    letters = re.sub(r"[\W_]+", "", "".join(sung(lyrics)).casefold())
    return hashlib.blake2b(letters.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def shingles(lyrics: str) -> frozenset[str]:
    """Every three words in a row; every three characters where a script does not part words."""
    text = "\n".join(sung(lyrics))
    units = words(text)
    if sum(map(len, units)) > 12 * len(units):
        units = [c for c in text if not c.isspace()]
    return frozenset(" ".join(units[i : i + SHINGLE]) for i in range(max(1, len(units) - SHINGLE + 1)))


def alike(a: frozenset[str], b: frozenset[str]) -> float:
    """Jaccard's share of what two songs have in common, 0 to 1."""
    return len(a & b) / max(len(a | b), 1)


class Near:
    """The songs kept so far. Some 6 KB of memory a song; the texts stay on disk.

    read: gives back the lyrics of an earlier song by its key.
    """

    def __init__(self, threshold: float, read: Callable[[int], str]) -> None:
        from datasketch import MinHash, MinHashLSH

        self.threshold, self.read, self.sketch = threshold, read, MinHash
        # Below the threshold on purpose: the sketch proposes, the count decides.
        self.index = MinHashLSH(threshold=max(0.1, threshold - 0.1), num_perm=PERMUTATIONS)

    def find_or_add(self, key: int, lyrics: str) -> int | None:
        """The key of an earlier song that this one repeats; None if there is none, and it is added."""
        own = shingles(lyrics)
        sketch = self.sketch(num_perm=PERMUTATIONS)
        sketch.update_batch([shingle.encode("utf-8", "surrogatepass") for shingle in own])
        for other in sorted(self.index.query(sketch)):
            if alike(own, shingles(self.read(other))) >= self.threshold:
                return int(other)
        self.index.insert(key, sketch, check_duplication=False)
        return None
