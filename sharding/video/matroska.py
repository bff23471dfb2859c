"""Whether the elements of a Matroska or WebM file follow one another without a break.

A demuxer that meets damage looks for the next cluster and says nothing of the frames between.
"""

import os
from typing import BinaryIO

from sharding.video.framing import another_begins

EBML = 0x1A45DFA3
_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675


def find_break(file: BinaryIO, size: int, thorough: bool) -> str:
    """Return what is wrong with the order of elements, in words; "" if nothing.

    Only the headers of elements are read; without `thorough`, not those inside clusters of known size.
    """
    file.seek(0)
    _, length = _read_header(file)
    file.seek(length or 0, os.SEEK_CUR)
    identity, length = _read_header(file)
    if identity != _SEGMENT:
        return ""
    end = size if length is None else file.tell() + length
    if end > size:
        return f"the file is cut off: it lacks {end - size} bytes by its own account"
    damage = _walk(file, end, thorough)
    file.seek(end)
    return damage or (another_begins(end) if _read_header(file)[0] == EBML else "")


def _walk(file: BinaryIO, end: int, thorough: bool) -> str:
    """Go through the elements of a segment, and through those of its clusters as if they followed them."""
    position, cluster_end = file.tell(), 0
    while position < end:
        file.seek(position)
        identity, length = _read_header(file)
        inside = file.tell()
        if identity == EBML:
            return another_begins(position)
        if identity == _CLUSTER and (thorough or length is None):
            cluster_end = end if length is None else inside + length
            if cluster_end > end:
                return f"the file is cut off: it lacks {cluster_end - end} bytes of its last cluster"
            position = inside
            continue
        if identity is None or length is None:
            return f"the file is damaged: no element of Matroska at byte {position}"
        after = inside + length
        if after > end:
            return f"the file is cut off or damaged: the element at byte {position} is longer than the rest"
        if position < cluster_end < after:
            return f"the file is damaged: the element at byte {position} is longer than its cluster"
        position = after
    return ""


def _read_header(file: BinaryIO) -> tuple[int | None, int | None]:
    """Return the identity of an element (None: there is none here) and its length (None: unknown)."""
    first = file.read(1)
    if not first or first[0] < 0x10:
        return None, None
    identity = int.from_bytes(first + file.read(8 - first[0].bit_length()), "big")
    return identity, _read_size(file)


def _read_size(file: BinaryIO) -> int | None:
    """Read an EBML number: the leading zero bits of the first byte say how many bytes follow; all ones: unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0xFF >> length)]) + file.read(length - 1), "big")
    return None if value == (1 << 7 * length) - 1 else value
