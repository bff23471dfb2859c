"""Profiles: in what form the frames of a video are stored. A profile is a function; PROFILES names them all."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sharding.encode import EncodedVideo, FrameChoice, encode_h264, frame_times
from sharding.media import VideoInfo, decode_all, open_video, video_info
from sharding.records import VideoRecord


@dataclass(frozen=True)
class ProfileSettings:
    """How samples are encoded; all of it shapes the bytes."""

    profile: str = "h264"
    max_frames: int = 64
    short_side: int = 256
    quality: int = 23


@dataclass(frozen=True)
class EncodedSample:
    """One sample, ready to be written: the media component as a file, and what the table says of it."""

    suffix: str
    media: Path
    """A file of our own in the working folder, or the source itself."""
    num_frames: int
    fps: float
    width: int
    height: int
    offsets: np.ndarray | None = None
    """int32 (num_frames + 1): where in the media each frame begins, under the jpeg profile."""
    details: dict[str, Any] = field(default_factory=dict)
    """Of the source and of what was done, for KEY.json."""


def encode_sample(videos: Path, record: VideoRecord, settings: ProfileSettings, work: Path) -> EncodedSample:
    """Encodes the video of `record` under a profile; files are made in the folder `work`. Raises MediaError."""
    return PROFILES[settings.profile](videos / record.source, record, settings, work)


def encode_h264_sample(source: Path, record: VideoRecord, settings: ProfileSettings, work: Path) -> EncodedSample:
    """At most max_frames evenly spaced frames, short side at most short_side, every frame a keyframe."""
    choice = FrameChoice(settings.max_frames, settings.short_side)
    return _encode(source, record, work, choice, keyframe_every=1, crf=settings.quality)


def encode_dense_sample(source: Path, record: VideoRecord, settings: ProfileSettings, work: Path) -> EncodedSample:
    """Every frame, short side at most short_side, a keyframe every 8 frames."""
    return _encode(source, record, work, FrameChoice(None, settings.short_side), keyframe_every=8, crf=settings.quality)


def copy_sample(source: Path, record: VideoRecord, settings: ProfileSettings, work: Path) -> EncodedSample:
    """The original bytes, after every frame was decoded; what training decoders would misread is encoded anew.

    The reason is then given as `reencoded` in KEY.json.
    """
    with open_video(source) as (container, stream):
        info = video_info(container, stream)
        times = frame_times(container, stream, source)
        reason = _why_not_copy(info, record)
        shown, sizes = [], set()
        for frame in decode_all(container, stream):
            shown.append(frame.pts)
            sizes.add((frame.width, frame.height))
            if frame.rotation:
                reason = reason or f"to be turned by {-frame.rotation % 360} degrees"
        if len(shown) != len(times):
            reason = reason or f"{len(times)} packets gave {len(shown)} frames"
        elif len(sizes) > 1:
            reason = reason or "its frames change their size"
        elif shown and (None in shown or min(shown) < 0):
            reason = reason or "negative or no timestamps"
    if reason:
        sample = _encode(source, record, work, FrameChoice(None, None), keyframe_every=8, crf=18)
        sample.details["reencoded"] = reason
        return sample
    suffix = _CONTAINER_SUFFIX[info.container]
    return EncodedSample(suffix, source, len(shown), info.fps, *sizes.pop(), details=_details(info, len(shown)))


PROFILES: dict[str, Callable[[Path, VideoRecord, ProfileSettings, Path], EncodedSample]] = {
    "h264": encode_h264_sample,
    "dense": encode_dense_sample,
    "copy": copy_sample,
}

_CONTAINER_SUFFIX = {"mov": "mp4", "matroska": "webm", "avi": "avi"}
_COMMON_CODECS = {"h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "mjpeg"}


def _encode(source: Path, record: VideoRecord, work: Path, choice: FrameChoice, keyframe_every: int, crf: int):
    media = work / "media.mp4"
    video = encode_h264(source, media, choice, keyframe_every, crf, record.start_seconds, record.end_seconds)
    return EncodedSample(
        "mp4", media, video.num_frames, video.fps, video.width, video.height, details=_details_of(video)
    )


def _why_not_copy(info: VideoInfo, record: VideoRecord) -> str | None:
    if record.start_seconds is not None or record.end_seconds is not None:
        return "only a part of the file is wanted"
    if info.container not in _CONTAINER_SUFFIX:
        return f"container {info.container}"
    if info.codec not in _COMMON_CODECS:
        return f"codec {info.codec}"
    if info.pixel_format not in ("yuv420p", "yuvj420p"):
        return f"pixel format {info.pixel_format}"
    return None


def _details_of(video: EncodedVideo) -> dict[str, Any]:
    return _details(video.source, video.source_num_frames_decoded)


def _details(info: VideoInfo, num_frames_decoded: int) -> dict[str, Any]:
    return {
        "source_container": info.container,
        "source_codec": info.codec,
        "source_pixel_format": info.pixel_format,
        "source_width": info.width,
        "source_height": info.height,
        "source_pixel_aspect": str(info.pixel_aspect),
        "source_fps": info.fps,
        "source_num_frames_decoded": num_frames_decoded,
        "source_duration_seconds": round(info.duration_seconds, 6),
    }
