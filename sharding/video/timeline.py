"""When each frame of a file is shown and which packets hold it, found in one pass over the packets of any file.

Unlike packing, which refuses a damaged file, this goes on behind the damage and says where it is.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sharding.errors import MediaError
from sharding.video.container import LIBAV_ERRORS, VideoInfo, has_frame_times, open_video, reason, video_info
from sharding.video.packets import is_hidden
from sharding.video.truncation import find_damage

_MOST_ERRORS = 1000
"""Errors of a demuxer without a packet between them, after which the file is taken to be at its end."""


@dataclass(frozen=True)
class Loss:
    """A part [start, end) of a video that cannot be seen, in seconds from its beginning."""

    start: float
    end: float
    reason: str

    def __str__(self) -> str:
        return f"{self.start:.1f} to {self.end:.1f} s: {self.reason}"


@dataclass(frozen=True)
class Timeline:
    """The frames of a file in order of showing, and its packets in order of decoding."""

    info: VideoInfo
    times: np.ndarray
    """(N,) float64: when frame i is shown, in seconds from the beginning, sorted."""
    numbers: np.ndarray
    """(P,) int32: the frame that packet p holds; -1 for what is never shown."""
    is_keyframe: np.ndarray
    """(P,) bool: whether decoding can begin at packet p."""
    times_in_file: bool
    """Whether `times` are the file's own; else frame i is at i / fps, and packets do not say which frame they hold."""
    is_damaged: np.ndarray
    """(P,) bool: whether packet p is damaged, or something is lacking before it."""
    losses: tuple[Loss, ...] = ()
    """Parts that the container itself lacks."""

    @cached_property
    def keyframes(self) -> np.ndarray:
        """The packets at which decoding can begin."""
        return np.flatnonzero(self.is_keyframe)

    def next_keyframe(self, packet: int) -> int:
        """Return the first keyframe behind a packet; the number of packets if there is none."""
        keys = self.keyframes
        following = int(np.searchsorted(keys, packet, side="right"))
        return int(keys[following]) if following < len(keys) else len(self.numbers)

    def packets_of_frames(self) -> np.ndarray:
        """Return for each frame the packet that holds it, (N,) int64."""
        held = np.flatnonzero(self.numbers >= 0)
        packets = np.empty(len(held), np.int64)
        packets[self.numbers[held]] = held
        return packets

    @property
    def frame_seconds(self) -> float:
        """How long a frame is usually shown."""
        if len(self.times) < 2 or self.times[-1] == self.times[0]:
            return 1 / self.info.fps
        usual = float(np.median(np.diff(self.times)))
        # 0 where frames are shown for less than the container can say.
        return usual or float(self.times[-1] - self.times[0]) / (len(self.times) - 1)

    @property
    def duration(self) -> float:
        """The end of the last frame, in seconds from the beginning."""
        return float(self.times[-1]) + self.frame_seconds if len(self.times) else 0.0


def read_timeline(path: Path) -> Timeline:
    """Read the packets of a file from beginning to end, without decoding more than a keyframe.

    Raises:
        MediaError: "missing" or "open" for what is no video, "decode" if it holds not one frame.
    """
    with open_video(path) as (container, stream), open_video(path) as (_, other):
        info = video_info(container, stream)
        scan = _Scan(stream, info, has_frame_times(container), other.codec_context)
        for packet in packets_of(container, stream, scan.note_error):
            scan.note(packet)
    timeline = scan.result(find_damage(path, thorough=False))
    if not len(timeline.times):
        raise MediaError("decode", "not one frame in it")
    return timeline


def packets_of(container, stream, note_error=lambda error: None) -> Iterator[Any]:
    """Yield the packets of a stream that are not empty, and go on behind what the demuxer cannot read.

    Args:
        note_error: called with each error of the demuxer.
    """
    num_errors = 0
    while num_errors < _MOST_ERRORS:
        try:
            for packet in container.demux(stream):
                if packet.size:
                    num_errors = 0
                    yield packet
            return
        except LIBAV_ERRORS as error:
            num_errors += 1
            note_error(error)


class _Scan:
    """Collects what is to be known of the packets while they pass."""

    def __init__(self, stream, info: VideoInfo, has_times: bool, context: Any):
        self.info, self.context, self.base = info, context, stream.time_base
        self.is_timed = self.has_times = has_times
        self.first = float((stream.start_time or 0) * self.base) if self.base else 0.0
        self.seconds, self.shown, self.keys, self.damaged = array("d"), array("b"), array("b"), array("b")
        self.first_key: int | None = None
        self.shift, self.last_decoded = 0.0, None
        """Seconds by which a recording that was joined to another is shown later; and the last time of decoding."""
        self.end = 0.0
        self.error = ""
        self.holes: list[tuple[float, float, str]] = []
        self.clean: bool | None = None

    def note_error(self, error: BaseException) -> None:
        self.error = self.error or reason(error)

    def note(self, packet) -> None:
        is_key = bool(packet.is_keyframe)
        if is_key and self.first_key is not None and self.clean is None:
            self.clean = _decodes_alone(self.context, packet)
        if self.first_key is None and is_key:
            self.first_key = packet.pts if packet.pts is not None else 0
        shown = self.first_key is not None and not packet.is_discard and not is_hidden(self.info.codec, packet)
        if packet.pts is None:
            self.has_times = self.has_times and not shown
            seconds = 0.0
        else:
            self._join(packet, is_key)
            seconds = float(packet.pts * self.base) - self.first + self.shift
            # Before the first keyframe in time but after it in the file: it refers to what is not there.
            is_early = self.is_timed and self.shift == 0 and packet.pts < (self.first_key or 0)
            shown = shown and not is_early
        damaged = bool(self.error or packet.is_corrupt) and self.first_key is not None
        if damaged and seconds - self.end > 2 / self.info.fps:
            self.holes.append((self.end, seconds, self.error or "damaged packets"))
        self.error = ""
        if shown:
            self.end = max(self.end, seconds)
        self.seconds.append(seconds)
        self.shown.append(shown)
        self.keys.append(is_key)
        self.damaged.append(damaged)

    def _join(self, packet, is_key: bool) -> None:
        """Let a recording whose times begin again follow the one before it."""
        decoded = packet.dts
        if decoded is None:
            return
        if is_key and self.last_decoded is not None and decoded < self.last_decoded:
            usual = 1 / self.info.fps
            self.shift = self.end + usual - (float(packet.pts * self.base) - self.first)
        self.last_decoded = decoded

    def result(self, damage: str) -> Timeline:
        shown, keys, damaged = (_flags(values) for values in (self.shown, self.keys, self.damaged))
        places = np.flatnonzero(shown)
        numbers = np.full(len(shown), -1, np.int32)
        if self.has_times:
            seconds = np.array(self.seconds, np.float64)[places]
            order = np.argsort(seconds, kind="stable")
            numbers[places[order]] = np.arange(len(places))
            times = seconds[order]
        else:
            numbers[places] = np.arange(len(places))
            times = np.arange(len(places)) / self.info.fps
        if self.clean is False:  # such as pictures renewed piece by piece: only the first is a keyframe
            keys &= np.cumsum(keys) == 1
        losses = [Loss(*hole) for hole in self.holes] if self.has_times else []
        end = float(times[-1]) if len(times) else 0.0
        if self.error or damage:
            losses.append(Loss(end, end, damage or self.error))
        return Timeline(self.info, times, numbers, keys, self.has_times, damaged, tuple(losses))


def _flags(values: array) -> np.ndarray:
    return np.array(values, np.int8).astype(bool)


def _decodes_alone(context, packet) -> bool:
    """Return whether a keyframe gives a sound frame to a decoder that has seen nothing before it."""
    try:
        frames = [*context.decode(packet), *context.decode(None)]
    except LIBAV_ERRORS:
        return True  # damaged, which says nothing of the others
    return not any(frame.is_corrupt for frame in frames)
