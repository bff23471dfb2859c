"""What is in an archive, by name and in order: found out by one pass over its headers, and kept for the next time.

Of a .tar.gz the pass decompresses all of it, which also checks that it is whole.
"""

import hashlib
import json
import posixpath
import stat
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sharding.archives.gzip_stream import GzipStream
from sharding.archives.locations import FileAt, open_file
from sharding.archives.tar_reader import Kind, TarReader
from sharding.errors import UserError
from sharding.files import parse_json, write_atomically

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
_MAX_MEMBERS = 10_000_000
_MAX_NAME_BYTES = 255  # of a file, in most file systems
_VERSION = 1
_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
_ENCRYPTED = 1


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an archive."""

    name: str
    """Its path, with plain slashes, as if the archive were unpacked."""
    kind: Kind
    offset: int
    """Of its content in a tar, of its local header in a zip."""
    size: int
    """By its header."""
    stored_size: int
    method: str = "stored"
    """stored or deflated; or words for another one, which is not read."""
    crc: int | None = None


def is_archive(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def is_sequential(name: str) -> bool:
    """Return whether members can only be had in their order, since all of it is compressed as one."""
    return name.lower().endswith((".gz", ".tgz"))


def list_members(file: FileAt, cache: Path | None = None) -> list[Member]:
    """Return the members of an archive, in its order; folders are not among them.

    Args:
        cache: folder of listings, in which that of this very file is looked for and put.

    Raises:
        UserError: the archive is damaged, or a member's name leads out of it or comes twice.
    """
    kept = cache / f"{hashlib.sha256(file.location.encode()).hexdigest()[:16]}.json" if cache else None
    known = _read_listing(kept, file) if kept else None
    if known is not None:
        return known
    members = [member for member in _checked(_members(file), file.shown) if member.kind != "folder"]
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        listing = {"version": _VERSION, "stamp": file.stamp, "members": list(map(astuple, members))}
        write_atomically(kept, json.dumps(listing))
    return members


def open_tar(stream: BinaryIO, file: FileAt) -> TarReader:
    """Return a reader of an open tar, which may be compressed."""
    content: Any = GzipStream(stream, file.shown) if is_sequential(file.name) else stream
    return TarReader(content, file.shown)


def clean_path(name: str, where: str) -> str:
    """Return the name of a member as a path below the folder of all. Raises UserError if it leads out of it.

    >>> clean_path("./a//b.mp4", "x.tar")
    'a/b.mp4'
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise UserError(
            f"{where}: member {name!r}: a path that leads out of the archive; make the archive again with paths that "
            "begin in it (tar -C FOLDER)"
        )
    if any(len(part.encode("utf-8", "surrogateescape")) > _MAX_NAME_BYTES for part in parts):
        raise UserError(f"{where}: member {name[:60]!r}...: a name of more than {_MAX_NAME_BYTES} bytes; shorten it")
    return "/".join(parts)


def _members(file: FileAt) -> Iterator[Member]:
    with open_file(file) as stream:
        if file.name.lower().endswith(".zip"):
            yield from _members_of_zip(stream, file)
            return
        for member in (reader := open_tar(stream, file)):
            yield Member(clean_path(member.name, file.shown), member.kind, member.offset, member.size, member.size)
        if is_sequential(file.name):
            reader.read_rest()  # its checksum comes last


def _members_of_zip(stream: BinaryIO, file: FileAt) -> Iterator[Member]:
    try:
        with zipfile.ZipFile(stream) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{file.shown}: no readable zip file ({error}); copy or download it again") from error
    if sum(info.compress_size for info in infos) > file.bytes:
        raise UserError(f"{file.shown}: its members are larger than the file, so they overlap; take it away")
    for info in infos:
        mode = info.external_attr >> 16
        kind: Kind = "folder" if info.is_dir() else "link" if stat.S_ISLNK(mode) else "file"
        method = _METHODS.get(info.compress_type, f"method {info.compress_type}")
        if info.flag_bits & _ENCRYPTED:
            method = "encrypted"
        name = clean_path(info.filename, file.shown)
        yield Member(name, kind, info.header_offset, info.file_size, info.compress_size, method, info.CRC)


def _checked(members: Iterable[Member], where: str) -> Iterator[Member]:
    """Pass on members, none of which has the name of another."""
    names: set[str] = set()
    for member in members:
        if member.kind != "folder":
            if member.name in names:
                raise UserError(f"{where}: two members are named {member.name!r}; make the archive again with one")
            names.add(member.name)
            if len(names) > _MAX_MEMBERS:
                raise UserError(f"{where}: more than {_MAX_MEMBERS:,} members; divide the archive")
        yield member


def _read_listing(path: Path, file: FileAt) -> list[Member] | None:
    """Return the listing that is kept, if it is of this very file."""
    try:
        values = parse_json(path.read_bytes())
        if (values["version"], values["stamp"]) != (_VERSION, file.stamp):
            return None
        members = [Member(*member) for member in values["members"]]
        if all(member.name == posixpath.normpath(clean_path(member.name, "")) for member in members):
            return members
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None
