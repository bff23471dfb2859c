"""The folder of a training run: begun, gone on with, saved to."""

import logging
import shutil
from dataclasses import asdict
from pathlib import Path

from launch.checkpoints import CheckpointInfo, point, pointed, remove_old_checkpoints, write_checkpoint
from launch.config import Config, load_config
from launch.engine import Engine, Ranks, barrier, load_engine, save_engine
from pipeline.loader import VideoLoader
from sharding.commandline import UserError

log = logging.getLogger("launch.run")

# What may differ between a run and its continuation: it changes where and how fast, not what is computed.
_FREE = {
    "": ("run_dir", "resume"),
    "data": ("train", "val", "decoder", "reading_threads", "read_ahead"),
    "train": ("micro_batch_size", "log_every_steps", "save_every_steps", "keep_checkpoints"),
}


def open_run(config: Config, ranks: Ranks) -> Path:
    """Makes the run folder, or checks that the one there may be gone on with.

    Raises:
        UserError: the folder holds a run and `resume` is "never", or a run of another configuration.
    """
    run_dir = Path(config.run_dir)
    path = run_dir / "config.yaml"
    if ranks.is_first:
        if pointed(run_dir / "checkpoints", "last") is None:
            run_dir.mkdir(parents=True, exist_ok=True)
            path.write_text(config.to_yaml())
        elif config.resume == "never":
            raise UserError(f"run_dir={run_dir} holds a run already; go on with --resume, or choose another --run_dir")
        else:
            _check_same_run(load_config(path), config, run_dir)
    barrier()
    return run_dir


def resume(run_dir: Path, engine: Engine, loader: VideoLoader) -> float | None:
    """Takes the newest checkpoint, if there is one, into the engine and the loader; returns the best top-1 so far."""
    folder = run_dir / "checkpoints"
    name = pointed(folder, "last")
    if name is None:
        return None
    state = load_engine(engine, folder, name)
    loader.load_state_dict(state["loader"])
    log.info("resumed from %s", folder / name)
    return state["best"]


def save_run(
    run_dir: Path, engine: Engine, state: dict, info: CheckpointInfo, config: Config, ranks: Ranks, is_best: bool
) -> None:
    """Saves on all ranks together; the folder bears its final name only once everything in it is written.

    Args:
        state: what `resume` needs besides the engine's own state.
        is_best: whether `best` is to name this one.
    """
    folder = run_dir / "checkpoints"
    name = f"step-{info.step:08d}"
    temporary = folder / f".unfinished-{name}"
    if ranks.is_first:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    barrier()
    save_engine(engine, folder, temporary.name, state)
    if ranks.is_first:
        write_checkpoint(temporary, engine.module, info, config)
    barrier()
    if ranks.is_first:
        shutil.rmtree(folder / name, ignore_errors=True)
        temporary.rename(folder / name)
        point(folder, "last", name)
        if is_best:
            point(folder, "best", name)
        remove_old_checkpoints(folder, config.train.keep_checkpoints)
    barrier()


def _check_same_run(old: Config, new: Config, run_dir: Path) -> None:
    """Raises UserError if `new` would train something else than `old`."""
    before, now = asdict(old), asdict(new)
    for section, names in _FREE.items():
        for values in (before, now):
            for name in names:
                (values[section] if section else values).pop(name)
    for section, values in now.items():
        if values != before[section]:
            changed = [name for name in values if values[name] != before[section].get(name)]
            first = changed[0] if changed else next(name for name in before[section] if name not in values)
            raise UserError(
                f"run_dir={run_dir} holds a run with {section}.{first}={before[section].get(first)!r}, not "
                f"{values.get(first)!r}; use the same, or choose another --run_dir"
            )
