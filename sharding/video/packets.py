"""What the packets of a video say before anything is decoded: which frames are to come, when, and what is lacking."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from sharding.errors import MediaError
from sharding.video.container import LIBAV_ERRORS, VideoInfo, format_name, has_frame_times, reason

_SPLICE_SECONDS = 10.0  # a longer jump in a transport stream is another recording, not a loss
_END_TOLERANCE = 0.5  # seconds; headers are rounded, and sound ends a little after or before the pictures
_GAP_TOLERANCE = 0.25  # seconds
_MAX_NOT_CODED_BYTES = 19  # of an MPEG-4 picture that means "as before"; FFmpeg's MAX_NVOP_SIZE


@dataclass(frozen=True)
class PacketScan:
    """The packets of one stream, from its beginning to its end."""

    times: np.ndarray
    """Seconds from the stream's beginning at which the frames are shown, sorted; float64."""
    fps: float
    """Frames per second that the packets have where they have no times."""
    is_timed: bool
    """Whether `times` are the file's own; else frame i is at i / fps."""
    is_joined: bool
    """Whether the times begin again somewhere, as where recordings were joined."""
    num_unshown: int
    """Packets that may give no frame: hidden ones, and those shown before the first keyframe but decoded after it."""
    num_before_keyframe: int
    """Packets before the first keyframe, which are not among `times`."""
    num_discarded: int
    """Packets that the file itself says are not to be shown, which are not among `times` either."""


class HeldPackets:
    """The packets of a stream, kept for decoding it without reading it again; none if they are too large together."""

    def __init__(self, max_bytes: int = 64 << 20):
        self.packets: list[Any] = []
        self._bytes_left = max_bytes

    def add(self, packet) -> None:
        self._bytes_left -= packet.size
        if self._bytes_left >= 0:
            self.packets.append(packet)
        else:
            self.packets.clear()


def scan_packets(container, stream, info: VideoInfo, held: "HeldPackets | None" = None) -> PacketScan:
    """Read a container just opened from beginning to end, without decoding; `held` takes the packets of the stream.

    Raises MediaError("decode") for damaged packets, and where the demuxer came to an end before the file's.
    """
    reader = _Reader(container, stream, info)
    for packet in sound_packets(stream, reader.packets_of_stream()):
        if held is not None:
            held.add(packet)
    reader.check_end()
    return reader.result()


class _Reader:
    """Collects what is to be known of all packets while they pass."""

    def __init__(self, container, stream, info: VideoInfo):
        self.container, self.stream, self.info = container, stream, info
        self.first = float((stream.start_time or 0) * stream.time_base) if stream.time_base else 0.0
        self.shown: list[int | None] = []
        self.decoded: list[int | None] = []
        self.starts = [0]
        """Where in `shown` the times begin again."""
        self.first_key: int | None = None
        self.num_read = self.num_before_keyframe = self.num_unshown = self.num_discarded = 0
        self.started = False
        self.is_fragmented = format_name(container) == "mov" and not info.num_frames_from_header
        self.expected: int | None = None
        """When the next packet of a fragmented file is to be decoded."""
        self.end_of_all = self.end_of_video = -np.inf

    def packets_of_stream(self) -> Iterator[Any]:
        for packet in self.container.demux():
            if packet.pts is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                self.end_of_all = max(self.end_of_all, end)
            if packet.stream_index == self.stream.index:
                if packet.pts is not None:
                    self.end_of_video = max(self.end_of_video, end)
                self._note(packet)
                yield packet

    def _note(self, packet) -> None:
        if packet.dts is None and packet.size == 0:
            return
        self.num_read += 1
        if packet.size == 0:
            return
        if not self.started and not packet.is_keyframe:
            self.num_before_keyframe += 1
            return
        is_first = not self.started
        if is_first:
            self.started, self.first_key = True, packet.pts
        if packet.is_discard:
            self.num_discarded += 1
            return
        # Times before zero are lacking, or moved to zero, where a container cannot have them.
        is_early = self.first_key is not None and (packet.pts is None or packet.pts <= self.first_key)
        if (is_early and not is_first) or is_hidden(self.info.codec, packet):
            self.num_unshown += 1
        self._check_gap(packet)
        known = self.decoded[-1] if self.decoded else None
        if packet.is_keyframe and known is not None and packet.dts is not None and packet.dts < known:
            if format_name(self.container) == "mov":
                raise MediaError("decode", f"another file begins after frame {len(self.shown)}: its times begin again")
            self.starts.append(len(self.shown))
            self.first_key = packet.pts
        self.shown.append(packet.pts)
        self.decoded.append(packet.dts)

    def _check_gap(self, packet) -> None:
        """Raise MediaError("decode") where a fragment of an MP4 file begins later than the one before it ends.

        Each packet of MP4 says how long it is shown, so that a fragment in between is lacking.
        """
        if packet.dts is None or not self.is_fragmented:
            return
        gap = float((packet.dts - self.expected) * packet.time_base) if self.expected is not None else 0.0
        if gap > max(_GAP_TOLERANCE, 2 / self.info.fps):
            raise MediaError("decode", f"damaged: {gap:.2f} s are lacking before frame {len(self.shown)}")
        self.expected = packet.dts + (packet.duration or 0)

    def result(self) -> PacketScan:
        is_timed = has_frame_times(self.container) and None not in self.shown
        fps = self._fps()
        if is_timed:
            times = self._joined_times()
        else:
            times = np.arange(len(self.shown)) / fps
        return PacketScan(
            times=times,
            fps=fps,
            is_timed=is_timed,
            is_joined=is_timed and len(self.starts) > 1,
            num_unshown=self.num_unshown,
            num_before_keyframe=self.num_before_keyframe,
            num_discarded=self.num_discarded,
        )

    def _joined_times(self) -> np.ndarray:
        """Return the times of each recording sorted, each one a frame after the one before it."""
        base = self.stream.time_base
        seconds = np.array([float(pts * base) - self.first for pts in self.shown], np.float64)
        parts: list[np.ndarray] = []
        for part in np.split(seconds, self.starts[1:]):
            part = np.sort(part)
            if parts:
                part = part - part[0] + (parts[-1][-1] + 1 / self.info.fps)
            parts.append(part)
        return np.concatenate(parts)

    def _fps(self) -> float:
        """Return the header's, unless at most every second place of an AVI file holds a frame, as with B-frames."""
        decoded = [dts for dts in self.decoded if dts is not None]
        if format_name(self.container) != "avi" or len(decoded) < 2:
            return self.info.fps
        steps = self.info.fps * float(np.median(np.diff(decoded)) * self.stream.time_base)
        return self.info.fps / round(steps) if steps > 1.5 and abs(steps - round(steps)) < 1e-6 else self.info.fps

    def check_end(self) -> None:
        """Raise MediaError("decode") if the file says that more was to come than came."""
        kind = format_name(self.container)
        listed = len(self.stream.index_entries) if kind in ("mov", "avi") else 0
        if kind == "avi" and self.num_read > listed:  # an index that is damaged itself, or none
            listed = self.info.num_frames_from_header
        if self.num_read < listed:
            raise MediaError("decode", f"damaged: it lists {listed} frames, but only {self.num_read} can be read")
        declared, reached = self._declared_end(kind), self.end_of_all
        usual = 1 / self.info.fps
        gap = float(np.max(np.diff(np.sort([pts for pts in self.shown if pts is not None])), initial=0))
        tolerance = max(_END_TOLERANCE, 2 * usual, gap * float(self.stream.time_base or 0))
        if np.isfinite(reached) and max(reached, reached - self.first) + usual + tolerance < declared:
            raise MediaError(
                "decode",
                f"damaged or cut off: it lasts {declared:.2f} s by its own account, but ends at {reached:.2f} s",
            )

    def _declared_end(self, kind: str) -> float:
        """Return seconds; 0 where the container does not say, or where FFmpeg only estimates."""
        if kind == "matroska":
            return max(_seconds_of_tag(self.stream.metadata.get("DURATION", "")), (self.container.duration or 0) / 1e6)
        if kind in ("flv", "asf", "nut", "ogg"):
            return (self.container.duration or 0) / av.time_base
        if kind == "mov" and not self.info.num_frames_from_header and self.stream.duration:
            return float(self.stream.duration * self.stream.time_base)
        return 0.0


def sound_packets(stream, packets: Iterable[Any]) -> Iterator[Any]:
    """Yield the packets before the end of a stream. Raises MediaError("decode") at the first that is damaged.

    In a transport stream every gap in the numbers of its packets marks a frame, or the one before it, and where two
    recordings were joined there is such a gap although nothing is lacking. It is a joint if one of the next two frames
    is a keyframe, and both come right after what was before, or, the keyframe, at a time that no loss explains.
    """
    is_transport = format_name(stream.container) == "mpegts"
    usual = 1 / float(stream.average_rate or stream.base_rate or 25)
    suspects, joined, before, count = 0, False, None, 0  # suspects: how many more packets are to be looked at
    for packet in _until_error(packets):
        if packet.dts is None and packet.size == 0:
            continue  # the sign that the demuxer is at its end
        if suspects:
            joined = joined or packet.is_keyframe
            suspects -= 1
            if not _follows(before, packet, usual) or (not suspects and not joined):
                suspects = 1
                break
        if packet.is_corrupt and not is_transport:
            suspects = 1
            break
        if packet.is_corrupt:
            suspects, joined = 2, False
        yield packet
        before, count = packet, count + 1
    if suspects:
        raise MediaError("decode", f"the file is damaged or cut off after packet {count} of its video")


def _until_error(packets: Iterable[Any]) -> Iterator[Any]:
    try:
        yield from packets
    except LIBAV_ERRORS as error:
        raise MediaError("decode", reason(error)) from error


def _follows(before, packet, usual: float) -> bool:
    """Return whether nothing is lacking between two packets by their times; a keyframe may be of another recording."""
    if packet.dts is None or before.dts is None:
        return False
    elapsed = float((packet.dts - before.dts) * packet.time_base)
    return 0 < elapsed < 1.5 * usual or (packet.is_keyframe and not 0 < elapsed < _SPLICE_SECONDS)


def is_hidden(codec: str, packet) -> bool:
    """Return whether a packet gives no frame: a picture that only others refer to, or the word that nothing changed."""
    if codec == "vp8":
        return not memoryview(packet)[0] >> 4 & 1
    if codec == "vp9":
        return _is_hidden_vp9(memoryview(packet))
    if codec == "mpeg4":
        return packet.size <= _MAX_NOT_CODED_BYTES
    return False


def _is_hidden_vp9(data: memoryview) -> bool:
    """Return whether show_frame is 0 in the header of a frame that is no superframe, which holds one that is shown."""
    if data[-1] & 0xE0 == 0xC0:
        return False
    bits = data[0] << 8 | (data[1] if len(data) > 1 else 0)
    profile = (bits >> 13 & 1) | (bits >> 12 & 1) << 1
    place = 11 - (profile == 3)
    shows_another, shown = bits >> place & 1, bits >> (place - 2) & 1
    return not shows_another and not shown


def _seconds_of_tag(text: str) -> float:
    """Return the seconds in 00:01:02.500000000; 0 for other text."""
    try:
        hours, minutes, seconds = text.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return 0.0
