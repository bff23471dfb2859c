"""The evaluation of a checkpoint on videos of several labels each: mAP, and the average precision of each class."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from launch.inference.class_mapping import MappedSplit
from launch.inference.class_table import MOST_PRINTED_CLASSES
from launch.inference.scores import Scores, write_scores
from launch.training.multilabel import MultiLabelEvaluation
from sharding.dataset import PackedDataset
from sharding.errors import UserError
from sharding.files import write_atomically
from sharding.manifest import describe_class_difference


def check_multilabel(
    dataset: PackedDataset, trained_on_several: bool, classes: tuple[str, ...], checkpoint: Path
) -> MappedSplit | None:
    """Return the split where its videos have several labels each; None where they have one.

    Raises:
        UserError: the network was trained on the other kind, or on other classes; or there is not one label.
    """
    several = dataset.manifest.multi_label
    if several != trained_on_several:
        kinds = ("several labels each", "one label each")
        its, trained = kinds if several else kinds[::-1]
        raise UserError(
            f"{dataset.location}: its videos have {its}, those that {checkpoint} was trained on {trained}; pack the "
            "split as that was packed"
        )
    if not several:
        return None
    if dataset.manifest.classes != classes:
        difference = describe_class_difference(dataset.manifest.classes, classes)
        raise UserError(
            f"{dataset.location}: its classes are not those that {checkpoint} was trained on: {difference}; pack the "
            "split with --classes FILE, a file of the names the network was trained on, or train on these"
        )
    if dataset.label_sets is None or not len(dataset.label_sets.ids):
        raise UserError(f"{dataset.location}: not one of its {len(dataset)} videos has a label; pack it with labels")
    return MappedSplit(dataset, np.arange(len(classes)), "")


def is_multilabel(evaluation: Path) -> bool:
    """Return whether an evaluation.json is of videos with several labels."""
    return "average_precision" in json.loads(evaluation.read_text())


def write_multilabel(
    evaluation: MultiLabelEvaluation, scores: Scores, provenance: Mapping[str, object], out: Path
) -> None:
    """Write scores.parquet, classes.csv and evaluation.json; a class without samples has no average precision."""
    precisions = [None if np.isnan(value) else float(value) for value in evaluation.average_precision]
    positives = evaluation.positives.tolist()
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["class", "samples", "average_precision"])
    for name, count, precision in zip(scores.classes, positives, precisions):
        table.writerow([name, count, "" if precision is None else f"{precision:.4f}"])
    out.mkdir(parents=True, exist_ok=True)
    write_scores(out / "scores.parquet", scores)
    write_atomically(out / "classes.csv", text.getvalue())
    of_classes = {"average_precision": precisions, "positives": positives}
    values = {**evaluation.figures(), **of_classes, **provenance}
    write_atomically(out / "evaluation.json", json.dumps(values, indent=1) + "\n")


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
