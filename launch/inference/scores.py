"""Score files: what an evaluation said of every sample, for later looks and for ensembles.

key | label | prediction | scores    a row for each sample, in the order of the packed split
key | labels | scores                the same of samples with several labels each
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from launch.training.average_precision import average_precisions, mean_over_known
from sharding.errors import UserError
from sharding.files import parse_json, replacing

_CLASSES, _DATA = b"class_names", b"fingerprint"
_CLASSES_IN_LINES = b"classes"
"""The key of versions before 0.2."""


@dataclass(frozen=True)
class Scores:
    """Of one evaluation, or the mean of several."""

    keys: tuple[str, ...]
    labels: np.ndarray
    """(N,) int32 class ids; (N, C) bool where samples have several labels."""
    scores: np.ndarray
    """(N, C) float32 probabilities."""
    classes: tuple[str, ...]
    fingerprint: str
    """Of the packed split."""

    def top(self, count: int) -> float:
        """Return the fraction of samples whose class is among the `count` highest scores."""
        if not len(self.labels):
            return float("nan")
        best = np.argsort(-self.scores, 1, kind="stable")[:, :count]
        return float((best == self.labels[:, None]).any(1).mean())

    @property
    def is_multilabel(self) -> bool:
        return self.labels.ndim == 2


def write_scores(path: Path, scores: Scores) -> None:
    """Write a score file."""
    values = pa.FixedSizeListArray.from_arrays(pa.array(scores.scores.ravel()), scores.scores.shape[1])
    if scores.is_multilabel:
        labels = [np.flatnonzero(row) for row in scores.labels]
        columns = {"labels": pa.array(labels, pa.list_(pa.int32()))}
    else:
        columns = {
            "label": pa.array(scores.labels, pa.int32()),
            "prediction": pa.array(scores.scores.argmax(1), pa.int32()),
        }
    table = pa.table({"key": pa.array(scores.keys, pa.string()), **columns, "scores": values}).replace_schema_metadata(
        {_CLASSES: json.dumps(scores.classes), _DATA: scores.fingerprint}
    )
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def read_scores(path: Path) -> Scores:
    """Read a score file. Raises UserError for what is none."""
    try:
        table = pq.read_table(path)
        metadata = table.schema.metadata
        if _CLASSES in metadata:
            classes = tuple(map(str, parse_json(metadata[_CLASSES])))
        else:
            classes = tuple(metadata[_CLASSES_IN_LINES].decode().split("\n"))
        scores = table["scores"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, len(classes))
        keys = tuple(table["key"].to_pylist())
        if "labels" in table.column_names:
            labels = np.zeros(scores.shape, bool)
            for row, ids in zip(labels, table["labels"].to_pylist()):
                row[ids] = True
        else:
            labels = table["label"].to_numpy()
        return Scores(keys, labels, scores, classes, metadata[_DATA].decode())
    except (OSError, LookupError, TypeError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a score file of launch/evaluate.py: {str(error).splitlines()[0]}") from error


def describe_accuracy(scores: Scores) -> str:
    """Return top-1 and, where there are more than five classes, top-5 accuracy; of several labels a sample, mAP."""
    if scores.is_multilabel:
        return f"mAP {mean_over_known(average_precisions(scores.scores, scores.labels)):.2%}"
    top5 = f", top-5 {scores.top(5):.2%}" if len(scores.classes) > 5 else ""
    return f"top-1 {scores.top(1):.2%}{top5}"


def mean_scores(files: list[Path]) -> Scores:
    """Return the mean of several files' scores of the same samples, as of 8 and of 16 frames.

    Raises:
        UserError: one is no score file, or not of the same packed split and classes.
    """
    first, *others = [read_scores(path) for path in files]
    for path, other in zip(files[1:], others):
        for name in ("fingerprint", "classes", "keys"):
            if getattr(other, name) != getattr(first, name):
                raise UserError(f"{path}: it is of another {name} than {files[0]}; evaluate both on the same split")
    scores = np.stack([each.scores for each in (first, *others)])
    mean = scores.mean(0, dtype=np.float64).astype(np.float32)
    return Scores(first.keys, first.labels, mean, first.classes, first.fingerprint)
