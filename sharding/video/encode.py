"""Encodes chosen frames of a video, scaled and upright, into a file of their own: as H.264, or as a row of JPEGs.

Frames are streamed: one is in memory at a time. One thread a video, so the bytes depend on the video and the options
alone, not on the machine's cores.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc
from PIL import Image

from sharding.errors import MediaError
from sharding.video.container import LIBAV_ERRORS, VideoInfo, open_video, reason
from sharding.video.conversion import FrameConverter, output_size
from sharding.video.decode import decode_all, rgb_picture
from sharding.video.frame_folder import FrameFolder
from sharding.video.orientation import orientation_of
from sharding.video.source import VideoFile, open_source

_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}  # SMPTE ST 2084, ARIB STD-B67
_LONGEST_STILL = 10.0  # seconds
_UNNOTED_SECONDS = 0.1  # that the sound of a file may go on after its last frame

Write = Callable[[Any, int], None]
OpenWriter = Callable[[tuple[int, int], Fraction], AbstractContextManager[Write]]


@dataclass(frozen=True)
class FrameChoice:
    """Which frames of a video are kept, and at what size."""

    max_frames: int | None = 64
    """At most this many, evenly spaced in time; None keeps all."""
    short_side: int | None = 256
    """Frames whose short side is longer are scaled down to it; None keeps the size. Never enlarged."""
    start_seconds: float | None = None
    """Only frames shown in [start, end) are kept."""
    end_seconds: float | None = None
    frame_template: str | None = None
    """Names of a folder's pictures that are the frames, such as img_{:05d}.jpg; None takes all, if of one kind."""


@dataclass(frozen=True)
class EncodedVideo:
    """What was written."""

    num_frames: int
    fps: float
    width: int
    height: int
    source: VideoInfo
    source_num_frames_decoded: int
    num_distinct_frames: int
    """Fewer than num_frames where one frame was on show at several of the times chosen."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What is uncommon about the source, for KEY.json; empty for most videos."""


def encode_h264(path: Path, target: Path, choice: FrameChoice, keyframe_every: int = 1, crf: int = 23) -> EncodedVideo:
    """Write frames of `path` to `target` as H.264 in MP4: 4:2:0, 8 bit, limited range BT.601, no audio.

    The result is decoded once to count its frames. Raises MediaError, with kind missing, open, decode or encode.
    """

    @contextmanager
    def open_writer(size: tuple[int, int], fps: Fraction) -> Iterator[Write]:
        options = {
            "preset": "veryfast",
            "tune": "fastdecode",
            "crf": str(crf),
            # With macroblock-tree rate control, one encoding in a hundred comes out differently from the others.
            "x264-params": f"keyint={keyframe_every}:min-keyint={keyframe_every}:scenecut=0:bframes=0:mbtree=0",
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

    with open_source(path, choice.frame_template) as source:
        video = encode_frames(source, choice, "yuv420p", open_writer)
    with open_video(target) as (container, stream):
        num_decoded = sum(1 for _ in decode_all(container, stream))
    if num_decoded != video.num_frames:
        raise MediaError("encode", f"{video.num_frames} frames went in, {num_decoded} came out")
    return video


def encode_jpegs(path: Path, target: Path, choice: FrameChoice, quality: int = 85) -> tuple[EncodedVideo, np.ndarray]:
    """Write frames of `path` to `target` as JPEGs (4:2:0), one after the other.

    Return also their offsets, int32 (num_frames + 1): frame i is the bytes [offsets[i], offsets[i + 1]).
    Raises MediaError, with kind missing, open, decode or encode.
    """
    offsets: list[int] = []

    @contextmanager
    def open_writer(size: tuple[int, int], fps: Fraction) -> Iterator[Write]:
        with target.open("wb") as output:
            offsets[:] = [0]

            def write(frame, place: int) -> None:
                Image.fromarray(rgb_picture(frame)).save(output, "JPEG", quality=quality, subsampling="4:2:0")
                offsets.append(output.tell())

            yield write

    with open_source(path, choice.frame_template) as source:
        video = encode_frames(source, choice, "rgb24", open_writer)
    return video, offsets_array(offsets)


def offsets_array(offsets: list[int]) -> np.ndarray:
    """Return the offsets as int32. Raises MediaError("encode") if they do not fit into 32 bits."""
    if offsets[-1] >= 1 << 31:
        raise MediaError("encode", f"{offsets[-1]:,} bytes of JPEGs; fewer than 2**31 are possible: keep fewer frames")
    return np.array(offsets, np.int32)


def encode_frames(
    source: VideoFile | FrameFolder, choice: FrameChoice, pixel_format: str, open_writer: OpenWriter
) -> EncodedVideo:
    """Decode `source` once, in order, and hand the chosen frames to a writer, one at a time.

    `open_writer((width, height), fps)` yields `write(frame, place)`; it is opened when the first frame gave the size.
    Where packets and frames rightly do not match one to one, it is all done a second time, knowing what comes out.

    Raises MediaError("decode") if frames are lacking that nothing but damage explains.
    """
    times = source.times(choice.start_seconds, choice.end_seconds)
    for _ in range(2):
        attempt = _Attempt(source, choice, pixel_format, times)
        shown = attempt.run(open_writer)
        if len(shown) == len(times):
            width, height = attempt.size
            return EncodedVideo(
                num_frames=len(attempt.chosen),
                fps=attempt.fps,
                width=width,
                height=height,
                source=source.info,
                source_num_frames_decoded=len(times),
                num_distinct_frames=len(np.unique(attempt.chosen)),
                notes=attempt.notes(),
            )
        source.check_number(len(times), len(shown), attempt.observed.interlaced)
        times = shown
    raise MediaError("decode", "decoding it twice gave different numbers of frames")


def choose_frames(times: np.ndarray, max_frames: int | None) -> np.ndarray:
    """Return which of the frames at `times` (seconds, sorted) to keep: numbers, sorted.

    All, if there are no more than `max_frames` = M. Else, at a steady rate, frame floor((i + 1/2) * N / M) for each i,
    the middle of M equal parts; at a varying rate the frame on show in the middle of M equal parts of the time, as
    `believed_times` has it.

    >>> choose_frames(np.arange(10) / 25, 4)
    array([1, 3, 6, 8])
    """
    num_frames = len(times)
    if max_frames is None or num_frames <= max_frames:
        return np.arange(num_frames)
    times = believed_times(times)
    gaps = np.diff(times)
    usual = float(np.median(gaps))
    if np.all(np.abs(gaps - usual) <= usual / 2):
        return (2 * np.arange(max_frames) + 1) * num_frames // (2 * max_frames)
    end = times[-1] + usual
    moments = times[0] + (np.arange(max_frames) + 0.5) / max_frames * (end - times[0])
    return np.searchsorted(times, moments, side="right") - 1


def believed_times(times: np.ndarray) -> np.ndarray:
    """Return sorted times (seconds) without the gaps that are rather errors of a clock than stills.

    A gap of more than 10 s that is also a hundred times the usual one counts as a usual one: else a single frame with a
    wrong time would be chosen for most of the clip.

    >>> believed_times(np.array([0.0, 0.5, 1.0, 600.0]))
    array([0. , 0.5, 1. , 1.5])
    """
    gaps = np.diff(times)
    if not len(gaps) or gaps.max() <= _LONGEST_STILL:
        return times
    usual = float(np.median(gaps))
    gaps = np.where(gaps > max(_LONGEST_STILL, 100 * usual), usual, gaps)
    return times[0] + np.concatenate([[0.0], np.cumsum(gaps)])


class _Attempt:
    """One pass over a source, keeping the frames chosen by the times they are believed to have."""

    def __init__(self, source: VideoFile | FrameFolder, choice: FrameChoice, pixel_format: str, times: np.ndarray):
        if not len(times):
            raise MediaError("decode", "not one frame in it, or none between start and end")
        self.source, self.choice, self.pixel_format = source, choice, pixel_format
        self.chosen = choose_frames(times, choice.max_frames)
        fps = _fps(believed_times(times), source.fps) * len(self.chosen) / len(times)
        self.rate = Fraction(min(max(fps, 1e-3), 1e5)).limit_denominator(10_000)
        self.fps = float(self.rate)
        self.size = (0, 0)
        self.converter: FrameConverter | None = None
        self.observed = Observed()

    def run(self, open_writer: OpenWriter) -> np.ndarray:
        """Write the chosen frames; return the times of all frames that came out in [start, end)."""
        frames = self.source.frames(self.choice.start_seconds, self.choice.end_seconds)
        shown: list[float] = []
        pictures = self._pictures(frames, shown)
        first = next(pictures, None)
        if first is None:
            return np.array(shown)
        try:
            with open_writer(self.size, self.rate) as write:
                write(first, 0)
                for place, picture in enumerate(pictures, 1):
                    write(picture, place)
        except LIBAV_ERRORS as error:
            raise MediaError("encode", reason(error)) from error
        return np.array(shown)

    def _pictures(self, frames: Iterator[tuple[float, Any]], shown: list[float]) -> Iterator[Any]:
        place = 0
        for time, frame in frames:
            self.observed.note(frame)
            while place < len(self.chosen) and self.chosen[place] == len(shown):
                yield self._convert(frame)
                place += 1
            shown.append(time)

    def notes(self) -> dict[str, Any]:
        before = self.source.num_before_keyframe
        found = {"source_num_packets_before_keyframe": before} if before else {}
        return self.observed.notes() | found | notes_of_part(self.source)

    def _convert(self, frame):
        """Return a frame scaled, with square pixels, upright, in the colours of the target."""
        if self.converter is None:
            size = output_size(frame.width, frame.height, self.source.info.pixel_aspect, self.choice.short_side)
            self.converter = FrameConverter(size, self.pixel_format, orientation_of(frame))
            self.size = self.converter.size
        return self.converter(frame)


def notes_of_part(source: VideoFile | FrameFolder) -> dict[str, Any]:
    """Return a note for KEY.json if a part of the source was wanted that goes beyond its end."""
    lacking = round(source.seconds_lacking, 3)
    return {"source_seconds_lacking": lacking} if lacking > _UNNOTED_SECONDS else {}


class Observed:
    """What decoded frames say of a video beyond its header."""

    def __init__(self):
        self.interlaced = False
        self.transfer = ""

    def note(self, frame) -> None:
        self.interlaced = self.interlaced or frame.interlaced_frame
        self.transfer = self.transfer or _HDR_TRANSFERS.get(frame.color_trc, "")

    def notes(self) -> dict[str, Any]:
        """Return notes for KEY.json: interlaced frames are stored as they are, and HDR is not mapped to SDR."""
        interlaced = {"source_interlaced": True} if self.interlaced else {}
        return interlaced | ({"source_hdr": self.transfer} if self.transfer else {})


def _fps(times: np.ndarray, fps_from_header: float) -> float:
    """Return the frames per second of frames at `times`; the header's where they agree to a thousandth."""
    if len(times) < 2 or times[-1] <= times[0]:
        return fps_from_header
    measured = (len(times) - 1) / float(times[-1] - times[0])
    return fps_from_header if abs(measured / fps_from_header - 1) < 1e-3 else measured
