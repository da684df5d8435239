"""Command lines of `key=value` settings: Hydra composes, a dataclass comes out.

Nothing is imported at the top that an incomplete installation may lack: what is missing is named instead.
"""

import difflib
import logging
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from sashimi.errors import UserError

T = TypeVar("T")

# Runs belong where the settings say, and the terminal to the program: Hydra writes and logs nothing.
QUIET = [
    "hydra.run.dir=.", "hydra.sweep.dir=.", "hydra.sweep.subdir=.", "hydra.output_subdir=null",
    "hydra/job_logging=none", "hydra/hydra_logging=none",
]  # fmt: skip
INTERRUPTED = 130


def run(config_dir: Path, config_name: str, make: Callable[[], tuple[type[T], Callable[[T, str | None], Any]]]) -> None:
    """Compose configs/`config_name`.yaml with this process's arguments and do the work.

    make: imports and returns the dataclass of the settings and the function that takes one, with the name
    of the experiment that experiment= chose (or None). What is the user's to mend ends the process with
    one line and status 2, Ctrl-C with 130; SASHIMI_DEBUG=1 shows tracebacks.
    """
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(help_text(config_dir, config_name))
        return
    logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.getLogger("sashimi").setLevel(logging.INFO)
    with reported_errors():
        import hydra
        from omegaconf import DictConfig, OmegaConf

        from sashimi.config import build_settings

        cls, work = make()
        arguments = [quoted(a, path_keys(cls)) for a in sys.argv[1:]]
        experiment = check(config_dir, config_name, [a for a in arguments if not a.startswith("-")])
        failures: list[BaseException] = []

        def job(composed: DictConfig) -> None:
            plain: Any = OmegaConf.to_container(composed, resolve=True)
            try:
                work(build_settings(cls, plain), experiment)
            except (Exception, KeyboardInterrupt) as error:
                failures.append(error)  # past Hydra's own report, to ours

        # Hydra takes flags only before the settings; people put them anywhere.
        arguments.sort(key=lambda argument: argument not in ("--multirun", "-m"))
        sys.argv[1:] = [*arguments, *QUIET]
        hydra.main(version_base="1.3", config_path=str(config_dir), config_name=config_name)(job)()
        if failures:
            raise failures[0]


@contextmanager
def reported_errors() -> Iterator[None]:
    """Ends the process with one line for what the user can mend: settings, files, an incomplete installation."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (UserError, OSError, ModuleNotFoundError) as error:
        if os.environ.get("SASHIMI_DEBUG"):
            raise
        message = str(error)
        if isinstance(error, ModuleNotFoundError):
            message = f"the package {error.name} is not installed for {sys.executable}; {_installing(error.name or '')}"
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)


def _installing(package: str) -> str:
    """How a missing package comes: by the companion's extra, which `make install` leaves out, or with the rest."""
    try:
        required = metadata.requires("sashimi-music") or []
    except metadata.PackageNotFoundError:
        required = []
    name = package.replace("_", "-")
    if any(re.match(rf"{re.escape(name)}\b(?!-).*extra == .lyrics.", line) for line in required):
        return 'pip install -e ".[lyrics]"'
    return "install with `make install`, then enter the environment: source .venv/bin/activate"


# --- settings -----------------------------------------------------------------------------------------


def check(config_dir: Path, config_name: str, settings: list[str]) -> str | None:
    """Raises UserError, naming the nearest key, for what Hydra would refuse. Returns the chosen experiment."""
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    groups = group_options(config_dir)
    try:
        overrides = [o for o in OverridesParser.create().parse_overrides(settings) if not o.is_sweep_override()]
        chosen = {o.key_or_group: o.value() for o in overrides if o.key_or_group in groups}
        for group, option in chosen.items():
            if option is not None and option not in groups[group]:
                hint = nearest(str(option), groups[group]) or f"; there are {', '.join(groups[group])}"
                raise UserError(f"there is no {group}={option}{hint}")
        with initialize_config_dir(str(config_dir), version_base="1.3"):
            base = compose(config_name, [f"{group}={option}" for group, option in chosen.items()])
            for o in overrides:
                key = o.key_or_group
                if key in groups or key.startswith("hydra"):
                    continue
                if key not in dotted_keys(base):
                    raise UserError(
                        f"unknown setting {key}{nearest(key, [*groups, *dotted_keys(base)])}; --help lists all"
                    )
                if isinstance(OmegaConf.select(base, key), DictConfig):
                    raise UserError(f"{key} is a group of settings; set one of them, as in {key}.NAME=VALUE")
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(str(error).splitlines()[0]) from None
    return chosen.get("experiment")  # type: ignore[return-value]


def dotted_keys(config: Any) -> list[str]:
    """Every key of a nested configuration, groups included, as a, a.b, a.b.c."""
    from omegaconf import OmegaConf

    def walk(values: Any, prefix: str) -> Iterator[str]:
        for key, value in values.items():
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")

    return list(walk(OmegaConf.to_container(config, resolve=False), ""))


def nearest(word: str, known: Collection[str]) -> str:
    """`; did you mean X?`, or nothing. The last part of a key is enough: d_model finds model.d_model."""
    by_last = {k.split(".")[-1]: k for k in sorted(known, key=len, reverse=True)}
    matches = [by_last[word.split(".")[-1]]] if word.split(".")[-1] in by_last else []
    matches += difflib.get_close_matches(word, known, n=1)
    matches += [by_last[m] for m in difflib.get_close_matches(word.split(".")[-1], by_last, n=1)]
    return f"; did you mean {matches[0]}?" if matches else ""


def group_options(config_dir: Path) -> dict[str, list[str]]:
    """The choices of every group of configuration files: experiment -> [bigband, ...]."""
    return {
        group.name: sorted(p.relative_to(group).with_suffix("").as_posix() for p in group.rglob("*.yaml"))
        for group in sorted(config_dir.iterdir())
        if group.is_dir()
    }


def help_text(config_dir: Path, config_name: str) -> str:
    """The commented configuration file itself, then every choice of every group with its first comment."""
    lines = [f"Usage: python {Path(sys.argv[0]).name} [KEY=VALUE ...] [--help]", ""]
    lines += (config_dir / f"{config_name}.yaml").read_text(encoding="utf-8").splitlines()
    for group, options in group_options(config_dir).items():
        lines += ["", f"{group}=..."]
        for option in options:
            text = (config_dir / group / f"{option}.yaml").read_text(encoding="utf-8")
            comment = next((m[1] for m in re.finditer(r"^# (?!@)(.*)$", text, re.MULTILINE)), "")
            lines.append(f"  {option:<50} {comment}")
    return "\n".join(lines)


# --- paths --------------------------------------------------------------------------------------------


def path_keys(cls: type, prefix: str = "") -> dict[str, bool]:
    """The dotted names of a dataclass's settings that are paths; True for lists of paths."""
    keys, hints = {}, get_type_hints(cls)
    for f in fields(cls):
        kinds = {hints[f.name], *get_args(hints[f.name])}
        if Path in kinds:
            keys[f"{prefix}{f.name}"] = get_origin(hints[f.name]) is list
        for kind in kinds:
            if is_dataclass(kind):
                keys |= path_keys(kind, f"{prefix}{f.name}.")  # type: ignore[arg-type]
    return keys


def quoted(argument: str, keys: Mapping[str, bool]) -> str:
    """A path's `key=value` in the quotes that make any text one value for Hydra; each path of a list in its own.

    keys: as from `path_keys`. `null` stays, and so does what is in quotes already.
    """
    key, equals, value = argument.partition("=")
    if not equals or key not in keys or value in ("", "null", "[]"):
        return argument
    if not keys[key]:
        return f"{key}={quoted_path(value)}"
    paths = value[1:-1].split(",") if value[0] == "[" and value[-1] == "]" else [value]
    return f"{key}=[{','.join(quoted_path(path.strip()) for path in paths)}]"


def quoted_path(path: str) -> str:
    if len(path) > 1 and path[0] == path[-1] and path[0] in "'\"":
        return path
    # Inside them only a quote, backslashes before one, and an interpolation mean anything.
    path = re.sub(r"(\\*)'", r"\1\1\\'", path).replace("${", r"\${")
    path = re.sub(r"(\\+)$", r"\1\1", path)
    return f"'{path}'"
