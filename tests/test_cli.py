"""Command lines as people type them."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import FIXTURES, ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser
from test_clips import table

from sashimi import cli
from sashimi.config import EvaluateConfig, GenerateConfig

Recording = Callable[..., Path]


def generate(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "generate.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment})


def refused(*arguments: str, cwd: Path = ROOT) -> str:
    """The one line that a refused command prints."""
    done = generate(*arguments, cwd=cwd)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize(
    ("experiment", "name"),
    [
        ("bigband", "bigband"),
        ("audio/sashimi-youtubebigband", "bigband"),
        ("audio/sashimi-youtubebigband-ablate-2-layers", "bigband-2block"),
    ],
)
def test_the_published_command_line(tmp_path: Path, experiment: str, name: str) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "generate", f"experiment={experiment}",
            f"checkpoint_path={FIXTURES}/dplr/state_dict.pt", "n_samples=4", "l_sample=64",
            "load_data=false", f"save_dir={tmp_path}/out", "temp=1.0",
        ],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = table(tmp_path / "out")
    assert [row["file"].split("_")[0] for row in rows] == [name] * 4
    assert "dt_transform=exp" in done.stderr, "the fixture does not say how its step sizes are stored"
    assert "4 clips" in done.stdout


def test_a_prompt_with_every_character_that_hydra_minds(
    tmp_path: Path, recording: Recording, saved_model: Path
) -> None:
    song = recording("canção (live) a=b, c.mp3", seconds=0.5)
    done = generate(
        f"checkpoint_path={saved_model}", f"prompt={song}", "prompt_end=0.1", "n_samples=1", "l_sample=1700",
        f"save_dir={tmp_path}/clips of [it's], ${{me}}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(table(tmp_path / "clips of [it's], ${me}")) == 1


def test_runs_from_anywhere(tmp_path: Path, saved_model: Path) -> None:
    done = generate(f"checkpoint_path={saved_model.name}", "n_samples=1", "l_sample=16", cwd=saved_model.parent)
    assert done.returncode == 0, done.stderr
    (folder,) = (saved_model.parent / "samples").iterdir()
    assert re.fullmatch(r"\d{8}-\d{6}-tiny", folder.name)
    assert not (saved_model.parent / "outputs").exists(), "Hydra writes nothing of its own"
    assert not list(saved_model.parent.glob("**/.hydra"))


def test_the_newest_local_run_is_used_and_named(tmp_path: Path, saved_model: Path) -> None:
    run = tmp_path / "runs" / "mine" / "2026-01-01"
    run.mkdir(parents=True)
    saved_model.rename(run / "best.safetensors")
    done = generate("n_samples=1", "l_sample=16", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "runs/mine/2026-01-01 (the newest local training run)" in done.stdout


def test_ctrl_c(tmp_path: Path, saved_model: Path) -> None:
    command = [sys.executable, str(ROOT / "generate.py"), f"checkpoint_path={saved_model}", "n_samples=2"]
    with subprocess.Popen([*command, "l_sample=10000000"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("playing:"):  # the first line about how far it is
            pass
        process.send_signal(signal.SIGINT)
        output = process.stdout.read()
    assert process.returncode == cli.INTERRUPTED
    assert "unfinished ones marked partial" in output
    (folder,) = (tmp_path / "samples").iterdir()
    assert [row["complete"] for row in table(folder)] == ["False", "False"]


def test_help_explains_every_setting_and_every_choice() -> None:
    text = generate("--help").stdout
    for key in ("prompt_start:", "checkpoint_path:", "temp:", "keep:"):
        assert key in text
    for option in ("bigband-2block", "audio/sashimi-youtubemix", "8block"):
        assert re.search(rf"^  {option} +\w", text, re.MULTILINE), option


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("l_smple=3", "unknown setting l_smple; did you mean l_sample?"),
        ("experimnt=bigband", "did you mean experiment?"),
        ("experiment=bigbnd", "there is no experiment=bigbnd; did you mean bigband?"),
        ("d_model=3", "did you mean model.d_model?"),
        ("model.layer.kinds=s4", "did you mean model.layer.kind?"),
        ("+tempr=2", "did you mean temp?"),
        ("codec=linear", "codec is a group of settings"),
        ("n_samples=many", "n_samples=many must be a whole number"),
        ("plots=3", "plots=3 must be true or false"),
        ("temp=-1", "temp=-1.0 must be at least 0"),
        ("checkpoint_path=absent.pt", "there is no checkpoint absent.pt"),
        ("n_samples=[1", "error: "),
    ],
)
def test_what_is_wrong_is_named_with_the_fix(argument: str, message: str) -> None:
    assert message in refused(argument)


def test_an_incomplete_installation_is_named(tmp_path: Path) -> None:
    """A Python without the packages: what is missing, and how to enter the environment."""
    code = "import sys, runpy; sys.path[:0] = [sys.argv.pop()]; runpy.run_path('generate.py', run_name='__main__')"
    (tmp_path / "hydra").mkdir()
    (tmp_path / "hydra" / "__init__.py").write_text("raise ModuleNotFoundError('No hydra', name='hydra')")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "the package hydra is not installed" in done.stderr
    assert "source .venv/bin/activate" in done.stderr


# --- quoting ------------------------------------------------------------------------------------------

KEYS = cli.path_keys(GenerateConfig)


def test_path_settings_are_known_from_their_types() -> None:
    assert {"prompt", "save_dir", "checkpoint_path", "again", "data.dir", "runs_dir"} <= set(KEYS)
    assert "temp" not in KEYS
    assert [key for key, many in KEYS.items() if many] == ["data.also"]
    assert cli.path_keys(EvaluateConfig)["checkpoints"], "a list of paths"


@pytest.mark.parametrize(
    "value",
    [
        "canção (live) a=b, c.mp3", "epoch=1-step=3.ckpt", "it's", "a\\b", "ends in \\", "both \\' of them",
        "${oc.env:HOME}/x", "[brackets]", "{braces}", "a: b", "  spaces ", "%@#!?*~", "a,b,c", "'", "日本語.wav",
    ],
)  # fmt: skip
def test_quoted_paths_come_out_as_they_went_in(value: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([cli.quoted(f"prompt={value}", KEYS)])
    assert str(override.value()).replace("\\${", "${") == value
    assert not override.is_sweep_override()


@pytest.mark.parametrize("argument", ["prompt=null", "prompt='by hand'", "temp=1.0", "prompt=", "--help", "name=a,b"])
def test_what_needs_no_quotes_stays(argument: str) -> None:
    assert cli.quoted(argument, KEYS) == argument


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        ("[a.safetensors,epoch=1-step=3.ckpt]", ["a.safetensors", "epoch=1-step=3.ckpt"]),
        ("[it's (1).pt, 'by hand']", ["it's (1).pt", "by hand"]),
        ("one=1.ckpt", ["one=1.ckpt"]),
        ("[]", []),
    ],
)
def test_lists_of_paths(value: str, paths: list[str]) -> None:
    (override,) = OverridesParser.create().parse_overrides([cli.quoted(f"x={value}", {"x": True})])
    assert [str(path) for path in override.value()] == paths


def test_a_missing_package_of_the_companion_comes_with_its_extra(capsys: pytest.CaptureFixture[str]) -> None:
    for package, how in (("peft", 'pip install -e ".[lyrics]"'), ("torch", "make install")):
        with pytest.raises(SystemExit), cli.reported_errors():
            raise ModuleNotFoundError(name=package)
        assert f"the package {package} is not installed" in (said := capsys.readouterr().err)
        assert how in said
