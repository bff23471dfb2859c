"""The search for the order, and for how many epochs each, to train with which clips and learning rates.

The command is launch/search_schedule.py. It trains along the edges of the plan's graph (algorithm.py), each a run in
RUN/edges, and leaves

    RUN/schedule.yaml      the path found, as a configuration for launch/train.py
    RUN/plan.png           the graph, the fitted curves and the path
    RUN/plan.json          the figures of all edges
    RUN/edges/1-4/         of each edge edge.json, the weights of its peak in model.safetensors, metrics.jsonl

Exit codes are those of launch/train.py.
"""

import json
import logging
import os
import shlex
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import yaml

from launch.schedule_search.algorithm import Edge, Outcome, Plan, PlanConfig, find_peak, find_plan, plan_edges
from launch.schedule_search.config import PlannedConfig
from launch.schedule_search.figure import draw_plan
from launch.training.builders import build_network
from launch.training.checkpoint import read_info
from launch.training.config import Config
from launch.training.config_parser import load_config
from launch.training.distributed import Ranks, errors_on_all_ranks, gather_over_ranks
from launch.training.engine import joined_ranks
from launch.training.run_dir import check_same_run, last_checkpoint, locked, open_run
from launch.training.run_log import read_metrics
from launch.training.supervise import begin_logging, check_run, run
from launch.training.trainer import Trainer
from launch.training.validation import validate
from sharding.dataset import PackedDataset
from sharding.errors import UserError
from sharding.files import replacing, write_atomically

log = logging.getLogger("launch.schedule_search.search")

Value = TypeVar("Value")


def find_schedule(config: PlannedConfig) -> int:
    """Check all that can be checked first, then search; return the exit code."""
    if config.data.val is None:
        raise UserError("data.val is not set: a plan is made by the accuracy on a packed validation split")
    train_set, val_set = check_run(config, config.schedule_of_all())
    assert val_set is not None  # as data.val names it
    with joined_ranks(config.train.timeout_seconds) as ranks, locked(Path(config.run_dir), ranks):
        with errors_on_all_ranks(ranks):
            open_plan(config, ranks)
        begin_logging(config, ranks, train_set)
        return run(config, ranks, lambda: search(config, ranks, train_set, val_set))


def open_plan(config: PlannedConfig, ranks: Ranks) -> None:
    """Make the folder; the first rank checks whether the plan there may be resumed."""
    path = Path(config.run_dir) / "plan.yaml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not ranks.is_main_process:
            return
        if not path.exists():
            write_atomically(path, config.to_yaml())
            return
    except OSError as error:
        raise UserError(f"run_dir={config.run_dir} cannot be written: {error.strerror}; choose another") from error
    if config.resume == "never":
        raise UserError(
            f"run_dir={config.run_dir} holds a plan already; continue with --resume, or choose another --run_dir"
        )
    check_same_run(load_config(path, PlannedConfig), config, path.parent)


def search(config: PlannedConfig, ranks: Ranks, train_set: PackedDataset, val_set: PackedDataset) -> bool:
    """Run the dynamic program over the edges; return False if a signal asked to leave."""

    def train(edge: Edge, start: Outcome | None) -> Outcome | None:
        done = train_edge(config, edge, start, ranks, train_set, val_set)
        if done is not None:
            log.info("edge %s: %d epochs, %.4f fitted, %.4f measured", edge, done.epochs, done.score, done.metric)
        return done

    settings = config.plan
    plan = find_plan(plan_edges(len(settings.clips), len(settings.rate_factors), settings.extended), train)
    if plan is not None and ranks.is_main_process:
        conclude(config, plan)
    return plan is not None


def train_edge(
    config: PlannedConfig,
    edge: Edge,
    start: Outcome | None,
    ranks: Ranks,
    train_set: PackedDataset,
    val_set: PackedDataset,
) -> Outcome | None:
    """Train until the peak, unless that was done before; return None if a signal asked to leave."""
    along = config.along(edge, start)
    folder = Path(along.run_dir)
    if (outcome := _from_first(lambda: load_outcome(folder), ranks)) is not None:
        return outcome
    with errors_on_all_ranks(ranks):
        open_run(along, train_set.manifest.classes, ranks)
    is_trained = start is not None and start.weights is not None
    watch = Watch(folder, is_trained, config.plan, ranks)
    with closing(Trainer(along, ranks, train_set, val_set)) as trainer:
        log.info("edge %s: %s", edge, config.plan.phase(edge.end, config.plan.max_epochs))
        if is_trained:
            evaluate_start(trainer)
        if not trainer.train(watch):
            return None
    return _from_first(lambda: finish_edge(folder, edge, start, watch), ranks)


def evaluate_start(trainer: Trainer) -> None:
    """Log, as of epoch 0, the accuracy of the weights that an edge starts from, unless that was done before.

    It is measured under the edge's own clips, as that of all later epochs is: only so can the two be compared.
    """
    if _from_first(lambda: 0 in read_accuracies(trainer.run_dir), trainer.ranks):
        return
    assert trainer.val_loader is not None  # `find_schedule` requires one
    net = build_network(trainer.config).to(trainer.ranks.device)  # the trainer's own has moved on if it was resumed
    evaluation = validate(net, trainer.val_loader, trainer.config)
    trainer.log.write("evaluation", 0, epoch=0, **evaluation.figures())
    log.info("before epoch 1: %s", evaluation)


class Watch:
    """Finds out whether the peak was passed; keeps the weights of each epoch until then.

    Args:
        is_trained: whether the edge starts from trained weights; if not, its accuracy begins at 0.
    """

    def __init__(self, folder: Path, is_trained: bool, plan: PlanConfig, ranks: Ranks):
        self._folder, self._plan, self._ranks = folder, plan, ranks
        self._before: dict[int, float] = {} if is_trained else {0: 0.0}
        self.metrics: tuple[float, ...] = ()
        self.peak: tuple[int, float] | None = None

    def __call__(self) -> bool:
        if self._ranks.is_main_process:
            keep_weights(self._folder)
        accuracies = _from_first(lambda: self._before | read_accuracies(self._folder), self._ranks)
        self.metrics = tuple(accuracies[epoch] for epoch in sorted(accuracies))
        self.peak = find_peak(self.metrics, self._plan.patience_epochs, self._plan.max_epochs)
        return self.peak is not None


def read_accuracies(run_dir: Path) -> dict[int, float]:
    """(top-1 + top-3 + top-5) / 3, or mAP, after each epoch of a run that was evaluated."""
    lines = (line for line in read_metrics(run_dir) if line["kind"] == "evaluation")
    return {
        line["epoch"]: line["map"] if "map" in line else (line["top1"] + line["top3"] + line["top5"]) / 3
        for line in lines
    }


def weights_of(folder: Path, epoch: int) -> Path:
    """Return where the weights of an epoch are kept until the peak is known."""
    return folder / "weights" / f"epoch-{epoch:04d}.safetensors"


def keep_weights(folder: Path) -> None:
    """Copy the evaluated weights of the newest checkpoint, unless there are some of this epoch."""
    last = last_checkpoint(folder)
    if last is None:
        return
    path = weights_of(folder, read_info(last).epoch)
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as temporary:
            shutil.copyfile(last / "model.safetensors", temporary)


def finish_edge(folder: Path, edge: Edge, start: Outcome | None, watch: Watch) -> Outcome:
    """Write the outcome and the weights of the peak, and remove the others; at zero epochs they are the start's."""
    assert watch.peak is not None
    epochs, score = watch.peak
    weights = start.weights if start else None
    if epochs > 0:
        weights = os.fspath(folder / "model.safetensors")
        with replacing(Path(weights)) as temporary:
            shutil.copyfile(weights_of(folder, epochs), temporary)
    outcome = Outcome(edge, watch.metrics, epochs, score, weights)
    write_atomically(folder / "edge.json", json.dumps(asdict(outcome), indent=1) + "\n")
    for name in ("weights", "checkpoints"):
        shutil.rmtree(folder / name, ignore_errors=True)
    return outcome


def load_outcome(folder: Path) -> Outcome | None:
    """Return what `finish_edge` wrote."""
    if not (folder / "edge.json").exists():
        return None
    values = json.loads((folder / "edge.json").read_text())
    return Outcome(**values | {"edge": Edge(*values["edge"]), "metrics": tuple(values["metrics"])})


def conclude(config: PlannedConfig, plan: Plan) -> None:
    """Write schedule.yaml, plan.json and plan.png."""
    folder = Path(config.run_dir)
    path = plan.path(config.plan.num_states)
    if not path:
        raise UserError(f"{folder}: no edge has improved on what it started from; try other learning rates")
    values = {"path": [str(outcome.edge) for outcome in path], "edges": [asdict(o) for o in plan.outcomes]}
    write_atomically(folder / "plan.json", json.dumps(values, indent=1) + "\n")
    schedule = config.schedule_of([(outcome.edge.end, outcome.epochs) for outcome in path])
    write_atomically(folder / "schedule.yaml", schedule_yaml(schedule))
    picture = draw_plan(plan, config.plan, folder / "plan.png")
    for phase, complete in zip(schedule.phases, schedule.split_phases()):
        log.info(
            "%d epochs: %d frames, learning rate %g", phase.epochs, complete.data.frames_per_clip, phase.learning_rate
        )
    log.info("%s; train it with launch/train.py --config %s", picture, shlex.quote(str(folder / "schedule.yaml")))


def schedule_yaml(config: Config) -> str:
    """Return what differs from the defaults, as a configuration for `launch/train.py`."""
    defaults = asdict(Config())
    values = {}
    for section, given in config.without_secrets().items():
        if isinstance(given, dict):
            given = {name: value for name, value in given.items() if value != defaults[section].get(name)}
        values[section] = given
    for name in ("num_segments", "num_classes", "levels", "multi_label"):  # which follow from the data
        values["model"].pop(name, None)
    values["train"].pop("epochs", None)  # those of the phases
    values["phases"] = [{name: v for name, v in phase.items() if v is not None} for phase in values["phases"]]
    # Empty milestones differ from the defaults and are written, empty sections are not.
    kept = {section: given for section, given in values.items() if given not in ({}, None)}
    return yaml.safe_dump(kept, sort_keys=False)


def _from_first(call: Callable[[], Value], ranks: Ranks) -> Value:
    """Return what `call` returns on the first rank, on all of them."""
    found: list = gather_over_ranks(call() if ranks.is_main_process else None)
    return found[0]
