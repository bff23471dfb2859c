"""The parts of H.264 outside the pictures: NAL units, sequence parameter sets, the avcC record of MP4.

Section numbers are those of ITU-T H.264 (08/2021); avcC is ISO/IEC 14496-15, 5.3.3.1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

IDR_SLICE, SEQUENCE_PARAMETERS, ACCESS_UNIT_DELIMITER = 5, 7, 9
_SLICES = range(1, 6)
_PROFILES_WITH_CHROMA_FORMAT = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
_EXTENDED_ASPECT_RATIO = 255
UNSPECIFIED_MATRIX = 2


@dataclass(frozen=True)
class SequenceParameters:
    """What a sequence parameter set says of its pictures."""

    profile: int
    chroma_format: int
    """0: grey, 1: 4:2:0, 2: 4:2:2, 3: 4:4:4."""
    bit_depth: int
    """The larger of luma's and chroma's."""
    coded_width: int
    coded_height: int
    """Size in pixels of the macroblocks."""
    crop: tuple[int, int, int, int]
    """Pixels that are not shown: left, top, right, bottom."""
    is_interlaced: bool
    """Whether pictures may be coded as fields."""
    matrix: int
    """matrix_coefficients of the VUI (1: BT.709, 5 and 6: BT.601, 2: not specified)."""
    is_full_range: bool
    is_reordered: bool
    """Whether pictures may be shown in another order than they are stored in."""
    crop_bits: tuple[int, int]
    """Where in the unescaped NAL unit frame_cropping_flag and its four offsets are: bits [start, end)."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of what is shown."""
        left, top, right, bottom = self.crop
        return self.coded_width - left - right, self.coded_height - top - bottom


@dataclass(frozen=True)
class AvcRecord:
    """An avcC record: the parameter sets of a track of MP4."""

    length_size: int
    """Bytes of the length in front of each NAL unit in the samples."""
    sequence_sets: tuple[bytes, ...]
    head: bytes
    """Its bytes before the sequence parameter sets, up to the profile and level."""
    tail: bytes
    """Its bytes after them, from the number of picture parameter sets on."""

    def to_bytes(self) -> bytes:
        """Return the record as it is stored."""
        sets = b"".join(len(unit).to_bytes(2, "big") + unit for unit in self.sequence_sets)
        return self.head + bytes([0xE0 | len(self.sequence_sets)]) + sets + self.tail


def parse_avcc(record: bytes) -> AvcRecord:
    """Parse an avcC record. Raises ValueError for what is none."""
    if len(record) < 7 or record[0] != 1:
        raise ValueError("no avcC record")
    sets, place = [], 6
    for _ in range(record[5] & 0x1F):
        length = int.from_bytes(record[place : place + 2], "big")
        sets.append(record[place + 2 : place + 2 + length])
        place += 2 + length
    if not sets or place >= len(record):
        raise ValueError("an avcC record that is cut off or without a sequence parameter set")
    return AvcRecord((record[4] & 3) + 1, tuple(sets), record[:5], record[place:])


def split_units(packet: bytes, length_size: int) -> Iterator[bytes]:
    """Yield the NAL units of one length-prefixed sample.

    Raises:
        ValueError: the lengths do not add up to the packet.
    """
    place, end = 0, len(packet)
    while place < end:
        begin = place + length_size
        place = begin + int.from_bytes(packet[place:begin], "big")
        if not begin < place <= end:
            raise ValueError("NAL units do not fill it")
        yield packet[begin:place]


def join_units(units: Sequence[bytes], length_size: int) -> bytes:
    """Return NAL units as one length-prefixed sample."""
    return b"".join(len(unit).to_bytes(length_size, "big") + unit for unit in units)


def unit_type(unit: bytes) -> int:
    """Return nal_unit_type (7.4.1)."""
    return unit[0] & 0x1F


def is_slice(unit: bytes) -> bool:
    """Return whether a NAL unit holds a part of a picture."""
    return unit_type(unit) in _SLICES


def unescape(unit: bytes) -> bytes:
    """Remove the emulation prevention bytes of a NAL unit (7.3.1): 00 00 03 becomes 00 00."""
    parts, begin = [], 0
    while (found := unit.find(b"\0\0\3", begin)) >= 0:
        parts.append(unit[begin : found + 2])
        begin = found + 3
    return b"".join((*parts, unit[begin:]))


def escape(payload: bytes) -> bytes:
    """Insert the emulation prevention bytes of a NAL unit (7.4.1.1): 00 00 before 00, 01, 02 or 03 becomes 00 00 03."""
    escaped, zeros = bytearray(), 0
    for byte in payload:
        if zeros == 2 and byte <= 3:
            escaped.append(3)
            zeros = 0
        escaped.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return bytes(escaped)


def parse_sequence_parameters(unit: bytes) -> SequenceParameters:
    """Parse the NAL unit of a sequence parameter set (7.3.2.1.1).

    Raises:
        ValueError: it is cut off or none.
    """
    if not unit or unit_type(unit) != SEQUENCE_PARAMETERS:
        raise ValueError("no sequence parameter set")
    bits = _BitReader(unescape(unit))
    bits.skip(8)
    profile = bits.read(8)
    bits.skip(16)  # constraint flags, level
    bits.read_ue()  # seq_parameter_set_id
    chroma_format, separate_planes, bit_depth = _chroma(bits, profile)
    bits.read_ue()  # log2_max_frame_num_minus4
    order_type = _skip_picture_order(bits)
    bits.read_ue()  # max_num_ref_frames
    bits.skip(1)  # gaps_in_frame_num_value_allowed_flag
    width, height = (bits.read_ue() + 1) * 16, (bits.read_ue() + 1) * 16
    is_interlaced = not bits.read(1)
    height *= 1 + is_interlaced
    bits.skip(1 + is_interlaced)  # mb_adaptive_frame_field_flag, direct_8x8_inference_flag
    start = bits.place
    offsets = [bits.read_ue() for _ in range(4)] if bits.read(1) else [0] * 4
    end = bits.place
    array_type = 0 if separate_planes else chroma_format
    unit_x, unit_y = 1 + (array_type in (1, 2)), (1 + (array_type == 1)) * (1 + is_interlaced)
    left, right, top, bottom = (o * u for o, u in zip(offsets, (unit_x, unit_x, unit_y, unit_y)))
    matrix, is_full_range, reordered = _video_usability(bits) if bits.read(1) else (UNSPECIFIED_MATRIX, False, None)
    if reordered is None:  # pictures of order type 2 are shown as they are stored (8.2.1.3)
        reordered = order_type != 2
    return SequenceParameters(
        profile=profile,
        chroma_format=chroma_format,
        bit_depth=bit_depth,
        coded_width=width,
        coded_height=height,
        crop=(left, top, right, bottom),
        is_interlaced=is_interlaced,
        matrix=matrix,
        is_full_range=is_full_range,
        is_reordered=reordered,
        crop_bits=(start, end),
    )


def without_cropping(unit: bytes) -> bytes:
    """Return a sequence parameter set without its cropping rectangle, so that all of the coded picture is shown.

    All else stays, bit for bit: what comes after the rectangle only moves forward.

    Raises:
        ValueError: it is none, or cuts at the left or the top, where a crop of what is shown would be elsewhere.
    """
    parameters = parse_sequence_parameters(unit)
    if any(parameters.crop[:2]):
        raise ValueError(f"its pictures are cut by {parameters.crop[:2]} pixels at the left and the top")
    start, end = parameters.crop_bits
    payload = unescape(unit)
    bits = f"{int.from_bytes(payload, 'big'):0{8 * len(payload)}b}"
    bits = bits[: bits.rindex("1")]  # without rbsp_trailing_bits: a one, and zeros up to a byte
    bits = bits[:start] + "0" + bits[end:] + "1"
    bits += "0" * (-len(bits) % 8)
    return escape(int(bits, 2).to_bytes(len(bits) // 8, "big"))


class _BitReader:
    """Reads bits from the most significant on, and Exp-Golomb codes (9.1)."""

    def __init__(self, data: bytes):
        self.place = 0
        self._value, self._size = int.from_bytes(data, "big"), 8 * len(data)

    def read(self, count: int) -> int:
        self.skip(count)
        return self._value >> (self._size - self.place) & ((1 << count) - 1)

    def skip(self, count: int) -> None:
        self.place += count
        if self.place > self._size:
            raise ValueError("a parameter set that is cut off")

    def read_ue(self) -> int:
        zeros = 0
        while not self.read(1):
            zeros += 1
        if zeros > 32:
            raise ValueError("a parameter set with a number beyond 32 bits")
        return (1 << zeros) - 1 + self.read(zeros)

    def read_se(self) -> int:
        code = self.read_ue()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def _chroma(bits: _BitReader, profile: int) -> tuple[int, bool, int]:
    """Read chroma format, whether its planes are coded apart, and bit depth."""
    if profile not in _PROFILES_WITH_CHROMA_FORMAT:
        return 1, False, 8
    chroma_format = bits.read_ue()
    separate_planes = chroma_format == 3 and bool(bits.read(1))
    bit_depth = 8 + max(bits.read_ue(), bits.read_ue())
    bits.skip(1)  # qpprime_y_zero_transform_bypass_flag
    if bits.read(1):  # seq_scaling_matrix_present_flag
        for number in range(8 if chroma_format != 3 else 12):
            if bits.read(1):
                _skip_scaling_list(bits, 16 if number < 6 else 64)
    return chroma_format, separate_planes, bit_depth


def _skip_scaling_list(bits: _BitReader, size: int) -> None:
    """Skip a list (7.3.2.1.1.1): once a scale is 0, the last one holds for the rest."""
    last = 8
    for _ in range(size):
        following = (last + bits.read_se()) % 256
        if not following:
            return
        last = following


def _skip_picture_order(bits: _BitReader) -> int:
    """Return pic_order_cnt_type."""
    order_type = bits.read_ue()
    if order_type == 0:
        bits.read_ue()  # log2_max_pic_order_cnt_lsb_minus4
    elif order_type == 1:
        bits.skip(1)  # delta_pic_order_always_zero_flag
        for _ in range(2):  # offset_for_non_ref_pic, offset_for_top_to_bottom_field
            bits.read_se()
        for _ in range(bits.read_ue()):
            bits.read_se()
    return order_type


def _video_usability(bits: _BitReader) -> tuple[int, bool, bool | None]:
    """Read matrix, full range and whether pictures are reordered, None if that is left open (E.1.1)."""
    matrix, is_full_range = UNSPECIFIED_MATRIX, False
    if bits.read(1) and bits.read(8) == _EXTENDED_ASPECT_RATIO:
        bits.skip(32)
    if bits.read(1):  # overscan_info_present_flag
        bits.skip(1)
    if bits.read(1):  # video_signal_type_present_flag
        bits.skip(3)
        is_full_range = bool(bits.read(1))
        if bits.read(1):  # colour_description_present_flag
            bits.skip(16)
            matrix = bits.read(8)
    if bits.read(1):  # chroma_loc_info_present_flag
        bits.read_ue()
        bits.read_ue()
    if bits.read(1):  # timing_info_present_flag
        bits.skip(65)
    has_hrd = [_skip_hrd(bits) for _ in range(2) if bits.read(1)]
    if has_hrd:
        bits.skip(1)  # low_delay_hrd_flag
    bits.skip(1)  # pic_struct_present_flag
    if not bits.read(1):  # bitstream_restriction_flag
        return matrix, is_full_range, None
    bits.skip(1)
    for _ in range(4):
        bits.read_ue()
    return matrix, is_full_range, bits.read_ue() > 0  # max_num_reorder_frames


def _skip_hrd(bits: _BitReader) -> bool:
    """Skip the parameters of a reference decoder (E.1.2)."""
    count = bits.read_ue() + 1
    bits.skip(8)
    for _ in range(count):
        bits.read_ue()
        bits.read_ue()
        bits.skip(1)
    bits.skip(20)
    return True
