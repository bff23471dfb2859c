"""What is to be packed, as a stream of frames with times: a video file, or a folder of numbered JPEG files.

with open_source(path) as source:
    source.info, source.times(), source.frames()
"""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from PIL import Image

from sharding.errors import MediaError
from sharding.video.decode import LIBAV_ERRORS, VideoInfo, decode_all, has_frame_times, open_video, reason
from sharding.video.decode import video_info as read_info
from sharding.video.truncation import missing_bytes

FOLDER_FPS = 12.0  # a folder of frames has no rate; it is that of Something-Something v1
_EPSILON = 1e-6  # seconds; times in files are rounded


class VideoFile:
    """An open video file."""

    def __init__(self, container, stream, path: Path):
        self.info = read_info(container, stream)
        self.path = path
        self._container, self._stream = container, stream
        self._timed = has_frame_times(container)
        self._first = float((stream.start_time or 0) * stream.time_base) if stream.time_base else 0.0

    def times(self, start: float | None = None, end: float | None = None) -> np.ndarray:
        """Seconds from the beginning at which the frames of [start, end) are shown, sorted; from the packets alone.

        Raises MediaError("decode") if the file is cut off.
        """
        self.check_whole()
        times: list[float] = []
        time_base = self._stream.time_base
        try:
            if self._timed and start:
                self._container.seek(int((self._first + start) / time_base), stream=self._stream, backward=True)
            for packet in self._container.demux(self._stream):
                if packet.size == 0 or packet.is_discard:
                    continue
                if not self._timed or packet.pts is None:
                    times.append(len(times) / self.info.fps)
                    continue
                times.append(float(packet.pts * time_base) - self._first)
                if end is not None and packet.dts is not None and packet.dts * time_base - self._first > end:
                    break
        except LIBAV_ERRORS as error:
            raise MediaError("decode", reason(error)) from error
        return _between(np.sort(np.array(times, np.float64)), start, end)

    def check_whole(self) -> None:
        """Raises MediaError("decode") if the file is cut off."""
        lacking = missing_bytes(self.path)
        if lacking:
            raise MediaError("decode", f"the file is cut off: it lacks {lacking} bytes by its own account")

    def num_packets(self) -> int:
        """How many packets of the stream the file holds: as its index says, if it has a whole one; else counted."""
        indexed = len(self._stream.index_entries)
        return indexed if indexed and indexed == self.info.num_frames_from_header else len(self.times())

    def frames(self, start: float | None = None, end: float | None = None) -> Iterator[tuple[float, Any]]:
        """(seconds, frame) of every frame of [start, end), decoded from the keyframe before it, in order."""
        time_base = self._stream.time_base
        time = -1 / self.info.fps
        for frame in decode_all(self._container, self._stream, start if self._timed else None):
            if self._timed and frame.pts is not None:
                time = float(frame.pts * time_base) - self._first
            else:
                time += 1 / self.info.fps
            if end is not None and time >= end - _EPSILON:
                break
            if start is None or time >= start - _EPSILON:
                yield time, frame


class FrameFolder:
    """A folder of JPEG files, one a frame, in the order of their numbers."""

    def __init__(self, path: Path):
        self.path = path
        self.files = sorted(
            (file for file in path.iterdir() if file.suffix.lower() in (".jpg", ".jpeg") and file.name[0] != "."),
            key=lambda file: (int(file.stem) if file.stem.isdecimal() else -1, file.name),
        )
        if not self.files:
            raise MediaError("open", "a directory without JPEG files, not a video")
        with open_jpeg(self.files[0], self.files[0].name, decode=False) as image:
            width, height = image.size
        self.info = VideoInfo(
            container="folder",
            codec="mjpeg",
            pixel_format="",
            width=width,
            height=height,
            pixel_aspect=Fraction(1),
            fps=FOLDER_FPS,
            num_frames_from_header=len(self.files),
            duration_seconds=len(self.files) / FOLDER_FPS,
        )

    def times(self, start: float | None = None, end: float | None = None) -> np.ndarray:
        return _between(np.arange(len(self.files)) / FOLDER_FPS, start, end)

    def chosen_files(self, start: float | None = None, end: float | None = None) -> list[Path]:
        """The files of [start, end)."""
        times = np.arange(len(self.files)) / FOLDER_FPS
        kept = np.isin(times, _between(times, start, end))
        return [file for file, keep in zip(self.files, kept) if keep]

    def frames(self, start: float | None = None, end: float | None = None) -> Iterator[tuple[float, Any]]:
        for time, file in zip(self.times(start, end), self.chosen_files(start, end)):
            with open_jpeg(file, file.name) as image:
                yield float(time), av.VideoFrame.from_ndarray(np.asarray(image.convert("RGB")), format="rgb24")


@contextmanager
def open_source(path: Path) -> Iterator[VideoFile | FrameFolder]:
    """Raises MediaError("missing" or "open")."""
    if is_folder(path):
        yield FrameFolder(path)
        return
    with open_video_file(path) as source:
        yield source


@contextmanager
def open_video_file(path: Path) -> Iterator[VideoFile]:
    """Raises MediaError("missing" or "open")."""
    with open_video(path) as (container, stream):
        yield VideoFile(container, stream, path)


def is_folder(path: Path) -> bool:
    """Raises MediaError("open") if that cannot be found out."""
    try:
        return path.is_dir()
    except OSError as error:
        raise MediaError("open", reason(error)) from error


@contextmanager
def open_jpeg(file: Path | BinaryIO, name: str, decode: bool = True) -> Iterator[Image.Image]:
    """A JPEG, decoded whole if asked. Raises MediaError("decode"), with its name, if it is damaged or no JPEG."""
    try:
        with Image.open(file, formats=("JPEG",)) as image:
            if decode:
                image.load()
            yield image
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise MediaError("decode", f"{name}: {reason(error)}") from error


def _between(times: np.ndarray, start: float | None, end: float | None) -> np.ndarray:
    low = -np.inf if start is None else start - _EPSILON
    high = np.inf if end is None else end - _EPSILON
    return times[(times >= low) & (times < high)]
