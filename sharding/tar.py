"""Writes a tar shard and the DALI index beside it, and knows where in the tar every component lies.

USTAR with fixed owner, mode and time, so the bytes depend on the content alone.
"""

import hashlib
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

INDEX_VERSION = "v1.2"
_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Component:
    """One file of a sample inside a tar: its payload is the bytes [offset, offset + size)."""

    name: str
    offset: int
    size: int
    sha256: str


@dataclass
class TarWriter:
    """Appends the components of samples to a new tar file.

    with TarWriter(path) as tar:
        tar.add("key.cls", b"7")
    tar.sha256    # of the whole file, known after closing
    """

    path: Path
    components: list[Component] = field(default_factory=list)
    size: int = 0
    sha256: str = ""

    def __enter__(self):
        self._hash = hashlib.sha256()
        self._file = self.path.open("wb")
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if kind is None:
                # Two empty blocks end a tar; readers expect its length to be a multiple of 20 blocks.
                self._write(bytes(2 * tarfile.BLOCKSIZE + -(self.size + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE))
                self.sha256 = self._hash.hexdigest()
        finally:
            self._file.close()

    def add(self, name: str, content: bytes | Path) -> Component:
        """Adds a component; the content of a file is streamed."""
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
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
            raise OSError(f"{content}: changed while it was read")
        self._write(bytes(-size % tarfile.BLOCKSIZE))
        component = Component(name, offset, size, digest.hexdigest())
        self.components.append(component)
        return component

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)


def format_index(components: Iterable[Component]) -> str:
    """The DALI index of a tar: a line for each sample, `extension offset size name` for each of its components.

    Components of one sample follow each other; their names are equal up to the first dot.
    """
    samples: list[tuple[str, list[str]]] = []
    for component in components:
        key, _, extension = component.name.partition(".")
        if not samples or samples[-1][0] != key:
            samples.append((key, []))
        samples[-1][1].append(f"{extension} {component.offset} {component.size} {component.name}")
    lines = [f"{INDEX_VERSION} {len(samples)}"] + [" ".join(entries) for _, entries in samples]
    return "\n".join(lines) + "\n"


def write_atomically(path: Path, content: str | bytes) -> None:
    """The file has its whole content or does not exist, whatever happens."""
    partial = path.with_name(path.name + ".partial")
    data = content.encode() if isinstance(content, str) else content
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _chunks(path: Path):
    with path.open("rb") as file:
        while chunk := file.read(_COPY_BYTES):
            yield chunk
