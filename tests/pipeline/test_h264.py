"""Sequence parameter sets, made bit by bit as ITU-T H.264 7.3.2.1 and E.1 have them: read and rewritten."""

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.h264 import (
    escape,
    join_units,
    parse_avcc,
    parse_sequence_parameters,
    split_units,
    unescape,
    without_cropping,
)


def bits_of(*fields: int | tuple[int, int]) -> str:
    """Bits of fields in a row: (value, bits) or, for an Exp-Golomb code, the value alone."""
    text = ""
    for field in fields:
        if isinstance(field, tuple):
            text += f"{field[0]:0{field[1]}b}"
        else:
            code = f"{field + 1:b}"
            text += "0" * (len(code) - 1) + code
    return text


def unit_of(bits: str) -> bytes:
    """A NAL unit of a sequence parameter set: header, payload, trailing bits, escaped."""
    bits = f"{0x67:08b}{bits}1"
    bits += "0" * (-len(bits) % 8)
    return escape(int(bits, 2).to_bytes(len(bits) // 8, "big"))


HEAD = bits_of((100, 8), (0, 8), (40, 8), 0)  # High profile, level 4.0, set 0
CHROMA = bits_of(1, 0, 0, (0, 1))  # 4:2:0, 8 bits, no bypass
ORDER = bits_of(0, 2, 1, (0, 1))  # frame_num of 4 bits, order type 2, one reference, no gaps
SIZE = bits_of(26, 15, (1, 1), (1, 1))  # 27 x 16 macroblocks, no fields
HRD = bits_of(1, (0, 8), 70000, 5, (1, 1), 3, 9, (0, 1), (0, 20))  # two schedules
VUI = bits_of(
    *((1, 1), (255, 8), (64, 16), (51, 16)),  # an aspect ratio not in the table
    *((1, 1), (0, 1)),  # overscan
    *((1, 1), (5, 3), (1, 1), (1, 1), (6, 8), (6, 8), (6, 8)),  # full range, colours
    *((1, 1), 2, 2),  # the place of chroma
    *((1, 1), (1, 32), (50, 32), (1, 1)),  # timing, full of zeros
    (1, 1),
) + (HRD + "1" + HRD)
VUI += bits_of((0, 1), (1, 1), (1, 1), (1, 1), 2, 1, 16, 16, 0, 4)  # no delay, structure; restrictions, no reordering
REORDERED = VUI[: -len(bits_of(0, 4))] + bits_of(2, 4)
SCALED = bits_of(1, 0, 0, (0, 1), (1, 1)) + "0" + "1" + bits_of(0) * 16 + "1" + bits_of(16) + "0" * 5


def test_every_field_before_and_after_the_rectangle_is_passed():
    found = parse_sequence_parameters(
        unit_of(HEAD + CHROMA + "0" + ORDER + SIZE + "1" + bits_of(0, 3, 0, 1) + "1" + VUI)
    )
    assert (found.coded_width, found.coded_height) == (432, 256)
    assert found.crop == (0, 0, 6, 2)
    assert found.size == (426, 254)
    assert (found.matrix, found.is_full_range, found.is_reordered) == (6, True, False)


def test_scaling_lists_are_passed():
    """Lists 1 and 2 are there: one of 16 scales, one that ends at once with a scale of 0 (8 - 8)."""
    found = parse_sequence_parameters(unit_of(HEAD + SCALED + ORDER + SIZE + "1" + bits_of(0, 3, 0, 1) + "0"))
    assert (found.coded_width, found.crop) == (432, (0, 0, 6, 2))


@pytest.mark.parametrize(
    ("order", "vui", "expected"),
    [
        (ORDER, "0", False),
        (ORDER, "1" + VUI, False),
        (ORDER, "1" + REORDERED, True),
        (bits_of(0, 0, 4, 4, (0, 1)), "0", True),
        (bits_of(0, 0, 4, 4, (0, 1)), "1" + VUI, False),
        (bits_of(0, 1, (0, 1), 3, 4, 2, 1, 2, 4, (0, 1)), "0", True),
    ],
)
def test_reordering_is_possible_unless_it_is_ruled_out(order, vui, expected):
    unit = unit_of(HEAD + CHROMA + "0" + order + SIZE + "0" + vui)
    found = parse_sequence_parameters(unit)
    assert found.is_reordered is expected
    assert (found.coded_width, found.coded_height) == (432, 256)


def test_offsets_are_in_units_of_chroma_and_fields():
    baseline = bits_of((66, 8), (0, 8), (30, 8), 0)
    assert parse_sequence_parameters(unit_of(baseline + ORDER + SIZE + "1" + bits_of(1, 2, 3, 4) + "0")).crop == (
        2,
        6,
        4,
        8,
    )
    fields = bits_of(26, 7, (0, 1), (0, 1), (1, 1))
    found = parse_sequence_parameters(unit_of(baseline + ORDER + fields + "1" + bits_of(0, 0, 0, 2) + "0"))
    assert found.is_interlaced
    assert (found.coded_height, found.crop) == (256, (0, 0, 0, 8))
    full_chroma = bits_of((244, 8), (0, 8), (30, 8), 0, 3, (0, 1), 2, 1, (0, 1), (0, 1))
    found = parse_sequence_parameters(unit_of(full_chroma + ORDER + SIZE + "1" + bits_of(0, 5, 0, 7) + "0"))
    assert (found.chroma_format, found.bit_depth, found.crop) == (3, 10, (0, 0, 5, 7))


@pytest.mark.parametrize("vui", ["0", "1" + VUI])
@given(right=st.integers(0, 1 << 20), bottom=st.integers(0, 1 << 20))
@example(right=7, bottom=0)
def test_only_the_rectangle_goes(vui, right, bottom):
    before = HEAD + CHROMA + "0" + ORDER + SIZE
    cropped = unit_of(before + "1" + bits_of(0, right, 0, bottom) + vui)
    assert without_cropping(cropped) == unit_of(before + "0" + vui)
    assert without_cropping(without_cropping(cropped)) == without_cropping(cropped)


def test_a_rectangle_that_begins_elsewhere_is_refused():
    for offsets in [(1, 0, 0, 0), (0, 0, 1, 0)]:
        with pytest.raises(ValueError, match="left and the top"):
            without_cropping(unit_of(HEAD + CHROMA + "0" + ORDER + SIZE + "1" + bits_of(*offsets) + "0"))


@given(st.lists(st.sampled_from([0, 0, 0, 1, 2, 3, 4, 255]), max_size=40).map(bytes))
@example(b"\0\0\0\0\0\0\3")
@example(b"\0\0\3\0\0\3\0\0\1")
def test_escaping(payload):
    escaped = escape(payload)
    assert not any(code in escaped for code in (b"\0\0\0", b"\0\0\1", b"\0\0\2"))
    assert unescape(escaped) == payload


@given(st.binary(max_size=60))
def test_damage_is_a_value_error(data):
    for parse in (lambda: parse_sequence_parameters(b"\x67" + data), lambda: parse_avcc(data)):
        with suppress(ValueError):
            parse()


@pytest.mark.parametrize("length_size", [1, 2, 4])
def test_units_are_split_as_they_were_joined(length_size):
    units = [b"\x09\xf0", b"\x65" + bytes(200), b"\x06"]
    packet = join_units(units, length_size)
    assert list(split_units(packet, length_size)) == units
    for damaged in (packet[:-1], packet + b"\1", bytes(8)):
        with pytest.raises(ValueError, match="do not fill"):
            list(split_units(damaged, length_size))


def test_a_record_is_written_as_it_was_read():
    unit = unit_of(HEAD + CHROMA + "0" + ORDER + SIZE + "0" + "0")
    record = b"\1\x64\0\x28\xff\xe1" + len(unit).to_bytes(2, "big") + unit + b"\1\0\2\x68\xee" + b"\xfd\xf8\xf8\0"
    parsed = parse_avcc(record)
    assert parsed.to_bytes() == record
    assert (parsed.length_size, parsed.sequence_sets) == (4, (unit,))
    for length in range(len(record) - 8):
        with pytest.raises(ValueError, match="avcC"):
            parse_avcc(record[:length])
