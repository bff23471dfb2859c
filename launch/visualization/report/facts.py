"""What the folder of a run says about it: figures, configuration, checkpoints, evaluations, and how far it has come.

Whatever is missing or cannot be read becomes a sentence in `RunFacts.problems`; a page can be made of what is there.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.training.checkpoint import CheckpointInfo, pointed, read_info
from launch.training.config import Config
from launch.training.config_parser import load_config
from launch.training.early_stopping import epochs_without_gain
from launch.training.run_log import read_metrics
from sharding.errors import UserError, redacted

MOST_LOG_LINES = 12
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run."""

    run_dir: Path
    config: Config | None
    """Its resolved configuration."""
    steps: list[dict[str, Any]]
    """Lines of metrics.jsonl about training, in order."""
    evaluations: list[dict[str, Any]]
    """Lines of metrics.jsonl about the evaluations of the validation split during training, in order."""
    epochs: list[dict[str, Any]]
    """Lines of metrics.jsonl about complete epochs, in order."""
    last: CheckpointInfo | None
    best: CheckpointInfo | None
    is_running: bool
    """Whether a process of this machine is training in the folder now."""
    warnings: list[str]
    """The newest warnings and errors of the first rank's log."""
    problems: list[str] = field(default_factory=list)
    """What cannot be shown, why, and what to do."""

    @property
    def epochs_done(self) -> float:
        """Epochs trained so far, as the newest figures or the newest checkpoint say."""
        logged = self.steps[-1]["epoch"] if self.steps else 0.0
        return max(logged, self.last.epoch if self.last else 0.0)

    @property
    def state(self) -> str:
        """Return running, finished, stopped, or not started."""
        if self.is_running:
            return "running"
        if self.last is None and not self.steps:
            return "not started"
        if self.config is None or self.last is None:
            return "stopped"
        patience, monitor = self.config.train.patience_epochs, self.config.monitored_figure
        values = {line["epoch"]: line[monitor] for line in self.evaluations if monitor in line}
        stopped_early = patience and epochs_without_gain(values) >= patience
        return "finished" if stopped_early or self.last.epoch >= self.config.train.epochs else "stopped"

    @property
    def measure(self) -> str:
        """Return which of an evaluation's figures says how good a checkpoint is: of several labels a video map."""
        return "map" if any("map" in line for line in self.evaluations) else "top1"

    @property
    def best_evaluation(self) -> dict[str, Any] | None:
        """Return the evaluation with the highest top-1 accuracy or mAP during training, the latest of equals."""
        return max(reversed(self.evaluations), key=lambda line: line[self.measure], default=None)

    def training_seconds(self) -> tuple[float, float]:
        """Return the seconds spent in training steps, and those of them in which the device waited for data.

        Of each line: the clips since the line before, divided by their rate; so pauses between a death and the resume
        do not count.
        """
        if self.config is None:
            return 0.0, 0.0
        seconds, waiting, before = 0.0, 0.0, 0
        for line in self.steps:
            spent = (line["step"] - before) * self.config.train.batch_size / max(line["clips_per_second"], 1e-9)
            seconds, waiting, before = seconds + spent, waiting + spent * line["loading_share"], line["step"]
        return seconds, waiting


def read_run(run_dir: Path) -> RunFacts:
    """Read the folder of a run, finished or not.

    Raises:
        UserError: it is no folder of a run.
    """
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: no such folder; give the folder of a run, such as runs/kinetics400_8f")
    if not any((run_dir / name).exists() for name in ("config.yaml", "metrics.jsonl", "checkpoints")):
        raise UserError(f"{run_dir}: no figures in metrics.jsonl and no config.yaml; is it a run folder?")
    problems: list[str] = []
    lines = _read_lines(run_dir, problems)
    return RunFacts(
        run_dir=run_dir,
        config=_read_config(run_dir, problems),
        steps=[line for line in lines["train"] if _has(line, "loss", "clips_per_second", "loading_share")],
        evaluations=[line for line in lines["evaluation"] if _has(line, "top1") or _has(line, "map")],
        epochs=lines["epoch"],
        last=_read_checkpoint(run_dir, "last", problems),
        best=_read_checkpoint(run_dir, "best", problems),
        is_running=is_locked(run_dir / ".lock"),
        warnings=_read_warnings(run_dir / "logs" / "rank-0.log"),
        problems=problems,
    )


def _read_lines(run_dir: Path, problems: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the lines of metrics.jsonl by kind; those of an unknown kind are left out."""
    by_kind: dict[str, list[dict[str, Any]]] = {"train": [], "evaluation": [], "epoch": []}
    try:
        for line in read_metrics(run_dir):
            if isinstance(line, dict) and line.get("kind") in by_kind and _has(line, "step", "epoch"):
                by_kind[line["kind"]].append(line)
    except (OSError, ValueError) as error:
        problems.append(f"metrics.jsonl cannot be read: {' '.join(str(error).split())}")
    return by_kind


def _has(line: dict[str, Any], *names: str) -> bool:
    return all(is_number(line.get(name)) for name in names)


def is_number(value: object) -> bool:
    """Return whether a value of a file is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _read_config(run_dir: Path, problems: list[str]) -> Config | None:
    try:
        return load_config(run_dir / "config.yaml")
    except UserError as error:
        problems.append(str(error))
        return None


def _read_checkpoint(run_dir: Path, pointer: str, problems: list[str]) -> CheckpointInfo | None:
    try:
        name = pointed(run_dir / "checkpoints", pointer)
        return read_info(run_dir / "checkpoints" / name) if name else None
    except (UserError, OSError) as error:
        problems.append(str(error))
        return None


def is_locked(path: Path) -> bool:
    """Return whether a process of this machine holds the flock(2) of a file; it is not touched.

    /proc/locks has lines such as `1: FLOCK  ADVISORY  WRITE 812 fe:01:1311 0 EOF`: the device, hexadecimal, and the
    inode, decimal.
    """
    try:
        inode = path.stat().st_ino
        locks = Path("/proc/locks").read_text()
    except OSError:
        return False
    columns = [line.split() for line in locks.splitlines()]
    return any("FLOCK" in line and line[-3].rpartition(":")[2] == str(inode) for line in columns if len(line) >= 8)


def _read_warnings(path: Path) -> list[str]:
    """Return the newest lines of a log that are no mere information, without secrets of URLs."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    kept = [line for line in lines if line[20:].startswith(("WARNING", "ERROR", "CRITICAL"))]
    return [redacted(line) for line in kept[-MOST_LOG_LINES:]]
