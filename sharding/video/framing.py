"""Whether the tags of an FLV file, the pages of an Ogg file or the packets of a transport stream have no break.

Demuxers look for the next sound one after damage and say nothing of what was between.
"""

import struct
import zlib
from typing import BinaryIO

import numpy as np

_FLV_TAGS = {8, 9, 18}  # sound, video, data
_FIRST_PAGE, _LAST_PAGE = 2, 4
_SYNC = 0x47
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def another_begins(position: int) -> str:
    """Say that two files were joined byte by byte in a kind of file of which only the first is played."""
    return f"another file begins at byte {position}, which players do not play; join files frame by frame instead"


def find_break_in_flv(file: BinaryIO, size: int) -> str:
    """Return what is wrong with the order of tags, in words; "" if nothing."""
    file.seek(5)
    position = int.from_bytes(file.read(4), "big") + 4
    while position < size:
        file.seek(position)
        header = file.read(11)
        if header[:3] == b"FLV":
            return another_begins(position)
        if header[0] & 0x1F not in _FLV_TAGS or header[0] & 0xC0:
            return f"the file is damaged: no tag of FLV at byte {position}"
        end = position + 11 + int.from_bytes(header[1:4], "big")
        if len(header) < 11 or end > size:
            return f"the file is cut off in the tag at byte {position}"
        position = end + 4
    return ""


def find_break_in_ogg(file: BinaryIO, size: int) -> str:
    """Return what is wrong with the order of pages, in words; "" if nothing."""
    position = 0
    numbers: dict[int, int] = {}
    open_streams: set[int] = set()
    while position < size:
        file.seek(position)
        header = file.read(27)
        if len(header) < 27 or header[:4] != b"OggS":
            return f"the file is damaged or cut off: no page of Ogg at byte {position}"
        kind, (serial, number, checksum), num_segments = header[5], struct.unpack("<3I", header[14:26]), header[26]
        if kind & _FIRST_PAGE and position and not open_streams:
            return another_begins(position)
        if number != numbers.get(serial, number - 1) + 1:
            return f"the file is damaged: pages of Ogg are lacking before byte {position}"
        numbers[serial] = number
        (open_streams.discard if kind & _LAST_PAGE else open_streams.add)(serial)
        segments = file.read(num_segments)
        content = file.read(sum(segments))
        if _ogg_checksum(header[:22] + bytes(4) + header[26:] + segments + content) != checksum:
            return f"the file is damaged or cut off: the page of Ogg at byte {position} has another checksum"
        position += 27 + num_segments + len(content)
    return "the file is cut off: it has no last page" if open_streams else ""


def find_break_in_transport(file: BinaryIO, size: int) -> str:
    """Return where a stream of packets of 188, 192 or 204 bytes is out of step or breaks off; "" if nowhere."""
    file.seek(0)
    head = np.frombuffer(file.read(10 * 204), np.uint8)
    steps = [(step, first) for step, first in ((188, 0), (192, 4), (204, 0)) if np.all(head[first::step] == _SYNC)]
    if not steps:
        return ""
    step, first = steps[0]
    for start in range(0, size // step, 1 << 16):
        file.seek(start * step)
        packets = np.frombuffer(file.read(step << 16), np.uint8)
        signs = packets[: len(packets) // step * step].reshape(-1, step)[:, first]
        wrong = np.flatnonzero(signs != _SYNC)
        if len(wrong):
            return f"the file is damaged: no packet of a transport stream at byte {(start + wrong[0]) * step}"
    rest = size % step
    file.seek(size - rest)
    if rest > first and file.read(rest)[first] == _SYNC:
        return f"the file is cut off: it lacks {step - rest} bytes of its last packet"
    return ""


def _ogg_checksum(page: bytes) -> int:
    """Return the CRC-32 of Ogg: that of zlib, but with the bits of each byte and of the result in the other order."""
    checksum = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{checksum:032b}"[::-1], 2)
