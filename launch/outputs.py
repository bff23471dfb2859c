"""Files that commands write: known to be writable before the slow work, and never half-written under their name."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sharding.commandline import UserError


def check_writable(path: Path) -> None:
    """Makes the folder that the file `path` goes to, and tries whether files can be made in it.

    Raises:
        UserError: the file could not be written.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder; give the name of a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, with its suffix; what was written there becomes `path` if all went well."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
