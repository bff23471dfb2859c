"""All folds of a network on a set, one after the other in one process: what a row of the study on real videos is.

    python -m launch.studies.real.folds --row action-ut2-vpsn-0 --data DATA --out runs/real

A fold is a training of `launch/train.py` on a packed set without the clips of a person or a sequence, and an evaluation
of the last weights on these. It takes about a minute, so it keeps no checkpoint: folds that are done stay, one that was
stopped begins again. The process starts once for all of them.
"""

import json
import logging
import shutil
import time
from contextlib import closing
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from launch.studies.real.clips import Fold, make_folds, read_clips
from launch.studies.real.rows import DIRECTIONS, Row, find_row
from launch.studies.settings import agree
from sharding.cli import CommandLine, run_command
from sharding.errors import UserError
from sharding.files import write_atomically

if TYPE_CHECKING:
    from launch.training.config import Config
    from launch.training.distributed import Ranks
    from sharding.dataset import PackedDataset

log = logging.getLogger("launch.studies.real")

TEST_CROPS = 3
"""Crops of a test clip, both ends and the middle of its longer side: the people may be anywhere."""


def main(arguments: list[str] | None = None) -> int:
    parser = CommandLine(prog="python -m launch.studies.real.folds", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--row", required=True, help="EXPERIMENT-SET-NETWORK-SEED, such as action-ut2-vpsn-0.")
    parser.add_argument("--data", type=Path, required=True, help="Folder of the sets' folders, with their index.csv.")
    parser.add_argument("--out", type=Path, required=True, help="Folder of the packed sets and the runs.")
    options = parser.parse_args(arguments)
    return train_row(parse_row(options.row), options.data, options.out)


def parse_row(name: str) -> Row:
    """Return the row of a name. Raises UserError if there is none."""
    try:
        experiment, videos, network, seed = name.split("-")
        return find_row(experiment, videos, network, int(seed))
    except (ValueError, KeyError):
        raise UserError(f"--row {name}: expected is EXPERIMENT-SET-NETWORK-SEED, such as action-ut2-vpsn-0") from None


def train_row(row: Row, data: Path, out: Path) -> int:
    """Train and test the folds that are not done yet, then write the row's result; return the exit code."""
    from launch.training.builders import load_splits
    from launch.training.config_parser import parse_config
    from launch.training.engine import joined_ranks
    from launch.training.preemption import EXIT_CODE
    from launch.training.run_dir import locked
    from launch.training.run_log import start_logging

    config, folder = parse_config("launch/train.py", row.arguments(out)), row.folder(out)
    dataset, _ = load_splits(config)
    groups = groups_of_samples(dataset.keys, {clip.key: clip.group for clip in read_clips(data, row.videos)})
    with joined_ranks() as ranks, locked(folder, ranks):
        start_logging(folder, ranks.rank)
        settings = {"config": settings_of(config, row), "fingerprint": dataset.fingerprint}
        _check_begun(folder, settings)
        folds = make_folds(groups, row.experiment.num_folds)
        for number, fold in enumerate(folds, 1):
            path = folder / f"{fold.name}.json"
            if not path.exists():
                held_out = np.isin(groups, sorted(fold.groups))
                result = train_fold(replace(config, run_dir=str(folder / fold.name)), ranks, dataset, held_out)
                if result is None:
                    return EXIT_CODE
                write_atomically(path, json.dumps(result) + "\n")
                log.info("fold %d of %d, %s: %s", number, len(folds), fold.name, _describe(result))
        write_result(row, folder, folds, settings)
    return 0


def groups_of_samples(keys: np.ndarray, groups: dict[str, str]) -> np.ndarray:
    """Return the group of each sample, whose key is that of its clip, perhaps with its direction before it.

    Raises:
        UserError: a sample is of no clip of the index.
    """
    unknown = next((key for key in keys if clip_of(key) not in groups), None)
    if unknown is not None:
        raise UserError(f"sample {unknown}: not in index.csv, which was changed after packing; remove the folder --out")
    return np.array([groups[clip_of(key)] for key in keys])


def clip_of(key: str) -> str:
    """Return the key of the clip that a sample is of.

    >>> clip_of("reversed-bend-daria_bend"), clip_of("bend-daria_bend")
    ('bend-daria_bend', 'bend-daria_bend')
    """
    first, _, rest = key.partition("-")
    return rest if first in DIRECTIONS else key


def train_fold(config: "Config", ranks: "Ranks", dataset: "PackedDataset", held_out: np.ndarray) -> dict | None:
    """Train without the samples `held_out` (N,) bool and test on them; return what was found, or None if a signal asked
    to leave."""
    from launch.training.run_log import read_metrics
    from launch.training.trainer import Trainer

    began, run_dir = time.monotonic(), Path(config.run_dir)
    shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.mkdir(parents=True)
    train_set = replace(dataset, excluded=np.flatnonzero(held_out))
    test_set = replace(dataset, excluded=np.flatnonzero(~held_out))
    with closing(Trainer(config, ranks, train_set, None)) as trainer:
        while trainer.loader.epoch < config.train.epochs:
            trainer.train_epoch()
            if trainer.stop.asked():
                return None
        predictions = _test(config, trainer, test_set, ranks)
    lines = read_metrics(run_dir)
    last_epoch = [line for line in lines if line["kind"] == "epoch"][-1]
    return {
        "seconds": round(time.monotonic() - began, 1),
        "training_samples": last_epoch["samples_seen"],
        "training_top1": last_epoch["top1"],
        "training_loss": [line for line in lines if line["kind"] == "train"][-1]["classification"],
        "predictions": predictions,
    }


def _test(config: "Config", trainer, test_set: "PackedDataset", ranks: "Ranks") -> dict[str, list[str]]:
    """Return {key: [class, predicted class]} of the samples that are held out."""
    from launch.training.evaluation import evaluate
    from pipeline.loader import VideoLoader

    classes = test_set.manifest.classes
    views = replace(config.data, test_crops=TEST_CROPS)
    batch_size = TEST_CROPS * config.train.batch_size
    with VideoLoader(test_set, views, training=False, micro_batch_size=batch_size, device=ranks.device) as loader:
        found = evaluate(trainer.average.module, loader, len(classes), config.train.precision)
    predicted = found.scores.argmax(1).tolist()
    return {
        str(test_set.key(sample)): [classes[test_set.labels[sample]], classes[label]]
        for sample, label in zip(found.sample_ids.tolist(), predicted)
    }


def _describe(result: dict) -> str:
    right = sum(label == predicted for label, predicted in result["predictions"].values())
    return f"{right} of {len(result['predictions'])} right, {result['seconds']:.0f} s"


def settings_of(config: "Config", row: Row) -> dict:
    """Return all that a result follows from, besides the packed set, as plain values."""
    values = asdict(config)
    del values["run_dir"], values["resume"], values["data"]["train"], values["data"]["cache_dir"]
    values["model"]["pretrained"] = row.experiment.is_pretrained
    return json.loads(json.dumps(values))


def _check_begun(folder: Path, settings: dict) -> None:
    """Write down the settings of a row that begins. Raises UserError if it was begun with others."""
    path = folder / "settings.json"
    if path.exists() and not agree(json.loads(path.read_text()), settings):
        raise UserError(f"{folder}: begun with other settings or videos than these; remove it to begin again")
    write_atomically(path, json.dumps(settings, indent=1) + "\n")


def write_result(row: Row, folder: Path, folds: list[Fold], settings: dict) -> None:
    """Write the result of a row, all of whose folds are done."""
    from launch.benchmarks.report import conditions

    result = {
        "experiment": row.experiment.name,
        "set": row.videos.name,
        "network": row.network,
        "seed": row.seed,
        "folds": {fold.name: json.loads((folder / f"{fold.name}.json").read_text()) for fold in folds},
        "conditions": conditions(),
        "date": date.today().isoformat(),
        **settings,
    }
    row.result.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(row.result, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main, "python -m launch.studies.real.folds")
