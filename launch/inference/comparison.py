"""Several checkpoints next to each other: their names, a table, comparison.json and comparison.csv."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.training.checkpoint import find_checkpoint
from launch.training.evaluation import Evaluation
from sharding.files import write_atomically


@dataclass(frozen=True)
class Row:
    """The results of one checkpoint."""

    name: str
    checkpoint: str
    epoch: int
    step: int
    evaluation: Evaluation
    interval: tuple[float, float]
    """95 % interval of the top-1 accuracy."""
    calibration_error: float

    def to_dict(self) -> dict[str, object]:
        """Return the row as plain values, for JSON and CSV."""
        figures = self.evaluation.figures()
        low, high = self.interval
        return {
            "name": self.name,
            "checkpoint": self.checkpoint,
            "epoch": self.epoch,
            "step": self.step,
            "top1": figures.pop("top1"),
            "top1_low_95": low,
            "top1_high_95": high,
            **figures,
            "expected_calibration_error": self.calibration_error,
        }


def name_checkpoints(paths: Sequence[Path]) -> dict[Path, str]:
    """Return the checkpoint folders that paths mean, each once, in order, with names that differ: RUN/step-00000120.

    Raises:
        UserError: a path means none.
    """
    found = {folder.resolve(): folder for folder in map(find_checkpoint, reversed(paths))}
    parts = {folder: [part for part in folder.parts[1:] if part != "checkpoints"] for folder in reversed(found)}
    for num_parts in range(2, max(map(len, parts.values())) + 1):
        names = ["/".join(of_folder[-num_parts:]) for of_folder in parts.values()]
        if len(set(names)) == len(names):
            break
    else:
        names = list(map(str, parts))
    return dict(zip((found[folder] for folder in parts), names))


def write_rows(rows: Sequence[Row | None], out: Path) -> None:
    """Write comparison.json and comparison.csv."""
    values = [row.to_dict() for row in rows if row is not None]
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(dict.fromkeys(name for row in values for name in row)))
    table.writeheader()
    table.writerows(values)
    write_atomically(out / "comparison.csv", text.getvalue())
    write_atomically(out / "comparison.json", json.dumps(values, indent=1) + "\n")


def describe_rows(rows: Sequence[Row | None]) -> str:
    """Return a table in the order of the rows; ECE is the expected calibration error, top-1 has its 95 % interval."""
    shown = [row for row in rows if row is not None]
    width = max(len("checkpoint"), *(len(row.name) for row in shown))
    lines = [f"{'checkpoint':{width}}  epoch    top-1     (95 %)         top-5     mean class  ECE\n"]
    for row in shown:
        found = row.evaluation
        top5 = _percent(found.top5) if len(found.confusion) > 5 else f"{'-':>7}"
        interval = f"({100 * row.interval[0]:.1f} to {100 * row.interval[1]:.1f})"
        lines.append(
            f"{row.name:{width}}  {row.epoch:5}  {_percent(found.top1)}  {interval:14}  {top5}     "
            f"{_percent(found.mean_class)}  {_percent(row.calibration_error)}\n"
        )
    return "".join(lines)


def _percent(value: float) -> str:
    return f"{'-':>7}" if math.isnan(value) else f"{value:7.2%}"
