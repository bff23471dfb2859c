"""Finds out that a file was cut off or has a hole: what its own container declares against the bytes that are there.

Decoders play what is left of such a file and say nothing, so a packer has to look for itself.
"""

import os
import struct
from pathlib import Path
from typing import BinaryIO

from sharding.video import matroska
from sharding.video.framing import another_begins, find_break_in_flv, find_break_in_ogg, find_break_in_transport

# What may be at the top level of an MP4 or MOV file; anything else is not of it, such as a tag that somebody appended.
_BOXES = {
    b"ftyp", b"styp", b"moov", b"moof", b"mfra", b"mdat", b"free", b"skip", b"wide", b"junk", b"pnot", b"PICT", b"sidx",
    b"ssix", b"prft", b"emsg", b"meta", b"meco", b"pdin", b"udta", b"uuid", b"imda", b"bloc",
}  # fmt: skip


def find_damage(path: Path, thorough: bool = True) -> str:
    """Return what an MP4, MOV, AVI, Matroska, WebM, FLV, Ogg or MPEG-TS file lacks by its own account; "" if nothing.

    Without `thorough`, Matroska's clusters are not looked into.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(64)
        if head[:4] == b"RIFF":
            return _check_chunks(file, size, struct.unpack("<I", head[4:8])[0])
        if head[:4] == matroska.EBML.to_bytes(4, "big"):
            return matroska.find_break(file, size, thorough)
        if head[:3] == b"FLV":
            return find_break_in_flv(file, size)
        if head[:4] == b"OggS":
            return find_break_in_ogg(file, size)
        if head[:1] == b"G" or head[4:5] == b"G":
            return find_break_in_transport(file, size)
        if head[4:8] in _BOXES:
            return _check_boxes(file, size)
    return ""


def _cut_off(num_bytes: int) -> str:
    return f"the file is cut off: it lacks {num_bytes} bytes by its own account" if num_bytes > 0 else ""


def _check_chunks(file: BinaryIO, size: int, declared: int) -> str:
    """Go from chunk to chunk of the top level of a RIFF file that is shorter than it says: its size may be wrong."""
    if declared == 0xFFFFFFFF:
        return ""
    if declared + 8 <= size:
        file.seek(declared + 8 + declared % 2)
        head = file.read(12)
        return another_begins(declared + 8) if head[:4] == b"RIFF" and head[8:] == b"AVI " else ""
    position = 12
    while position + 8 <= size:
        file.seek(position + 4)
        length = struct.unpack("<I", file.read(4))[0]
        position += 8 + length + length % 2
    if position < size:  # within the head of a chunk
        return _cut_off(declared + 8 - size)
    return _cut_off(position - size) if position != size + 1 else ""  # the last byte of padding is not missed


def _check_boxes(file: BinaryIO, size: int) -> str:
    """Go from box to box of the top level (32-bit size, or 1 and a 64-bit size, or 0 for "to the end")."""
    position, before = 0, b""
    seen: set[bytes] = set()
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length, kind = struct.unpack(">I", header[:4])[0], header[4:8]
        if length == 1 and len(header) == 16:
            length = struct.unpack(">Q", header[8:])[0]
        if kind not in _BOXES and 8 <= length < size - position and _read(file, position + length + 4) in _BOXES:
            position += length  # a box of somebody's own
            continue
        if kind not in _BOXES or 1 < length < 8:
            if before == b"moof" or _holds(file, b"moof", position):
                return f"the file is damaged: neither a box of MP4 at byte {position} nor its end"
            return ""
        if kind == b"ftyp" and {b"moov", b"mdat"} <= seen and b"moof" not in seen:
            return another_begins(position)
        if length == 0:
            return ""
        seen.add(kind)
        position, before = position + length, kind
    return _cut_off(position - size)


def _read(file: BinaryIO, position: int) -> bytes:
    file.seek(position)
    return file.read(4)


def _holds(file: BinaryIO, word: bytes, position: int) -> bool:
    """Return whether `word` comes at or after `position`."""
    file.seek(position)
    before = b""
    while chunk := file.read(1 << 20):
        if word in before + chunk:
            return True
        before = chunk[-len(word) :]
    return False
