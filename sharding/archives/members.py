"""Copies members of archives to files, with bounds: no more than is declared, nothing that is a link."""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sharding.archives.gzip_stream import MAX_RATIO
from sharding.archives.listing import Member
from sharding.errors import MediaError

_BLOCK_BYTES = 1 << 18
_ALLOWANCE_BYTES = 1 << 20
_LOCAL_HEADER = struct.Struct("<4s5HLLLHH")
_LOCAL_SIGNATURE = b"PK\x03\x04"


def check_member(member: Member, archive: str) -> None:
    """Raise MediaError("open") for what is not read: links, devices, encrypted members, bombs."""
    if member.kind != "file":
        raise MediaError("open", f"a {member.kind} in {archive}, not a file")
    if member.method not in ("stored", "deflated"):
        raise MediaError("open", f"its compression in {archive} is not read: {member.method}")
    if member.size > MAX_RATIO * member.stored_size + _ALLOWANCE_BYTES:
        raise MediaError("open", f"{member.stored_size:,} bytes in {archive} are to be {member.size:,}, as of no video")


def copy_member(stream: BinaryIO, member: Member, archive: str, target: Path) -> None:
    """Write a member of an open tar or zip, which can seek, to a new file. Raises MediaError("open")."""
    check_member(member, archive)
    is_zip = member.crc is not None
    stream.seek(member.offset + (_local_header_bytes(stream, member, archive) if is_zip else 0))
    size = checksum = 0
    with target.open("xb") as file:
        for block in _inflated(_stored(stream, member.stored_size), member.method):
            size += len(block)
            if size > member.size:
                break
            checksum = zlib.crc32(block, checksum) if is_zip else 0
            file.write(block)
    if size != member.size or (is_zip and checksum != member.crc):
        raise MediaError("open", f"damaged in {archive}: other bytes than its header says")


def _local_header_bytes(stream: BinaryIO, member: Member, archive: str) -> int:
    stream.seek(member.offset)
    header = stream.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(_LOCAL_SIGNATURE):
        raise MediaError("open", f"damaged in {archive}: it is not where its index says")
    *_, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
    return _LOCAL_HEADER.size + name_bytes + extra_bytes


def _stored(stream: BinaryIO, num_bytes: int) -> Iterator[bytes]:
    while num_bytes and (block := stream.read(min(num_bytes, _BLOCK_BYTES))):
        num_bytes -= len(block)
        yield block


def _inflated(blocks: Iterator[bytes], method: str) -> Iterator[bytes]:
    """Yield what blocks hold, a bounded block at a time."""
    if method == "stored":
        yield from blocks
        return
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for block in blocks:
            while block:
                yield inflate.decompress(block, _BLOCK_BYTES)
                block = inflate.unconsumed_tail
        while data := inflate.decompress(b"", _BLOCK_BYTES):
            yield data
    except zlib.error as error:
        raise MediaError("open", f"damaged: {error}") from error


def new_file(folder: Path, name: str) -> Path:
    """Return where a video of that name is copied to in `folder`: under a name of ours, with its suffix."""
    suffix = os.path.splitext(name)[1]  # noqa: PTH122 (Path would take "..mp4" for a name without one)
    return folder / f"video{suffix if suffix[1:].isalnum() else ''}"
