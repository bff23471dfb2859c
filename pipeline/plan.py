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
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.augment import draw_erased_box, draw_operations
from pipeline.class_sampling import draw_samples, sample_ids_of
from pipeline.config import DataConfig
from pipeline.crops import crop_box, multi_scale_box, random_resized_box, view_boxes
from pipeline.sampling import dense_frames, even_start, middle_frames, random_frames, random_start
from sharding.dataset import PackedDataset

# Separate streams of the generator, so that a new kind of draw never shifts an old one.
_ORDER, _CLIP, _CROP, _COLOR = 0, 1, 2, 3
_OPERATIONS, _ERASING, _DRAWS = 6, 7, 16


@dataclass(frozen=True)
class ClipPlan:
    """What to make of one sample: a clip in training, all of its views in evaluation."""

    sample_id: int
    label: int
    """Class id, with the sides already changed if the clip is mirrored; -1 where samples have several."""
    frames: np.ndarray
    """(K * T,) int32 frame indices of K clips, one after the other; K = 1 in training."""
    boxes: np.ndarray
    """(C, 4) float32 [top, left, bottom, right) in pixels of the stored frame, scaled to crops; C = 1 in training."""
    flips: np.ndarray
    """(C,) bool: which crops are mirrored."""
    color: np.ndarray
    """(4,) float32: factors of brightness, contrast and saturation, and the degrees by which the hue is turned."""
    operations: np.ndarray = field(default_factory=lambda: np.empty((0, 3), np.int32))
    """(n, 3) int32: RandAugment's operations, as `augment.draw_operations` gives them."""
    erased: np.ndarray = field(default_factory=lambda: np.zeros(4, np.float32))
    """(4,) float32: the box of the crop, as the network sees it, that is erased; all zeros where none is."""
    labels: tuple[int, ...] | None = None
    """Ascending class ids where samples have several, likewise with the sides changed; else None."""


def plan_order(shards: np.ndarray, config: DataConfig, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order (N,) int32 in which an epoch of training visits all samples: a permutation of their ids.

    Args:
        shards: (N,) the shard of each sample, non-decreasing; only a block shuffle looks at it.
        batch_size: samples per optimizer step over all ranks; only a block shuffle looks at it.
    """
    generator = _generator(seed, _ORDER, epoch)
    if config.shuffle == "global" or not len(shards):
        return generator.permutation(np.arange(len(shards), dtype=np.int32))
    return _block_order(shards, config.shuffle_block_shards, config.shuffle_streams, batch_size, generator)


def plan_balanced_order(
    dataset: PackedDataset, sample_ids: np.ndarray, config: DataConfig, batch_size: int, seed: int, epoch: int
) -> np.ndarray:
    """Return the draws (N,) int64 of an epoch with data.class_sampling_exponent, of the N `sample_ids`, in their order;
    see `pipeline.class_sampling`."""
    generator = _generator(seed, _DRAWS, epoch)
    draws = draw_samples(dataset.labels, sample_ids, config.class_sampling_exponent, generator)
    return draws[plan_order(dataset.shards[sample_ids_of(draws)], config, batch_size, seed, epoch)]


def _block_order(
    shards: np.ndarray, block_shards: int, streams: int, batch_size: int, generator: np.random.Generator
) -> np.ndarray:
    """Put the shards in a random order, `block_shards` at a time shuffled together, read in `streams` places at once.

    The shuffled epoch is cut into as many equal runs as there are streams, and each batch takes an equal part of each
    run, in the same places: so a batch mixes that many blocks, and a rank (or, of the ranks, a machine) reads only the
    shards of its part.
    """
    num_samples, num_shards = len(shards), int(shards[-1]) + 1
    place = np.empty(num_shards, np.int64)
    place[generator.permutation(num_shards)] = np.arange(num_shards)
    # One sort: by block, and within a block at random.
    keys = (place // block_shards)[shards] << 40 | generator.integers(1 << 40, size=num_samples)
    order = np.argsort(keys, kind="stable").astype(np.int32)
    streams = math.gcd(batch_size, streams)
    complete = num_samples // batch_size * batch_size
    runs = order[:complete].reshape(streams, -1, batch_size // streams)
    return np.concatenate([runs.transpose(1, 0, 2).reshape(-1), order[complete:]])


def plan_rank_batches(
    order: np.ndarray, batch_size: int, micro_batch_size: int, rank: int, world_size: int
) -> np.ndarray:
    """Return this rank's part of an epoch of training.

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
    """Return this rank's batches of an evaluation: over all ranks every sample exactly once, in stored order.

    Ranks may hold different numbers of batches, and none at all if there are fewer samples than ranks.
    """
    ours = np.array_split(sample_ids, world_size)[rank]
    return [ours[start : start + batch_size] for start in range(0, len(ours), batch_size)]


def plan_clip(
    dataset: PackedDataset, config: DataConfig, sample_id: int, *, training: bool, seed: int = 0, epoch: int = 0
) -> ClipPlan:
    """Choose frames, crops, flips and colours of one sample: random in training, evenly spread in evaluation."""
    num_frames, label = int(dataset.num_frames[sample_id]), int(dataset.labels[sample_id])
    labels = None if dataset.label_sets is None else tuple(dataset.label_sets.of(sample_id).tolist())
    size = int(dataset.heights[sample_id]), int(dataset.widths[sample_id])
    if not training:
        frames, (boxes, flips) = evaluation_frames(num_frames, config), view_boxes(*size, config)
        return ClipPlan(sample_id, label, frames, boxes, flips, _SAME_COLOR, labels=labels)
    draws = _generator(seed, _CLIP, epoch, sample_id).random(3 + config.num_segments)
    frames = _training_frames(num_frames, config, draws[3:])
    box = _training_box(size, config, draws[:2], seed, epoch, sample_id)
    flip = bool(config.flip and draws[2] < 0.5)
    if flip:
        flip_pairs = dataset.manifest.flip_pairs
        label = mirrored_label(label, flip_pairs)
        labels = labels and tuple(sorted(mirrored_label(each, flip_pairs) for each in labels))
    color = _training_color(config, seed, epoch, sample_id) if config.changes_color else _SAME_COLOR
    plan = ClipPlan(sample_id, label, frames, box[None], np.array([flip]), color, labels=labels)
    if config.rand_augment:
        operations = draw_operations(config, _generator(seed, _OPERATIONS, epoch, sample_id))
        plan = replace(plan, operations=operations)
    if config.random_erasing:
        plan = replace(plan, erased=draw_erased_box(config, _generator(seed, _ERASING, epoch, sample_id)))
    return plan


def mirrored_label(label: int, flip_pairs: tuple[tuple[int, int], ...]) -> int:
    """Return the class of a mirrored clip: the other of its pair, if it has one ("left to right", "right to left")."""
    for one, other in flip_pairs:
        if label in (one, other):
            return one + other - label
    return label


def _training_frames(num_frames: int, config: DataConfig, draws: np.ndarray) -> np.ndarray:
    if config.sampling == "segments":
        return random_frames(num_frames, draws, config.frames_per_segment)
    start = random_start(num_frames, config.num_segments, config.frame_stride, draws[0])
    return dense_frames(num_frames, config.num_segments, config.frame_stride, start)


def evaluation_frames(num_frames: int, config: DataConfig) -> np.ndarray:
    """Return the frames (K * T,) int32 of the K clips that evaluation sees of a video, one clip after the other."""
    clips = []
    for clip in range(config.test_clips):
        if config.sampling == "segments":
            segments = config.num_segments, clip, config.test_clips, config.frames_per_segment
            clips.append(middle_frames(num_frames, *segments))
        else:
            start = even_start(num_frames, config.num_segments, config.frame_stride, clip, config.test_clips)
            clips.append(dense_frames(num_frames, config.num_segments, config.frame_stride, start))
    return np.concatenate(clips)


def count_distinct_clips(num_frames: int, config: DataConfig) -> int:
    """Return how many of the K clips that evaluation sees of a video show different frames."""
    return len(np.unique(evaluation_frames(num_frames, config).reshape(config.test_clips, -1), axis=0))


def _training_box(
    size: tuple[int, int], config: DataConfig, place: np.ndarray, seed: int, epoch: int, sample_id: int
) -> np.ndarray:
    if config.crop == "random":
        return crop_box(*size, config, *place)
    if config.crop == "center":
        return crop_box(*size, config, 0.5, 0.5)
    draws = _generator(seed, _CROP, epoch, sample_id).random(4)
    return multi_scale_box(*size, draws[:2]) if config.crop == "multi_scale" else random_resized_box(*size, draws)


_SAME_COLOR = np.array([1, 1, 1, 0], np.float32)


def _training_color(config: DataConfig, seed: int, epoch: int, sample_id: int) -> np.ndarray:
    draws = _generator(seed, _COLOR, epoch, sample_id).random(5)
    reach = np.array([config.color_jitter] * 3 + [config.hue_jitter])
    color = _SAME_COLOR + reach * (2 * draws[:4] - 1)
    if draws[4] < config.grayscale:
        color[2] = 0
    return color.astype(np.float32)


def _generator(seed: int, stream: int, epoch: int, sample_id: int = 0) -> np.random.Generator:
    # The lowest counter word is left to the generator itself, which counts in it.
    key = np.array([seed, stream], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, sample_id, epoch, 0], np.uint64)))
