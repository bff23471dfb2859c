"""The plan: who sees which sample when, and which frames and pixels of it. Everything here is a pure function.

Whatever is random is drawn from a counter-based generator keyed by (seed, epoch, sample id), so it depends neither on
the number of ranks and threads nor on what was drawn before: a run resumes at any step by counting, nothing else.

An epoch is cut into global batches, one per optimizer step; rank r of W takes the r-th of W equal parts of each. With
10 samples in the order 3 1 4 0 5 9 2 6 8 7, a batch size of 4 and 2 ranks:

    step 0   rank 0: 3 1   rank 1: 4 0
    step 1   rank 0: 5 9   rank 1: 2 6        8 and 7 wait for another epoch's order: training batches are always full

Evaluation keeps the stored order, cuts it into one run per rank and leaves nothing out.
"""

import math
from dataclasses import dataclass

import numpy as np

from pipeline.config import DataConfig
from sharding.manifest import PackedDataset

# Separate streams of the generator, so that a new kind of draw never shifts an old one.
_ORDER, _CLIP = 0, 1


@dataclass(frozen=True)
class ClipPlan:
    """One clip to make: S frames of one sample, and the box of pixels that becomes the crop."""

    sample_id: int
    label: int
    """Class id, with the sides already changed if the clip is flipped."""
    frames: np.ndarray
    """(S,) int32 frame indices, non-decreasing."""
    box: np.ndarray
    """(4,) float32 [top, left, bottom, right) in pixels of the stored frame; it is scaled to the crop."""
    flip: bool


def plan_order(sample_ids: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The order in which one epoch of training visits `sample_ids` (N,): a permutation of them, int64."""
    return _generator(seed, _ORDER, epoch).permutation(sample_ids)


def plan_rank_batches(
    order: np.ndarray, batch_size: int, micro_batch_size: int, rank: int, world_size: int
) -> np.ndarray:
    """This rank's share of an epoch of training.

    Args:
        order: (N,) sample ids in the order of the epoch.
        batch_size: samples per optimizer step over all ranks; a multiple of world_size * micro_batch_size.
        micro_batch_size: samples per forward pass on one rank.

    Returns:
        (steps, micro-batches per step, micro_batch_size) sample ids, steps = N // batch_size.
    """
    steps, accumulation = len(order) // batch_size, batch_size // (world_size * micro_batch_size)
    by_rank = order[: steps * batch_size].reshape(steps, world_size, accumulation, micro_batch_size)
    return by_rank[:, rank]


def plan_rank_evaluation(sample_ids: np.ndarray, batch_size: int, rank: int, world_size: int) -> list[np.ndarray]:
    """This rank's batches of an evaluation: over all ranks every sample exactly once, in stored order.

    Ranks may hold different numbers of batches, and none at all if there are fewer samples than ranks.
    """
    share = np.array_split(sample_ids, world_size)[rank]
    return [share[start : start + batch_size] for start in range(0, len(share), batch_size)]


def plan_clip(
    dataset: PackedDataset, config: DataConfig, sample_id: int, *, training: bool, seed: int = 0, epoch: int = 0
) -> ClipPlan:
    """Frames, crop and flip of one sample; random in training, the middle of everything in evaluation."""
    num_frames, label = int(dataset.num_frames[sample_id]), int(dataset.labels[sample_id])
    height, width = int(dataset.heights[sample_id]), int(dataset.widths[sample_id])
    if not training:
        frames = middle_frames(num_frames, config.num_segments)
        return ClipPlan(sample_id, label, frames, crop_box(height, width, config, 0.5, 0.5), False)
    draws = _generator(seed, _CLIP, epoch, sample_id).random(3 + config.num_segments)
    frames = random_frames(num_frames, draws[3:])
    flip = bool(config.flip and draws[2] < 0.5)
    if flip:
        label = mirrored_label(label, dataset.manifest.flip_pairs)
    return ClipPlan(sample_id, label, frames, crop_box(height, width, config, draws[0], draws[1]), flip)


def middle_frames(num_frames: int, num_segments: int) -> np.ndarray:
    """The middle frame of each segment: floor((i + 1/2) * n / S), as TSN tests.

    >>> middle_frames(10, 4)
    array([1, 3, 6, 8], dtype=int32)
    >>> middle_frames(3, 4)  # fewer frames than segments: repeated, in order
    array([0, 1, 1, 2], dtype=int32)
    """
    segments = np.arange(num_segments, dtype=np.int64)
    return ((2 * segments + 1) * num_frames // (2 * num_segments)).astype(np.int32)


def random_frames(num_frames: int, draws: np.ndarray) -> np.ndarray:
    """A random frame of each segment: floor((i + u_i) * n / S) for `draws` u (S,) from [0, 1), as TSN trains.

    >>> random_frames(10, np.array([0.0, 0.9, 0.5, 0.99]))
    array([0, 4, 6, 9], dtype=int32)
    """
    segments, num_segments = np.arange(len(draws), dtype=np.int64), len(draws)
    frames = np.floor((segments + draws) * num_frames / num_segments).astype(np.int64)
    last = ((segments + 1) * num_frames - 1) // num_segments  # rounding may carry u close to 1 beyond its segment
    return np.minimum(frames, last).astype(np.int32)


def mirrored_label(label: int, flip_pairs: tuple[tuple[int, int], ...]) -> int:
    """The class of a mirrored clip: the other of its pair, if it has one ("left to right" and "right to left")."""
    for one, other in flip_pairs:
        if label in (one, other):
            return one + other - label
    return label


def crop_box(height: int, width: int, config: DataConfig, vertical: float, horizontal: float) -> np.ndarray:
    """The square of the stored frame that becomes the crop once the short side is scaled to config.short_side.

    `vertical` and `horizontal` in [0, 1) choose among the whole-pixel positions of the crop in the scaled frame, so
    frames stored at that very size are cropped without resampling. One half means the centre.

    >>> crop_box(256, 340, DataConfig(short_side=256, crop_size=224), 0.5, 0.5)
    array([ 16.,  58., 240., 282.], dtype=float32)
    """
    short = min(height, width)
    top = int(vertical * (height * config.short_side // short - config.crop_size + 1))
    left = int(horizontal * (width * config.short_side // short - config.crop_size + 1))
    box = np.array([top, left, top + config.crop_size, left + config.crop_size])
    return (box * short / config.short_side).astype(np.float32)


def crop_window(box: np.ndarray, height: int, width: int, crop_size: int) -> np.ndarray:
    """The whole pixels (4,) int32 [top, left, bottom, right) that scaling `box` to the crop looks at.

    Scaling reaches over the edge of the box by the width of its filter: nothing when nothing is scaled.

    >>> crop_window(np.array([16.0, 58.5, 240.0, 282.5]), 256, 340, 112)
    array([ 13,  55, 243, 286], dtype=int32)
    """
    side = float(box[2] - box[0])
    whole = side == crop_size and np.array_equal(box, np.floor(box))
    margin = 0 if whole else math.ceil(max(1.0, side / crop_size)) + 1
    start = np.maximum(np.floor(box[:2]).astype(int) - margin, 0)
    end = np.minimum(np.ceil(box[2:]).astype(int) + margin, [height, width])
    return np.concatenate([start, end]).astype(np.int32)


def _generator(seed: int, stream: int, epoch: int, sample_id: int = 0) -> np.random.Generator:
    # The lowest counter word is left to the generator itself, which counts in it.
    key = np.array([seed, stream], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, sample_id, epoch, 0], np.uint64)))
