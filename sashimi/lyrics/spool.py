"""Songs on their way: on disk, as millions of them need not fit into memory."""

import json
from array import array
from typing import Any, BinaryIO

from sashimi.lyrics.dataset import Song, song


class Spool:
    """Songs on disk in the order of reading, found by their offsets; in memory some 30 bytes of each."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.offsets, self.keys, self.strata, self.artists = array("q"), array("Q"), array("q"), array("q")
        self.seen: set[int] = set()
        self.numbers: dict[Any, int] = {}

    def number(self, name: Any) -> int:
        return self.numbers.setdefault(name, len(self.numbers))

    def add(self, one: Song, identity: str | None) -> bool:
        """False if the same words are there already."""
        key = int(one.id, 16)
        if key in self.seen:
            return False
        self.seen.add(key)
        self.keys.append(key)
        self.offsets.append(self.file.seek(0, 2))
        self.strata.append(self.number((one.language, one.genre)))
        self.artists.append(self.number(("artist", (one.artist or "").casefold())) if one.artist else -1)
        self.file.write(json.dumps([identity, one.line()], ensure_ascii=False).encode() + b"\n")
        return True

    def read(self, i: int) -> tuple[str | None, Song]:
        """The source's id and the song."""
        self.file.seek(self.offsets[i])
        identity, line = json.loads(self.file.readline())
        return identity, song(line)
