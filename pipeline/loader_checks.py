"""What a loader asks of samples and settings before it reads any: errors of the user, and warnings."""

import logging
import math

import numpy as np

from pipeline.config import DataConfig
from pipeline.plan import count_distinct_clips
from sharding.dataset import PackedDataset
from sharding.errors import UserError

log = logging.getLogger(__name__)


def check_lengths(dataset: PackedDataset, sample_ids: np.ndarray, config: DataConfig) -> None:
    """Check that each of the samples has as many frames as data.min_frames asks for.

    Raises:
        UserError: one has fewer.
    """
    short = sample_ids[dataset.num_frames[sample_ids] < config.min_frames]
    if len(short):
        sample_id = int(short[0])
        raise UserError(
            f"{dataset.location}, sample {dataset.key(sample_id)}: {dataset.num_frames[sample_id]} frames, but "
            f"data.min_frames={config.min_frames}; lower it, or list the sample in quarantine.jsonl"
        )


def check_evaluation(dataset: PackedDataset, sample_ids: np.ndarray, config: DataConfig) -> None:
    """Check that the crops of a test leave the labels right; warn if its clips do not all differ.

    Raises:
        UserError: data.test_crops mirrors clips that may not be mirrored.
    """
    if config.test_crops == 10 and (dataset.manifest.flip_pairs or not config.flip):
        reason = "the network was trained without mirroring (data.flip)" if not config.flip else ""
        reason = reason or f"that changes classes of {dataset.location} (its flip pairs)"
        raise UserError(f"data.test_crops=10 mirrors clips, but {reason}; use 1 or 3")
    _warn_of_equal_clips(dataset, sample_ids, config)


def check_training(
    dataset: PackedDataset,
    sample_ids: np.ndarray,
    config: DataConfig,
    batch_size: int,
    micro_batch_size: int,
    ranks: int,
) -> None:
    """Check that the ranks can share a batch, and that the samples fill one; warn if frames of a clip are far apart.

    Raises:
        UserError: they cannot, or do not.
    """
    _warn_of_thinned_videos(dataset, sample_ids, config)
    if batch_size % (ranks * micro_batch_size):
        raise UserError(
            f"batch size {batch_size} cannot be shared: it must be a multiple of {ranks} rank(s) "
            f"times {micro_batch_size} clips per forward pass"
        )
    if len(sample_ids) < batch_size:
        raise UserError(
            f"{dataset.location}: {len(sample_ids)} samples do not fill one batch of {batch_size}; use "
            f"--train.batch_size={max(1, len(sample_ids) // ranks) * ranks} or less"
        )


def _warn_of_equal_clips(dataset: PackedDataset, sample_ids: np.ndarray, config: DataConfig) -> None:
    """Say so if several clips of a video are tested, and its frames are too few for so many different ones."""
    num_frames, wanted = dataset.num_frames[sample_ids], config.test_clips
    distinct = {int(count): count_distinct_clips(int(count), config) for count in np.unique(num_frames)}
    short = [int(count) for count in num_frames if distinct[int(count)] < wanted]
    if not short:
        return
    count, enough = max(short), wanted * config.frames_per_clip
    remedy = "fewer cost less and say as much"
    is_thinned = config.sampling == "segments" and count == dataset.manifest.settings.get("max_frames")
    if is_thinned and count < enough:
        remedy = f"use fewer, or shards that are packed with --max-frames {enough}"
    log.warning(
        "%s: in %.0f %% of the videos not all of the %d clips differ (%d frames: %d different clips); %s",
        *(dataset.location, 100 * len(short) / len(num_frames), wanted, count, distinct[count], remedy),
    )


def _warn_of_thinned_videos(dataset: PackedDataset, sample_ids: np.ndarray, config: DataConfig) -> None:
    """Say so if frames of a clip are to follow each other, and those that lie between were not packed."""
    follow_each_other = config.sampling == "dense" or config.frames_per_segment > 1
    if not follow_each_other or dataset.manifest.profile not in ("h264", "jpeg"):
        return
    max_frames = dataset.manifest.settings.get("max_frames", math.inf)
    fraction = float(np.mean(dataset.num_frames[sample_ids] >= max_frames))
    if fraction:
        log.warning(
            "%s: %.0f %% of the videos were cut down to %d evenly spaced frames when they were packed, so "
            "frames of a clip do not follow each other as they were filmed; pack under --profile dense",
            *(dataset.location, 100 * fraction, max_frames),
        )
