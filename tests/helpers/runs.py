"""Folders of runs that no training wrote, with as many classes as wanted."""

import json
from pathlib import Path

import numpy as np
import torch

from launch.inference.multilabel_results import write_multilabel
from launch.inference.scores import Scores, write_scores
from launch.training.average_precision import average_precisions
from launch.training.checkpoint import CheckpointInfo, point, write_info
from launch.training.config import Config, TrainConfig
from launch.training.multilabel import MultiLabelEvaluation
from pipeline.config import DataConfig
from sharding.dataset import load_dataset


def write_run(run: Path, classes: tuple[str, ...], data: Path | None = None, epochs: int = 30, done: int = 30) -> Path:
    """Write configuration, figures and last checkpoint of a run, `done` of its `epochs` trained; return its folder."""
    config = Config(
        data=DataConfig(train=str(data) if data else None, val=str(data) if data else None),
        train=TrainConfig(epochs=epochs, batch_size=32),
        run_dir=str(run),
    )
    (run / "logs").mkdir(parents=True)
    (run / "logs" / "rank-0.log").write_text(
        "2026-01-01 10:00:00 INFO begun\n2026-01-01 10:00:01 WARNING <b>slow</b>\n"
    )
    (run / "config.yaml").write_text(config.to_yaml())
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in training_lines(epochs, done)))
    if done:
        checkpoint = run / "checkpoints" / f"step-{40 * done:08d}"
        checkpoint.mkdir(parents=True)
        fingerprint = load_dataset(data).fingerprint if data else "0" * 64
        write_info(checkpoint, CheckpointInfo(40 * done, done, classes, {}, fingerprint, {"top1": 0.5}))
        (checkpoint / "config.yaml").write_text(config.to_yaml())
        for pointer in ("last", "best"):
            point(run / "checkpoints", pointer, checkpoint.name)
    return run


def training_lines(epochs: int, done: int) -> list[dict]:
    """Figures of 40 steps an epoch, a line for each four, that fall and rise as those of trainings do."""
    lines, chance = [], np.random.default_rng(0)
    for step in range(4, 40 * done + 1, 4):
        epoch = step / 40
        loss = 0.4 + 3.5 * np.exp(-epoch / 6) + chance.normal(0, 0.08)
        rate = 0.01 * min(1, epoch / 2) * (1 + np.cos(np.pi * epoch / epochs)) / 2
        figures = {"loss": loss + 0.02, "classification": loss, "learning_rate": rate, "clips_per_second": 450 + epoch}
        figures |= {"loading_share": 0.01 + 0.3 * (step == 4) + 0.004 * chance.random(), "epoch": epoch}
        lines.append({"kind": "train", "step": step, "seconds": 1.7e9 + step, **figures})
        if step % 40 == 0:
            top1 = 0.75 * (1 - np.exp(-epoch / 7)) + chance.normal(0, 0.01)
            accuracies = {"top1": top1, "top5": top1**0.4, "mean_class": top1 - 0.02, "samples": 500}
            lines.append({"kind": "epoch", "step": step, "seconds": 1.7e9, "epoch": step // 40, "excluded": 0})
            lines.append({"kind": "evaluation", "step": step, "seconds": 1.7e9, "epoch": step // 40, **accuracies})
    return lines


def write_results(run: Path, classes: tuple[str, ...], data: Path, per_class: int = 50, seed: int = 0) -> Path:
    """Write the evaluation of a network that confuses classes within groups of five, scattered over the list; return
    its evaluation.json.

    The samples of `data` come first, and their keys are those of the packed split.
    """
    dataset, chance, count = load_dataset(data), np.random.default_rng(seed), len(classes)
    groups = chance.permutation(count) // 5
    labels = np.concatenate([dataset.labels % count, np.repeat(np.arange(count), per_class)]).astype(np.int32)
    logits = chance.normal(0, 1, (len(labels), count)).astype(np.float32)
    logits[groups[labels][:, None] == groups] += 2.2
    logits[np.arange(len(labels)), labels] += chance.uniform(0.5, 7, count).astype(np.float32)[labels]
    packed = np.arange(len(dataset))
    logits[packed, (labels[packed] + 1 + packed % (count - 1)) % count] += 12  # certain, and wrong
    scores = np.exp(logits - logits.max(1, keepdims=True))
    scores /= scores.sum(1, keepdims=True)
    keys = [str(key) for key in dataset.keys] + [f"sample-{number}" for number in range(count * per_class)]
    confusion = np.zeros((count, count), np.int64)
    np.add.at(confusion, (labels, scores.argmax(1)), 1)
    out = run / "checkpoints" / (run / "checkpoints" / "best").read_text().strip() / "evaluation-val"
    out.mkdir(parents=True)
    found = Scores(tuple(keys), labels, scores, classes, dataset.fingerprint)
    write_scores(out / "scores.parquet", found)
    values = {"top1": found.top(1), "top5": found.top(5), "mean_class": found.top(1), "samples": len(labels)}
    values |= {"confusion": confusion.tolist(), "classes": classes, "clips": 1, "crops": 1, "crop_size": 224}
    values |= {"checkpoint": str(out.parent), "data": str(data), "fingerprint": dataset.fingerprint}
    (out / "evaluation.json").write_text(json.dumps(values))
    return out / "evaluation.json"


def write_multilabel_results(run: Path, classes: tuple[str, ...], data: Path, labels: np.ndarray) -> Path:
    """Write figures of mAP during training, and an evaluation with random scores of the samples of `data`, whose
    `labels`, (N, C) bool, are made up; return its evaluation.json."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["kind"] == "evaluation":
            line |= {"map": line.pop("top1"), "map_of_guessing": 0.25}
            del line["top5"], line["mean_class"]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    dataset, scores = load_dataset(data), np.random.default_rng(0).random(labels.shape, np.float32)
    found = Scores(tuple(map(str, dataset.keys)), labels, scores, classes, dataset.fingerprint)
    precisions, positives, ids = average_precisions(scores, labels), labels.sum(0), torch.arange(len(labels))
    evaluation = MultiLabelEvaluation(precisions, positives, len(labels), 1.0, ids, torch.from_numpy(scores))
    out = run / "checkpoints" / (run / "checkpoints" / "best").read_text().strip() / "evaluation-val"
    provenance = {"classes": classes, "clips": 1, "crops": 1, "crop_size": 224, "checkpoint": str(out.parent)}
    provenance |= {"data": str(data), "fingerprint": dataset.fingerprint}
    write_multilabel(evaluation, found, provenance, out)
    return out / "evaluation.json"
