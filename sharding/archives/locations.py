"""Files that lie elsewhere, read as streams: on this machine, or behind a URL that fsspec knows."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sharding.errors import UserError, redacted

_REMOTE_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class FileAt:
    """A file, and what says whether it is still the same."""

    name: str
    """Without its folder."""
    location: str
    """An absolute path or a URL."""
    bytes: int
    stamp: str
    """Changes with the content, as far as the file system or the store knows: size and time, or a tag."""

    @property
    def shown(self) -> str:
        """What messages call it."""
        return redacted(self.location)


def is_url(location: str | Path) -> bool:
    return "://" in str(location)


def local_file(path: Path) -> FileAt:
    """Raises OSError if it is not there."""
    status = path.stat()
    return FileAt(path.name, str(path.absolute()), status.st_size, f"{status.st_size}-{status.st_mtime_ns}")


@contextmanager
def open_file(file: FileAt) -> Iterator[BinaryIO]:
    """Yield a file as a stream. Raises UserError if it cannot be read."""
    if not is_url(file.location):
        try:
            with Path(file.location).open("rb") as stream:
                yield stream
        except OSError as error:
            if error.filename != file.location:
                raise
            raise UserError(f"{file.shown}: cannot be read: {error.strerror}; make it readable") from error
        return
    store, path = _store_of(file.location)
    with remote_errors(file.location):
        stream = store.open(path, "rb", block_size=_REMOTE_BLOCK_BYTES)
    with stream:
        remote: Any = _RemoteStream(stream, file.location)
        yield remote


class _RemoteStream:
    """A stream that is read forwards; what its library raises becomes a UserError."""

    def __init__(self, stream: BinaryIO, location: str):
        self._stream, self._location = stream, location

    def seekable(self) -> bool:
        return False

    def read(self, num_bytes: int) -> bytes:
        with remote_errors(self._location):
            return self._stream.read(num_bytes)


def list_folder(location: str, suffix: str) -> list[FileAt]:
    """Return the files of a folder whose names end in `suffix`, by name. Raises UserError if it cannot be listed."""
    if not is_url(location):
        try:
            found = [path for path in Path(location).iterdir() if path.name.endswith(suffix) and path.is_file()]
            return [local_file(path) for path in sorted(found)]
        except OSError as error:
            raise UserError(f"{location}: cannot be read: {error.strerror}; give a folder") from error
    store, root = _store_of(location)
    with remote_errors(location):
        entries = store.ls(root, detail=True)
    base = location.rstrip("/")
    files = [entry for entry in entries if entry["type"] == "file" and entry["name"].endswith(suffix)]
    return [_remote_file(base, entry) for entry in sorted(files, key=lambda entry: entry["name"])]


@contextmanager
def remote_errors(location: str) -> Iterator[None]:
    """Make what the libraries of the stores raise, which have no common class of errors, a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        words = redacted(" ".join(str(error).split()) or type(error).__name__)
        raise UserError(f"{redacted(location)}: cannot be read: {words}; correct that and run it again") from error


def _remote_file(base: str, entry: dict[str, Any]) -> FileAt:
    name = entry["name"].rstrip("/").rpartition("/")[2]
    stamp = "-".join(str(entry.get(field, "")) for field in ("size", "ETag", "etag", "LastModified", "mtime"))
    return FileAt(name, f"{base}/{name}", entry["size"] or 0, stamp)


def _store_of(location: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise UserError(f"{redacted(location)}: not installed; run pip install 'vpsn[remote]'") from None
    with remote_errors(location):
        return url_to_fs(location)
