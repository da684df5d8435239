"""Files that are whole or absent."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def finished(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`, with its suffix; renames it to `path` on success, removes it on failure.

    Raises OSError, naming the folder, if that cannot be written to.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)  # some writers make files that nobody else may read
        os.replace(partial, path)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, says that a disk or a quota is full. Not every writer raises an OSError."""
    while error is not None:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if full or f"(os error {errno.ENOSPC})" in str(error):  # as safetensors says it
            return True
        error = error.__cause__ or error.__context__
    return False
