"""How a frame is to be shown: the display matrix of its file, as one of the eight ways to put a picture upright."""

import struct
from dataclasses import dataclass

import numpy as np
from av.sidedata.sidedata import Type

from sharding.errors import MediaError

_TOLERANCE = 0.0175  # the sine of one degree: what FFmpeg takes for a right angle


@dataclass(frozen=True)
class Orientation:
    """First rows and columns change places, then the picture is mirrored."""

    swaps_sides: bool = False
    flips_horizontally: bool = False
    flips_vertically: bool = False

    def __bool__(self) -> bool:
        return self.swaps_sides or self.flips_horizontally or self.flips_vertically

    def __str__(self) -> str:
        return f"to be turned by {self.degrees} degrees{' and mirrored' if self.is_mirrored else ''}"

    @property
    def degrees(self) -> int:
        """Clockwise, after mirroring left and right where the picture is mirrored."""
        if self.swaps_sides:
            return 90 if self.flips_horizontally else 270
        return 180 if self.flips_vertically else 0

    @property
    def is_mirrored(self) -> bool:
        return self.swaps_sides ^ self.flips_horizontally ^ self.flips_vertically

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """Return a view of `picture` (H, W, 3) as it is to be shown."""
        if self.swaps_sides:
            picture = picture.transpose(1, 0, 2)
        return picture[:: -1 if self.flips_vertically else 1, :: -1 if self.flips_horizontally else 1]

    def filters(self) -> list[tuple[str, str | None]]:
        """Return the (name, option) of the libavfilter filters that do the same."""
        if self.swaps_sides:
            names = {(False, False): "cclock_flip", (True, False): "clock", (False, True): "cclock"}
            return [("transpose", names.get((self.flips_horizontally, self.flips_vertically), "clock_flip"))]
        # vflip only begins at the last row, and steps backwards; copy puts the rows into their order.
        flips = [("hflip", self.flips_horizontally), ("vflip", self.flips_vertically), ("copy", self.flips_vertically)]
        return [(name, None) for name, wanted in flips if wanted]


UPRIGHT = Orientation()


def orientation_of(frame) -> Orientation:
    """Return how a decoded frame is to be shown. Raises MediaError("decode") for angles that are not right.

    The matrix a, b, u, c, d, v, x, y, w shows the pixel (x, y), y downwards, at (a x + c y, b x + d y), up to a shift.
    """
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    straight, crossed = (abs(a), abs(d)), (abs(b), abs(c))
    if max(*straight, *crossed) == 0:
        return UPRIGHT  # a matrix of nothing, which players pass over
    if max(crossed) <= _TOLERANCE * min(straight):
        return Orientation(False, a < 0, d < 0)
    if max(straight) <= _TOLERANCE * min(crossed):
        return Orientation(True, c < 0, b < 0)
    degrees = np.degrees(np.arctan2(b, a)) % 360
    raise MediaError("decode", f"to be turned by {degrees:.3g} degrees; only multiples of 90 are possible")
