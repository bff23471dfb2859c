"""Frames as they are stored: scaled, with square pixels, upright, in the colours of the target."""

from fractions import Fraction

import av
from av.filter import Graph
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from sharding.video.decode import rgb_settings
from sharding.video.orientation import UPRIGHT, Orientation


def output_size(width: int, height: int, pixel_aspect: Fraction, short_side: int | None) -> tuple[int, int]:
    """Return the size with square pixels, the short side at most `short_side`, both sides even and at least 2.

    >>> output_size(340, 256, Fraction(64, 51), 256)
    (426, 256)
    """
    shown_width, shown_height = width * float(pixel_aspect), float(height)
    scale = min(1.0, short_side / min(shown_width, shown_height)) if short_side else 1.0

    def stored(side: float) -> int:
        return max(2, round(side * scale / 2 - 1e-6) * 2)

    return stored(shown_width), stored(shown_height)


class FrameConverter:
    """Converts the frames of a video, all to one size. Not for several threads at once.

    Args:
        stored_size: (width, height) before turning, as `output_size` gives it.
        pixel_format: yuv420p, of limited range and BT.601, or rgb24.
        orientation: how the frames are to be shown.
    """

    def __init__(self, stored_size: tuple[int, int], pixel_format: str, orientation: Orientation = UPRIGHT):
        self.stored_size, self.pixel_format = stored_size, pixel_format
        width, height = stored_size
        self.size = (height, width) if orientation.swaps_sides else stored_size
        """(width, height) of what comes out."""
        self._reformatter = VideoReformatter()
        self._turner = _Turner(stored_size, pixel_format, orientation) if orientation else None

    def __call__(self, frame):
        converted = self._reformatter.reformat(
            frame,
            *self.stored_size,
            self.pixel_format,
            **rgb_settings(frame),
            dst_colorspace=int(Colorspace.ITU601),
            dst_color_range=int(ColorRange.JPEG if self.pixel_format == "rgb24" else ColorRange.MPEG),
            interpolation=Interpolation.BICUBIC,
            threads=1,
        )
        return self._turner(converted) if self._turner else converted


class _Turner:
    """Turns and mirrors frames."""

    def __init__(self, size: tuple[int, int], pixel_format: str, orientation: Orientation):
        self.graph = Graph()
        self.graph.threads = 1
        buffer = self.graph.add_buffer(
            width=size[0], height=size[1], format=av.VideoFormat(pixel_format), time_base=Fraction(1, 1000)
        )
        filters = [self.graph.add(name, option) for name, option in orientation.filters()]
        self.graph.link_nodes(buffer, *filters, self.graph.add("buffersink")).configure()

    def __call__(self, frame):
        self.graph.vpush(frame)
        return self.graph.vpull()
