"""Which songs, and into which split. By hashes of contents alone: the same songs give the same choice in any order."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sashimi.errors import UserError

SPLITS = ("train", "val", "test")
_TRAILING = re.compile(r"(?:\s*[(].*?[)])+$|[\s,:.#-]+(?:n[oº.]*\s*)?(?:\d+|[ivxlc]+)[\s.]*$")


def unit(key: str) -> float:
    """A number in [0, 1) that depends on nothing but the text."""
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=7).digest()) / 2**56


def stratified_order(keys: NDArray[np.uint64], strata: NDArray[np.int64], even: bool = False) -> NDArray[np.int64]:
    """An order of songs whose every beginning has the strata in their proportions, or evenly.

    keys: (songs), hashes of them; strata: (songs), a number for every kind of song.
    """
    place = np.empty(len(keys))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        ranks = np.argsort(np.argsort(keys[members], kind="stable"), kind="stable")
        place[members] = ranks if even else (ranks + 0.5) / len(members)
    return np.lexsort((keys, place))


def title_key(title: str | None, lyrics: str) -> str:
    """What titles have in common that are kept together: no case, accents, marks, "(live)" or number at the end.

    A song without a title is called by its first line.
    """
    text = title or next((line for line in lyrics.split("\n") if line and line[0] != "["), "")
    return name_key(_TRAILING.sub("", _plain(text))) or name_key(text)


def name_key(name: str) -> str:
    """What spellings of an artist have in common: no case, accents, marks."""
    plain = _plain(name)
    return " ".join(re.findall(r"\w+", plain)) or plain


def _plain(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))


def assign(groups: Mapping[str, int], held_out: float) -> dict[str, str]:
    """The split of every group, in the order of hashes: about `held_out` of the songs to test and to val each.

    groups: how many songs each has. Raises UserError for fewer than three groups.
    """
    if len(groups) < 3:
        raise UserError(
            f"what is kept together makes {len(groups)} groups, too few for train, val and test; "
            "set --split title, or bring more songs"
        )
    left = sorted(groups, key=lambda group: (unit(group), group))
    wanted = held_out * sum(groups.values())
    splits: dict[str, str] = {}
    for split in ("test", "val"):
        taken: list[str] = []
        songs = 0
        for group in left:
            if songs < wanted and songs + groups[group] <= 1.25 * wanted:  # a large artist may be too much
                taken.append(group)
                songs += groups[group]
        taken = taken or [min(left, key=lambda group: groups[group])]
        splits |= dict.fromkeys(taken, split)
        left = [group for group in left if group not in splits]
    return splits | dict.fromkeys(left, "train")


def listed(path: Path) -> dict[str, str]:
    """The split of every id, from a JSON file of lists called train, val and test, at any depth."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a list of splits: {error}") from None
    splits: dict[str, str] = {}

    def walk(values: Any) -> None:
        for key, value in values.items():
            if key in SPLITS and isinstance(value, list):
                for identity in value:
                    if splits.setdefault(str(identity), key) != key:
                        raise UserError(f"{path} puts {identity} into {splits[str(identity)]} and {key}")
            elif isinstance(value, dict):
                walk(value)

    if isinstance(found, dict):
        walk(found)
    if set(splits.values()) != set(SPLITS):
        raise UserError(f"{path} has no lists of ids called train, val and test, or an empty one")
    return splits
