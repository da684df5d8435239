"""Plain values become dataclasses, and back; what does not fit is named."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sashimi.errors import UserError
from sashimi.settings import at_least, build, one_of, plain


@dataclass
class Inner:
    kind: str = "plain"
    size: float = 1.0


@dataclass
class Outer:
    count: int = 1
    loud: bool = False
    parts: list[int] = field(default_factory=list)
    folder: Path | None = None
    inner: Inner = field(default_factory=Inner)


def test_nested_values() -> None:
    found = build(Outer, {"parts": [2, 3], "folder": "~/x", "inner": {"kind": 808, "size": 2}})
    assert found == Outer(1, False, [2, 3], Path.home() / "x", Inner("808", 2.0))
    assert isinstance(found.inner.size, float)
    assert build(Outer, {"folder": None}).folder is None


def test_plain_values_build_the_same() -> None:
    value = Outer(parts=[1], folder=Path("here"), inner=Inner(size=0.5))
    again = build(Outer, plain(asdict(value)))
    assert again.folder == Path("here").resolve(), "wherever it is read"
    again.folder = value.folder
    assert again == value


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cuont": 3}, r"unknown setting cuont; did you mean count\?"),
        ({"inner": {"knid": "x"}}, r"unknown setting inner\.knid; did you mean inner\.kind\?"),
        ({"xyz": 3}, "known here: count, folder, inner, loud, parts"),
        ({"inner": 3}, "inner=3 must be a group"),
        ({"parts": 4}, "parts=4 must be a list"),
        ({"parts": [4, "x"]}, r"parts\[1\]=x must be a whole number"),
        ({"count": True}, "must be a whole number"),
        ({"count": 1.5}, "must be a whole number"),
        ({"count": None}, "must not be null"),
        ({"loud": "yes"}, "must be true or false"),
        ({"folder": 3}, "must be a path"),
    ],
)
def test_what_does_not_fit_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(Outer, values)


def test_checks() -> None:
    one_of("mode", "a", ("a", "b"))
    at_least("count", 1, 1)
    at_least("count", None, 1)
    with pytest.raises(UserError, match="mode=c is not one of a, b"):
        one_of("mode", "c", ("a", "b"))
    for value in (0.9, float("nan")):
        with pytest.raises(UserError, match="must be at least 1"):
            at_least("count", value, 1)
