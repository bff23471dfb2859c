"""The record of a run: messages on the console and in files, figures as JSON lines and in TensorBoard."""

import json
import logging
import sys
import time
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


def start_logging(run_dir: Path, rank: int) -> None:
    """The first rank's messages go to the console, every rank's to run_dir/logs/rank-N.log."""
    folder = run_dir / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    form = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
    handlers: list[logging.Handler] = [logging.FileHandler(folder / f"rank-{rank}.log")]
    if rank == 0:
        handlers.append(logging.StreamHandler(sys.stdout))
    for handler in handlers:
        handler.setFormatter(form)
    logger = logging.getLogger("launch")
    logger.handlers[:] = handlers
    logger.setLevel(logging.INFO)
    logger.propagate = False


class RunLog:
    """Figures of the first rank, in run_dir/metrics.jsonl and run_dir/tensorboard; silent on the others.

    Each line has `kind`, `step` (optimizer steps so far), `seconds` (Unix time) and figures. Kinds: "train" (means
    over the steps since the last such line), "epoch" (how many different samples all ranks saw since it began, or was
    resumed), "evaluation". Begun at `step`, it drops what an earlier process wrote beyond: it will come again.
    """

    def __init__(self, run_dir: Path, rank: int, step: int):
        self._file = self._writer = None
        if rank != 0:
            return
        path = run_dir / "metrics.jsonl"
        kept = [line for line in read_metrics(run_dir) if line["step"] <= step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        temporary.replace(path)
        self._file = path.open("a", buffering=1)
        self._writer = SummaryWriter(run_dir / "tensorboard", purge_step=step + 1)

    def write(self, kind: str, step: int, **figures: float) -> None:
        if self._file is None:
            return
        self._file.write(json.dumps({"kind": kind, "step": step, "seconds": round(time.time(), 3), **figures}) + "\n")
        for name, value in figures.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._writer.close()


def read_metrics(run_dir: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl; a last line that a killed process left unfinished is left out."""
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        return []
    *whole, _unfinished = path.read_text().split("\n")
    return [json.loads(line) for line in whole]
