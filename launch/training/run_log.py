"""The record of a run: messages on the console and in files, figures as JSON lines, in TensorBoard and, if wanted,
in Weights & Biases."""

import json
import logging
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from uuid import uuid4

from sharding.errors import UserError, redacted
from sharding.files import parse_json, write_atomically

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def start_logging(run_dir: Path, rank: int) -> None:
    """Send the first rank's messages and all ranks' errors to the console, everything to run_dir/logs/rank-N.log."""
    folder = run_dir / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    console = logging.StreamHandler(sys.stdout if rank == 0 else sys.stderr)
    console.setLevel(logging.INFO if rank == 0 else logging.ERROR)
    console.setFormatter(_ConsoleFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    file = logging.FileHandler(folder / f"rank-{rank}.log")
    file.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    handlers: list[logging.Handler] = [file, console]
    for name in ("launch", "model", "pipeline", "sharding"):
        logger = logging.getLogger(name)
        logger.handlers[:] = handlers
        logger.setLevel(logging.INFO)
        logger.propagate = False


class _Formatter(logging.Formatter):
    """Lines without secrets of URLs, which an error of a library may quote."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


class _ConsoleFormatter(_Formatter):
    """Lines of 80 columns, the level only where it is not INFO; the log files have it all in one line."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno > logging.INFO:
            return text.replace(record.message, f"{record.levelname} {record.message}", 1)
        if "\n" in text or record.message.startswith("next: "):  # a command is to be copied
            return text
        return textwrap.fill(text, 80, subsequent_indent=" " * 9, break_long_words=False, break_on_hyphens=False)


class RunLog:
    """Figures of the first rank, in run_dir/metrics.jsonl and run_dir/tensorboard; silent on the others.

    Each line has `kind`, `step` (optimizer steps so far), `seconds` (Unix time) and figures. Kinds: "train" (means
    over the steps since the last such line), "epoch" (how many different samples all ranks saw since it began, or was
    resumed), "evaluation". Begun at `step`, it drops what an earlier process wrote beyond: it will come again.

    With `wandb_config`, which describes the run, the figures go to Weights & Biases too.
    """

    def __init__(self, run_dir: Path, rank: int, step: int, wandb_config: dict | None = None):
        self._file: TextIO | None = None
        self._writer: SummaryWriter | None = None
        self._wandb: Any = None
        if rank != 0:
            return
        path = run_dir / "metrics.jsonl"
        kept = [line for line in read_metrics(run_dir) if line["step"] <= step]
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", buffering=1)
        from torch.utils import tensorboard  # takes a second

        self._writer = tensorboard.SummaryWriter(run_dir / "tensorboard", purge_step=step + 1)
        if wandb_config is not None:
            self._wandb = _start_wandb(run_dir, wandb_config)

    def write(self, kind: str, step: int, **figures: float) -> None:
        if self._file is None or self._writer is None:
            return
        self._file.write(json.dumps({"kind": kind, "step": step, "seconds": round(time.time(), 3), **figures}) + "\n")
        for name, value in figures.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)
        if self._wandb is not None:
            self._wandb.log({f"{kind}/{name}": value for name, value in figures.items()}, step=step)

    def close(self) -> None:
        if self._file is not None and self._writer is not None:
            self._file.close()
            self._writer.close()
        if self._wandb is not None:
            self._wandb.finish()


def check_wandb() -> None:
    """Raise UserError if Weights & Biases is not installed."""
    try:
        import wandb  # noqa: F401
    except ImportError as error:
        raise UserError("train.wandb=true needs the wandb package; pip install 'vpsn[wandb]'") from error


def _start_wandb(run_dir: Path, config: dict) -> Any:
    """Begin the record, or continue that of the run in this folder."""
    import wandb

    path = run_dir / "wandb-id.txt"
    if not path.exists():
        path.write_text(uuid4().hex + "\n")
    return wandb.init(dir=run_dir, id=path.read_text().strip(), resume="allow", config=config, name=run_dir.name)


def read_metrics(run_dir: Path) -> list[dict]:
    """Return the lines of a run's metrics.jsonl; a last line that a killed process left unfinished is left out.

    Raises:
        UserError: another line is none that a run writes, as where a disk was full.
    """
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        return []
    *complete, _unfinished = path.read_text(errors="replace").split("\n")
    lines = []
    for number, line in enumerate(complete, 1):
        try:
            value = parse_json(line)
            if not isinstance(value, dict) or not {"kind", "step"} <= value.keys():
                raise ValueError("no object with 'kind' and 'step'")
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}; remove the line") from error
        lines.append(value)
    return lines
