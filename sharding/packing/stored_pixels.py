"""The pixels that readers of packed samples would see of a frame, had it been stored without loss.

For frames that go to a network straight from their file, prepared as those of the training data were but for the small
changes that lossy encoding makes.
"""

from typing import Any

import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from sharding.packing.profiles import PROFILES
from sharding.video.container import VideoInfo
from sharding.video.conversion import FrameConverter, output_size
from sharding.video.decode import rgb_picture, rgb_settings
from sharding.video.orientation import UPRIGHT, Orientation, orientation_of

_COPIED_FORMATS = ("yuv420p", "yuvj420p")


class StoredPixels:
    """Makes pictures (H, W, 3) uint8 RGB of the frames of one video. Not for several threads at once.

    Args:
        profile: the one that the training data were packed under.
        short_side: as when packing; without meaning under `copy`.
        info: of the video.
    """

    def __init__(self, profile: str, short_side: int, info: VideoInfo):
        if profile not in PROFILES:
            raise ValueError(f"profile {profile}: {', '.join(PROFILES)} are known")
        self._size = output_size(info.width, info.height, info.pixel_aspect, None if profile == "copy" else short_side)
        # Under `copy` most videos are stored as they are, and those that cannot be are encoded again.
        self._is_copied = profile == "copy" and info.pixel_aspect == 1 and info.pixel_format in _COPIED_FORMATS
        self._pixel_format = "rgb24" if profile == "jpeg" else "yuv420p"
        self._converters: dict[Orientation, FrameConverter] = {}
        self._native = (info.width, info.height)
        self._reformatter = VideoReformatter()

    def __call__(self, frame) -> np.ndarray:
        """Return the picture, in memory that the next one may overwrite.

        Raises:
            MediaError: it is to be shown at an angle that is not right.
        """
        orientation = orientation_of(frame)
        if self._is_copied and orientation == UPRIGHT:
            return rgb_picture(self._to_rgb(frame, self._native, rgb_settings(frame)))
        if orientation not in self._converters:
            self._converters[orientation] = FrameConverter(self._size, self._pixel_format, orientation)
        converter = self._converters[orientation]
        stored = converter(frame)
        if self._pixel_format != "rgb24":
            colours = {"src_colorspace": int(Colorspace.ITU601), "src_color_range": int(ColorRange.MPEG)}
            stored = self._to_rgb(stored, converter.size, colours)
        return rgb_picture(stored)

    def _to_rgb(self, frame, size: tuple[int, int], colours: dict[str, Any]):
        """Convert a frame as the readers of packed videos do."""
        return self._reformatter.reformat(
            frame, *size, "rgb24", dst_color_range=ColorRange.JPEG,
            interpolation=Interpolation.BICUBIC, threads=1, **colours,
        )  # fmt: skip
