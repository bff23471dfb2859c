"""Files that commands write: known to be writable before the slow work, never half-written under their name, locked."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from sharding.errors import UserError

_BLOCK_BYTES = 1 << 20


def check_writable(path: Path) -> None:
    """Make the folder that the file `path` goes to, and try whether files can be made in it.

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


def parse_json(content: str | bytes) -> Any:
    """Return `json.loads` of text that may come from anybody; whatever is wrong with it is a ValueError."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def printable(text: str) -> str:
    """Return text that UTF-8 can hold: bytes of a file name that are no UTF-8 are shown as \\udcxx."""
    return text.encode("utf-8", "backslashreplace").decode()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name next to `path`, with its suffix; what was written there becomes `path` if all went well.

    The name is this process's alone, so that two that write the same file do not write into each other's, and short,
    since that of `path` may be as long as names can be.
    """
    short = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]
    temporary = path.with_name(f".{short}.{os.getpid()}{path.suffix[-16:]}")
    temporary.unlink(missing_ok=True)
    # It is new, so that nothing is written through a link that somebody else has laid there.
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file that has all of its content or does not exist, wherever the process dies."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty temporary folder next to `folder`; what was written there becomes `folder` if all went well.

    Raises:
        UserError: there is something at `folder` already, other than an empty folder.
    """
    if folder.is_symlink() or (folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))):
        raise UserError(f"{folder}: already there and not an empty folder; name another or remove it")
    # Its name says whose it is, so what a killed run left there may go.
    partial = folder.absolute().parent / f".{folder.absolute().name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.replace(folder)


def hash_rest(file: BinaryIO, num_bytes: int | None = None, algorithm: str = "sha256") -> "hashlib._Hash":
    """Return the hash object of what follows in an open file: of `num_bytes`, or of all up to its end."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    left = num_bytes
    while block := file.read(_BLOCK_BYTES if left is None else min(_BLOCK_BYTES, left)):
        digest.update(block)
        left = None if left is None else left - len(block)
    return digest


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal, reading a block at a time."""
    with path.open("rb") as file:
        return hash_rest(file).hexdigest()


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock that a file represents against all processes and threads; yield whether it was to be had.

    It is flock(2), which the kernel gives back when a process dies. Without `wait`, False is yielded at once where
    somebody else holds it.
    """
    # Never through a symbolic link, which in a folder that several people write to may be a trap.
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            had = True
        except BlockingIOError:
            had = False
        yield had
    finally:
        os.close(file)
