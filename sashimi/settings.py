"""Dataclasses from plain values (YAML, JSON) and back, and the checks that settings make of themselves."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from sashimi.errors import UserError

KIND_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}

T = TypeVar("T")


def one_of(name: str, value: object, choices: Sequence[object]) -> None:
    """Raises UserError for a value that is none of the choices."""
    if value not in choices:
        raise UserError(f"{name}={value} is not one of {', '.join(map(str, choices))}")


def at_least(name: str, value: float | None, least: float) -> None:
    """Raises UserError for a number below `least`, or none at all (nan); None passes."""
    if value is not None and not value >= least:
        raise UserError(f"{name}={value} must be at least {least}")


def plain(value: Any) -> Any:
    """Settings as YAML and JSON hold them, paths absolute: what `build` takes back."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return str(value.resolve()) if isinstance(value, Path) else value


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """A dataclass from nested plain values (YAML, JSON). `where` is the dotted prefix that errors name.

    Raises UserError for an unknown key and for a value of the wrong type, and what the class itself raises.
    """
    hints, known = get_type_hints(cls), {f.name for f in fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            nearest = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {where}{nearest[0]}?" if nearest else f"; known here: {', '.join(sorted(known))}"
            raise UserError(f"unknown setting {where}{key}{hint}")
    return cls(**{key: _convert(hints[key], value, f"{where}{key}") for key, value in values.items()})


def _convert(hint: Any, value: Any, name: str) -> Any:
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if value is None:
        if NoneType in options:
            return None
        raise UserError(f"{name} must not be null")
    kind = next(option for option in options if option is not NoneType)
    if is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise UserError(f"{name}={value} must be a group of settings, as in {name}.KEY=VALUE")
        return build(kind, value, f"{name}.")  # type: ignore[arg-type]
    if get_origin(kind) is list:
        if not isinstance(value, list | tuple):
            raise UserError(f"{name}={value} must be a list, as in {name}=[A,B]")
        return [_convert(get_args(kind)[0], item, f"{name}[{i}]") for i, item in enumerate(value)]
    if kind is Path and isinstance(value, str | Path):
        return Path(value).expanduser()
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # a name that looks like a number
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{name}={value} must be {KIND_NAMES.get(kind, kind.__name__)}")
    return value
