"""Which pixels of a video the network sees. Pure functions.

A box is (4,) float32 [top, left, bottom, right) in pixels of the stored frame; it is scaled to the square crop.
"""

import math

import numpy as np

from pipeline.config import DataConfig

MULTI_SCALES = (1.0, 0.875, 0.75, 0.66)
_SMALLEST_AREA, _WIDEST = 0.08, 4 / 3

# Sides of TSN's crops: pairs of scales at most one step apart. Its places: corners, centre, middles of the edges and of
# the quarters, in quarters of the space there is.
_SCALE_PAIRS = [(h, w) for i, h in enumerate(MULTI_SCALES) for j, w in enumerate(MULTI_SCALES) if abs(i - j) <= 1]
_PLACES = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (2, 0), (2, 4), (4, 2), (0, 2), (1, 1), (1, 3), (3, 1), (3, 3)]

# Of test crops, in halves of the space there is; the first is the only one of one crop.
_TEN_PLACES = [(1, 1), (0, 0), (0, 2), (2, 0), (2, 2)]


def crop_box(height: int, width: int, config: DataConfig, vertical: float, horizontal: float) -> np.ndarray:
    """Return the square of the stored frame that is the crop once the short side is scaled to config.short_side.

    `vertical` and `horizontal` in [0, 1) choose among the integer positions of the crop in the scaled frame, so
    frames stored at that very size are cropped without resampling. One half means the centre.

    >>> crop_box(256, 340, DataConfig(short_side=256, crop_size=224), 0.5, 0.5)
    array([ 16.,  58., 240., 282.], dtype=float32)
    """
    space_down, space_right = _space(height, width, config)
    return _square(height, width, config, int(vertical * (space_down + 1)), int(horizontal * (space_right + 1)))


def multi_scale_box(height: int, width: int, draws: np.ndarray) -> np.ndarray:
    """Return a crop as TSN trains with, from `draws` (2,) in [0, 1).

    >>> multi_scale_box(256, 340, np.array([0.2, 0.0]))  # 224 tall, 256 wide, in the upper left corner
    array([  0.,   0., 224., 256.], dtype=float32)
    """
    scales = _SCALE_PAIRS[int(draws[0] * len(_SCALE_PAIRS))]
    tall, wide = (max(1, int(min(height, width) * scale)) for scale in scales)
    down, right = _PLACES[int(draws[1] * len(_PLACES))]
    top, left = (height - tall) // 4 * down, (width - wide) // 4 * right
    return np.array([top, left, top + tall, left + wide], np.float32)


def random_resized_box(height: int, width: int, draws: np.ndarray) -> np.ndarray:
    """Return a random part of the frame, from `draws` (4,) in [0, 1): area, shape, place; cut to fit the frame."""
    area = height * width * (_SMALLEST_AREA + draws[0] * (1 - _SMALLEST_AREA))
    shape = _WIDEST ** (2 * draws[1] - 1)
    tall = min(height, max(1, round(math.sqrt(area / shape))))
    wide = min(width, max(1, round(math.sqrt(area * shape))))
    top, left = int(draws[2] * (height - tall + 1)), int(draws[3] * (width - wide + 1))
    return np.array([top, left, top + tall, left + wide], np.float32)


def view_boxes(height: int, width: int, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return the boxes (C, 4) of config.test_crops crops, and which of them are mirrored (C,) bool.

    >>> view_boxes(256, 340, DataConfig(crop_size=256, test_crops=3))[0][:, 1]
    array([ 0., 42., 84.], dtype=float32)
    """
    down, right = _space(height, width, config)
    if config.test_crops == 1:
        places = [(1, 1)]
    elif config.test_crops == 3:
        places = [(1, place) if width >= height else (place, 1) for place in range(3)]
    else:
        places = _TEN_PLACES * 2
    boxes = [_square(height, width, config, (down * y + 1) // 2, (right * x + 1) // 2) for y, x in places]
    return np.stack(boxes), np.arange(len(boxes)) >= len(_TEN_PLACES)


def is_scaled(boxes: np.ndarray, crop_size: int) -> bool:
    """Return whether one of the boxes (C, 4) is other than crop_size integer pixels high and wide."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return not (np.all(sides == crop_size) and np.array_equal(boxes, np.floor(boxes)))


def crop_window(boxes: np.ndarray, height: int, width: int, crop_size: int) -> np.ndarray:
    """Return the pixels (4,) int32 [top, left, bottom, right) that scaling `boxes` (C, 4) to the crop looks at.

    Scaling reaches over the edge of a box by the width of its filter: nothing when nothing is scaled.

    >>> crop_window(np.array([[16.0, 58.5, 240.0, 282.5]]), 256, 340, 112)
    array([ 13,  55, 243, 286], dtype=int32)
    """
    margin = 0
    if is_scaled(boxes, crop_size):
        sides = (boxes[:, 2:] - boxes[:, :2]).max(0)
        margin = np.ceil(np.maximum(1.0, sides / crop_size)).astype(int) + 1
    start = np.maximum(np.floor(boxes[:, :2].min(0)).astype(int) - margin, 0)
    end = np.minimum(np.ceil(boxes[:, 2:].max(0)).astype(int) + margin, [height, width])
    return np.concatenate([start, end]).astype(np.int32)


def _space(height: int, width: int, config: DataConfig) -> tuple[int, int]:
    """Return by how many pixels the crop can move down and to the right in the scaled frame."""
    short = min(height, width)
    return height * config.short_side // short - config.crop_size, width * config.short_side // short - config.crop_size


def _square(height: int, width: int, config: DataConfig, top: int, left: int) -> np.ndarray:
    """Return the box of the crop at a place in the scaled frame."""
    box = np.array([top, left, top + config.crop_size, left + config.crop_size])
    return (box * min(height, width) / config.short_side).astype(np.float32)
