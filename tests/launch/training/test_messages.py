"""What a run says at its start and in its end, and what it warns of."""

import logging
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from launch.inference.class_table import describe_classes
from launch.inference.predictions import describe_row
from launch.training.best_checkpoint import describe_best, record_evaluation
from launch.training.builders import describe_length, warn_of_short_videos
from launch.training.checkpoint import CheckpointInfo, point, pointed, write_info
from launch.training.config import Config, TrainConfig
from launch.training.devices import unusable_gpu
from launch.training.distributed import Ranks
from launch.training.optimizer_config import ScheduleConfig
from launch.training.run_log import start_logging
from pipeline.config import DataConfig
from sharding.manifest import describe_class_difference


@pytest.mark.parametrize(
    ("epochs", "schedule", "expected"),
    [
        (80, ScheduleConfig(), "240 steps in all"),
        (20, ScheduleConfig(name="cosine"), "60 steps in all"),
        (55, ScheduleConfig(), "165 steps in all; milestones (60, 70) are beyond 55 epochs"),
        (
            20,
            ScheduleConfig(milestones=(50,)),
            "60 steps in all; milestone (50) is beyond 20 epochs, so the learning rate never falls",
        ),
    ],
)
def test_the_length_of_a_run(epochs, schedule, expected):
    assert describe_length(Config(train=TrainConfig(epochs=epochs), schedule=schedule), 3) == expected


def test_the_best_is_compared_with_guessing(tmp_path):
    folder = tmp_path / "checkpoints" / "step-1"
    folder.mkdir(parents=True)
    write_info(folder, CheckpointInfo(90, 18, tuple("abcdef"), {}, "", {"top1": 0.25}))
    point(folder.parent, "best", folder.name)
    assert describe_best(tmp_path) == "best top-1 25.00 % after epoch 18 (chance 16.67 %)"


def test_more_frames_than_are_stored_are_warned_of(caplog):
    config = Config(data=DataConfig(num_segments=100, train="shards/own/train"))

    class Split(SimpleNamespace):
        def __len__(self):
            return len(self.num_frames)

    with caplog.at_level(logging.WARNING, "launch"):
        split = Split(num_frames=np.array([64, 30]), location="shards/own/train")
        warn_of_short_videos(config, split)
        warn_of_short_videos(replace(config, data=DataConfig(num_segments=64)), split)
        warn_of_short_videos(replace(config, data=DataConfig(num_segments=33, frames_per_segment=2)), split)
    segments, frames = caplog.messages
    assert segments.startswith("a clip has 100 frames, but no video of shards/own/train has more than 64 stored ones: ")
    assert frames.startswith("a clip has 66 frames")


def test_classes_that_differ_are_named():
    assert describe_class_difference(["jump", "run"], ["run", "walk"]) == "only here jump; missing here walk"
    assert describe_class_difference(["b", "a"], ["a", "b"]) == "the same names in another order"
    assert describe_class_difference(map(str, range(9)), []).endswith("4 and 4 more")


def test_every_package_speaks_on_the_console_in_80_columns(tmp_path, capsys):
    names = [f"{package}.anything" for package in ("launch", "model", "pipeline", "sharding")]
    loggers = [logging.getLogger(name.partition(".")[0]) for name in names]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    try:
        start_logging(tmp_path, 0)
        for name in names:
            logging.getLogger(name).info("%s says %s", name, "word " * 30)
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before):
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
    assert max(map(len, printed.splitlines())) <= 80
    assert len((tmp_path / "logs" / "rank-0.log").read_text().splitlines()) == 4


def test_accuracy_of_each_class_where_there_are_few():
    lines = describe_classes(np.array([[1, 1, 0], [0, 0, 0], [0, 3, 0]]), ("walk", "run", "hop")).splitlines()
    assert lines == [
        "hop      0.00%  (0 to 56 %)     0 of 3, 3 taken for run",
        "walk    50.00%  (9 to 91 %)     1 of 2, 1 taken for run",
    ]
    many = describe_classes(np.eye(21, dtype=int), tuple(map(str, range(21)))).splitlines()
    assert len(many) == 11 and many[-1] == "these are the worst of 21 classes; classes.csv has all"


def test_a_long_file_is_answered_from_few_frames():
    row = {"video": "a.mp4", "predictions": [], "num_frames": 8, "seconds": 51.2}
    assert "8 frames spread over 51 s" in describe_row(row)
    assert describe_row(row | {"seconds": 5.0}).splitlines()[0] == "a.mp4"


def test_a_gpu_that_cannot_be_used_is_not_passed_over_in_silence(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert unusable_gpu(tmp_path) is None
    (tmp_path / "nvidiactl").touch()
    assert unusable_gpu(tmp_path) is None
    (tmp_path / "nvidia0").touch()
    warning = unusable_gpu(tmp_path)
    assert warning is not None and warning.startswith("this machine has a GPU that torch ")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # none is wanted
    assert unusable_gpu(tmp_path) is None


def test_what_could_not_be_counted_is_never_the_best(tmp_path):
    for step, mean_class in enumerate((math.nan, 0.1, math.nan), 1):
        folder = tmp_path / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        write_info(folder, CheckpointInfo(step, step, ("a", "b"), {}, ""))
        point(tmp_path / "checkpoints", "last", folder.name)
        record_evaluation(tmp_path, {"mean_class": mean_class}, Ranks(0, 1, torch.device("cpu")), "mean_class")
    assert pointed(tmp_path / "checkpoints", "best") == "step-00000002"
