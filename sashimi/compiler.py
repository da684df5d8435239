"""Builds the C++ parts for this machine, once, and keeps what it built."""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from sashimi.errors import UserError

log = logging.getLogger(__name__)
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-pthread")
NATIVE = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
PATIENCE = 300  # seconds that a compiler may take; it takes ten


class BuildError(UserError):
    """A C++ part cannot be built on this machine; the message says why, and what would help."""


@cache
def library(source: Path, flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """A C++ file as a loaded library, compiled on first use for this very processor. flags: further ones.

    Kept under a name that changes with the source, the headers beside it, the compiler, the flags and the processor,
    so nothing that was built for another is ever loaded; two processes may build at once. Raises BuildError.
    """
    compiler = find_compiler()
    command = [*compiler, *FLAGS, NATIVE, *flags]
    texts = [path.read_text(encoding="utf-8") for path in (source, *sorted(source.parent.glob("*.h")))]
    key = hashlib.sha256("\0".join([*texts, *command, version(compiler), processor()]).encode()).hexdigest()[:20]
    path = cache_folder() / f"{source.stem}-{key}.so"
    if not path.is_file():
        build([*command, str(source)], path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        path.unlink(missing_ok=True)  # damaged: the next start builds it again
        raise BuildError(f"what {source.name} was built to cannot be loaded ({error}); start again") from None


@cache
def builds(source: Path) -> bool:
    """Whether `library` has it; a warning says why not. For what has another, slower way."""
    try:
        library(source)
    except BuildError as error:
        log.warning("%s. What %s does goes a slower way", error, source.name)
        return False
    return True


def find_compiler() -> list[str]:
    """The command of the C++ compiler: $CXX, else the first of COMPILERS. Raises BuildError where there is none."""
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    found = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if found is None:
        raise BuildError(
            "there is no C++ compiler; install one (Debian, Ubuntu: apt install g++; macOS: Xcode's tools)"
        )
    return [found]


def version(compiler: list[str]) -> str:
    """What the compiler calls itself. Raises BuildError for one that does not run."""
    try:
        done = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"the C++ compiler {shlex.join(compiler)} does not run: {error}") from None
    return done.stdout


def processor() -> str:
    """What the machine's instruction set can be told by."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    told = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.partition(":")[0].strip() in told}))


def cache_folder() -> Path:
    """Where builds are kept: the user's cache, or a folder of this process's own where that cannot be written to."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "sashimi-music"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            return folder
    except OSError:
        return _own_folder()


@cache
def _own_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="sashimi-music-"))


def build(command: list[str], path: Path) -> None:
    """Compile, whole or not at all. Raises BuildError with the compiler's first words."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        done = subprocess.run([*command, "-o", str(partial)], capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            first = next((line for line in lines if "error" in line), lines[0])
            raise BuildError(f"{shlex.join(command[:1])} does not compile {command[-1]}: {first}")
        os.replace(partial, path)
    except subprocess.TimeoutExpired:
        raise BuildError(f"{command[0]} took more than {PATIENCE} s to compile {command[-1]}") from None
    except OSError as error:
        raise BuildError(f"{command[-1]} cannot be compiled: {error}") from None
    finally:
        partial.unlink(missing_ok=True)
