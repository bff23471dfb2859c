"""The evaluation.json of launch/evaluate.py, checked: of videos with one label, or with several."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sharding.errors import UserError
from sharding.files import parse_json


@dataclass(frozen=True)
class EvaluationFile:
    """What every evaluation.json has."""

    path: Path
    classes: tuple[str, ...]
    values: dict[str, Any]
    """All of it: accuracies, views, data and its fingerprint."""


@dataclass(frozen=True)
class SingleLabelFile(EvaluationFile):
    """An evaluation of videos with one label each."""

    confusion: np.ndarray
    """(C, C) int64: rows are true classes, columns predicted ones."""

    @property
    def samples(self) -> np.ndarray:
        """(C,) int64 samples of each class."""
        return self.confusion.sum(1)

    @property
    def accuracies(self) -> np.ndarray:
        """(C,) float64 fraction of each class's samples that are right; nan without any."""
        with np.errstate(invalid="ignore"):
            return self.confusion.diagonal() / self.samples


@dataclass(frozen=True)
class MultiLabelFile(EvaluationFile):
    """An evaluation of videos with any number of labels each."""

    average_precision: np.ndarray
    """(C,) float64 of each class; nan without samples."""
    positives: np.ndarray
    """(C,) int64 samples of each class."""
    num_samples: int


def read_evaluation(path: Path) -> SingleLabelFile | MultiLabelFile:
    """Read an evaluation.json.

    Raises:
        UserError: it is none.
    """
    try:
        values = parse_json(path.read_text())
        classes = values["classes"]
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise ValueError("classes are not names")
        read = _multi_label if "average_precision" in values else _single_label
        return read(path, tuple(classes), values)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not an evaluation.json of launch/evaluate.py: {error}") from error


def read_single_label(path: Path) -> SingleLabelFile:
    """Read the evaluation of videos with one label each. Raises UserError for anything else."""
    found = read_evaluation(path)
    if not isinstance(found, SingleLabelFile):
        raise UserError(
            f"{path}: videos with several labels have no confusion matrix; use launch/visualize.py precision {path}"
        )
    return found


def read_multi_label(path: Path) -> MultiLabelFile:
    """Read the evaluation of videos with several labels each. Raises UserError for anything else."""
    found = read_evaluation(path)
    if not isinstance(found, MultiLabelFile):
        raise UserError(f"{path}: videos with one label have accuracies; use launch/visualize.py confusion {path}")
    return found


def _single_label(path: Path, classes: tuple[str, ...], values: dict[str, Any]) -> SingleLabelFile:
    counts = _counts(values, "confusion", (len(classes), len(classes)))
    return SingleLabelFile(path, classes, values, counts)


def _multi_label(path: Path, classes: tuple[str, ...], values: dict[str, Any]) -> MultiLabelFile:
    precisions, positives = np.array(values["average_precision"], float), _counts(values, "positives", (len(classes),))
    if precisions.shape != positives.shape:
        raise ValueError(f"average_precision of shape {precisions.shape} for {len(classes)} classes")
    if not ((precisions >= 0) & (precisions <= 1) | np.isnan(precisions)).all():
        raise ValueError("average_precision of other values than 0 to 1")
    return MultiLabelFile(path, classes, values, precisions, positives, int(_counts(values, "samples", ())))


def _counts(values: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> np.ndarray:
    counts = np.array(values[name])
    if counts.shape != shape:
        raise ValueError(f"{name} of shape {counts.shape}, and {shape} is expected")
    if counts.dtype.kind not in "iu" or (counts < 0).any():
        raise ValueError(f"{name} of other values than counts")
    return counts.astype(np.int64)


def find_evaluations(path: Path) -> list[Path]:
    """Return the evaluation.json that `path` is, or those in a folder of an evaluation or a run, the newest first."""
    if not path.is_dir():
        return [path]
    found = [path / "evaluation.json", *path.glob("evaluation-*/evaluation.json")]
    found += path.glob("checkpoints/*/evaluation-*/evaluation.json")
    return sorted((file for file in found if file.is_file()), key=lambda file: -file.stat().st_mtime_ns)
