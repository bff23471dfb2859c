"""The folder of a training run: begun, resumed, saved to."""

import errno
import fcntl
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load_file
from torch import nn

from launch.training.checkpoint import (
    CheckpointInfo,
    check_weights,
    point,
    pointed,
    read_info,
    remove_old_checkpoints,
    write_checkpoint,
)
from launch.training.config import Config
from launch.training.config_parser import load_config
from launch.training.distillation import teacher_fingerprint
from launch.training.distributed import Ranks, any_rank, errors_on_all_ranks
from launch.training.early_stopping import epochs_without_gain, read_monitored
from launch.training.ema import WeightEma
from launch.training.engine import Engine, load_engine, save_engine
from launch.training.launcher import ErrorOfAllRanks
from launch.training.optimizer_config import ScheduleConfig
from pipeline.loader import VideoLoader
from sharding.errors import UserError, redacted
from sharding.files import write_atomically
from sharding.manifest import describe_class_difference

log = logging.getLogger("launch.training.run_dir")

# What may differ between a run and its continuation: it changes where and how fast, not what is computed, but that
# BatchNorm and mixup look at a micro-batch. Of the data section its own `sampling_settings` says.
MUTABLE_ON_RESUME = {
    "": ("run_dir", "resume"),
    "train": (
        *("micro_batch_size", "log_every_steps", "save_every_steps", "keep_checkpoints", "wandb"),
        *("require_gpu", "timeout_seconds", "heartbeat_timeout_seconds", "patience_epochs", "gradient_checkpointing"),
    ),
    "distillation": ("teacher",),  # where it is; what it is, its fingerprint says
}

# What `--resume=extend` may change besides: how long training goes on, and at which learning rate.
EXTENDABLE = {
    "train": ("epochs",),
    "schedule": tuple(ScheduleConfig.__dataclass_fields__),
    "optimizer": ("learning_rate", "reference_batch_size"),
}


@contextmanager
def locked(run_dir: Path, ranks: Ranks) -> Iterator[None]:
    """Keep other trainings out of a run folder; the first rank holds the lock, which ends with its process.

    Raises:
        UserError: another training has it, or the folder cannot be written; on all ranks, which must all come here.
    """
    lock = None
    with errors_on_all_ranks(ranks):
        if ranks.is_main_process:
            lock = _lock(run_dir)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _lock(run_dir: Path) -> int:
    path = run_dir / ".lock"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(f"run_dir={run_dir} cannot be written: {error.strerror}; choose another") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(lock, 200).decode(errors="replace").strip()
        os.close(lock)
        raise UserError(
            f"run_dir={run_dir}: another training is writing to it ({holder or 'unknown'}); wait until it has ended, "
            "or choose another --run_dir"
        ) from error
    except OSError:  # a file system without locks
        return lock
    os.truncate(lock, 0)
    os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return lock


def open_run(config: Config, classes: tuple[str, ...], ranks: Ranks) -> Path:
    """Make the run folder; the first rank checks whether the one there may be resumed.

    Raises:
        UserError: it cannot be written, or it holds a run and `resume` is "never", or a run of another configuration,
            of other classes, or of another number of ranks where that matters.
    """
    run_dir = Path(config.run_dir)
    path, folder = run_dir / "config.yaml", run_dir / "checkpoints"
    try:
        (run_dir / "logs").mkdir(parents=True, exist_ok=True)
        (run_dir / "logs" / f"rank-{ranks.rank}.log").open("a").close()
        if not ranks.is_main_process:
            return run_dir
        remove_unfinished(folder)
        last = pointed(folder, "last")
        if last is None:
            if config.resume == "extend":
                raise UserError(f"run_dir={run_dir} holds no checkpoint that could be extended; leave --resume out")
            write_atomically(path, config.to_yaml())
            return run_dir
    except OSError as error:
        raise UserError(f"run_dir={run_dir} cannot be written: {error.strerror}; choose another") from error
    if config.resume == "never":
        raise UserError(f"run_dir={run_dir} holds a run already; resume it with --resume, or choose another --run_dir")
    old, info = load_config(path), read_info(folder / last)
    if config.resume == "extend":
        _check_extension(old, config, info)
    check_same_run(old, config, run_dir)
    trained = info.classes
    if trained != classes:
        train = redacted(str(config.data.train))
        raise UserError(
            f"run_dir={run_dir} holds a run with other classes than those of data.train={train}: "
            f"{describe_class_difference(classes, trained)}; begin another run: --run_dir=NEW"
        )
    _check_partitions(folder / last, ranks.world_size)
    if config.resume == "extend":
        write_atomically(path, replace(config, resume="never").to_yaml())
    return run_dir


def _check_extension(old: Config, new: Config, info: CheckpointInfo) -> None:
    """Raise UserError if there is nothing left to train, or the run is one of phases."""
    if old.phases or new.phases:
        raise UserError(
            f"run_dir={new.run_dir} is a run of phases, which cannot be extended; begin another run from its weights: "
            f"--model.pretrained={new.run_dir} --run_dir=NEW"
        )
    if new.train.epochs <= info.epoch:
        raise UserError(
            f"train.epochs={new.train.epochs}: {info.epoch} epochs of run_dir={new.run_dir} are trained; give more, as "
            f"with --train.epochs={2 * info.epoch}"
        )
    patience, monitor = new.train.patience_epochs, new.monitored_figure
    if patience and epochs_without_gain(read_monitored(Path(new.run_dir), monitor)) >= patience:
        raise UserError(
            f"train.patience_epochs={patience}: in run_dir={new.run_dir} {monitor} has not risen for so many epochs: "
            "nothing more would be trained; give more, or 0"
        )


def _check_partitions(checkpoint: Path, world_size: int) -> None:
    """Raise UserError if a checkpoint holds the optimizer in parts, one for each rank, of another number of ranks."""
    parts = len(list(checkpoint.glob("*zero_pp_rank_*_optim_states.pt")))
    if parts not in (0, world_size):
        raise UserError(
            f"{checkpoint}: saved by {parts} rank(s) with train.zero_stage=1 or 2, which this run of {world_size} "
            f"rank(s) cannot resume; use {parts}, or begin a new run from its weights with "
            f"--model.pretrained={checkpoint}"
        )


def last_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest checkpoint of a run."""
    name = pointed(run_dir / "checkpoints", "last")
    return run_dir / "checkpoints" / name if name else None


def resume(run_dir: Path, engine: Engine, loader: VideoLoader, average: WeightEma, ranks: Ranks) -> bool:
    """Take the newest checkpoint, if there is one, into the engine, the loader and the average; return whether it is
    of the end of an epoch and has not been evaluated."""
    last = last_checkpoint(run_dir)
    if last is None:
        return False
    check_weights(average.module, last)
    _check_same_data(last, loader, run_dir)
    _check_same_teacher(last, teacher_fingerprint(engine.module), run_dir)
    state = load_engine(engine, last.parent, last.name)
    loader.load_state_dict(state["loader"])
    average.load(last / "model.safetensors", engine.global_steps)
    log.info("resumed from %s", last)
    return any_rank(ranks.is_main_process and loader.step == 0 and not read_info(last).metrics, ranks)


def _check_same_data(last: Path, loader: VideoLoader, run_dir: Path) -> None:
    """Raise UserError if the training split was packed again with another content since the checkpoint."""
    trained, dataset = read_info(last).train_fingerprint, loader.dataset
    if trained != dataset.fingerprint:
        raise UserError(
            f"run_dir={run_dir} was trained on other videos than {dataset.location} holds now ({len(dataset)} samples "
            f"of {len(dataset.manifest.classes)} classes): videos were added, removed or packed with other options; "
            f"use the split as it was, or begin another run from its weights: --model.pretrained={run_dir} "
            "--run_dir=NEW"
        )


def _check_same_teacher(last: Path, fingerprint: str, run_dir: Path) -> None:
    """Raise UserError if the checkpoint was trained with another teacher, or with none, or now there is none."""
    trained = read_info(last).teacher_fingerprint
    if trained != fingerprint:
        before, now = (f"fingerprint {value}" if value else "none" for value in (trained, fingerprint))
        raise UserError(
            f"run_dir={run_dir} was trained with another distillation.teacher: {before}, now {now}; give the same, or "
            f"begin another run from its weights: --model.pretrained={run_dir} --run_dir=NEW"
        )


class PhaseEnd(NamedTuple):
    """What a phase of a run leaves to the next, besides its last checkpoint."""

    loader: dict
    """Its loader's state."""
    steps: int
    """Optimizer steps taken since the beginning of the run."""


def take_weights(net: nn.Module, run_dir: Path) -> None:
    """Take the weights that were trained last into a network around which no engine was built yet."""
    last = _last_of_phase(run_dir)
    raw = last / "model_raw.safetensors"
    net.load_state_dict(load_file(raw if raw.exists() else last / "model.safetensors"))


def begin_phase(before: PhaseEnd, run_dir: Path, engine: Engine, loader: VideoLoader, average: WeightEma) -> None:
    """Continue counting where the phase before ended, with other clips and a new optimizer."""
    loader.follow(before.loader)
    engine.global_steps = before.steps
    average.load(_last_of_phase(run_dir) / "model.safetensors", before.steps)


def _last_of_phase(run_dir: Path) -> Path:
    last = last_checkpoint(run_dir)
    assert last is not None  # a phase ends with one
    return last


def save_run(
    run_dir: Path,
    engine: Engine,
    loader: VideoLoader,
    average: WeightEma,
    info: CheckpointInfo,
    config: Config,
    ranks: Ranks,
) -> None:
    """Save on all ranks together; the folder bears its final name only once everything in it is written.

    Raises:
        UserError: there is no space left for it, on all ranks.
    """
    folder = run_dir / "checkpoints"
    name = f"step-{info.step:08d}"
    temporary = folder / f".unfinished-{name}"
    with _saving(folder, ranks):
        if ranks.is_main_process:
            remove_unfinished(folder)
            temporary.mkdir(parents=True)
    with _saving(folder, ranks):
        save_engine(engine, folder, temporary.name, {"loader": loader.state_dict()})
        if ranks.is_main_process:
            write_checkpoint(temporary, average.module, info, config, average.raw)
    with _saving(folder, ranks):
        if ranks.is_main_process:
            shutil.rmtree(folder / name, ignore_errors=True)
            temporary.rename(folder / name)
            point(folder, "last", name)
            remove_old_checkpoints(folder, config.train.keep_checkpoints)


def remove_unfinished(folder: Path) -> None:
    """Remove what savings that did not come to their end have left in a folder of checkpoints."""
    for path in folder.glob(".unfinished-*"):
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _saving(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Let all ranks end a step of saving together. A full file system becomes a UserError on all of them, and the
    unfinished checkpoint is removed."""
    try:
        with errors_on_all_ranks(ranks):
            try:
                yield
            except Exception as error:
                if not _means_full(error):
                    raise
                last = pointed(folder, "last") or "none"
                raise UserError(
                    f"{folder}: no space left on the device for a checkpoint; the last one is {last}. Make space, then "
                    "continue with --resume"
                ) from error
    except ErrorOfAllRanks:
        if ranks.is_main_process:  # now that no rank writes to it any more
            remove_unfinished(folder)
        raise


def _means_full(error: BaseException | None) -> bool:
    """Return whether the error, or one that it was raised from, says that a file system or a quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error) or "Disk quota exceeded" in str(error):  # safetensors' own kind
            return True
        error = error.__cause__ or error.__context__
    return False


def check_same_run(old: Config, new: Config, run_dir: Path) -> None:
    """Raise UserError if `new` would train something else than `old`."""
    before, now = (
        asdict(config)
        | {"data": config.data.sampling_settings(), "phases": dict(enumerate(map(asdict, config.phases), 1))}
        for config in (old, new)
    )
    mutable = [MUTABLE_ON_RESUME, EXTENDABLE] if new.resume == "extend" else [MUTABLE_ON_RESUME]
    for section, names in (item for each in mutable for item in each.items()):
        for values in (before, now):
            for name in names:
                (values[section] if section else values).pop(name)
    for section, values in now.items():
        if values != before[section]:
            changed = [name for name in values if values[name] != before[section].get(name)]
            first = changed[0] if changed else next(name for name in before[section] if name not in values)
            extend = "extend the run with --resume=extend, " if first in EXTENDABLE.get(section, ()) else ""
            raise UserError(
                f"run_dir={run_dir} holds a run with {section}.{first}={before[section].get(first)!r}, not "
                f"{values.get(first)!r}; use the same, {extend}or begin another run from its weights: "
                f"--model.pretrained={run_dir} --run_dir=NEW"
            )
