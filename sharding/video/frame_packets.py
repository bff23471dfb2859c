"""H.264 without its container: where each frame's packet is in a file, and decoding from those packets alone.

A video of our own has one packet a frame, in order of showing, one after the other. So `offsets` (num_frames + 1) and
the codec's parameter sets are all that is needed to read and decode any of its frames.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from sharding.errors import MediaError
from sharding.video.container import LIBAV_ERRORS, open_video, reason
from sharding.video.decode import rgb_picture, rgb_settings
from sharding.video.packets import sound_packets

_MAX_CONTEXTS = 32
"""Decoders kept open, one for each parameter set: that is, for each size of frames."""


def index_packets(media: bytes | Path, keyframe_interval: int) -> tuple[np.ndarray, bytes]:
    """Return where the packets of an H.264 video of our own are, without decoding it.

    Returns:
        int32 (num_frames + 1) byte offsets, frame i being the bytes [offsets[i], offsets[i + 1]); and the codec's
        parameter sets, as MP4 stores them (avcC, ISO/IEC 14496-15, 5.3.3.1).

    Raises:
        MediaError: "decode" if they are damaged or have no times; "encode" if they do not follow each other in the
            order of showing, or not every `keyframe_interval`-th of them is a keyframe.
    """
    with open_video(media) as (container, stream):
        parameters = bytes(stream.codec_context.extradata or b"")
        packets = [packet for packet in sound_packets(stream, container.demux(stream)) if packet.size]
        if any(packet.pos is None or packet.pts is None for packet in packets):
            raise MediaError("decode", "damaged: a packet without a place or a time")
        places = np.array([(packet.pos, packet.size, packet.pts) for packet in packets], np.int64).reshape(-1, 3)
        keyframes = [number for number, packet in enumerate(packets) if packet.is_keyframe]
    begins, ends = places[:, 0], places[:, 0] + places[:, 1]
    in_order = np.array_equal(begins[1:], ends[:-1]) and np.all(np.diff(places[:, 2]) > 0)
    if not len(places) or not in_order or keyframes != list(range(0, len(places), keyframe_interval)):
        raise MediaError("encode", "its packets are not one a frame, in order, with keyframes where they should be")
    if ends[-1] >= 1 << 31:
        raise MediaError("encode", f"{ends[-1]:,} bytes of video; fewer than 2**31 are possible: keep fewer frames")
    return np.append(begins, ends[-1]).astype(np.int32), parameters


def packets_to_read(offsets: np.ndarray, frames: np.ndarray, keyframe_interval: int) -> list[tuple[int, int]]:
    """Return the stretches [first, last) of frames whose packets are needed to decode `frames` (sorted, distinct).

    Every stretch begins at a keyframe. Stretches that follow each other without a gap are one.

    >>> packets_to_read(np.arange(41), np.array([3, 6, 17]), 8)
    [(0, 7), (16, 18)]
    >>> packets_to_read(np.arange(41), np.array([3, 6, 7]), 1)
    [(3, 4), (6, 8)]
    """
    stretches: list[tuple[int, int]] = []
    for frame in frames.tolist():
        first = frame // keyframe_interval * keyframe_interval
        if stretches and first <= stretches[-1][1]:
            stretches[-1] = (stretches[-1][0], frame + 1)
        else:
            stretches.append((first, frame + 1))
    return stretches


class PacketDecoder:
    """Decodes packets of H.264; keeps a codec context for each parameter set. Not for several threads at once."""

    def __init__(self) -> None:
        self._contexts: OrderedDict[bytes, tuple[Any, VideoReformatter]] = OrderedDict()

    def decode(
        self,
        parameters: bytes,
        packets: Sequence[tuple[int, bytes]],
        size: tuple[int, int],
        take: Callable[[int, np.ndarray], None],
    ) -> None:
        """Decode packets, given with their frames' numbers, and pass each frame on as `take(number, picture)`.

        A picture is (H, W, 3) uint8 RGB in memory that the next one overwrites; `size` is its (height, width).

        Raises:
            MediaError: "decode" for damage, frames of another size, or a packet that gives no frame.
        """
        context, reformatter = self._open(parameters)
        height, width = size
        missing = {number for number, _ in packets}
        try:
            for number, data in (*packets, (-1, None)):  # None asks for the frames that the decoder holds back
                packet = None
                if data is not None:
                    packet = av.Packet(data)
                    packet.pts = packet.dts = number
                for frame in context.decode(packet):
                    if frame.is_corrupt or (frame.height, frame.width) != size:
                        raise MediaError("decode", f"frame {frame.pts} is damaged, or not of the table's size")
                    if frame.pts not in missing:
                        raise MediaError("decode", f"frame {frame.pts} was not expected")
                    missing.discard(frame.pts)
                    rgb = reformatter.reformat(
                        frame, width, height, "rgb24", dst_color_range=ColorRange.JPEG,
                        interpolation=Interpolation.BICUBIC, threads=1, **rgb_settings(frame),
                    )  # fmt: skip
                    take(frame.pts, rgb_picture(rgb))
            context.flush_buffers()
        except LIBAV_ERRORS as error:
            self._contexts.pop(parameters, None)
            raise MediaError("decode", reason(error)) from error
        except MediaError:
            self._contexts.pop(parameters, None)
            raise
        if missing:
            self._contexts.pop(parameters, None)
            raise MediaError("decode", f"no frame came out for packet {min(missing)}")

    def _open(self, parameters: bytes) -> tuple[Any, VideoReformatter]:
        kept = self._contexts.get(parameters)
        if kept is None:
            context = av.CodecContext.create("h264", "r")
            context.extradata = parameters
            context.thread_count = 1
            kept = self._contexts[parameters] = (context, VideoReformatter())
            if len(self._contexts) > _MAX_CONTEXTS:
                self._contexts.popitem(last=False)
        self._contexts.move_to_end(parameters)
        return kept
