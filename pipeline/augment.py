"""What happens to a training clip after its crop: RandAugment and random erasing, one draw for all of its frames.

The draws are numbers, made here from a generator of the plan; the graph applies them. Pure functions.
"""

import math
from dataclasses import dataclass

import numpy as np

from pipeline.config import DataConfig

OPERATIONS = (
    "translate_x",
    "translate_y",
    "shear_x",
    "shear_y",
    "rotate",
    "brightness",
    "contrast",
    "color",
    "sharpness",
    "posterize",
    "solarize",
    "equalize",
    "auto_contrast",
    "identity",
)
"""The operations of RandAugment (Cubuk et al., 2020), under the names that DALI has for them; a plan holds places in
this list, so it is only ever added to at its end."""
NUM_BINS = 31
"""Magnitudes: 0, which changes least, to 30."""

_SMALLEST_AREA, _LARGEST_AREA = 0.02, 0.33
_NARROWEST, _WIDEST = 0.3, 1 / 0.3
_TRIES = 10


@dataclass(frozen=True)
class Effects:
    """What a graph does to clips beyond cropping and mirroring them."""

    color: bool = False
    """Whether colours are changed."""
    num_operations: int = 0
    """Operations of RandAugment, one after the other."""
    erasing: bool = False
    """Whether a box is erased."""


NO_EFFECTS = Effects()


def effects_of(config: DataConfig, training: bool) -> Effects:
    """Return the effects that a configuration asks for; in evaluation there are none."""
    if not training:
        return NO_EFFECTS
    return Effects(config.changes_color, config.rand_augment, config.random_erasing > 0)


def draw_operations(config: DataConfig, generator: np.random.Generator) -> np.ndarray:
    """Return the operations of a clip (n, 3) int32: each its place in OPERATIONS, its magnitude, and whether that is
    negated (1), as for a rotation to the other side. An operation may come more than once.

    RandAugment's magnitude is one number for all; with a deviation each operation draws its own around it.
    """
    count = config.rand_augment
    chosen = generator.integers(len(OPERATIONS), size=count)
    negated = generator.integers(2, size=count)
    magnitudes = config.rand_augment_magnitude + config.rand_augment_std * generator.standard_normal(count)
    magnitudes = np.clip(np.round(magnitudes), 0, NUM_BINS - 1)
    return np.stack([chosen, magnitudes.astype(np.int64), negated], 1).astype(np.int32)


def draw_erased_box(config: DataConfig, generator: np.random.Generator) -> np.ndarray:
    """Return the box of a crop that is erased, (4,) float32 [top, left, bottom, right) in whole pixels of the crop; all
    zeros where none is.

    Zhong et al., Random Erasing Data Augmentation (2020), Algorithm 1: with a probability a box of 2 to 33 % of the
    area, 0.3 to 3.3 times as high as wide, anywhere within the crop. A box that does not fit is drawn again.
    """
    if generator.random() >= config.random_erasing:
        return np.zeros(4, np.float32)
    side = config.crop_size
    for area, shape, vertical, horizontal in generator.random((_TRIES, 4)):
        area = side * side * (_SMALLEST_AREA + area * (_LARGEST_AREA - _SMALLEST_AREA))
        shape = _NARROWEST * (_WIDEST / _NARROWEST) ** shape
        height, width = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < height < side and 0 < width < side:
            top, left = int(vertical * (side - height + 1)), int(horizontal * (side - width + 1))
            return np.array([top, left, top + height, left + width], np.float32)
    return np.zeros(4, np.float32)
