"""Reading videos with PyAV: what a file holds, and exactly the frames asked for. (encode.py writes with it.)

Frame i of a video is the i-th frame that a decoder started at the beginning hands out, so in the order of showing.
Every function works in the calling thread with single-threaded codecs (libav releases the GIL), so results do not
depend on the machine, and many videos can be worked on at once.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from sharding.errors import MediaError
from sharding.video.container import (
    LIBAV_ERRORS,
    Media,
    VideoInfo,
    has_frame_times,
    open_video,
    reason,
    video_info,
)
from sharding.video.orientation import orientation_of
from sharding.video.packets import is_hidden, sound_packets

MAX_HELD_BYTES = 1 << 28  # of compressed packets held while frames are picked; above it, decode from the beginning


def probe(media: Media) -> VideoInfo:
    """Return what the header says. Raises MediaError("missing" or "open") for what is not there or is no video."""
    with open_video(media) as (container, stream):
        return video_info(container, stream)


def decode_frames(media: Media, indices: np.ndarray, window: np.ndarray | None = None) -> np.ndarray:
    """Return the frames `indices` (S,) of a video, in any order, as uint8 RGB (S, H, W, 3), turned as the file asks.

    With `window`, [top, left, bottom, right) in pixels, only that part of each. A frame that is named more than once is
    decoded once. Of an all-intra video only the frames asked for are decoded, of others the stretch from the keyframe
    before them. A container that does not give packets' times, or gives them wrongly, is decoded from its beginning.

    Raises MediaError("decode") if a frame is damaged or beyond the end, MediaError("open") for what is no video.
    """
    wanted = np.asarray(indices)
    if wanted.ndim != 1 or not len(wanted) or wanted.min() < 0:
        raise ValueError(f"indices {wanted}: one or more frame numbers, 0 or greater")
    with open_video(media, size_only=True) as (container, stream):
        picker = _Picker(stream, wanted, window)
        packets = _hold_packets(container, stream)
        positions = _packet_of_frame(container, stream, packets) if packets is not None else None
        if packets is not None and positions is not None and len(positions) > picker.numbers[-1]:
            _decode_runs(stream, packets, positions, picker)
    if not picker.complete:
        with open_video(media) as (container, stream):  # not every container can be taken back to its beginning
            _decode_in_order(container, stream, picker)
    assert picker.frames is not None
    return picker.frames


def decode_all(container, stream) -> Iterator[Any]:
    """Yield every frame of a container just opened, in order; see `decode_packets`."""
    return decode_packets(stream, container.demux(stream))


def decode_packets(stream, packets: Iterable[Any]) -> Iterator[Any]:
    """Yield every frame of some packets of a stream, in order, but no damaged one: the first raises MediaError.

    Packets before the first keyframe (a stream cut out of another) hold nothing that can be shown and are passed over.
    """
    context = stream.codec_context
    count, started = 0, False
    try:
        for packet in sound_packets(stream, packets):
            started = started or packet.is_keyframe
            if not started or packet.size == 0:
                continue
            for frame in context.decode(packet):
                count += 1
                yield _sound(frame, count)
        for frame in context.decode(None):
            count += 1
            yield _sound(frame, count)
    except LIBAV_ERRORS as error:
        raise MediaError("decode", f"after frame {count}: {reason(error)}") from error


def rgb_settings(frame) -> dict[str, Any]:
    """Return the colours of `frame` as swscale takes them; what the file leaves open is guessed as players do.

    Without a matrix, frames of more than 576 lines or 1024 columns are BT.709, smaller ones BT.601.
    """
    matrix = frame.colorspace
    if matrix in (0, 2, 3):  # RGB, unspecified, reserved
        matrix = Colorspace.ITU709 if frame.height > 576 or frame.width > 1024 else Colorspace.ITU601
    elif matrix in (9, 10):
        matrix = Colorspace.BT2020
    elif matrix not in (1, 4, 7):
        matrix = Colorspace.ITU601
    return {"src_colorspace": int(matrix), "src_color_range": frame.color_range or None}


class _Picker:
    """Collects the wanted frames, converted to RGB, as a decoder hands them out in any order."""

    def __init__(self, stream, wanted: np.ndarray, window: np.ndarray | None):
        context = stream.codec_context
        self.width, self.height = context.width, context.height
        self.numbers = np.unique(wanted)
        self.slots = {int(number): np.flatnonzero(wanted == number).tolist() for number in self.numbers}
        self.window = window
        self.num_slots = len(wanted)
        self.taken: set[int] = set()
        self.frames: np.ndarray | None = None
        self.reformatter = VideoReformatter()

    def take(self, number: int, frame) -> None:
        slots = self.slots.get(number)
        if slots is None or number in self.taken:
            return
        rgb = self.reformatter.reformat(
            frame, self.width, self.height, "rgb24", dst_color_range=ColorRange.JPEG,
            interpolation=Interpolation.BICUBIC, threads=1, **rgb_settings(frame),
        )  # fmt: skip
        picture = rgb_picture(rgb)
        picture = orientation_of(frame).apply(picture)
        if self.window is not None:
            top, left, bottom, right = self.window
            picture = picture[top:bottom, left:right]
        if self.frames is None:
            self.frames = np.empty((self.num_slots, *picture.shape), np.uint8)
        for slot in slots:
            self.frames[slot] = picture
        self.taken.add(number)

    @property
    def complete(self) -> bool:
        return len(self.taken) == len(self.numbers)


def rgb_picture(rgb) -> np.ndarray:
    """Return the pixels of an rgb24 frame as a view (H, W, 3) of its only plane."""
    plane = rgb.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: rgb.height]
    return rows[:, : rgb.width * 3].reshape(rgb.height, rgb.width, 3)


def _hold_packets(container, stream) -> list | None:
    """Return all packets of the stream; None if they are damaged or too many to hold."""
    packets, held_bytes = [], 0
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            held_bytes += packet.size
            if packet.is_corrupt or packet.is_discard or held_bytes > MAX_HELD_BYTES:
                return None
            packets.append(packet)
    except LIBAV_ERRORS:
        return None
    return packets


def _packet_of_frame(container, stream, packets: list) -> np.ndarray | None:
    """Return for each frame in order of showing the position of its packet in order of decoding.

    None if the packets do not say: then only decoding from the beginning shows it.
    """
    shown, decoded = [packet.pts for packet in packets], [packet.dts for packet in packets]
    if not packets or not packets[0].is_keyframe or None in shown:
        return None
    if not has_frame_times(container) and not all(packet.is_keyframe for packet in packets):
        return None
    times, codec = np.array(shown), stream.codec_context.codec.canonical_name
    if times.min() < times[0] or any(is_hidden(codec, packet) for packet in packets):
        return None  # packets without a frame: no position follows from their order
    known = np.array([time for time in decoded if time is not None])
    positions = np.argsort(times, kind="stable")
    if np.any(np.diff(times[positions]) <= 0) or np.any(np.diff(known) < 0):
        return None
    return positions


def _decode_runs(stream, packets: list, positions: np.ndarray, picker: _Picker) -> None:
    """Decode, for the picker's frames, only the stretches of packets needed; not every frame may come out."""
    number_of = {packets[positions[number]].pts: int(number) for number in picker.numbers}
    context = stream.codec_context
    try:
        for run in _runs(packets, positions[picker.numbers]):
            for packet in (*run, None):  # None asks for the frames that the decoder holds back
                for frame in context.decode(packet):
                    if frame.pts in number_of and not frame.is_corrupt:
                        picker.take(number_of[frame.pts], frame)
            context.flush_buffers()
    except LIBAV_ERRORS:
        pass  # decoding in order finds out whether the file or the order of its packets is to blame


def _runs(packets: list, positions: np.ndarray) -> list[list]:
    """Return the packets to decode for the frames at `positions`, in stretches; the decoder is restarted after each.

    Keyframes at 0, 8, 16, frames wanted at 3, 6, 17: 0 to 6, then 16 and 17. A frame that is shown before the keyframe
    it follows in the file needs the keyframe before that as well. Where every packet is a keyframe, those wanted are
    one stretch: none refers to another, and a decoder that need not be restarted is faster.
    """
    keys = np.array([position for position, packet in enumerate(packets) if packet.is_keyframe])
    if len(keys) == len(packets):
        return [[packets[position] for position in sorted(positions)]]
    runs: list[tuple[int, int]] = []
    for position in sorted(int(p) for p in positions):
        nearest = int(np.searchsorted(keys, position, side="right")) - 1
        while nearest > 0 and packets[keys[nearest]].pts > packets[position].pts:
            nearest -= 1
        first = int(keys[nearest])
        if runs and first <= runs[-1][1]:
            runs[-1] = (min(runs[-1][0], first), max(runs[-1][1], position))
        else:
            runs.append((first, position))
    return [packets[first : last + 1] for first, last in runs]


def _decode_in_order(container, stream, picker: _Picker) -> None:
    last, count = int(picker.numbers[-1]), 0
    for frame in decode_all(container, stream):
        picker.take(count, frame)
        count += 1
        if count > last:
            break
    if not picker.complete:
        raise MediaError("decode", f"frame {last} asked for, but the video has {count} frames")


def _sound(frame, count: int):
    if frame.is_corrupt:
        raise MediaError("decode", f"frame {count - 1} is damaged")
    return frame
