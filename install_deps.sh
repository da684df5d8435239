#!/usr/bin/env bash
# Installs everything this project needs into one Python environment.
# See ./install_deps.sh --help. Safe to run again: what is already right is kept.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# The release the tests run on. pyproject.toml states the range that is supported.
TORCH_VERSION="${TORCH_VERSION:-2.13.0}"
CPU_INDEX="https://download.pytorch.org/whl/cpu"

usage() {
    cat <<TEXT
Usage: ./install_deps.sh [--cpu | --cuda] [--extras LIST]

Installs into the active virtual environment, or into ./.venv, which it creates.

  --cpu, --cuda     which build of torch; default: CUDA if an NVIDIA GPU is found, else CPU
  --extras LIST     optional parts, comma-separated; default: dev,data,app (also: lyrics)

Environment:
  PYTHON            the Python to make .venv with (3.11 to 3.13; default python3)
  TORCH_VERSION     the torch release to install (default $TORCH_VERSION)
  TORCH_INDEX_URL   a package index to take torch from; default for CPU: PyTorch's own
                    wheel index if it answers, else whatever pip is configured with
TEXT
}

say() { printf '\033[1m[install]\033[0m %s\n' "$*"; }
warn() { printf '\033[1m[install]\033[0m warning: %s\n' "$*" >&2; }
die() { printf '\033[1m[install]\033[0m error: %s\n' "$*" >&2; exit 1; }

build="" extras="dev,data,app"
while [ $# -gt 0 ]; do
    case "$1" in
        --cpu) build=cpu ;;
        --cuda) build=cuda ;;
        --extras) [ $# -ge 2 ] || die "--extras needs a list, for example --extras dev,data,app"; extras="$2"; shift ;;
        --extras=*) extras="${1#*=}" ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; die "unknown option: $1" ;;
    esac
    shift
done
if [ -z "$build" ]; then
    if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then
        build=cuda; say "found an NVIDIA GPU: installing the CUDA build of torch (--cpu overrides)"
    else
        build=cpu; say "found no NVIDIA GPU: installing the CPU build of torch (--cuda overrides)"
    fi
fi

# --- the environment
if [ -n "${VIRTUAL_ENV:-}" ]; then
    venv="$VIRTUAL_ENV"
    say "using the active environment $venv"
else
    venv="$PWD/.venv"
    if [ ! -x "$venv/bin/python" ]; then
        python="${PYTHON:-python3}"
        command -v "$python" >/dev/null 2>&1 || die "no $python found; install Python 3.11 to 3.13, or set PYTHON"
        "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
            || die "$("$python" --version) is outside the supported range 3.11 to 3.13; set PYTHON to another"
        "$python" -c 'import venv, ensurepip' 2>/dev/null \
            || die "$python cannot make virtual environments; on Debian or Ubuntu: sudo apt install python3-venv"
        say "creating the virtual environment $venv"
        "$python" -m venv "$venv"
    fi
fi
py="$venv/bin/python"
pip() { "$py" -m pip --disable-pip-version-check "$@"; }

if ! command -v "${CXX:-c++}" >/dev/null 2>&1; then
    warn "no C++ compiler found. Playing in real time, fast training on a CPU and PyKeOps need one.
          Debian, Ubuntu: sudo apt install g++    Fedora: sudo dnf install gcc-c++    macOS: xcode-select --install"
fi

# --- torch first, so that no other package chooses its build
torch_build() {  # prints "VERSION cpu|cuda", or nothing when torch is not installed or does not import
    "$py" -c 'import torch; print(torch.__version__, "cuda" if torch.version.cuda else "cpu")' 2>/dev/null || true
}
supported() {  # whether a version of torch is in the range of pyproject.toml
    "$py" -c '
import sys, tomllib
from pip._vendor.packaging.requirements import Requirement
needs = [Requirement(r) for r in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]]
sys.exit(not any(r.name == "torch" and r.specifier.contains(sys.argv[1]) for r in needs))' "$1"
}
answers() { "$py" -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=5)' "$1" 2>/dev/null; }

read -r have_version have_build <<<"$(torch_build)" || true
if [ -n "$have_version" ] && [ "$have_build" = "$build" ] && supported "$have_version"; then
    say "torch $have_version ($build) is already there"
else
    source_args=()
    if [ -n "${TORCH_INDEX_URL:-}" ]; then
        source_args=(--index-url "$TORCH_INDEX_URL"); from="$TORCH_INDEX_URL"
    elif [ "$build" = cpu ] && answers "$CPU_INDEX/torch/"; then
        source_args=(--index-url "$CPU_INDEX"); from="$CPU_INDEX"
    else
        from="pip's configured index"
    fi
    say "installing torch $TORCH_VERSION ($build) from $from"
    [ -z "$have_version" ] || pip uninstall -q -y torch
    pip install -q "torch==$TORCH_VERSION" "${source_args[@]}" \
        || die "torch $TORCH_VERSION could not be installed from $from; set TORCH_INDEX_URL or TORCH_VERSION"
fi
check_build() {
    read -r have_version have_build <<<"$(torch_build)" || true
    [ -n "$have_version" ] || die "torch was installed but does not import; remove $venv and run this again"
    [ "$have_build" = "$build" ] || die "asked for the $build build of torch and got torch $have_version ($have_build).
          Set TORCH_INDEX_URL to an index that carries the $build build, for example
          TORCH_INDEX_URL=$([ "$build" = cpu ] && echo "$CPU_INDEX" || echo https://download.pytorch.org/whl/cu130) ./install_deps.sh --$build"
}
check_build

# --- everything else, with torch held where it is
constraints="$venv/torch-constraint.txt"
echo "torch==$have_version" >"$constraints"
[ "$build" = cpu ] || extras="$extras,cuda"
say "installing the project with its extras [$extras]"
pip install -q -c "$constraints" -e ".[$extras]"
check_build
say "compiling for this processor: the native engine and what trains on a CPU"
"$py" -c '
from sashimi.compiler import BuildError, library
from sashimi.engines.native import SOURCE as engine
from sashimi.kernels import norm, recurrence
try:
    for source in (engine, recurrence.SOURCE, norm.SOURCE):
        library(source)
except BuildError as error:
    print(f"warning: {error}; training and generate.py will be slow")'
say "done: torch $have_version ($build), $("$py" --version)"
say "enter the environment with:  source ${venv#"$PWD"/}/bin/activate"
