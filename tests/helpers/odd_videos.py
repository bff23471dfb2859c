"""Videos as other people's tools leave them: joined, cut, begun before zero, mirrored, damaged. Frame i shows i."""

import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import av

from tests.helpers.videos import write_numbered_video

MIRRORED = {
    "hflip": (-1, 0, 0, 1),
    "vflip": (1, 0, 0, -1),
    "transpose": (0, 1, 1, 0),
    "transverse": (0, -1, -1, 0),
}


def set_display_matrix(path: Path, matrix: Sequence[float]) -> Path:
    """Write a, b, c, d into an MP4: the pixel (x, y) is shown at (a x + c y, b x + d y). In place."""
    a, b, c, d = (round(value * (1 << 16)) for value in matrix)
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd") + 4
    data[header + 40 : header + 76] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def remux(
    source: Path, target: Path, keep: Callable = lambda number, packet: True, shift: float = 0.0, **options: str
) -> Path:
    """Copy the packets of a video for which `keep(number, packet)` holds, shown `shift` seconds later."""
    with av.open(str(source)) as input_, av.open(str(target), "w", options=options) as output:
        stream = input_.streams.video[0]
        copy = output.add_stream_from_template(stream)
        packets = [packet for packet in input_.demux(stream) if packet.size]
        for number, packet in enumerate(packets):
            if keep(number, packet):
                ticks = round(shift / stream.time_base)
                packet.pts += ticks
                packet.dts = (packet.pts if packet.dts is None else packet.dts + ticks) if shift else packet.dts
                packet.stream = copy
                output.mux(packet)
    return target


def write_through_a_pipe(source: Path, target: Path, container: str) -> Path:
    """Copy a video by a writer that cannot go back to fill in sizes, as `ffmpeg ... -` does."""

    class Pipe:
        def __init__(self, file):
            self.write = file.write

    with (
        target.open("wb") as file,
        av.open(str(source)) as input_,
        av.open(Pipe(file), "w", format=container) as output,
    ):
        stream = output.add_stream_from_template(input_.streams.video[0])
        for packet in input_.demux(video=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    return target


def join_streams(target: Path, sources: Sequence[Path], dispositions: Sequence[int]) -> Path:
    """One file with the video streams of several, marked as given."""
    with ExitStack() as stack:
        output = stack.enter_context(av.open(str(target), "w"))
        inputs = [stack.enter_context(av.open(str(path))) for path in sources]
        streams = [output.add_stream_from_template(source.streams.video[0]) for source in inputs]
        for stream, disposition in zip(streams, dispositions):
            stream.disposition = av.stream.Disposition(disposition)
        for source, stream in zip(inputs, streams):
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    output.mux(packet)
    return target


def write_cover(path: Path) -> Path:
    """A file of one large picture."""
    return write_numbered_video(path, 1, codec="mjpeg", pix_fmt="yuvj420p", size=(640, 480))


def zeroed(path: Path, start: float, length: int = 2000) -> Path:
    """A copy whose bytes from a fraction of its length on are zeros."""
    data = bytearray(path.read_bytes())
    first = int(len(data) * start)
    data[first : first + length] = bytes(min(length, len(data) - first))
    return _beside(path, "zeroed", bytes(data))


def cut(path: Path, fraction: float) -> Path:
    """A copy of the beginning of a file."""
    data = path.read_bytes()
    return _beside(path, "cut", data[: int(len(data) * fraction)])


def extended(path: Path, trailer: bytes) -> Path:
    """A copy with something behind it."""
    return _beside(path, "extended", path.read_bytes() + trailer)


def _beside(path: Path, name: str, data: bytes) -> Path:
    target = path.with_name(f"{name}_{path.name}")
    target.write_bytes(data)
    return target
