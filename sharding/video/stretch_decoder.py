"""Decodes stretches of a video, each from a keyframe on, and keeps of them the frames that are wanted."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sharding.video.container import LIBAV_ERRORS, reason
from sharding.video.timeline import Timeline

REORDERED = 32
"""A frame comes out of its decoder before so many packets more went in: codecs hold back 16 at most."""
_SKIPPING_CODECS = ("h264", "hevc")
"""Their decoders can leave out frames to which no other refers."""

Convert = Callable[[Any], Any]
"""What is made of a decoded frame."""
MakeConvert = Callable[[], Convert]


@dataclass
class Chunk:
    """Packets that one decoder decodes, one after the other."""

    packets: list[tuple[int, Any, bool, bool]] = field(default_factory=list)
    """(place in the file, packet, whether a stretch begins with it, whether its frame is wanted)."""
    num_bytes: int = 0
    num_wanted: int = 0
    ends: bool = False
    """Whether a stretch ends with the last of them."""
    last: int = -1
    """The place of the last of them."""

    def add(self, place: int, packet, begins: bool, is_wanted: bool) -> None:
        self.packets.append((place, packet, begins, is_wanted))
        self.num_bytes += packet.size
        self.num_wanted += is_wanted

    def closed(self, ends: bool, last: int) -> "Chunk":
        """Return the chunk, complete."""
        self.ends, self.last = ends, last
        return self


@dataclass(frozen=True)
class Decoded:
    """What came of a chunk."""

    frames: list[tuple[int, Any]]
    """(number, what was made of the frame), in no particular order."""
    losses: list[tuple[int, str]]
    """(packet, reason): from there on to the next keyframe nothing can be seen."""
    num_decoded: int


class StretchDecoder:
    """A decoder and the state of the stretch that it is in. Not for several threads at once.

    Args:
        context: of a container that stays open.
        wanted: frame numbers.
    """

    def __init__(self, context, timeline: Timeline, wanted: np.ndarray, convert: Convert):
        self._context, self._timeline, self._convert = context, timeline, convert
        self._skips = timeline.times_in_file and timeline.info.codec in _SKIPPING_CODECS
        self._wanted = wanted
        self._sent: dict[int, int] = {}
        """By the time of showing that packets and frames carry: the places of packets whose frames are to come."""
        self._queue: deque[int] = deque()
        """The places of packets whose frames are to come, where packets carry no times."""
        self._held: list[tuple[int, int, Any]] = []
        """(place, number, picture) of frames before which damage may still turn up."""
        self._lost: tuple[int, int] | None = None
        """The places [damaged packet, next keyframe) of the last damage."""
        self._losses: list[tuple[int, str]] = []
        self._num_decoded = 0

    def decode(self, chunk: Chunk) -> Decoded:
        """Decode packets; the frames of the last REORDERED of them may come with the next chunk."""
        for place, packet, begins, is_wanted in chunk.packets:
            if begins:
                self._restart()
                self._lost = None
            self._send(place, packet, is_wanted)
        if chunk.ends:
            self._drain()
        settled = chunk.last if chunk.ends else chunk.last - REORDERED
        frames = [(number, picture) for place, number, picture in self._held if place <= settled]
        self._held = [entry for entry in self._held if entry[0] > settled]
        self._sent = {time: place for time, place in self._sent.items() if place > settled}
        losses, self._losses = self._losses, []
        num_decoded, self._num_decoded = self._num_decoded, 0
        return Decoded(frames, losses, num_decoded)

    def _restart(self) -> None:
        self._drain()
        self._sent.clear()
        self._queue.clear()

    def _send(self, place: int, packet, is_wanted: bool) -> None:
        timeline = self._timeline
        if self._lost and place < self._lost[1]:
            return
        if self._lost and place == self._lost[1]:
            self._restart()
        if timeline.is_damaged[place] and not timeline.is_keyframe[place]:
            self._note_damage(place, "damaged packets")
            return
        if timeline.times_in_file:
            self._sent[packet.pts] = place
        elif timeline.numbers[place] >= 0:
            self._queue.append(place)
        if self._skips:
            self._context.skip_frame = "DEFAULT" if is_wanted else "NONREF"
        try:
            for frame in self._context.decode(packet):
                self._receive(frame)
        except LIBAV_ERRORS as error:
            self._note_damage(place, reason(error))

    def _receive(self, frame) -> None:
        self._num_decoded += 1
        if self._timeline.times_in_file:
            place = self._sent.pop(frame.pts, None)
        else:
            place = self._queue.popleft() if self._queue else None
        if place is None or self._is_lost(place):
            return
        number = int(self._timeline.numbers[place])
        if frame.is_corrupt:
            self._note_damage(place, "a damaged frame")
        elif self._is_wanted(number):
            self._held.append((place, number, self._convert(frame)))

    def _is_wanted(self, number: int) -> bool:
        found = int(np.searchsorted(self._wanted, number))
        return found < len(self._wanted) and self._wanted[found] == number

    def _note_damage(self, place: int, why: str) -> None:
        """Drop what was decoded from this packet on, and all up to the next keyframe."""
        if self._is_lost(place):
            return
        until = self._timeline.next_keyframe(place)
        if self._lost and self._lost[1] == until and self._losses:  # an earlier packet of the same damage
            self._losses.pop()
        self._losses.append((place, why))
        self._lost = (place, until)
        self._held = [entry for entry in self._held if not self._is_lost(entry[0])]

    def _is_lost(self, place: int) -> bool:
        """Return whether a frame refers to what is damaged; some are shown before a keyframe but come after it."""
        if self._lost is None:
            return False
        (begin, end), numbers = self._lost, self._timeline.numbers
        if place < end:
            return place >= begin
        return self._timeline.times_in_file and place > end and numbers[place] < numbers[end]

    def _drain(self) -> None:
        """Take the frames that the decoder holds back, and make it ready to begin at a keyframe."""
        try:
            for frame in self._context.decode(None):
                self._receive(frame)
        except LIBAV_ERRORS as error:
            if left := [*self._sent.values(), *self._queue]:
                self._note_damage(min(left), reason(error))
        self._context.flush_buffers()
