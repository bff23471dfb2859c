"""Encoding with PyAV: chosen frames of a video, scaled and upright, streamed into a file of their own.

One thread a video, so the bytes depend on the video and the options alone, not on the machine's cores.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter

from sharding.media import (
    LIBAV_ERRORS,
    MediaError,
    VideoInfo,
    decode_all,
    has_frame_times,
    open_video,
    reason,
    rgb_settings,
    video_info,
)
from sharding.truncation import missing_bytes


@dataclass(frozen=True)
class FrameChoice:
    """Which frames of a video are kept, and at what size."""

    max_frames: int | None = 64
    """At most this many, evenly spaced in time; None keeps all."""
    short_side: int | None = 256
    """Frames whose short side is longer are scaled down to it; None keeps the size. Never enlarged."""


@dataclass(frozen=True)
class EncodedVideo:
    """What was written. `num_frames` were counted by decoding the result."""

    num_frames: int
    fps: float
    width: int
    height: int
    source: VideoInfo
    source_num_frames_decoded: int


def encode_h264(
    source: Path,
    target: Path,
    choice: FrameChoice,
    keyframe_every: int = 1,
    crf: int = 23,
    start: float | None = None,
    end: float | None = None,
) -> EncodedVideo:
    """Writes frames of [start, end) seconds of `source` as H.264 in MP4: 4:2:0, 8 bit, limited range BT.601, no audio.

    Raises MediaError, with stage missing, open, decode or encode.
    """

    @contextmanager
    def writer(size: tuple[int, int], fps: Fraction) -> Iterator[Any]:
        options = {
            "preset": "veryfast",
            "tune": "fastdecode",
            "crf": str(crf),
            "x264-params": f"keyint={keyframe_every}:min-keyint={keyframe_every}:scenecut=0:bframes=0",
        }
        flags = {"movflags": "+faststart", "fflags": "+bitexact"}
        with av.open(str(target), "w", format="mp4", options=flags) as output:
            stream = output.add_stream("libx264", rate=fps, options=options)
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.thread_count = 1
            context.gop_size = keyframe_every
            context.colorspace = 6  # SMPTE 170M, that is BT.601
            context.color_range = int(ColorRange.MPEG)
            context.color_primaries = int(ColorPrimaries.SMPTE170M)
            context.color_trc = int(ColorTrc.SMPTE170M)

            def write(frame, place: int) -> None:
                frame.pts, frame.time_base = place, 1 / fps
                frame.pict_type = 0  # not the source's: the encoder would obey it
                output.mux(stream.encode(frame))

            yield write
            output.mux(stream.encode(None))

    video = encode_frames(source, choice, "yuv420p", writer, start, end)
    with open_video(target) as (container, stream):
        num_decoded = sum(1 for _ in decode_all(container, stream))
    if num_decoded != video.num_frames:
        raise MediaError("encode", f"{video.num_frames} frames went in, {num_decoded} came out")
    return video


def encode_frames(source: Path, choice: FrameChoice, pixel_format: str, open_writer, start=None, end=None):
    """Decodes `source` once, in order, and hands the chosen frames to a writer, one at a time.

    `open_writer((width, height), fps)` is a context manager that yields `write(frame, place)`; it is opened when the
    first frame has told the size. Returns the EncodedVideo.
    """
    with open_video(source) as (container, stream):
        info = video_info(container, stream)
        times = frame_times(container, stream, source, start, end)
        for _ in range(2):
            attempt = _Attempt(choice, pixel_format, times, info)
            shown = attempt.run(container, stream, open_writer, start, end)
            if len(shown) == len(times):
                return EncodedVideo(len(attempt.chosen), attempt.fps, *attempt.size, info, len(times))
            times = shown  # some packets held no frame, or more than one: choose again, knowing what comes out
    raise MediaError("decode", "decoding it twice gave different numbers of frames")


def choose_frames(times: np.ndarray, max_frames: int | None) -> np.ndarray:
    """Which of the frames at `times` (seconds, sorted) to keep: numbers, sorted.

    All, if there are no more than `max_frames` = M. Else, at a steady rate, frame floor((i + 1/2) * N / M) for each i,
    the middle of M equal parts; at a varying rate the frame on show in the middle of M equal parts of the time.

    >>> choose_frames(np.arange(10) / 25, 4)
    array([1, 3, 6, 8])
    """
    num_frames = len(times)
    if max_frames is None or num_frames <= max_frames:
        return np.arange(num_frames)
    gaps = np.diff(times)
    usual = float(np.median(gaps))
    if np.all(np.abs(gaps - usual) <= usual / 2):
        return (2 * np.arange(max_frames) + 1) * num_frames // (2 * max_frames)
    end = times[-1] + usual
    moments = times[0] + (np.arange(max_frames) + 0.5) / max_frames * (end - times[0])
    return np.searchsorted(times, moments, side="right") - 1


def output_size(width: int, height: int, pixel_aspect: Fraction, short_side: int | None) -> tuple[int, int]:
    """Size with square pixels, the short side at most `short_side`, both sides even and at least 2.

    >>> output_size(340, 256, Fraction(64, 51), 256)
    (426, 256)
    """
    shown_width, shown_height = width * float(pixel_aspect), float(height)
    scale = min(1.0, short_side / min(shown_width, shown_height)) if short_side else 1.0
    return tuple(max(2, round(side * scale / 2 - 1e-6) * 2) for side in (shown_width, shown_height))


class _Attempt:
    """One pass over a source, keeping the frames chosen by the times they are believed to have."""

    def __init__(self, choice: FrameChoice, pixel_format: str, times: np.ndarray, info: VideoInfo):
        if not len(times):
            raise MediaError("decode", "not one frame in it, or none between start and end")
        self.choice, self.pixel_format, self.info = choice, pixel_format, info
        self.chosen = choose_frames(times, choice.max_frames)
        self.fps = _fps(times, info.fps) * len(self.chosen) / len(times)
        self.size = (0, 0)
        self.reformatter = VideoReformatter()
        self.turner: _Turner | None = None

    def run(self, container, stream, open_writer, start, end) -> np.ndarray:
        """Writes the chosen frames; returns the times of all frames that came out in [start, end)."""
        shown: list[float] = []
        place = 0
        writer, write = None, None
        try:
            for time, frame in _timed_frames(container, stream, self.info, start, end):
                while place < len(self.chosen) and self.chosen[place] == len(shown):
                    picture = self._convert(frame)
                    if write is None:
                        fps = Fraction(max(self.fps, 1e-3)).limit_denominator(10_000)
                        self.fps = float(fps)
                        writer = open_writer(self.size, fps)
                        write = writer.__enter__()
                    write(picture, place)
                    place += 1
                shown.append(time)
        except LIBAV_ERRORS as error:
            raise MediaError("encode", reason(error)) from error
        finally:
            if writer is not None:
                writer.__exit__(None, None, None)
        return np.array(shown)

    def _convert(self, frame):
        """Scaled, square-pixelled, upright, in the colours of the target."""
        if not self.size[0]:
            size = output_size(frame.width, frame.height, self.info.pixel_aspect, self.choice.short_side)
            self.stored_size = size
            if frame.rotation:
                self.turner = _Turner(size, self.pixel_format, -frame.rotation % 360)
            self.size = size[::-1] if frame.rotation % 180 else size
        converted = self.reformatter.reformat(
            frame, *self.stored_size, self.pixel_format, **rgb_settings(frame), dst_colorspace=int(Colorspace.ITU601),
            dst_color_range=int(ColorRange.MPEG), interpolation=Interpolation.BICUBIC, threads=1,
        )  # fmt: skip
        return self.turner(converted) if self.turner else converted


class _Turner:
    """Turns frames clockwise by 90, 180 or 270 degrees."""

    def __init__(self, size: tuple[int, int], pixel_format: str, degrees: int):
        steps = {90: [("transpose", "clock")], 180: [("hflip", None), ("vflip", None)], 270: [("transpose", "cclock")]}
        if degrees not in steps:
            raise MediaError("decode", f"to be turned by {degrees} degrees; only multiples of 90 are possible")
        self.graph = av.filter.Graph()
        self.graph.threads = 1
        buffer = self.graph.add_buffer(
            width=size[0], height=size[1], format=av.VideoFormat(pixel_format), time_base=Fraction(1, 1000)
        )
        self.graph.link_nodes(
            buffer, *(self.graph.add(name, option) for name, option in steps[degrees]), self.graph.add("buffersink")
        ).configure()

    def __call__(self, frame):
        self.graph.vpush(frame)
        return self.graph.vpull()


def _timed_frames(container, stream, info: VideoInfo, start, end) -> Iterator[tuple[float, Any]]:
    """(seconds from the beginning, frame) for the frames of [start, end)."""
    timed = has_frame_times(container)
    first = (stream.start_time or 0) * stream.time_base
    time = 0.0
    frames = decode_all(container, stream, start if timed else None)
    for number, frame in enumerate(frames):
        if not timed:
            time = number / info.fps
        elif frame.pts is not None:
            time = float(frame.pts * stream.time_base - first)
        else:
            time += 1 / info.fps
        if end is not None and time >= end - 1e-6:
            break
        if start is None or time >= start - 1e-6:
            yield time, frame


def frame_times(container, stream, source: Path, start=None, end=None) -> np.ndarray:
    """The times that the frames of [start, end) will have, from the packets alone, without decoding.

    Raises MediaError("decode") if the file is cut off.
    """
    lacking = missing_bytes(source)
    if lacking:
        raise MediaError("decode", f"the file is cut off: it lacks {lacking} bytes by its own account")
    timed = has_frame_times(container)
    first = (stream.start_time or 0) * stream.time_base
    times = []
    try:
        if timed and start:
            container.seek(int((float(first) + start) / stream.time_base), stream=stream, backward=True)
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:
                continue
            if not timed or packet.pts is None:
                times.append(len(times) / max(1e-3, float(stream.average_rate or 25)))
                continue
            times.append(float(packet.pts * stream.time_base - first))
            if end is not None and packet.dts is not None and packet.dts * stream.time_base - first > end:
                break
    except LIBAV_ERRORS as error:
        raise MediaError("decode", reason(error)) from error
    array = np.sort(np.array(times, np.float64))
    low = -np.inf if start is None else start - 1e-6
    high = np.inf if end is None else end - 1e-6
    return array[(array >= low) & (array < high)]


def _fps(times: np.ndarray, fps_from_header: float) -> float:
    """Frames per second of frames at `times`; the header's where they agree to a thousandth."""
    if len(times) < 2 or times[-1] <= times[0]:
        return fps_from_header
    measured = (len(times) - 1) / float(times[-1] - times[0])
    return fps_from_header if abs(measured / fps_from_header - 1) < 1e-3 else measured
