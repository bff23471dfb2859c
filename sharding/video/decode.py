"""Reading videos with PyAV: what a file holds, and exactly the frames asked for. (encode.py writes with it.)

Frame i of a video is the i-th frame that a decoder started at the beginning hands out, so in the order of showing.
Every function works in the calling thread with single-threaded codecs (libav releases the GIL), so results do not
depend on the machine, and many videos can be worked on at once.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from sharding.errors import MediaError

Media = bytes | Path

MAX_PIXELS = 1 << 26  # per frame: 8192 x 8192; an 8K frame has 33 million
MAX_HELD_BYTES = 1 << 28  # of compressed packets held while frames are picked; above it, decode from the beginning

# Containers that give every packet its time of showing. AVI and raw streams only have an order of decoding.
_TIMED_CONTAINERS = {"mov", "matroska", "mpegts", "flv", "nut", "ogg"}
# PyAV 19 has neither options of streams nor a choice for text that is no UTF-8, which it replaces by itself.
_OPEN_OPTIONS: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
# Spares decoding a frame on opening, a tenth of the time to pick eight of 64.
_HEADER_ONLY = _OPEN_OPTIONS | {"stream_options": [{"skip_frame": "all"}]} if _OPEN_OPTIONS else _OPEN_OPTIONS
LIBAV_ERRORS = (FFmpegError, OSError, ValueError, IndexError, MemoryError)


@dataclass(frozen=True)
class VideoInfo:
    """What the header of a video says; nothing is decoded. Sizes are in pixels as stored, before turning."""

    container: str
    codec: str
    pixel_format: str
    width: int
    height: int
    pixel_aspect: Fraction
    fps: float
    num_frames_from_header: int
    """0 where the header does not say."""
    duration_seconds: float
    """0 where the header does not say."""


def probe(media: Media) -> VideoInfo:
    """Raises MediaError("missing" or "open") for what is not there or is no video."""
    with open_video(media) as (container, stream):
        return video_info(container, stream)


def decode_frames(media: Media, indices: np.ndarray, window: np.ndarray | None = None) -> np.ndarray:
    """The frames `indices` (S,) of a video, in any order, as uint8 RGB (S, H, W, 3), turned as the file asks.

    With `window`, [top, left, bottom, right) in pixels, only that part of each. A frame that is named more than once is
    decoded once. Of an all-intra video only the frames asked for are decoded, of others the stretch from the keyframe
    before them. A container that does not tell packets' times, or tells them wrongly, is decoded from its beginning.

    Raises MediaError("decode") if a frame is damaged or beyond the end, MediaError("open") for what is no video.
    """
    wanted = np.asarray(indices)
    if wanted.ndim != 1 or not len(wanted) or wanted.min() < 0:
        raise ValueError(f"indices {wanted}: one or more frame numbers, 0 or greater")
    with open_video(media, size_only=True) as (container, stream):
        picker = _Picker(stream, wanted, window)
        packets = _hold_packets(container, stream)
        positions = _packet_of_frame(container, packets) if packets is not None else None
        decoded = False
        if packets is not None and positions is not None and len(positions) > picker.numbers[-1]:
            decoded = _decode_runs(stream, packets, positions, picker)
        if not decoded:
            _decode_in_order(container, stream, picker)
        assert picker.frames is not None
        return picker.frames


def decode_all(container, stream, start: float | None = None) -> Iterator[Any]:
    """Every frame in order, damaged ones not among them: the first one raises MediaError("decode").

    Packets before the first keyframe (a stream cut out of another) hold nothing that can be shown and are passed over.
    With `start`, in seconds from the stream's first frame, decoding begins at the keyframe before it, if the container
    can seek.
    """
    _rewind(container, stream, start)
    context = stream.codec_context
    count, started = 0, False
    try:
        for packet in container.demux(stream):
            if packet.dts is None and packet.size == 0:
                continue  # the sign that the demuxer is at its end
            if packet.is_corrupt:
                raise MediaError("decode", f"the file is damaged or cut off after frame {count}")
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
    """The colours of `frame` as swscale needs them told; what the file leaves open is guessed as players do.

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


@contextmanager
def open_video(media: Media, size_only: bool = False) -> Iterator[tuple[Any, Any]]:
    """Opens a file, or the bytes of one, and yields its container and the video stream to use.

    Of several streams: not an attached picture; then the one marked as default; then the one with most pixels.
    With `size_only`, no frame is decoded to find out more of a stream than its size, if the header tells that.
    """
    container = _open_container(media, _HEADER_ONLY if size_only else _OPEN_OPTIONS)
    if size_only and not any(map(_num_pixels, container.streams.video)):
        container.close()
        container = _open_container(media, _OPEN_OPTIONS)
    with container:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
            raise MediaError("open", f"no video stream in it, only {', '.join(kinds)}")
        stream = max(streams, key=lambda s: (bool(s.disposition & Disposition.default), _num_pixels(s), -s.index))
        if stream.codec_context is None:
            raise MediaError("open", "no decoder for its video codec")
        if not 0 < _num_pixels(stream) <= MAX_PIXELS:
            size = f"{stream.codec_context.width} x {stream.codec_context.height}"
            raise MediaError("open", f"frames of {size} pixels; 1 to {MAX_PIXELS} pixels are read")
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        yield container, stream


def _open_container(media: Media, options: dict[str, Any]):
    try:
        if isinstance(media, Path):
            _check_file(media)
        file = str(media) if isinstance(media, Path) else io.BytesIO(media)
        return av.open(file, **options)
    except LIBAV_ERRORS as error:
        raise MediaError("open", reason(error)) from error


def video_info(container, stream) -> VideoInfo:
    context = stream.codec_context
    rate = stream.average_rate or stream.base_rate or Fraction(25)
    if stream.duration and stream.time_base:
        duration = float(stream.duration * stream.time_base)
    else:
        duration = (container.duration or 0) / av.time_base
    return VideoInfo(
        container=container.format.name.split(",")[0],
        codec=context.name,
        pixel_format=context.format.name if context.format else "",
        width=context.width,
        height=context.height,
        pixel_aspect=stream.sample_aspect_ratio or context.sample_aspect_ratio or Fraction(1),
        fps=float(rate),
        num_frames_from_header=max(0, stream.frames),
        duration_seconds=max(0.0, duration),
    )


def has_frame_times(container) -> bool:
    """Whether the packets of this kind of container say when their frames are shown."""
    return container.format.name.split(",")[0] in _TIMED_CONTAINERS


def reason(error: BaseException) -> str:
    """libav's words for what went wrong, without the address of the buffer it read from."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


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
        if frame.rotation:
            picture = np.rot90(picture, frame.rotation // 90)
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
    """The pixels of an rgb24 frame as a view (H, W, 3) of its only plane."""
    plane = rgb.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: rgb.height]
    return rows[:, : rgb.width * 3].reshape(rgb.height, rgb.width, 3)


def _hold_packets(container, stream) -> list | None:
    """All packets of the stream; None if they are damaged or too many to hold."""
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


def _packet_of_frame(container, packets: list) -> np.ndarray | None:
    """For each frame in order of showing, the position of its packet in order of decoding.

    None if the packets do not say: then only decoding from the beginning tells.
    """
    shown = [packet.pts for packet in packets]
    if not packets or not packets[0].is_keyframe or None in shown:
        return None
    if not has_frame_times(container) and not all(packet.is_keyframe for packet in packets):
        return None
    times = np.array(shown)
    positions = np.argsort(times, kind="stable")
    if np.any(np.diff(times[positions]) <= 0):
        return None
    return positions


def _decode_runs(stream, packets: list, positions: np.ndarray, picker: _Picker) -> bool:
    """Decodes, for the picker's frames, only the stretches of packets needed; False if a frame did not come out."""
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
        return False
    return picker.complete


def _runs(packets: list, positions: np.ndarray) -> list[list]:
    """Packets to decode for the frames at `positions`, in stretches after each of which the decoder begins anew.

    Keyframes at 0, 8, 16, frames wanted at 3, 6, 17: 0 to 6, then 16 and 17. A frame that is shown before the keyframe
    it follows in the file needs the keyframe before that as well. Where every packet is a keyframe, those wanted are
    one stretch: none refers to another, and a decoder that need not begin anew is faster.
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
    context = stream.codec_context
    if context.is_open:
        context.flush_buffers()
    last, count = int(picker.numbers[-1]), 0
    for frame in decode_all(container, stream):
        picker.take(count, frame)
        count += 1
        if count > last:
            break
    if not picker.complete:
        raise MediaError("decode", f"frame {last} asked for, but the video has {count} frames")


def _rewind(container, stream, start: float | None) -> None:
    try:
        if start is None:
            container.seek(0, any_frame=False, backward=True)
        else:
            first = stream.start_time or 0
            container.seek(first + int(start / stream.time_base), stream=stream, backward=True)
    except LIBAV_ERRORS as error:
        raise MediaError("decode", f"cannot seek: {reason(error)}") from error


def _sound(frame, count: int):
    if frame.is_corrupt:
        raise MediaError("decode", f"frame {count - 1} is damaged")
    return frame


def _check_file(path: Path) -> None:
    if not path.exists():
        raise MediaError("missing", "no such file")
    if path.is_dir():
        raise MediaError("open", "a directory, not a video file")
    if not path.is_file():
        raise MediaError("open", "not a regular file")
    if path.stat().st_size == 0:
        raise MediaError("open", "the file is empty")


def _num_pixels(stream) -> int:
    context = stream.codec_context
    return context.width * context.height if context is not None else 0
