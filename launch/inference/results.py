"""The evaluation of checkpoints, and the files and lines that it leaves: what `launch/evaluate.py` does."""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from launch.inference.calibration import DEFAULT_BINS, Calibration, measure_calibration
from launch.inference.class_mapping import MappedSplit, map_classes
from launch.inference.class_table import classes_csv, describe_classes, wilson_interval
from launch.inference.comparison import Row, describe_rows, name_checkpoints, write_rows
from launch.inference.multilabel_results import check_multilabel, describe_precisions, write_multilabel
from launch.inference.scores import Scores, write_scores
from launch.training.checkpoint import CheckpointInfo, load_checkpoint
from launch.training.config import Config
from launch.training.distributed import Ranks, errors_on_all_ranks, gather_over_ranks
from launch.training.engine import joined_ranks
from launch.training.evaluation import Evaluation, evaluate
from launch.training.multilabel import evaluate_multilabel
from model import Network, fuse_batch_norm
from pipeline.config import DataConfig
from pipeline.dataset import open_dataset
from pipeline.loader import VideoLoader
from sharding.dataset import PackedDataset
from sharding.errors import UserError
from sharding.files import check_writable, write_atomically


@dataclass(frozen=True)
class EvaluationOptions:
    """How checkpoints are evaluated."""

    views: Mapping[str, object] = field(default_factory=dict)
    """Fields of DataConfig in which the evaluation differs from the training."""
    batch_size: int = 16
    """Clips per forward pass on each rank."""
    tell_levels: bool = False
    """Whether the network is given the true coarser labels."""
    exclude_unknown_classes: bool = False
    """Whether samples of classes that the network does not know are left out; otherwise the split is refused."""
    only_shared_classes: bool = False
    """Whether only those of the network's classes that the split has may be predicted."""
    renamed_classes: Mapping[str, str] = field(default_factory=dict)
    """The network's names of classes that the split calls otherwise."""
    calibration_bins: int = DEFAULT_BINS
    """Bins of confidence of the calibration."""


@dataclass(frozen=True)
class _Subject:
    """A checkpoint that is found fit to be evaluated on the split."""

    name: str
    checkpoint: Path
    net: Network
    info: CheckpointInfo
    config: Config
    split: MappedSplit
    levels: list[tuple[str, tuple[str, ...]]]
    data: DataConfig
    out: Path


def evaluate_checkpoints(
    paths: Sequence[Path], location: str, options: EvaluationOptions, out: Path | None
) -> list[Path]:
    """Evaluate checkpoints on a packed split over all ranks; write the results and print them. All are loaded and
    checked before the first is evaluated.

    Args:
        paths: run folders or checkpoints; what is the same checkpoint is evaluated once.
        location: folder or URL of the packed split.
        out: folder for the results, or None for one in the checkpoint; of several checkpoints it gets a comparison, and
            a folder for each.

    Returns:
        Each evaluation.json that was written; none on all ranks but the first.

    Raises:
        UserError: a checkpoint is none or not fit for the split, or results could not be written.
    """
    named = name_checkpoints(paths)
    if len(named) > 1 and out is None:
        raise UserError(f"{len(named)} checkpoints: name a folder for their comparison with --out FOLDER")
    subjects = [_prepare(name, checkpoint, location, options) for checkpoint, name in named.items()]
    if len(subjects) > 1 and any(subject.config.model.multi_label for subject in subjects):
        raise UserError("--checkpoint: several are compared only where videos have one label; name one")
    if out is not None:
        folders = [out / subject.name.replace("/", "-") for subject in subjects] if len(subjects) > 1 else [out]
        subjects = [replace(subject, out=folder) for subject, folder in zip(subjects, folders)]
    with joined_ranks() as ranks:
        with errors_on_all_ranks(ranks):
            if ranks.is_main_process:
                for subject in subjects:
                    check_writable(subject.out / "evaluation.json")
        if subjects[0].config.model.multi_label:
            _evaluate_multilabel(subjects[0], options, ranks)
            rows = []
        else:
            rows = [_evaluate(subject, options, ranks, alone=len(subjects) == 1) for subject in subjects]
        if ranks.is_main_process and len(rows) > 1:
            assert out is not None
            write_rows(rows, out)
            print(describe_rows(rows) + f"written to {out}: comparison.json, comparison.csv, and a folder for each")
    return [subject.out / "evaluation.json" for subject in subjects] if ranks.is_main_process else []


def _prepare(name: str, checkpoint: Path, location: str, options: EvaluationOptions) -> _Subject:
    """Return a checkpoint with all that its evaluation needs. Raises UserError if it is not fit for the split."""
    net, info, config = load_checkpoint(checkpoint)
    dataset = open_dataset(location, config.data.cache_dir, config.data.cache_bytes)
    if not dataset.has_labels:
        raise UserError(
            f"{dataset.location}: its videos have no labels, so there is no accuracy; write predictions for them with "
            "--submission FORM"
        )
    split = check_multilabel(dataset, config.model.multi_label, info.classes, checkpoint)
    if split is None:
        unknown, renamed = options.exclude_unknown_classes, options.renamed_classes
        split = map_classes(dataset, info.classes, checkpoint, unknown, renamed)
    elif options.exclude_unknown_classes or options.only_shared_classes or options.renamed_classes:
        raise UserError(f"{dataset.location}: classes are matched only where videos have one label; leave that out")
    levels = _check_levels(net, config, dataset, checkpoint)
    if options.tell_levels and not net.given_levels:
        raise UserError(f"--tell-levels: {checkpoint} is no network that reads labels; leave it out")
    try:
        data = replace(config.data, **options.views)
    except ValueError as error:
        raise UserError(str(error)) from error
    out = checkpoint / f"evaluation-{dataset.manifest.split}"
    return _Subject(name, checkpoint, net, info, config, split, levels, data, out)


def _check_levels(
    net: Network, config: Config, dataset: PackedDataset, checkpoint: Path
) -> list[tuple[str, tuple[str, ...]]]:
    """Return the levels that are evaluated; raise UserError if the split has other classes of one of them."""
    levels = [level for level in config.model.levels if level[0] in net.level_names]
    for level, classes in levels:
        if dataset.manifest.levels.get(level) != classes:
            raise UserError(f"{dataset.location}: its classes of the level {level} are not those of {checkpoint}")
    return levels


def _evaluate(subject: _Subject, options: EvaluationOptions, ranks: Ranks, alone: bool) -> Row | None:
    """Evaluate one checkpoint, write its results and print them; return its row of a table, None but on the first
    rank."""
    classes, split, data = subject.info.classes, subject.split, subject.data
    allowed = torch.isin(torch.arange(len(classes)), torch.from_numpy(split.shared))
    net = fuse_batch_norm(subject.net).to(ranks.device)
    with closing(_open_loader(split.dataset, data, options.batch_size, ranks)) as loader:
        evaluation = evaluate(
            net,
            loader,
            len(classes),
            subject.config.train.precision,
            subject.levels,
            options.tell_levels,
            allowed if options.only_shared_classes else None,
        )
    parts = gather_over_ranks((evaluation.sample_ids.numpy(), evaluation.scores.numpy()))
    if not ranks.is_main_process:
        return None
    scores = _join(parts, split.dataset, classes)
    calibration = measure_calibration(scores.scores, scores.labels, options.calibration_bins)
    write_evaluation(evaluation, scores, calibration, subject)
    if alone:
        print(describe_classes(evaluation.confusion.numpy(), classes), end="")
    else:
        print(f"{subject.name}:")
    interval = _interval(evaluation)
    print(evaluation)
    print(f"top-1: 95 % interval {interval[0]:.2%} to {interval[1]:.2%}; {calibration}")
    if split.description:
        limit = "only those are predicted" if options.only_shared_classes else "all of the network's may be predicted"
        print(f"{split.description}; {limit}")
    print(_describe_views(subject))
    info = subject.info
    return Row(subject.name, str(subject.checkpoint), info.epoch, info.step, evaluation, interval, calibration.error)


def _evaluate_multilabel(subject: _Subject, options: EvaluationOptions, ranks: Ranks) -> None:
    """Evaluate a checkpoint on videos of several labels each, write its results and print them."""
    classes, dataset = subject.info.classes, subject.split.dataset
    net = fuse_batch_norm(subject.net).to(ranks.device)
    with closing(_open_loader(dataset, subject.data, options.batch_size, ranks)) as loader:
        evaluation = evaluate_multilabel(net, loader, len(classes), subject.config.train.precision)
    if ranks.is_main_process:
        found = evaluation.sample_ids.numpy(), evaluation.scores.numpy()
        write_multilabel(evaluation, _join([found], dataset, classes), _provenance(subject), subject.out)
        print(describe_precisions(evaluation, classes), end="")
        print(evaluation)
        print(_describe_views(subject))


def _describe_views(subject: _Subject) -> str:
    data, dataset = subject.data, subject.split.dataset
    return (
        f"{data.test_clips} clip(s) x {data.test_crops} crop(s) of {data.crop_size} pixels; data {dataset.location}, "
        f"fingerprint {dataset.fingerprint[:16]}; written to {subject.out}"
    )


def _interval(evaluation: Evaluation) -> tuple[float, float]:
    return wilson_interval(int(evaluation.confusion.diag().sum()), evaluation.samples)


def _open_loader(dataset: PackedDataset, data: DataConfig, batch_size: int, ranks: Ranks) -> VideoLoader:
    return VideoLoader(
        dataset,
        data,
        training=False,
        micro_batch_size=batch_size,
        rank=ranks.rank,
        world_size=ranks.world_size,
        device=ranks.device,
        gather=gather_over_ranks,
    )


def write_evaluation(evaluation: Evaluation, scores: Scores, calibration: Calibration, subject: _Subject) -> None:
    """Write all results, with the data and views they were found with and the number of samples seen."""
    dataset, out = subject.split.dataset, subject.out
    out.mkdir(parents=True, exist_ok=True)
    write_scores(out / "scores.parquet", scores)
    write_atomically(out / "classes.csv", classes_csv(evaluation.confusion.numpy(), scores.classes))
    for level, confusion in evaluation.level_confusions.items():
        table = classes_csv(confusion.numpy(), dataset.manifest.levels[level])
        write_atomically(out / f"classes-{level}.csv", table)
    values = evaluation.figures() | {
        "top1_interval_95": _interval(evaluation),
        "calibration": calibration.to_dict(),
        "confusion": evaluation.confusion.tolist(),
    }
    write_atomically(out / "evaluation.json", json.dumps(values | _provenance(subject), indent=1) + "\n")


def _provenance(subject: _Subject) -> dict[str, object]:
    """Return what an evaluation is of: the views, the checkpoint, the data and how many samples of it."""
    dataset, data = subject.split.dataset, subject.data
    return {
        "classes": subject.info.classes,
        "clips": data.test_clips,
        "crops": data.test_crops,
        "crop_size": data.crop_size,
        "short_side": data.short_side,
        "checkpoint": str(subject.checkpoint),
        "data": dataset.location,
        "fingerprint": dataset.fingerprint,
        "samples_in_data": len(dataset),
        "quarantined": len(dataset.quarantined),
        "excluded": len(np.setdiff1d(dataset.excluded, dataset.quarantined)),
        "classes_matched": subject.split.description,
    }


def _join(parts: list[tuple[np.ndarray, np.ndarray]], dataset: PackedDataset, classes: tuple[str, ...]) -> Scores:
    """Return the scores of all ranks, in the order of the split."""
    ids, scores = (np.concatenate(part) for part in zip(*parts))
    order = np.argsort(ids)
    ids = ids[order]
    sets = dataset.label_sets
    labels = dataset.labels[ids] if sets is None else sets.multi_hot(ids).astype(bool)
    return Scores(tuple(dataset.keys[ids]), labels, scores[order], classes, dataset.fingerprint)
