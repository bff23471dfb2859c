"""Videos with several labels from training to pictures: every command that knows them, and those that refuse."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from launch.inference.predictor import Predictor
from launch.inference.scores import read_scores
from launch.training.average_precision import average_precisions
from launch.training.checkpoint import find_checkpoint, read_info
from launch.training.run_log import read_metrics
from sharding.__main__ import main as sharding
from sharding.dataset import load_dataset
from sharding.records import check_records
from sharding.synthetic.motion_multilabel import MotionMultilabelConfig, draw_labels
from tests.conftest import ROOT, run_command
from tests.launch.conftest import run_ranks, same_weights, train, train_alone

LAUNCH = [sys.executable]


def write_motions(folder: Path, *options: str) -> Path:
    """Pack splits `train` and `val` of videos with several motions each in `folder`, and return it."""
    sharding(["motion-multilabel", f"--out={folder / 'motions'}", "--size=32", "--workers=1", *options])
    lists = [str(folder / "motions" / f"{split}.txt") for split in ("train", "val")]
    for split in ("train", "val"):
        what = ["--dataset=list-multilabel", f"--videos={folder / 'motions' / 'videos'}", "--annotations", *lists]
        assert sharding(["pack", *what, f"--split={split}", f"--out={folder}", "--workers=1"]) == 0
    return folder


@pytest.fixture(scope="module")
def motions(tmp_path_factory) -> Path:
    """Packed splits `train` (16 videos) and `val` (5) of left, right, up and down, 32 x 32 pixels."""
    folder = tmp_path_factory.mktemp("motions")
    return write_motions(folder, "--train-videos=16", "--val-videos=5", "--num-axes=2", "--num-frames=6")


def write_config(path: Path, motions: Path) -> Path:
    path.write_text(
        f"""
data: {{train: {motions}/train, val: {motions}/val, num_segments: 4, short_side: 32, crop_size: 32}}
model: {{depth: 18}}
train: {{epochs: 2, batch_size: 8, log_every_steps: 1, precision: fp32, mixup: 0.2, cutmix: 0.2}}
loss: {{label_smoothing: 0.1}}
schedule: {{warmup_epochs: 0}}
"""
    )
    return path


@pytest.fixture(scope="module")
def config(motions, tmp_path_factory) -> Path:
    return write_config(tmp_path_factory.mktemp("config") / "several.yaml", motions)


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory) -> Path:
    """The run folder of a short training on two ranks."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    done = train(config, run_dir, num_ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr
    log = " ".join((run_dir / "logs" / "rank-0.log").read_text().split())
    assert "several labels a video" in log and "binary cross-entropy of each class" in log
    assert "best mAP" in log
    return run_dir


@pytest.fixture(scope="module")
def evaluated(trained, motions, tmp_path_factory) -> Path:
    """The output folder of launch/evaluate.py on two ranks, which share five samples."""
    out = tmp_path_factory.mktemp("evaluated")
    arguments = [f"--checkpoint={trained}", f"--data={motions / 'val'}", f"--out={out}", "--batch-size=2"]
    done = run_ranks([*LAUNCH, "launch/evaluate.py", *arguments], 2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mAP" in done.stdout and "of 5 samples" in done.stdout
    return out


def test_the_best_checkpoint_has_the_highest_map(trained):
    found = [line["map"] for line in read_metrics(trained) if line["kind"] == "evaluation"]
    assert len(found) == 2
    assert read_info(find_checkpoint(trained)).metrics["map"] == max(found)


def test_evaluation_files(evaluated, trained, motions):
    values = json.loads((evaluated / "evaluation.json").read_text())
    dataset, scores = load_dataset(motions / "val"), read_scores(evaluated / "scores.parquet")
    assert dataset.label_sets is not None
    assert scores.keys == tuple(dataset.keys)
    assert np.array_equal(scores.labels, dataset.label_sets.multi_hot(range(5)))
    expected = average_precisions(scores.scores, scores.labels)
    known = ~np.isnan(expected)
    assert values["map"] == pytest.approx(expected[known].mean())
    assert [value is None for value in values["average_precision"]] == (~known).tolist()
    assert values["positives"] == dataset.label_sets.count_samples().tolist()
    assert values["samples"] == values["samples_in_data"] == 5
    with (evaluated / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(dataset.manifest.classes)
    assert [float(row["average_precision"] or "nan") for row in rows] == pytest.approx(expected, abs=1e-4, nan_ok=True)
    assert (evaluated / "average_precision.png").is_file() and not (evaluated / "confusion.png").exists()
    assert pq.read_schema(evaluated / "scores.parquet").names == ["key", "labels", "scores"]
    [in_training] = [line["map"] for line in read_metrics(trained) if line["kind"] == "evaluation"][-1:]
    if find_checkpoint(trained) == find_checkpoint(trained / "checkpoints" / "last"):
        assert values["map"] == pytest.approx(in_training, abs=1e-6)


def test_pictures_and_ensembles(evaluated, trained):
    for arguments, code, said in (
        (["ensemble.py", *[evaluated / "scores.parquet"] * 2], 0, "together: mAP"),
        (["visualize.py", "precision", evaluated], 0, "average_precision.png"),
        (["visualize.py", "curves", trained], 0, "curves.png"),
        (["visualize.py", "confusion", evaluated], 2, "have no confusion matrix; use launch/visualize.py precision"),
    ):
        done = run_command([*LAUNCH, f"launch/{arguments[0]}", *arguments[1:]])
        assert done.returncode == code and said in done.stdout + done.stderr, done.stderr
        assert len(done.stderr.splitlines()) <= 1


def test_predictions_are_sigmoids(trained, motions):
    video = motions / "motions" / "videos" / "val-00000.mp4"
    predictor = Predictor(trained)
    [prediction] = predictor([video])
    assert prediction.logits is not None
    torch.testing.assert_close(prediction.probabilities, 1 / (1 + (-prediction.logits).exp()))
    ranked = prediction.top(4)
    assert [value for _, value in ranked] == sorted(prediction.probabilities.tolist(), reverse=True)
    threshold = (ranked[1][1] + ranked[2][1]) / 2
    command = [*LAUNCH, "launch/predict.py", f"--checkpoint={trained}", "--json", video]
    done = run_command([*command, f"--threshold={threshold}"])
    assert done.returncode == 0, done.stderr
    [row] = json.loads(done.stdout)
    assert [found["class"] for found in row["predictions"]] == [name for name, _ in ranked[:2]]
    done = run_command([*command, "--threshold=1"])
    assert done.returncode == 2 and "--threshold 1: use more than 0 and less than 1" in done.stderr


def test_one_label_networks_and_data_are_told_apart(trained, motions, numbered):
    done = run_command([*LAUNCH, "launch/evaluate.py", f"--checkpoint={trained}", f"--data={numbered}"], fresh=True)
    assert done.returncode == 2 and "was trained on several labels each" in done.stderr


def test_forms_of_benchmarks_are_refused(trained, motions):
    command = [*LAUNCH, "launch/evaluate.py", f"--checkpoint={trained}", f"--data={motions / 'val'}"]
    done = run_command([*command, "--submission=csv"], fresh=True)
    assert done.returncode == 2 and "its forms are of one label a video" in done.stderr


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit(config, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train_alone(config, whole).returncode == 0
    assert train_alone(config, parts, "--train.epochs=2", "--train.save_every_steps=1").returncode == 0
    newest = (parts / "checkpoints" / "last").read_text().strip()
    assert newest == "step-00000004"
    (parts / "checkpoints" / "last").write_text("step-00000003\n")
    done = train_alone(config, parts, "--resume", "--train.save_every_steps=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert same_weights(whole, parts)


def test_every_video_shows_something():
    config = MotionMultilabelConfig(Path("unused"), num_axes=2)
    drawn = [draw_labels(config, "train", number) for number in range(200)]
    assert {len(labels) for labels in drawn} == {1, 2}
    assert not any({"left", "right"} <= set(labels) or {"up", "down"} <= set(labels) for labels in drawn)


@pytest.mark.slow
def test_the_commands_of_the_page_learn_several_motions_at_once(tmp_path):
    """Guessing has an mAP of 3/8, and so has a network that sees no motion: what is learned are the labels."""
    page = (ROOT / "docs" / "multilabel.md").read_text()
    for name in ("sharding", "pipeline", "model", "launch"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    commands = "set -euo pipefail\n" + "".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL))
    done = subprocess.run(["bash", "-c", commands], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    [evaluation] = tmp_path.glob("runs/*/checkpoints/*/evaluation-val/evaluation.json")
    values = json.loads(evaluation.read_text())
    assert values["map_of_guessing"] == pytest.approx(3 / 8, abs=0.06)
    assert values["map"] > 0.9
    [example] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    defined: dict[str, Any] = {}
    exec(example, defined)
    assert check_records(defined["annotations"]).multi_label
