"""The house: imports go one way, and the light parts stay light."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

# Each module may import those before it, and of the later ones nothing.
ORDER = [
    "errors", "files", "compiler", "settings", "config", "cli", "progress", "codec", "audio", "fingerprints", "plots",
    "rollout_plots", "sampling", "data", "yardsticks", "memorisation", "metrics", "distance", "survival",
    "real_music", "rollout_tables", "ssm", "kernels", "layers", "model", "published", "checkpoint", "engines",
    "generation", "evaluation", "clips", "memory", "rollouts", "comparison", "loggers", "batches", "augmentation",
    "learning", "callbacks", "rollback", "faults", "training", "lyrics",
]  # fmt: skip
LEAVES = set(ORDER[: ORDER.index("ssm")])  # need no model
# A published checkpoint is read into the metadata of ours, which the checkpoint module defines.
EXCEPTIONS = {("published", "checkpoint")}


def modules(package: str = "sashimi") -> dict[str, set[str]]:
    """Every top-level part of a package and the parts of sashimi that it imports, anywhere in its files."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / package).rglob("*.py"):
        part = path.relative_to(ROOT / package).with_suffix("").parts[0]
        if part == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{a.name}" for a in node.names] if node.module == "sashimi" else [node.module]
            parts = {name.split(".")[1] for name in names if name.startswith("sashimi.")}
            own = {part} if package == "sashimi" else set()
            found.setdefault(part, set()).update(parts - own - {"__version__"})
    return found


def test_imports_go_one_way() -> None:
    found = modules()
    assert set(found) == set(ORDER), "a new module takes its place in ORDER"
    for part, imported in found.items():
        later = {other for other in imported if ORDER.index(other) >= ORDER.index(part)}
        assert {(part, other) for other in later} <= EXCEPTIONS
        if part in LEAVES:
            assert imported <= LEAVES


def test_the_companion_stands_apart() -> None:
    found = modules()
    # The command line's module, and the leaves that it rests on.
    assert found["lyrics"] <= {"cli", "errors", "files", "progress", "settings"}
    assert not [part for part, imported in found.items() if part != "lyrics" and "lyrics" in imported]


def test_data_tools_need_sound_and_no_model() -> None:
    imported = set().union(*modules("data_tools").values())
    assert imported <= {"audio", "cli", "errors", "files", "fingerprints", "progress"}


@pytest.mark.parametrize(
    "module",
    [
        "data_tools.prepare",
        "sashimi",
        "sashimi.cli",
        "sashimi.config",
        "sashimi.audio",
        "sashimi.codec",
        "sashimi.lyrics.prepare",
    ],
)
def test_light_modules_do_not_load_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_entry_points_are_short() -> None:
    for path in ROOT.glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 40, path
