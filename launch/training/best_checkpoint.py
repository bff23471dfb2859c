"""Which checkpoint of a run is the best, by the figure that is monitored, and how good it is."""

import math
from dataclasses import replace
from pathlib import Path

from launch.training.checkpoint import point, pointed, read_info, write_info
from launch.training.distributed import Ranks

MAP = "map"
"""What is monitored where videos have several labels: their mean average precision."""
MONITORED = {"top1": ("top-1", 1), "top5": ("top-5", 5), "mean_class": ("mean class accuracy", 1)}
"""By train.monitor, what to call it, and how many classes a guess may name."""


def record_evaluation(run_dir: Path, metrics: dict[str, float], ranks: Ranks, monitor: str = "top1") -> None:
    """Write the figures into the newest checkpoint; it is the best one if no other has a higher `monitor`ed figure."""
    if not ranks.is_main_process:
        return
    folder = run_dir / "checkpoints"
    last, best = pointed(folder, "last"), pointed(folder, "best")
    assert last is not None  # what was evaluated was saved
    # Without figures it will be evaluated again, so they come last, behind the log, too.
    if best is None or _or_least(metrics[monitor]) >= _or_least(read_info(folder / best).metrics.get(monitor, 0.0)):
        point(folder, "best", last)
    write_info(folder / last, replace(read_info(folder / last), metrics=metrics))


def _or_least(figure: float) -> float:
    """Return a figure, the least one for nan: that of a split in which nothing could be counted."""
    return -math.inf if math.isnan(figure) else figure


def describe_best(run_dir: Path, monitor: str = "top1") -> str:
    """Return the accuracy of the best checkpoint, or its mAP, next to that of guessing."""
    name = pointed(run_dir / "checkpoints", "best")
    assert name is not None  # the end of a training with a validation split
    best = read_info(run_dir / "checkpoints" / name)
    if monitor == MAP:
        found, guessed = (_percent(best.metrics[figure]) for figure in (MAP, "map_of_guessing"))
        return f"best mAP {found} after epoch {best.epoch} (guessing {guessed})"
    name, num_guesses = MONITORED[monitor]
    chance = min(1.0, num_guesses / len(best.classes))
    return f"best {name} {_percent(best.metrics[monitor])} after epoch {best.epoch} (chance {_percent(chance)})"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"
