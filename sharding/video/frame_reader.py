"""Chosen frames of a video of any length, in one pass, by several threads, in bounded memory.

The packets are read once, in the order of the file. Those that the chosen frames need are cut into stretches, each from
a keyframe on, which different decoders can decode at the same time; a frame that is not chosen is decoded only where
another refers to it, and never converted. Damage costs the frames up to the next keyframe, and no more.
"""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from sharding.video.container import open_video
from sharding.video.stretch_decoder import REORDERED, Chunk, Decoded, MakeConvert, StretchDecoder
from sharding.video.timeline import Loss, Timeline, packets_of

_CHUNK_PACKETS = 64
"""Packets that are handed to a decoder at once; where a stretch ends, half as many."""
_CHUNK_BYTES = 1 << 23
_MOST_CHUNKS, _MOST_FRAMES, _MOST_BYTES = 16, 128, 1 << 25
"""That are in flight at the same time, for each decoder."""


def plan_stretches(timeline: Timeline, wanted: np.ndarray) -> list[tuple[int, int]]:
    """Return the stretches [first, last] of packets to decode for the frames `wanted` (sorted, distinct), in order.

    Each begins at a keyframe, and no two overlap. A frame that is shown before the keyframe which it follows in the
    file needs the one before that as well.

    >>> timeline = Timeline(None, np.arange(9) / 25, np.arange(9), np.arange(9) % 4 == 0, True, np.zeros(9, bool))
    >>> plan_stretches(timeline, np.array([1, 2, 8]))
    [(0, 2), (8, 8)]
    """
    keys = timeline.keyframes
    stretches: list[tuple[int, int]] = []
    for packet in np.sort(timeline.packets_of_frames()[wanted]).tolist():
        key = int(np.searchsorted(keys, packet, side="right")) - 1
        if key > 0 and timeline.numbers[keys[key]] > timeline.numbers[packet]:
            key -= 1
        first = int(keys[max(key, 0)])
        while stretches and first <= stretches[-1][1]:
            first = min(first, stretches.pop()[0])
        stretches.append((first, packet))
    return stretches


class FrameReader:
    """Reads chosen frames of a file.

        reader = FrameReader(path, read_timeline(path), np.array([0, 40]), lambda: convert, threads=2)
        for number, picture in reader:    # None for a frame that is lost; reader.losses says why
            ...

    Args:
        wanted: frame numbers, sorted, distinct.
        make_convert: called once for each decoder; what it returns is called with each chosen frame, in its thread.
        threads: decoders that work at the same time.
    """

    def __init__(self, path: Path, timeline: Timeline, wanted: np.ndarray, make_convert: MakeConvert, threads: int):
        self.path, self.timeline, self.wanted = path, timeline, wanted
        self._make_convert, self._num_decoders = make_convert, max(1, threads)
        self._packets = timeline.packets_of_frames()[wanted]
        """Which packet holds each of the chosen frames."""
        self.losses: list[Loss] = []
        """Parts found to be damaged so far."""
        self.num_decoded = 0
        """Frames that have come out of the decoders."""

    def __iter__(self) -> Generator[tuple[int, Any], None, None]:
        """Yield (number, converted frame) for each chosen frame, in order; None for one that is lost.

        Raises:
            MediaError: the file cannot be opened, or a frame not be converted.
        """
        with ExitStack() as stack:
            container, stream = stack.enter_context(open_video(self.path))
            decoders = [self._open_decoder(stack) for _ in range(self._num_decoders)]
            in_flight: deque[tuple[Future[Decoded], Chunk]] = deque()
            found: dict[int, Any] = {}
            done = 0
            for lane, chunk in self._chunks(packets_of(container, stream)):
                pool, decoder = decoders[lane % len(decoders)]
                in_flight.append((pool.submit(decoder.decode, chunk), chunk))
                while in_flight and (self._is_full(in_flight) or in_flight[0][0].done()):
                    done = yield from self._take(*in_flight.popleft(), found, done)
            while in_flight:
                done = yield from self._take(*in_flight.popleft(), found, done)
            for number in self.wanted[done:].tolist():
                yield number, found.pop(number, None)

    def _open_decoder(self, stack: ExitStack) -> tuple[ThreadPoolExecutor, StretchDecoder]:
        """Open the file for one decoder, which has all that the header says, and a thread for it."""
        _, stream = stack.enter_context(open_video(self.path))
        pool = ThreadPoolExecutor(1, "decoder")
        stack.callback(pool.shutdown, cancel_futures=True)
        return pool, StretchDecoder(stream.codec_context, self.timeline, self.wanted, self._make_convert())

    def _is_full(self, in_flight: deque[tuple[Future[Decoded], Chunk]]) -> bool:
        chunks = [chunk for _, chunk in in_flight]
        frames, num_bytes = sum(chunk.num_wanted for chunk in chunks), sum(chunk.num_bytes for chunk in chunks)
        limit = self._num_decoders
        return len(chunks) > _MOST_CHUNKS * limit or frames > _MOST_FRAMES * limit or num_bytes > _MOST_BYTES * limit

    def _chunks(self, packets: Iterator[Any]) -> Iterator[tuple[int, Chunk]]:
        """Yield (decoder, chunk): a stretch stays with one decoder, the next one goes to another."""
        numbers, wanted = self.timeline.numbers, np.zeros(len(self.timeline.numbers), bool)
        wanted[self._packets] = True
        stretches = iter(plan_stretches(self.timeline, self.wanted))
        first, last = next(stretches)
        lane, chunk = 0, Chunk()
        for place, packet in enumerate(packets):
            if place < first:
                continue
            is_leading = self.timeline.times_in_file and 0 <= numbers[place] < numbers[first]
            if not is_leading or wanted[place]:
                chunk.add(place, packet, begins=place == first, is_wanted=bool(wanted[place]))
            ends = place == last
            if len(chunk.packets) >= _CHUNK_PACKETS // (1 + ends) or chunk.num_bytes > _CHUNK_BYTES:
                yield lane, chunk.closed(ends, place)
                lane, chunk = lane + ends, Chunk()
            if ends:
                following = next(stretches, None)
                if following is None:
                    break
                first, last = following
        if chunk.packets:
            yield lane, chunk.closed(True, len(numbers))

    def _take(self, future: Future[Decoded], chunk: Chunk, found: dict[int, Any], done: int):
        """Yield the frames whose fate is known once a chunk is decoded; return how many have been yielded in all."""
        decoded = future.result()
        found.update(decoded.frames)
        self.num_decoded += decoded.num_decoded
        self.losses += [self._describe(packet, why) for packet, why in decoded.losses]
        horizon = chunk.last if chunk.ends else chunk.last - REORDERED
        while done < len(self.wanted) and (int(self.wanted[done]) in found or self._packets[done] <= horizon):
            number = int(self.wanted[done])
            yield number, found.pop(number, None)
            done += 1
        return done

    def _describe(self, packet: int, why: str) -> Loss:
        """Return what is lost by damage at a packet: everything up to the next keyframe."""
        timeline = self.timeline
        end = timeline.next_keyframe(packet)
        numbers = timeline.numbers[packet:end]
        shown = timeline.times[numbers[numbers >= 0]]
        if not len(shown):
            return Loss(timeline.duration, timeline.duration, why)
        key = int(timeline.numbers[end]) if end < len(timeline.numbers) else -1
        return Loss(float(shown.min()), float(timeline.times[key]) if key >= 0 else timeline.duration, why)
