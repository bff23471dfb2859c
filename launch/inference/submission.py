"""Predictions for a packed split, with labels or without, in a benchmark's form: `launch/evaluate.py --submission`."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from launch.inference.scores import Scores, describe_accuracy, write_scores
from launch.inference.submission_forms import FORMS, SplitScores
from launch.training.checkpoint import CheckpointInfo, find_checkpoint, load_checkpoint
from launch.training.config import Config
from launch.training.distributed import errors_on_all_ranks, gather_over_ranks
from launch.training.engine import joined_ranks
from launch.training.evaluation import compute_scores
from model import Network, fuse_batch_norm
from pipeline.dataset import open_dataset
from pipeline.loader import VideoLoader
from sharding.dataset import PackedDataset
from sharding.errors import UserError
from sharding.files import check_writable
from sharding.manifest import describe_class_difference


def write_submission(
    path: Path,
    location: str,
    views: Mapping[str, object],
    out: Path | None,
    batch_size: int,
    form: str,
    supervision: tuple[int, ...] = (),
) -> Path | None:
    """Predict every sample of a packed split over all ranks; write the scores and the submission, and say so.

    Args:
        path: run folder or checkpoint.
        location: folder or URL of the packed split.
        views: fields of DataConfig in which the prediction differs from the training.
        out: folder for the results, or None for one in the checkpoint.
        batch_size: clips per forward pass on each rank.
        form: a name of FORMS.
        supervision: the three levels that a submission to EPIC-Kitchens declares.

    Returns:
        The submission; None on all ranks but the first.
    """
    checkpoint = find_checkpoint(path)
    net, info, config = load_checkpoint(checkpoint)
    dataset = open_dataset(location, config.data.cache_dir, config.data.cache_bytes)
    _check_classes(net, info, config, dataset, checkpoint)
    FORMS[form].check(dataset.keys.tolist(), dataset.manifest.classes, dataset.manifest.levels)
    try:
        data = replace(config.data, **views)
    except ValueError as error:
        raise UserError(str(error)) from error
    target = (out or checkpoint / f"evaluation-{dataset.manifest.split}") / FORMS[form].name
    with joined_ranks() as ranks:
        with errors_on_all_ranks(ranks):
            if ranks.is_main_process:
                check_writable(target)
        of_rank = {"rank": ranks.rank, "world_size": ranks.world_size, "device": ranks.device}
        of_rank["gather"] = gather_over_ranks
        with closing(VideoLoader(dataset, data, training=False, micro_batch_size=batch_size, **of_rank)) as loader:
            found = _scores(fuse_batch_norm(net).to(ranks.device), loader, config.train.precision)
        split = _join(gather_over_ranks(found), dataset)
        with errors_on_all_ranks(ranks):
            if ranks.is_main_process:
                write_scores(target.with_name("scores.parquet"), _with_labels(split, dataset))
                FORMS[form].write(target, split, supervision)
                print(_describe(split, dataset, target))
    return target if ranks.is_main_process else None


def _check_classes(
    net: Network, info: CheckpointInfo, config: Config, dataset: PackedDataset, checkpoint: Path
) -> None:
    """Raise UserError if the split has other classes than the network, or videos have several labels."""
    if config.model.multi_label or dataset.manifest.multi_label:
        raise UserError("--submission: its forms are of one label a video; leave it out where videos have several")
    if dataset.manifest.classes != info.classes:
        difference = describe_class_difference(dataset.manifest.classes, info.classes)
        raise UserError(
            f"{dataset.location}: its classes are not those that {checkpoint} was trained on: {difference}; pack the "
            "split with the annotation files of all splits, or with --classes FILE"
        )
    for level, classes in config.model.levels:
        if level in net.level_names and dataset.manifest.levels.get(level) != classes:
            raise UserError(f"{dataset.location}: its classes of the level {level} are not those of {checkpoint}")


def _scores(net: Network, loader: VideoLoader, precision: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the ids and, by level, the probabilities of this rank's samples; those of the classes are under ""."""
    net.eval()
    sample_ids, parts = [], []
    for batch in loader:
        sample_ids.append(batch.sample_ids.cpu())
        parts.append({level: scores.cpu() for level, scores in compute_scores(net, batch, precision).items()})
    levels = parts[0] if parts else {}
    ids = torch.cat(sample_ids).numpy() if sample_ids else np.empty(0, np.int64)
    return ids, {level: torch.cat([part[level] for part in parts]).numpy() for level in levels}


def _join(found: list[tuple[np.ndarray, dict[str, np.ndarray]]], dataset: PackedDataset) -> SplitScores:
    """Return the scores of all ranks in the order of the split."""
    found = [part for part in found if len(part[0])]
    if not found:
        raise UserError(f"{dataset.location}: no samples to predict")
    ids = np.concatenate([ids for ids, _ in found])
    order = np.argsort(ids)
    levels = {level: np.concatenate([scores[level] for _, scores in found])[order] for level in found[0][1]}
    return SplitScores(
        keys=list(dataset.keys[ids[order]]),
        sources=list(dataset.column("source")[ids[order]]),
        scores=levels.pop(""),
        classes=dataset.manifest.classes,
        levels=dataset.manifest.levels,
        level_scores=levels,
    )


def _with_labels(split: SplitScores, dataset: PackedDataset) -> Scores:
    place = {key: number for number, key in enumerate(dataset.keys)}
    labels = dataset.labels[[place[key] for key in split.keys]]
    return Scores(tuple(split.keys), labels, split.scores, split.classes, dataset.fingerprint)


def _describe(split: SplitScores, dataset: PackedDataset, target: Path) -> str:
    """Return what was written, how right it is where that is known, and what is lacking in it."""
    accuracy = (
        f"; {describe_accuracy(_with_labels(split, dataset))}" if dataset.has_labels else ", which have no labels"
    )
    lines = [
        f"predictions for {len(split.keys)} samples of {dataset.location}{accuracy}; fingerprint "
        f"{dataset.fingerprint[:16]}; written to {target}"
    ]
    lacking = dataset.manifest.failures + len(dataset) - len(split.keys)
    if lacking:
        lines.append(
            f"{lacking} listed videos are not in it, for they failed when they were packed or are in quarantine; a "
            "server may want predictions for all"
        )
    return "\n".join(lines)
