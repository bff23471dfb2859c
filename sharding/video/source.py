"""What is to be packed, as a stream of frames with times: a video file, or a folder of numbered pictures.

with open_source(path) as source:
    source.info, source.times(), source.frames()
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from sharding.errors import MediaError
from sharding.video.container import LIBAV_ERRORS, has_frame_times, open_video, reason
from sharding.video.container import video_info as read_info
from sharding.video.decode import decode_packets
from sharding.video.frame_folder import FrameFolder
from sharding.video.packets import HeldPackets, PacketScan, is_hidden, scan_packets, sound_packets
from sharding.video.part import EPSILON, cut_part
from sharding.video.truncation import find_damage

_SEEK_BACK = (0.0, 2.0, 10.0, 60.0)  # seconds before a part at which a keyframe is looked for, before the beginning


class VideoFile:
    """A video file, opened again for each pass: not every container can be taken back to its beginning."""

    def __init__(self, path: Path, container, stream, hold_packets: bool = False):
        """Take a container just opened, which serves the first pass and must stay open until then.

        With `hold_packets` it must stay open, since one pass serves both the times and the frames of the complete file,
        as far as its packets fit into memory.
        """
        self.path = path
        self.info = read_info(container, stream)
        timed = has_frame_times(container) and stream.start_time is not None
        self._first = float(stream.start_time * stream.time_base) if timed else 0.0
        self._fresh = (container, stream)
        self._stream, self._held = stream, HeldPackets() if hold_packets else None
        self._reads_parts = timed and self.info.container != "mpegts"
        """Whether a part is read alone. A transport stream is read to its end first: its times may begin again."""
        self.seconds_lacking = 0.0
        """How much of the part [start, end) that was asked for is beyond the end of the video."""
        self._scanned: PacketScan | None = None
        self._num_unshown = 0

    def times(self, start: float | None = None, end: float | None = None) -> np.ndarray:
        """Return the seconds from the beginning at which frames of [start, end) are shown, sorted; from packets alone.

        Raises MediaError("decode") if the file is damaged or cut off, or ends before the middle of the part.
        """
        is_part = bool(start) or end is not None
        damage = find_damage(self.path, thorough=not is_part)
        if damage:
            raise MediaError("decode", damage)
        if is_part and self._reads_parts:
            times = self._times_of_part(start, end)
            if times is not None:
                part, self.seconds_lacking = cut_part(times, start, end, self.fps)
                return part
            self._reads_parts = False
        self._num_unshown = self._scan().num_unshown
        part, self.seconds_lacking = cut_part(self._scan().times, start, end, self.fps)
        return part

    def frames(self, start: float | None = None, end: float | None = None) -> Iterator[tuple[float, Any]]:
        """Yield (seconds, frame) of every frame of [start, end), decoded from the keyframe before it, in order."""
        is_part = bool(start) or end is not None
        scan = None if is_part and self._reads_parts else self._scan()
        if not is_part and self._held is not None and self._held.packets:
            packets, self._held = self._held.packets, None
            yield from self._with_times(decode_packets(self._stream, packets), self._stream.time_base, scan)
            return
        may_seek = bool(start) and (scan is None or (scan.is_timed and not scan.is_joined))
        for back in _ways_back(start if may_seek else None):
            with self._opened(start, back) as (stream, packets):
                decoded = self._with_times(decode_packets(stream, packets), stream.time_base, scan)
                try:
                    first = next(decoded, None)
                except MediaError:
                    if back is None:
                        raise
                    continue
                if first is None or (back is not None and first[0] > (start or 0.0) + EPSILON):
                    continue
                for time, frame in itertools.chain([first], decoded):
                    if end is not None and time >= end - EPSILON:
                        return
                    if start is None or time >= start - EPSILON:
                        yield time, frame
                return

    def check_number(self, expected: int, shown: int, interlaced: bool) -> None:
        """Raise MediaError("decode") if `expected` packets cannot be the reason for only `shown` frames.

        Fewer frames are right where packets are hidden, or are shown before the first keyframe but decoded after it, or
        hold a field each, half an interlaced frame.
        """
        fields_alone = interlaced and abs(expected - 2 * shown) <= 1 + self._num_unshown
        if expected - shown > self._num_unshown and not fields_alone:
            raise MediaError("decode", f"{expected} packets of its video gave only {shown} frames; it is damaged")
        if shown > expected and self._scanned and self._scanned.num_discarded:
            raise MediaError("decode", f"{expected} frames of it are to be shown, but its decoder gave {shown}")

    @property
    def fps(self) -> float:
        """Frames per second, by the packets where the header speaks of something else."""
        return self._scanned.fps if self._scanned else self.info.fps

    @property
    def num_before_keyframe(self) -> int:
        """How many packets at the beginning cannot be decoded, for want of a keyframe before them."""
        return self._scanned.num_before_keyframe if self._scanned else 0

    def num_packets(self) -> int:
        """Return how many packets the file holds for its video, those among them that are never shown."""
        scan = self._scan()
        return len(scan.times) + scan.num_before_keyframe + scan.num_discarded

    def _scan(self) -> PacketScan:
        if self._scanned is None:
            with self._open() as (container, stream):
                self._scanned = scan_packets(container, stream, self.info, self._held)
        return self._scanned

    def _times_of_part(self, start: float | None, end: float | None) -> np.ndarray | None:
        """Return the times of all packets from a keyframe up to `start` to one after `end`; None if some have none."""
        for back in _ways_back(start):
            with self._opened(start, back) as (stream, packets):
                times, first_key, self._num_unshown = [], None, 0
                for packet in sound_packets(stream, packets):
                    if packet.size == 0 or (first_key is None and not packet.is_keyframe):
                        continue
                    if packet.pts is None:
                        return None
                    is_early = first_key is not None and packet.pts <= first_key
                    first_key = packet.pts if first_key is None else first_key
                    if packet.is_discard:
                        continue
                    self._num_unshown += is_early or is_hidden(self.info.codec, packet)
                    times.append(float(packet.pts * stream.time_base) - self._first)
                    decoded = None if packet.dts is None else float(packet.dts * stream.time_base) - self._first
                    if end is not None and decoded is not None and decoded > end:
                        break
                if times:
                    return np.sort(np.array(times, np.float64))
        return np.empty(0)

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        """Yield the container, at its beginning, and the stream."""
        if self._fresh:
            fresh, self._fresh = self._fresh, None
            yield fresh
            return
        with open_video(self.path) as opened:
            yield opened

    @contextmanager
    def _opened(self, start: float | None, back: float | None) -> Iterator[tuple[Any, Any]]:
        """Yield the stream and its packets from a keyframe up to `start`; none if that is not where seeking leads.

        With `back` None, from the beginning.
        """
        with self._open() as (container, stream):
            if back is None:
                yield stream, container.demux(stream)
                return
            assert start is not None, "there is a way back from a beginning alone"
            base = stream.time_base
            first = None
            with suppress(*LIBAV_ERRORS):
                container.seek(int((self._first + start - back) / base), stream=stream, backward=True)
                packets = container.demux(stream)
                first = next((packet for packet in packets if packet.is_keyframe and packet.size), None)
            if first is None or first.pts is None or float(first.pts * base) - self._first > start + EPSILON:
                yield stream, iter(())
            else:
                yield stream, itertools.chain([first], packets)

    def _with_times(self, frames: Iterator[Any], base: Any, scan: PacketScan | None) -> Iterator[tuple[float, Any]]:
        """Yield (seconds, frame): by the file's times, a joined recording after the one before; else by counting."""
        if scan is not None and not scan.is_timed:
            yield from ((number / scan.fps, frame) for number, frame in enumerate(frames))
            return
        shift, last = 0.0, -np.inf
        for frame in frames:
            if frame.pts is None:
                time = last + 1 / self.info.fps if np.isfinite(last) else 0.0
            else:
                time = float(frame.pts * base) - self._first + shift
                if scan is not None and scan.is_joined and time < last:
                    shift += last + 1 / self.info.fps - time
                    time = last + 1 / self.info.fps
            last = time
            yield time, frame


def _ways_back(start: float | None) -> list[float | None]:
    """Return how many seconds before `start` to seek to, one after the other; None: decode from the beginning."""
    return [back for back in _SEEK_BACK if start and back < start] + [None]


@contextmanager
def open_source(path: Path, frame_template: str | None = None) -> Iterator[VideoFile | FrameFolder]:
    """Open a video file or a folder of frames. Raises MediaError("missing" or "open")."""
    if is_folder(path):
        yield FrameFolder(path, frame_template)
        return
    with open_video_file(path) as source:
        yield source


@contextmanager
def open_video_file(path: Path, hold_packets: bool = False) -> Iterator[VideoFile]:
    """Open a video file. Raises MediaError("missing" or "open")."""
    with open_video(path) as (container, stream):
        yield VideoFile(path, container, stream, hold_packets)


def is_folder(path: Path) -> bool:
    """Return whether a video is a folder of frames. Raises MediaError("open") if that cannot be found out."""
    try:
        return path.is_dir()
    except OSError as error:
        raise MediaError("open", reason(error)) from error
