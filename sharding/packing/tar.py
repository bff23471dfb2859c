"""Writes a tar shard and the DALI index next to it, and knows where in the tar every component is.

USTAR with fixed owner, mode and time, so the bytes depend on the content alone.
"""

import hashlib
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INDEX_VERSION = "v1.2"
MAX_FILE_BYTES = 8**11 - 1
"""Of a component: the header has eleven octal digits for its size."""
_COPY_BYTES = 1 << 18


@dataclass(frozen=True)
class Component:
    """One file of a sample inside a tar: its payload is the bytes [offset, offset + size)."""

    name: str
    offset: int
    size: int
    sha256: str


class UnreadableError(Exception):
    """A file cannot be read, or be added to a tar; TarWriter.back_to makes the tar as it was before."""


@dataclass(frozen=True)
class FileRange:
    """The bytes [offset, offset + size) of a file."""

    path: Path
    offset: int
    size: int


@dataclass
class TarWriter:
    """Appends the components of samples to a new tar file.

    with TarWriter(path) as tar:
        tar.add("key.cls", b"7")
    tar.sha256    # of the complete file, known after closing
    """

    path: Path
    components: list[Component] = field(default_factory=list)
    size: int = 0
    sha256: str = ""

    def __enter__(self):
        self._hash = hashlib.sha256()
        self._file = self.path.open("wb", buffering=0)
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if kind is None:
                # Two empty blocks end a tar; readers expect its length to be a multiple of 20 blocks.
                self._write(bytes(2 * tarfile.BLOCKSIZE + -(self.size + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE))
                self.sha256 = self._hash.hexdigest()
        finally:
            self._file.close()

    def add(self, name: str, content: bytes | Path | FileRange) -> Component:
        """Add a component; the content of a file is streamed.

        Raises:
            UnreadableError: a file cannot be read, or is too large; what was written of it is still there.
        """
        if isinstance(content, Path):
            content = _whole(content)
        size = len(content) if isinstance(content, bytes) else content.size
        if size > MAX_FILE_BYTES:
            raise UnreadableError(f"{size:,} bytes, and a file in a shard may have {MAX_FILE_BYTES:,}")
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = size, 0o644, 0
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        offset = self.size
        digest = hashlib.sha256()
        chunks = [content] if isinstance(content, bytes) else _chunks(content)
        for chunk in chunks:
            digest.update(chunk)
            self._write(chunk)
        if self.size - offset != size:
            raise UnreadableError("it became shorter while it was read")
        self._write(bytes(-size % tarfile.BLOCKSIZE))
        component = Component(name, offset, size, digest.hexdigest())
        self.components.append(component)
        return component

    def mark(self) -> Any:
        """Return a state of the tar to which `back_to` can return."""
        return self.size, self._hash.copy(), len(self.components)

    def back_to(self, mark: Any) -> None:
        """Take back all that was added since the mark."""
        if mark[0] != self.size:
            self.size, self._hash, num_components = mark
            del self.components[num_components:]
            self._file.seek(self.size)
            self._file.truncate()

    def _write(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._hash.update(data)
        self.size += len(data)


def format_index(components: Iterable[Component]) -> str:
    """Return the DALI index of a tar: a line a sample, `extension offset size name` for each of its components.

    Components of one sample follow each other; see `split_name`. Hidden files are left out.
    """
    samples: list[tuple[str, list[str]]] = []
    for component in components:
        key, extension = split_name(component.name)
        if not key or key.endswith("/"):
            continue
        if not samples or samples[-1][0] != key:
            samples.append((key, []))
        samples[-1][1].append(f"{extension} {component.offset} {component.size} {component.name}")
    lines = [f"{INDEX_VERSION} {len(samples)}"] + [" ".join(entries) for _, entries in samples]
    return "\n".join(lines) + "\n"


def split_name(name: str) -> tuple[str, str]:
    """Return the key and the extension of a component, as WebDataset has them: divided by the first dot of the file.

    >>> split_name("a.b/0001.mp4"), split_name("0001.rgb.mp4"), split_name("a/.hidden")
    (('a.b/0001', 'mp4'), ('0001', 'rgb.mp4'), ('a/', 'hidden'))
    """
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return f"{folder}{slash}{stem}", extension


def _whole(path: Path) -> FileRange:
    try:
        return FileRange(path, 0, path.stat().st_size)
    except OSError as error:
        raise UnreadableError(error.strerror) from error


def _chunks(content: FileRange) -> Iterator[memoryview]:
    """Read through one buffer: small enough to stay in the cache between reading, hashing and writing."""
    try:
        with content.path.open("rb", buffering=0) as file:
            file.seek(content.offset)
            buffer = memoryview(bytearray(min(_COPY_BYTES, content.size)))
            left = content.size
            while left and (count := file.readinto(buffer[:left])):
                left -= count
                yield buffer[:count]
    except OSError as error:
        raise UnreadableError(error.strerror) from error
