"""The evaluation of a checkpoint, and the files and lines that it leaves: what `launch/evaluate.py` does."""

import csv
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from launch.inference.scores import Scores, write_scores
from launch.training.checkpoint import CheckpointInfo, find_checkpoint, load_checkpoint
from launch.training.config import Config
from launch.training.distributed import Ranks, errors_on_all_ranks, gather_over_ranks
from launch.training.engine import start_ranks, stop_ranks
from launch.training.evaluation import Evaluation, evaluate
from launch.training.multilabel import MultiLabelEvaluation, evaluate_multilabel
from model import Network, fuse_batch_norm
from pipeline.config import DataConfig
from pipeline.dataset import open_dataset
from pipeline.loader import VideoLoader
from sharding.dataset import PackedDataset
from sharding.errors import UserError
from sharding.files import check_writable, write_atomically
from sharding.manifest import describe_class_difference

MOST_PRINTED_CLASSES = 20


def evaluate_checkpoint(
    path: Path, location: str, views: Mapping[str, object], out: Path | None, batch_size: int, tell_levels: bool
) -> Path | None:
    """Evaluate a checkpoint on a packed split over all ranks; write the results and print them.

    Args:
        path: run folder or checkpoint.
        location: folder or URL of the packed split.
        views: fields of DataConfig in which the evaluation differs from the training.
        out: folder for the results, or None for one in the checkpoint.
        batch_size: clips per forward pass on each rank.
        tell_levels: whether the network is given the true coarser labels.

    Returns:
        The evaluation.json that was written; None on all ranks but the first.
    """
    checkpoint = find_checkpoint(path)
    net, info, config = load_checkpoint(checkpoint)
    dataset = open_dataset(location, config.data.cache_dir, config.data.cache_bytes)
    if not dataset.has_labels:
        raise UserError(
            f"{dataset.location}: its videos have no labels, so there is no accuracy; write predictions for them with "
            "--submission FORM"
        )
    levels = _check_labels(net, info, config, dataset, checkpoint)
    if tell_levels and not net.given_levels:
        raise UserError(f"--tell-levels: {checkpoint} is no network that reads labels; leave it out")
    try:
        data = replace(config.data, **views)
    except ValueError as error:
        raise UserError(str(error)) from error
    out = out or checkpoint / f"evaluation-{dataset.manifest.split}"
    ranks = start_ranks()
    with errors_on_all_ranks(ranks):
        if ranks.is_main_process:
            check_writable(out / "evaluation.json")
    loader = _open_loader(dataset, data, batch_size, ranks)
    net = fuse_batch_norm(net).to(ranks.device)
    with closing(loader):
        if config.model.multi_label:
            evaluation = evaluate_multilabel(net, loader, len(info.classes), config.train.precision)
        else:
            evaluation = evaluate(net, loader, len(info.classes), config.train.precision, levels, tell_levels)
    scores = _join(gather_over_ranks((evaluation.sample_ids.numpy(), evaluation.scores.numpy())), dataset)
    if ranks.is_main_process:
        write_evaluation(evaluation, scores, dataset, data, checkpoint, out)
        if isinstance(evaluation, MultiLabelEvaluation):
            print(describe_precisions(evaluation, info.classes), end="")
        else:
            print(describe_classes(evaluation.confusion.numpy(), info.classes), end="")
        print(evaluation)
        print(
            f"{data.test_clips} clip(s) x {data.test_crops} crop(s) of {data.crop_size} pixels; "
            f"data {dataset.location}, fingerprint {dataset.fingerprint[:16]}; written to {out}"
        )
    stop_ranks()
    return out / "evaluation.json" if ranks.is_main_process else None


def _check_labels(
    net: Network, info: CheckpointInfo, config: Config, dataset: PackedDataset, checkpoint: Path
) -> list[tuple[str, tuple[str, ...]]]:
    """Return the levels that are evaluated; raise UserError if the split has other classes than the network."""
    if dataset.manifest.classes != info.classes:
        difference = describe_class_difference(dataset.manifest.classes, info.classes)
        raise UserError(
            f"{dataset.location}: its classes are not those that {checkpoint} was trained on: {difference}; pack the "
            "split with --classes FILE, a file of the names the network was trained on, or train on these"
        )
    if dataset.manifest.multi_label != config.model.multi_label:
        several, one = "several labels each", "one label each"
        its, trained = (several, one) if dataset.manifest.multi_label else (one, several)
        raise UserError(
            f"{dataset.location}: its videos have {its}, those that {checkpoint} was trained on {trained}; pack the "
            "split as that was packed"
        )
    if dataset.label_sets and not len(dataset.label_sets.ids):
        raise UserError(f"{dataset.location}: not one of its {len(dataset)} videos has a label; pack it with labels")
    levels = [level for level in config.model.levels if level[0] in net.level_names]
    for level, classes in levels:
        if dataset.manifest.levels.get(level) != classes:
            raise UserError(f"{dataset.location}: its classes of the level {level} are not those of {checkpoint}")
    return levels


def _open_loader(dataset: PackedDataset, data: DataConfig, batch_size: int, ranks: Ranks) -> VideoLoader:
    return VideoLoader(
        dataset,
        data,
        training=False,
        micro_batch_size=batch_size,
        rank=ranks.rank,
        world_size=ranks.world_size,
        device=ranks.device,
    )


def describe_classes(confusion: np.ndarray, classes: tuple[str, ...]) -> str:
    """Return a line for each class, its accuracy and samples; nothing where there are many classes."""
    if len(classes) > MOST_PRINTED_CLASSES:
        return ""
    width = max(map(len, classes))
    lines = []
    for number, name in enumerate(classes):
        total, correct = int(confusion[number].sum()), int(confusion[number, number])
        accuracy = f"{correct / total:8.2%}" if total else "       -"
        lines.append(f"{name:{width}}  {accuracy}  {correct} of {total}\n")
    return "".join(lines)


def is_multilabel(evaluation: Path) -> bool:
    """Return whether an evaluation.json is of videos with several labels."""
    return "average_precision" in json.loads(evaluation.read_text())


def describe_precisions(evaluation: MultiLabelEvaluation, classes: tuple[str, ...]) -> str:
    """Return a line for each class, its average precision and samples; nothing where there are many classes."""
    if len(classes) > MOST_PRINTED_CLASSES:
        return ""
    width = max(map(len, classes))
    lines = []
    for name, precision, count in zip(classes, evaluation.average_precision, evaluation.positives):
        shown = f"{precision:8.2%}" if count else "       -"
        lines.append(f"{name:{width}}  {shown}  {count} of {evaluation.samples} samples\n")
    return "".join(lines)


def write_evaluation(
    evaluation: Evaluation | MultiLabelEvaluation,
    scores: Scores,
    dataset: PackedDataset,
    data: DataConfig,
    checkpoint: Path,
    out: Path,
) -> None:
    """Write all results, with the data and views they were found with and the number of samples seen."""
    out.mkdir(parents=True, exist_ok=True)
    write_scores(out / "scores.parquet", scores)
    if isinstance(evaluation, MultiLabelEvaluation):
        of_classes = _write_precisions(evaluation, scores.classes, out / "classes.csv")
    else:
        _write_classes(evaluation.confusion.numpy(), scores.classes, out / "classes.csv")
        for level, confusion in evaluation.level_confusions.items():
            _write_classes(confusion.numpy(), dataset.manifest.levels[level], out / f"classes-{level}.csv")
        of_classes = {"confusion": evaluation.confusion.tolist()}
    values = evaluation.figures() | {
        **of_classes,
        "classes": dataset.manifest.classes,
        "clips": data.test_clips,
        "crops": data.test_crops,
        "crop_size": data.crop_size,
        "short_side": data.short_side,
        "checkpoint": str(checkpoint),
        "data": dataset.location,
        "fingerprint": dataset.fingerprint,
        "samples_in_data": len(dataset),
        "quarantined": len(dataset.quarantined),
    }
    write_atomically(out / "evaluation.json", json.dumps(values, indent=1) + "\n")


def _join(parts: list[tuple[np.ndarray, np.ndarray]], dataset: PackedDataset) -> Scores:
    """Return the scores of all ranks, in the order of the split."""
    ids, scores = (np.concatenate(part) for part in zip(*parts))
    order = np.argsort(ids)
    ids = ids[order]
    manifest, sets = dataset.manifest, dataset.label_sets
    labels = dataset.labels[ids] if sets is None else sets.multi_hot(ids).astype(bool)
    return Scores(tuple(dataset.keys[ids]), labels, scores[order], manifest.classes, manifest.fingerprint)


def _write_precisions(evaluation: MultiLabelEvaluation, classes: tuple[str, ...], path: Path) -> dict[str, list]:
    """Write a line for each class: its samples and average precision. Return the same for evaluation.json; a class
    without samples has no average precision."""
    precisions = [None if np.isnan(value) else float(value) for value in evaluation.average_precision]
    positives = evaluation.positives.tolist()
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["class", "samples", "average_precision"])
        for name, count, precision in zip(classes, positives, precisions):
            table.writerow([name, count, "" if precision is None else f"{precision:.4f}"])
    return {"average_precision": precisions, "positives": positives}


def _write_classes(confusion: np.ndarray, classes: tuple[str, ...], path: Path) -> None:
    """Write a line for each class: samples, correct ones, accuracy, and what it is mistaken for most often."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["class", "samples", "correct", "accuracy", "most_often_taken_for"])
        for number, name in enumerate(classes):
            counts = confusion[number].copy()
            total, correct = int(counts.sum()), int(counts[number])
            counts[number] = 0
            other = classes[int(counts.argmax())] if counts.any() else ""
            table.writerow([name, total, correct, f"{correct / total:.4f}" if total else "", other])
