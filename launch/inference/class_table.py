"""The accuracy of each class, the worst first, with how sure it is: classes.csv, and lines for the terminal."""

import csv
import io
import math
from dataclasses import dataclass

import numpy as np

MOST_PRINTED_CLASSES = 20
WORST_PRINTED = 10
Z = 1.959963984540054
"""Standard deviations of a normal distribution on either side of its mean that hold 95 % of it."""


@dataclass(frozen=True)
class ClassRow:
    """The results of one class."""

    name: str
    samples: int
    correct: int
    taken_for: str
    """The other class that its samples are taken for most often; empty if they never are."""
    times: int
    """How often they are."""

    @property
    def accuracy(self) -> float:
        """nan without samples."""
        return self.correct / self.samples if self.samples else float("nan")


def wilson_interval(correct: float, samples: int) -> tuple[float, float]:
    """Return the 95 % score interval of a fraction: Wilson, Probable inference, the law of succession, and statistical
    inference, JASA 1927; unlike accuracy +- 1.96 standard errors it holds for few samples and near 0 and 1.

    >>> [round(end, 4) for end in wilson_interval(8, 10)]
    [0.4902, 0.9433]
    """
    if not samples:
        return 0.0, 1.0
    fraction, spread = correct / samples, Z**2 / samples
    middle = (fraction + spread / 2) / (1 + spread)
    reach = Z * math.sqrt(fraction * (1 - fraction) / samples + spread / (4 * samples)) / (1 + spread)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def class_rows(confusion: np.ndarray, classes: tuple[str, ...]) -> list[ClassRow]:
    """Return a row for each class of a confusion matrix (C, C), true classes down: the worst first, of equally bad ones
    that of more samples; those without samples last."""
    rows = []
    for number, name in enumerate(classes):
        counts = confusion[number].copy()
        samples, correct = int(counts.sum()), int(counts[number])
        counts[number] = 0
        other = int(counts.argmax())
        rows.append(ClassRow(name, samples, correct, classes[other] if counts[other] else "", int(counts[other])))
    return sorted(rows, key=lambda row: (not row.samples, row.accuracy if row.samples else 0, -row.samples))


def classes_csv(confusion: np.ndarray, classes: tuple[str, ...]) -> str:
    """Return the table of all classes as CSV."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(
        ["class", "samples", "correct", "accuracy", "low_95", "high_95", "most_often_taken_for", "times_taken_for"]
    )
    for row in class_rows(confusion, classes):
        values = (row.accuracy, *wilson_interval(row.correct, row.samples)) if row.samples else ()
        figures = [f"{value:.4f}" for value in values] or [""] * 3
        table.writerow([row.name, row.samples, row.correct, *figures, row.taken_for, row.times or ""])
    return text.getvalue()


def describe_classes(confusion: np.ndarray, classes: tuple[str, ...]) -> str:
    """Return a line for each class that occurs, its accuracy, interval and samples, the worst first; of many classes
    only the worst."""
    rows = [row for row in class_rows(confusion, classes) if row.samples]
    shown = rows if len(rows) <= MOST_PRINTED_CLASSES else rows[:WORST_PRINTED]
    width = max((len(row.name) for row in shown), default=0)
    lines = []
    for row in shown:
        low, high = wilson_interval(row.correct, row.samples)
        mistaken = f", {row.times} taken for {row.taken_for}" if row.times else ""
        interval = f"({100 * low:.0f} to {100 * high:.0f} %)"
        lines.append(
            f"{row.name:{width}}  {row.accuracy:8.2%}  {interval:15} {row.correct} of {row.samples}{mistaken}\n"
        )
    if len(shown) < len(rows):
        lines.append(f"these are the worst of {len(rows)} classes; classes.csv has all\n")
    return "".join(lines)
