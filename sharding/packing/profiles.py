"""Profiles: in what form the frames of a video are stored. A profile is a function; PROFILES names them all."""

import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sharding.errors import MediaError
from sharding.manifest import KEYFRAME_INTERVALS
from sharding.records import VideoRecord
from sharding.video.container import VideoInfo
from sharding.video.encode import (
    EncodedVideo,
    FrameChoice,
    Observed,
    choose_frames,
    encode_h264,
    encode_jpegs,
    notes_of_part,
    offsets_array,
)
from sharding.video.frame_folder import FrameFolder, open_jpeg
from sharding.video.frame_packets import index_packets
from sharding.video.orientation import orientation_of
from sharding.video.source import VideoFile, is_folder, open_video_file


@dataclass(frozen=True)
class ProfileSettings:
    """How samples are encoded; all of it shapes the bytes."""

    profile: str = "h264"
    max_frames: int = 64
    short_side: int = 256
    quality: int = 23
    decode_check: bool = True
    frame_template: str | None = None


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
    """int32 (num_frames + 1): where in the media each frame begins; None if the profile does not say."""
    details: dict[str, Any] = field(default_factory=dict)
    """Of the source and of what was done, for KEY.json."""
    codec_parameters: str = ""
    """Parameter sets of the codec in hexadecimal, if the frames are packets of a video."""
    num_distinct_frames: int | None = None
    """Fewer than num_frames where frames repeat, since the source's own times have gaps; None if none does."""

    @property
    def notes(self) -> str:
        """What is uncommon about it, for the table: words with commas between, none for most samples."""
        words = [word for name, word in _NOTES.items() if self.details.get(name)]
        if self.num_distinct_frames is not None:
            words.append(f"distinct_frames={self.num_distinct_frames}")
        return ",".join(words)


_NOTES = {
    "source_interlaced": "interlaced",
    "source_hdr": "hdr",
    "source_num_packets_before_keyframe": "begins_before_keyframe",
    "source_seconds_lacking": "ends_early",
    "reencoded": "reencoded",
    "kept_as_is": "kept_as_is",
}


def encode_sample(videos: Path, record: VideoRecord, settings: ProfileSettings, target: Path) -> EncodedSample:
    """Encode the video of `record` under a profile, into the file `target` if one is needed. Raises MediaError."""
    start, end = record.start_seconds or 0.0, record.end_seconds
    if not 0 <= start < np.inf or (end is not None and not start < end < np.inf):
        to = "its end" if end is None else f"{end:g} s"
        raise MediaError("label", f"it is listed from {start:g} s to {to}: a part ends after it begins, at 0 or later")
    encode = inspect_sample if settings.profile == INSPECT else PROFILES[settings.profile].encode
    return encode(videos / record.source, record, settings, target)


def encode_h264_sample(path: Path, record: VideoRecord, settings: ProfileSettings, target: Path) -> EncodedSample:
    """Store at most max_frames evenly spaced frames, short side at most short_side, every frame a keyframe."""
    choice = _choice(record, settings, settings.max_frames, settings.short_side)
    return _indexed_mp4(path, target, choice, settings)


def encode_dense_sample(path: Path, record: VideoRecord, settings: ProfileSettings, target: Path) -> EncodedSample:
    """Store every frame, short side at most short_side, a keyframe every 8 frames."""
    choice = _choice(record, settings, None, settings.short_side)
    return _indexed_mp4(path, target, choice, settings)


def encode_jpeg_sample(path: Path, record: VideoRecord, settings: ProfileSettings, target: Path) -> EncodedSample:
    """Store the frames of h264 as a row of JPEGs. JPEG files small enough go in as they are."""
    choice = _choice(record, settings, settings.max_frames, settings.short_side)
    if is_folder(path):
        sample = _join_jpegs(path, choice, settings.decode_check, target)
        if sample is not None:
            return sample
    video, offsets = encode_jpegs(path, target, choice, settings.quality)
    return _sample("jpgs", target, video, offsets)


def copy_sample(path: Path, record: VideoRecord, settings: ProfileSettings, target: Path) -> EncodedSample:
    """Store the original bytes, after decoding every frame; encode again what training decoders would misread.

    The reason is then given as `reencoded` in KEY.json. JPEG files are joined to a row.
    """
    if is_folder(path):
        sample = _join_jpegs(path, _choice(record, settings, None, None), settings.decode_check, target)
        reason = "frames of several sizes or kinds" if sample is None else ""
    else:
        with open_video_file(path) as source:
            found = _inspect(source, record, settings.decode_check)
            reason, info, fps = found.reason, source.info, source.fps
        details = _details(info, found.num_frames, found.notes)
        suffix = _copy_suffix(info)
        sample = EncodedSample(suffix, path, found.num_frames, fps, info.width, info.height, details=details)
    if reason or sample is None:
        video = encode_h264(path, target, _choice(record, settings, None, None), keyframe_every=8, crf=18)
        sample = _mp4(video, target)
        sample.details["reencoded"] = reason
    return sample


def inspect_sample(path: Path, record: VideoRecord, settings: ProfileSettings, target: Path) -> EncodedSample:
    """Decode every frame of a video that stays where it is, and describe it; `target` is not written.

    An H.264 file without B-frames and sound, of keyframes alone, gets the index of frames that ours have.
    """
    with open_video_file(path, hold_packets=True) as source:
        found = _inspect(source, record, decode_check=True)
        info, fps = source.info, source.fps
    if found.changes_size:
        raise MediaError("decode", "its frames change their size, so that no batch can be made of them")
    offsets, parameters = None, b""
    if not found.reason and found.all_keyframes and (info.container, info.codec) == ("mov", "h264"):
        with contextlib.suppress(MediaError):  # its packets do not follow each other
            offsets, parameters = index_packets(path, keyframe_interval=1)
    kept_as_is = {"kept_as_is": found.reason} if found.reason else {}
    width, height = (info.height, info.width) if found.swaps_sides else (info.width, info.height)
    details = _details(info, found.num_frames, found.notes | kept_as_is)
    sample = EncodedSample(_copy_suffix(info), path, found.num_frames, fps, width, height, offsets, details)
    return replace(sample, codec_parameters=parameters.hex())


INSPECT = "inspect"
"""Name of no profile that can be chosen, but of `inspect_sample`."""


@dataclass(frozen=True)
class Profile:
    """A way to store frames."""

    encode: Callable[[Path, VideoRecord, ProfileSettings, Path], EncodedSample]
    quality: tuple[int, int, int] | None
    """The minimum, the maximum and the default value of the option, if the profile has it."""


PROFILES = {
    "h264": Profile(encode_h264_sample, (0, 51, 23)),
    "jpeg": Profile(encode_jpeg_sample, (1, 95, 85)),
    "dense": Profile(encode_dense_sample, (0, 51, 23)),
    "copy": Profile(copy_sample, None),
}

_COPIED_CODECS = {"h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "mjpeg"}
_COPIED_CONTAINERS = ("mov", "matroska", "avi")


def _choice(
    record: VideoRecord, settings: ProfileSettings, max_frames: int | None, short_side: int | None
) -> FrameChoice:
    return FrameChoice(max_frames, short_side, record.start_seconds, record.end_seconds, settings.frame_template)


def _join_jpegs(path: Path, choice: FrameChoice, decode_check: bool, target: Path) -> EncodedSample | None:
    """Join JPEG files as they are; return None if they must be decoded and encoded to fit the profile or each other."""
    folder = FrameFolder(path, choice.frame_template)
    files = folder.chosen_files(choice.start_seconds, choice.end_seconds)
    if not files:
        raise MediaError("decode", "not one frame in it, or none between start and end")
    chosen = choose_frames(np.arange(len(files), dtype=float), choice.max_frames)
    width, height = folder.info.width, folder.info.height
    if folder.info.codec != "mjpeg" or (choice.short_side and min(width, height) > choice.short_side):
        return None
    offsets = [0]
    with target.open("wb") as output:
        for number in chosen:
            with open_jpeg(files[number], files[number].name, decode_check) as image:
                if image.size != (width, height) or image.mode != "RGB" or image.getexif().get(0x0112, 1) != 1:
                    return None
            with files[number].open("rb") as file:
                shutil.copyfileobj(file, output)
            offsets.append(output.tell())
    fps = folder.info.fps * len(chosen) / len(files)
    notes = notes_of_part(folder)
    video = EncodedVideo(len(chosen), fps, width, height, folder.info, len(files), len(chosen), notes)
    return _sample("jpgs", target, video, offsets_array(offsets))


@dataclass(frozen=True)
class _Inspection:
    """What decoding showed of a file that may be kept as it is."""

    reason: str
    """Why `copy` does not keep it; "" if it does."""
    num_frames: int
    notes: dict[str, Any]
    swaps_sides: bool
    """Whether frames are to be turned by 90 or 270 degrees."""
    changes_size: bool
    all_keyframes: bool


def _inspect(source: VideoFile, record: VideoRecord, decode_check: bool) -> _Inspection:
    """Decode a file. Without `decode_check` only its first frame: how frames are to be turned is known no earlier."""
    info = source.info
    num_listed, num_packets = len(source.times()), source.num_packets()
    reason = _why_not_copy(info, record)
    num_frames, observed, swaps_sides, changes_size, all_keyframes = 0, Observed(), False, False, True
    for time, frame in source.frames():
        num_frames += 1
        observed.note(frame)
        orientation = orientation_of(frame)
        swaps_sides, all_keyframes = orientation.swaps_sides, all_keyframes and frame.key_frame
        if orientation:
            reason = reason or str(orientation)
        if (frame.width, frame.height) != (info.width, info.height):
            changes_size, reason = True, reason or "its frames change their size"
        if time < 0 or (frame.pts or 0) < 0:
            reason = reason or "negative timestamps"
        if not decode_check:
            num_frames = num_listed
            break
    if not num_frames:
        raise MediaError("decode", "not one frame in it")
    if num_frames != num_packets:
        reason = reason or f"{num_packets} packets gave {num_frames} frames"
    return _Inspection(reason, num_frames, observed.notes(), swaps_sides, changes_size, all_keyframes)


def _why_not_copy(info: VideoInfo, record: VideoRecord) -> str:
    if record.start_seconds is not None or record.end_seconds is not None:
        return "only a part of the file is wanted"
    if info.container not in _COPIED_CONTAINERS:
        return f"container {info.container}"
    if info.codec not in _COPIED_CODECS:
        return f"codec {info.codec}"
    if info.pixel_aspect != 1:
        return f"pixels that are not square but {info.pixel_aspect}"
    if info.pixel_format not in ("yuv420p", "yuvj420p"):
        return f"pixel format {info.pixel_format}"
    return ""


def _copy_suffix(info: VideoInfo) -> str:
    if info.container == "matroska":
        return "webm" if info.codec in ("vp8", "vp9", "av1") else "mkv"
    return {"mov": "mp4"}.get(info.container, info.container)


def _indexed_mp4(path: Path, target: Path, choice: FrameChoice, settings: ProfileSettings) -> EncodedSample:
    interval = KEYFRAME_INTERVALS[settings.profile]
    sample = _mp4(encode_h264(path, target, choice, keyframe_every=interval, crf=settings.quality), target)
    offsets, parameters = index_packets(target, interval)
    return replace(sample, offsets=offsets, codec_parameters=parameters.hex())


def _mp4(video: EncodedVideo, media: Path) -> EncodedSample:
    return _sample("mp4", media, video, None)


def _sample(suffix: str, media: Path, video: EncodedVideo, offsets: np.ndarray | None) -> EncodedSample:
    return EncodedSample(
        suffix,
        media,
        video.num_frames,
        video.fps,
        video.width,
        video.height,
        offsets,
        details=_details(video.source, video.source_num_frames_decoded, video.notes),
        num_distinct_frames=video.num_distinct_frames if video.num_distinct_frames < video.num_frames else None,
    )


def _details(info: VideoInfo, num_frames_decoded: int, notes: Mapping[str, Any]) -> dict[str, Any]:
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
        **notes,
    }
