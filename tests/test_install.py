"""install_deps.sh against a stand-in Python that records what is asked of pip."""

import os
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

# Answers as a Python would whose torch is described in the file `torch`; pip install writes what `pip_gives` holds.
STAND_IN = """#!/usr/bin/env bash
here="$(dirname "$0")"
case "$*" in
    *"import torch"*) cat "$here/torch" 2>/dev/null ;;
    *Requirement*) [[ "${@: -1}" == 2.13.* ]] ;;
    *urlopen*) [ -e "$here/index_answers" ] ;;
    *"pip "*) echo "$*" >>"$here/log"
        [[ "$*" != *torch==* || "$*" == *"-c "* ]] || cp "$here/pip_gives" "$here/torch"
        [[ "$*" != *uninstall* ]] || rm -f "$here/torch" ;;
    --version) echo Python 3.11.9 ;;
esac
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    folder = tmp_path / "venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").write_text(STAND_IN)
    (folder / "python").chmod(0o755)
    return folder


def install(stand_in: Path, *arguments: str, gives: str = "2.13.0+cpu cpu", **environment: str) -> tuple[int, str, str]:
    """The exit status, what was printed, and what pip was asked."""
    (stand_in / "pip_gives").write_text(gives)
    done = subprocess.run(
        [str(ROOT / "install_deps.sh"), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "VIRTUAL_ENV": str(stand_in.parent), **environment},
    )
    log = stand_in / "log"
    return done.returncode, done.stdout + done.stderr, log.read_text() if log.exists() else ""


def test_cpu_build_from_the_wheel_index_where_it_answers(stand_in: Path) -> None:
    (stand_in / "index_answers").touch()
    status, text, asked = install(stand_in, "--cpu")
    assert status == 0, text
    assert "torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu" in asked
    assert "-e .[dev,data,app]" in asked
    assert (stand_in.parent / "torch-constraint.txt").read_text() == "torch==2.13.0+cpu\n"
    assert asked.index("torch==2.13.0") < asked.index("-e ."), "torch first, then what might change it"
    assert f"source {stand_in.parent}/bin/activate" in text


def test_without_an_answer_pips_own_configuration(stand_in: Path) -> None:
    _, _, asked = install(stand_in, "--cpu")
    assert "--index-url" not in asked


def test_an_index_by_hand_comes_first(stand_in: Path) -> None:
    (stand_in / "index_answers").touch()
    _, _, asked = install(stand_in, "--cpu", TORCH_INDEX_URL="https://wheels.example/simple", TORCH_VERSION="2.13.1")
    assert "torch==2.13.1 --index-url https://wheels.example/simple" in asked


def test_the_wrong_build_is_an_error_that_says_what_to_set(stand_in: Path) -> None:
    status, text, asked = install(stand_in, "--cpu", gives="2.13.0 cuda")
    assert status != 0
    assert "asked for the cpu build of torch and got torch 2.13.0 (cuda)" in text
    assert "TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu" in text
    assert "-e ." not in asked


def test_what_is_right_is_kept_and_what_is_not_is_replaced(stand_in: Path) -> None:
    (stand_in / "torch").write_text("2.13.1+cpu cpu")
    _, text, asked = install(stand_in, "--cpu")
    assert "already there" in text
    assert "torch==2.13.0" not in asked
    (stand_in / "torch").write_text("2.9.0+cpu cpu")
    _, _, asked = install(stand_in, "--cpu")
    assert "uninstall -q -y torch" in asked
    assert "torch==2.13.0" in asked


def test_cuda_is_found_and_brings_its_extra(stand_in: Path, tmp_path: Path) -> None:
    smi = tmp_path / "tools" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA something'\n")
    smi.chmod(0o755)
    path = f"{smi.parent}:{os.environ['PATH']}"
    status, text, asked = install(stand_in, "--extras", "dev", gives="2.13.0+cu130 cuda", PATH=path)
    assert status == 0, text
    assert "found an NVIDIA GPU" in text
    assert "-e .[dev,cuda]" in asked


def test_no_compiler_is_a_warning_with_the_command(stand_in: Path) -> None:
    status, text, _ = install(stand_in, "--cpu", CXX="no-such-compiler")
    assert status == 0
    assert "sudo apt install g++" in text


@pytest.mark.parametrize("arguments", [["--gpu"], ["--extras"]])
def test_bad_arguments(stand_in: Path, arguments: list[str]) -> None:
    status, text, asked = install(stand_in, *arguments)
    assert status == 1
    assert arguments[0] in text
    assert not asked


def test_help(stand_in: Path) -> None:
    status, text, asked = install(stand_in, "--help")
    assert status == 0
    assert "TORCH_INDEX_URL" in text
    assert not asked
