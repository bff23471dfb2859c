"""Accuracy of a checkpoint on a packed split: each sample exactly once, over any number of ranks.

    deepspeed launch/evaluate.py --checkpoint runs/demo --data data/motion/packed/val
    deepspeed --num_gpus 8 launch/evaluate.py --checkpoint runs/k400_8f --data shards/k400/val --clips 10 --crops 3

Writes evaluation.json, classes.csv (accuracy of each class; classes-LEVEL.csv on coarser levels of labels),
scores.parquet (keys, predictions and scores; several such files make an ensemble: launch/ensemble.py) and
confusion.png.
"""

import csv
import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from launch.inference.scores import Scores, write_scores
from launch.training.checkpoint import find_checkpoint, load_checkpoint
from launch.training.distributed import errors_on_all_ranks, errors_once, gather_over_ranks
from launch.training.engine import start_ranks, stop_ranks
from launch.training.evaluation import Evaluation, evaluate
from launch.training.rank_environment import adopt_launcher
from launch.visualization.plots import draw_confusion
from model import fuse_batch_norm
from pipeline.config import DataConfig, Decoder
from pipeline.dataset import open_dataset
from pipeline.loader import VideoLoader
from sharding.cli import CommandLine, run_command
from sharding.dataset import PackedDataset
from sharding.errors import UserError
from sharding.files import check_writable


def main(arguments: list[str] | None = None) -> None:
    with errors_once():
        adopt_launcher()
        evaluate_checkpoint(_parser().parse_args(arguments))


def evaluate_checkpoint(options) -> None:
    """Evaluate as the command line asks, and write the results."""
    if options.batch_size < 1:
        raise UserError(f"--batch_size {options.batch_size}: use 1 or more")
    checkpoint = find_checkpoint(options.checkpoint)
    net, info, config = load_checkpoint(checkpoint)
    dataset = open_dataset(options.data, config.data.cache_dir, config.data.cache_bytes)
    if dataset.manifest.classes != info.classes:
        raise UserError(f"{options.data}: its classes are not those that {checkpoint} was trained on")
    levels = [level for level in config.model.levels if level[0] in net.level_names]
    for level, classes in levels:
        if dataset.manifest.levels.get(level) != classes:
            raise UserError(f"{options.data}: its classes of the level {level} are not those of {checkpoint}")
    if options.tell_levels and not net.given_levels:
        raise UserError(f"--tell_levels: {checkpoint} is no network that reads labels; leave it away")
    data = _with_views(config.data, options)
    out = options.out or checkpoint / f"evaluation-{dataset.manifest.split}"
    ranks = start_ranks()
    with errors_on_all_ranks(ranks):
        if ranks.is_main_process:
            check_writable(out / "evaluation.json")
    with errors_on_all_ranks(ranks):
        loader = VideoLoader(
            dataset,
            data,
            training=False,
            micro_batch_size=options.batch_size,
            rank=ranks.rank,
            world_size=ranks.world_size,
            device=ranks.device,
        )
    net, num_classes, precision = fuse_batch_norm(net).to(ranks.device), len(info.classes), config.train.precision
    with closing(loader):
        evaluation = evaluate(net, loader, num_classes, precision, levels, options.tell_levels)
    scores = _join(gather_over_ranks((evaluation.sample_ids.numpy(), evaluation.scores.numpy())), dataset)
    if ranks.is_main_process:
        write_evaluation(evaluation, scores, dataset, data, checkpoint, out)
        print(evaluation)
        print(
            f"{data.test_clips} clip(s) x {data.test_crops} crop(s) of {data.crop_size} pixels; data {options.data}, "
            f"fingerprint {dataset.fingerprint[:16]}; written to {out}"
        )
    stop_ranks()


def write_evaluation(
    evaluation: Evaluation, scores: Scores, dataset: PackedDataset, data: DataConfig, checkpoint: Path, out: Path
) -> None:
    """Writes all results, with which data and views they were got and how many samples were seen."""
    out.mkdir(parents=True, exist_ok=True)
    write_scores(out / "scores.parquet", scores)
    _write_classes(evaluation.confusion.numpy(), scores.classes, out / "classes.csv")
    for level, confusion in evaluation.level_confusions.items():
        _write_classes(confusion.numpy(), dataset.manifest.levels[level], out / f"classes-{level}.csv")
    values = evaluation.figures() | {
        "confusion": evaluation.confusion.tolist(),
        "classes": dataset.manifest.classes,
        "clips": data.test_clips,
        "crops": data.test_crops,
        "crop_size": data.crop_size,
        "short_side": data.short_side,
        "checkpoint": str(checkpoint),
        "data": dataset.location,
        "fingerprint": dataset.fingerprint,
        "samples_in_data": len(dataset),
        "quarantined": len(dataset.quarantined),
    }
    temporary = out / ".evaluation.json"
    temporary.write_text(json.dumps(values, indent=1) + "\n")
    temporary.replace(out / "evaluation.json")
    draw_confusion(evaluation.confusion.numpy(), dataset.manifest.classes, out / "confusion.png")


def _with_views(data: DataConfig, options) -> DataConfig:
    """The checkpoint's sampling with the views of the command line."""
    changes = {"decoder": options.decoder, "test_clips": options.clips, "test_crops": options.crops}
    given = {name: getattr(options, name) for name in ("crop_size", "short_side")}
    changes |= {name: value for name, value in given.items() if value is not None}
    try:
        return replace(data, **changes)
    except ValueError as error:
        raise UserError(str(error)) from error


def _join(parts: list[tuple[np.ndarray, np.ndarray]], dataset: PackedDataset) -> Scores:
    """The scores of all ranks, in the order of the split."""
    ids, scores = (np.concatenate(part) for part in zip(*parts))
    order = np.argsort(ids)
    ids = ids[order]
    manifest = dataset.manifest
    return Scores(tuple(dataset.keys[ids]), dataset.labels[ids], scores[order], manifest.classes, manifest.fingerprint)


def _write_classes(confusion: np.ndarray, classes: tuple[str, ...], path: Path) -> None:
    """A line for each class: samples, right ones, accuracy, and what it is mistaken for most often."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["class", "samples", "correct", "accuracy", "most_often_taken_for"])
        for number, name in enumerate(classes):
            counts = confusion[number].copy()
            total, correct = int(counts.sum()), int(counts[number])
            counts[number] = 0
            other = classes[int(counts.argmax())] if counts.any() else ""
            table.writerow([name, total, correct, f"{correct / total:.4f}" if total else "", other])


def _parser() -> CommandLine:
    parser = CommandLine(prog="launch/evaluate.py", description="Accuracy of a checkpoint on a packed split.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="Run folder (its best) or checkpoint.")
    parser.add_argument("--data", required=True, help="Folder or URL of the packed split, with manifest.json.")
    parser.add_argument("--clips", type=int, default=1, help="Clips of each video, evenly shifted in time.")
    parser.add_argument("--crops", type=Literal[1, 3, 10], default=1, help="Crops of each clip: 1, 3 or 10.")
    parser.add_argument("--crop_size", type=int | None, default=None, help="Side of a crop; default: as in training.")
    parser.add_argument("--short_side", type=int | None, default=None, help="Short side; default: as in training.")
    parser.add_argument(
        "--tell_levels",
        action="store_true",
        help="Tell a cross encoder the true coarser label; by default it reads the one that it predicts.",
    )
    parser.add_argument("--batch_size", type=int, default=16, help="Clips per forward pass on each rank.")
    parser.add_argument("--decoder", type=Decoder, default="auto", help="Decode node: pyav, nvdec, jpeg or auto.")
    parser.add_argument("--out", type=Path | None, default=None, help="Folder for results; default: in the checkpoint.")
    parser.add_argument("--local_rank", type=int, default=0, help="Set by the launcher.")
    return parser


if __name__ == "__main__":
    run_command(main, "launch/evaluate.py")
