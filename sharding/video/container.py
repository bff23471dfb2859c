"""Opening media: the only place where FFmpeg is handed a file or bytes, and what is chosen and known of them then.

FFmpeg opens far more than videos: texts that name other files, hosts to connect to, patterns of file names, single
pictures. Here it may use one protocol, that of files, and the formats of FORMATS, and takes a name for nothing but a
name.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.error import ArgumentError, FFmpegError
from av.stream import Disposition

from sharding.errors import MediaError
from sharding.manifest_checks import MAX_PIXELS

Media = bytes | Path

# FFmpeg's names of the formats that hold a video by themselves.
FORMATS = (
    "mov", "matroska", "avi", "mpegts", "mpeg", "flv", "live_flv", "asf", "ogg", "nut", "rm", "mxf", "gxf", "wtv",
    "dv", "ivf", "nsv", "nuv", "amv", "yuv4mpegpipe", "gif",
    "mpegvideo", "m4v", "h261", "h263", "h264", "hevc", "vvc", "av1", "obu", "vc1", "vc1test", "cavsvideo", "dirac",
    "mjpeg",
)  # fmt: skip
# Containers that give every packet its time of showing. AVI and raw streams only have an order of decoding.
_TIMED_CONTAINERS = {"mov", "matroska", "mpegts", "flv", "nut", "ogg"}
# PyAV 19 has neither options of streams nor a choice for text that is no UTF-8, which it replaces by itself.
_OPEN_OPTIONS: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
# Spares decoding a frame on opening, a tenth of the time to pick eight of 64.
_HEADER_ONLY = _OPEN_OPTIONS | {"stream_options": [{"skip_frame": "all"}]} if _OPEN_OPTIONS else _OPEN_OPTIONS
_LIMITS = {"protocol_whitelist": "file", "format_whitelist": ",".join(FORMATS)}
_NO_VIDEO = "no video file: a picture, a text, a playlist, or sound alone"
LIBAV_ERRORS = (FFmpegError, OSError, ValueError, IndexError, MemoryError)

_STILL_BRANDS = {"avif", "heic", "heix", "heim", "heis", "mif1", "jpeg"}  # of pictures in the format of MP4
_NO_FILM = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


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


@contextmanager
def open_video(media: Media, size_only: bool = False) -> Iterator[tuple[Any, Any]]:
    """Open a file, or the bytes of one, and yield its container, at its beginning, and the video stream to use.

    Of several streams: not an attached picture; then one of more than one frame; then the one marked as default; then
    the one with most pixels. With `size_only`, no frame is decoded to find out more of a stream than its size, if the
    header has that.

    Raises MediaError("missing" or "open").
    """
    container = _open_container(media, _HEADER_ONLY if size_only else _OPEN_OPTIONS)
    if size_only and not any(map(_num_pixels, container.streams.video)):
        container.close()
        container = _open_container(media, _OPEN_OPTIONS)
    with container:
        if container.metadata.get("major_brand") in _STILL_BRANDS:
            raise MediaError("open", _NO_VIDEO)
        stream = _choose_stream(media, container)
        if stream.codec_context is None:
            raise MediaError("open", "no decoder for its video codec")
        if not 0 < _num_pixels(stream) <= MAX_PIXELS:
            size = f"{stream.codec_context.width} x {stream.codec_context.height}"
            raise MediaError("open", f"frames of {size} pixels; 1 to {MAX_PIXELS} pixels are read")
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        yield container, stream


def video_info(container, stream) -> VideoInfo:
    context = stream.codec_context
    rate = stream.average_rate or stream.base_rate or Fraction(25)
    if stream.duration and stream.time_base:
        duration = float(stream.duration * stream.time_base)
    else:
        duration = (container.duration or 0) / av.time_base
    return VideoInfo(
        container=format_name(container),
        codec=context.codec.canonical_name,
        pixel_format=context.format.name if context.format else "",
        width=context.width,
        height=context.height,
        pixel_aspect=stream.sample_aspect_ratio or context.sample_aspect_ratio or Fraction(1),
        fps=float(rate),
        num_frames_from_header=max(0, stream.frames),
        duration_seconds=max(0.0, duration),
    )


def format_name(container) -> str:
    """Return the first of FFmpeg's names for the kind of container: mov for MP4, matroska for WebM."""
    return container.format.name.split(",")[0]


def has_frame_times(container) -> bool:
    """Return whether the packets of this kind of container say when their frames are shown."""
    return format_name(container) in _TIMED_CONTAINERS


def reason(error: BaseException) -> str:
    """Return libav's words for what went wrong, without the address of the buffer it read from."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


def _open_container(media: Media, options: dict[str, Any]):
    try:
        if isinstance(media, Path):
            _check_file(media)
        # With the protocol before it, no file name can mean another protocol.
        file = f"file:{media}" if isinstance(media, Path) else io.BytesIO(media)
        return av.open(file, options=_LIMITS, **options)
    except ArgumentError as error:  # so the white-list refuses
        raise MediaError("open", _NO_VIDEO) from error
    except LIBAV_ERRORS as error:
        raise MediaError("open", reason(error)) from error


def _choose_stream(media: Media, container):
    streams = [stream for stream in container.streams.video if not stream.disposition & _NO_FILM]
    if not streams:
        kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
        raise MediaError("open", f"no video stream in it, only {', '.join(kinds)}")
    films = _with_several_frames(media, streams) if len(streams) > 1 else set()
    return max(
        streams,
        key=lambda s: (s.index in films, bool(s.disposition & Disposition.default), _num_pixels(s), -s.index),
    )


def _with_several_frames(media: Media, streams: list) -> set[int]:
    """Return the numbers of the streams that have more than one packet; a cover picture that is not marked has one."""
    counts = dict.fromkeys((stream.index for stream in streams), 0)
    with _open_container(media, _OPEN_OPTIONS) as container:
        try:
            for packet in container.demux([container.streams[index] for index in counts]):
                counts[packet.stream_index] += packet.size > 0
                if min(counts.values()) > 1:
                    break
        except LIBAV_ERRORS:
            pass  # what is damaged is reported where it is decoded
    return {index for index, count in counts.items() if count > 1}


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
