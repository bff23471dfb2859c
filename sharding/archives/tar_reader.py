"""Reads a tar file that may come from anybody: once, forwards, in bounded memory, and certain of where it ends.

    for member in (reader := TarReader(stream, "part_0.tar.gz")):
        reader.copy_to(file)    # or read(); what is not read is passed over

Python's tarfile takes a damaged header for the end of an archive, and as much memory as a header asks for.
"""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from sharding.errors import UserError

BLOCK = tarfile.BLOCKSIZE
_COPY_BYTES = 1 << 18
_MAX_HEADER_BYTES = 1 << 20  # of extended headers, which hold names; longer ones hold something else
_MAX_NAME_BYTES = 4096  # as long as a path may be on Linux

Kind = Literal["file", "folder", "link", "device", "other"]
_KINDS: dict[bytes, Kind] = {
    **dict.fromkeys((tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE), "file"),
    tarfile.DIRTYPE: "folder",
    **dict.fromkeys((tarfile.LNKTYPE, tarfile.SYMTYPE), "link"),
    **dict.fromkeys((tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE), "device"),
}
_WITHOUT_CONTENT = ("folder", "link", "device")


@dataclass(frozen=True)
class TarMember:
    """One member of a tar: its content, if it is a file, is the bytes [offset, offset + size) of the tar."""

    name: str
    """As the tar has it."""
    kind: Kind
    offset: int
    size: int


class TarReader:
    """The members of a tar, in order.

    Args:
        stream: at the beginning of the tar; `seek` is used where `seekable()` says so.
        where: what messages call the tar.

    Raises:
        UserError: while it is read: the tar is damaged or cut off, or its headers are out of bounds.
    """

    def __init__(self, stream: BinaryIO, where: str):
        self._stream, self._where = stream, where
        self._seeks = stream.seekable()
        self._position = 0
        self._unread = 0
        """Bytes of the present member that were not read."""
        self._padding = 0

    def __iter__(self) -> Iterator[TarMember]:
        while (member := self._next()) is not None:
            yield member

    def read(self, num_bytes: int) -> bytes:
        """Return at most so many of the next bytes of the present member; none at its end."""
        wanted = min(num_bytes, self._unread)
        data = self._read(wanted)
        self._unread -= wanted
        return data

    def copy_to(self, file: BinaryIO, *digests: Any) -> None:
        """Write what is left of the present member to a file, and update hashes with it."""
        while data := self.read(_COPY_BYTES):
            file.write(data)
            for digest in digests:
                digest.update(data)

    def read_rest(self) -> None:
        """Read what comes behind the end of the tar."""
        while self._stream.read(_COPY_BYTES):
            pass

    def _next(self) -> TarMember | None:
        self._skip(self._unread + self._padding)
        records: dict[str, str] = {}
        while True:
            block = self._read(BLOCK, may_end=True)
            if not block:
                raise self._error(f"ends at byte {self._position} without the mark of its end, so it is cut off")
            if not any(block):
                return None
            info = self._parse(block)
            if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE):
                found = _parse_records(self._header_content(info))
                if found is None:
                    raise self._error(f"damaged: the extended header before byte {self._position} is none")
                records |= found if info.type != tarfile.XGLTYPE else {}
            elif info.type == tarfile.GNUTYPE_LONGNAME:
                records["path"] = _decode(self._header_content(info).rstrip(b"\0"))
            elif info.type == tarfile.GNUTYPE_LONGLINK:
                self._header_content(info)
            else:
                return self._begin(info, records)

    def _begin(self, info: tarfile.TarInfo, records: dict[str, str]) -> TarMember:
        name = records.get("path", info.name)
        kind = _KINDS.get(info.type, "other")
        if info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in records):
            raise self._error(
                f"{name!r} is a sparse file, which is stored in pieces; make the archive without --sparse"
            )
        size = info.size
        if "size" in records:
            size = int(records["size"]) if records["size"].isdecimal() and len(records["size"]) < 19 else -1
        if size < 0 or len(os.fsencode(name)) > _MAX_NAME_BYTES:
            raise self._error(f"damaged: the header before byte {self._position} has an impossible size or name")
        if kind in _WITHOUT_CONTENT:
            size = 0
        self._unread, self._padding = size, -size % BLOCK
        return TarMember(name, kind, self._position, size)

    def _parse(self, block: bytes) -> tarfile.TarInfo:
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:
            if self._position == BLOCK:
                raise self._error(f"no tar file ({error}); give tar files, or take it away") from error
            raise self._error(f"damaged: no header of a member at byte {self._position - BLOCK}") from error

    def _header_content(self, info: tarfile.TarInfo) -> bytes:
        if not 0 <= info.size <= _MAX_HEADER_BYTES:
            raise self._error(f"a header of {info.size} bytes before byte {self._position}; it is damaged or hostile")
        return self._read(info.size + -info.size % BLOCK)[: info.size]

    def _skip(self, num_bytes: int) -> None:
        if self._seeks and num_bytes > _COPY_BYTES:
            try:
                self._position = self._stream.seek(num_bytes, os.SEEK_CUR)
            except (OSError, ValueError, OverflowError) as error:  # no file can be so long
                raise self._error(f"cut off: a member of {num_bytes} bytes at byte {self._position}") from error
            return
        while num_bytes > 0:
            num_bytes -= len(self._read(min(num_bytes, _COPY_BYTES)))

    def _read(self, num_bytes: int, may_end: bool = False) -> bytes:
        """Return so many bytes, or none at all where the stream `may_end`."""
        data = self._stream.read(num_bytes) if num_bytes else b""
        while 0 < len(data) < num_bytes and (more := self._stream.read(num_bytes - len(data))):
            data += more
        self._position += len(data)
        if len(data) < num_bytes and not (may_end and not data):
            raise self._error(f"cut off at byte {self._position}, within a member")
        return data

    def _error(self, message: str) -> UserError:
        remedy = "" if ";" in message else "; copy or download it again, or take it away"
        return UserError(f"{self._where}: {message}{remedy}")


def _parse_records(content: bytes) -> dict[str, str] | None:
    """Return the records `LENGTH KEY=VALUE` of an extended header (POSIX.1-2001, pax); None if it holds others."""
    records = {}
    while content and content[0]:
        digits, _, _ = content[:20].partition(b" ")
        if not digits.isdigit() or not len(digits) + 3 <= int(digits) <= len(content):
            return None
        key, equals, value = content[len(digits) + 1 : int(digits)].partition(b"=")
        if not equals or value[-1:] != b"\n":
            return None
        records[_decode(key)] = _decode(value[:-1])
        content = content[int(digits) :]
    return records


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")
