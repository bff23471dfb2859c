"""Tells a file that was cut off: the sizes its own container declares against the bytes that are there.

Decoders play what is left of a cut file and say nothing, so a packer has to look for itself.
"""

import os
import struct
from pathlib import Path

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def missing_bytes(path: Path) -> int:
    """How many bytes an MP4, MOV, AVI, Matroska or WebM file lacks by its own account; 0 for other files."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(64)
        if head[:4] == b"RIFF":
            declared = 8 + struct.unpack("<I", head[4:8])[0] if head[4:8] != b"\xff\xff\xff\xff" else 0
        elif head[:4] == _EBML:
            declared = _end_of_segment(file)
        elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            declared = _end_of_boxes(file, size)
        else:
            declared = 0
    return max(0, declared - size)


def _end_of_boxes(file, size: int) -> int:
    """Where the last top-level box (32-bit size, or 1 and a 64-bit size, or 0 for "to the end") ends."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length = struct.unpack(">I", header[:4])[0]
        if length == 1 and len(header) == 16:
            length = struct.unpack(">Q", header[8:])[0]
        if length == 0 or length < 8:
            return position
        position += length
    return position


def _end_of_segment(file) -> int:
    """Where the segment that follows the EBML header ends; 0 if its size is unknown, as in live recordings."""
    file.seek(4)
    header_size = _read_size(file)
    if header_size is None:
        return 0
    file.seek(header_size, os.SEEK_CUR)
    if file.read(4) != _SEGMENT:
        return 0
    segment_size = _read_size(file)
    return file.tell() + segment_size if segment_size is not None else 0


def _read_size(file) -> int | None:
    """An EBML number: the leading zero bits of the first byte say how many bytes follow; all ones: unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0xFF >> length)]) + file.read(length - 1), "big")
    return None if value == (1 << 7 * length) - 1 else value
