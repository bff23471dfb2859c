"""Labels on three levels through the ordinary trainer and evaluation; the networks themselves: tests/model."""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from launch.training.checkpoint import load_checkpoint, pointed
from launch.training.config import Config, LossConfig
from launch.training.config_parser import parse_config
from launch.training.evaluation import evaluate
from launch.training.losses import training_losses
from launch.training.run_log import read_metrics
from model import build_model
from model.resnet import join_outputs
from pipeline.loader import VideoBatch, VideoLoader
from sharding.dataset import load_dataset
from sharding.errors import UserError
from sharding.pack import PackConfig, pack
from sharding.synthetic.motion_hierarchy import MotionGymConfig, write_motion_gym
from tests.conftest import ROOT, run_command
from tests.launch.conftest import train_alone, weights

CONFIGS = ROOT / "launch" / "configs" / "hierarchy"
CONFIG_NAMES = ("hierarchy_pathways", "hierarchy_integration", "hierarchy_encoder", "hierarchy_cross_encoder")


@pytest.fixture(scope="module")
def gym(tmp_path_factory) -> Path:
    """Packed splits `train` (24 elements) and `val` (8) with the levels event and set, 32 x 32 pixels."""
    folder = tmp_path_factory.mktemp("gym")
    write_motion_gym(MotionGymConfig(folder / "gym", train_videos=3, val_videos=1, num_frames=20, size=32, workers=1))
    annotations = tuple(sorted((folder / "gym" / "annotations").iterdir()))
    for split in ("train", "val"):
        pack(PackConfig("finegym", folder / "gym" / "videos", folder, split, annotations, workers=1))
    return folder


def options(gym: Path) -> list[str]:
    small = ["--train.batch_size=12", "--train.epochs=1", "--data.num_workers=1", "--train.precision=fp32"]
    return [f"--data.train={gym / 'train'}", f"--data.val={gym / 'val'}", "--schedule.warmup_epochs=0", *small]


def parse(name: str, gym: Path, *more: str) -> Config:
    return parse_config("train", [f"--config={CONFIGS / name}.yaml", *options(gym), *more])


@pytest.mark.parametrize("name", CONFIG_NAMES)
def test_the_levels_of_a_network_are_those_of_the_data(gym, name):
    config = parse(name, gym)
    assert [(level, len(classes)) for level, classes in config.model.levels] == [("event", 4), ("set", 10)]
    net = build_model(config.model.without_files())
    sizes = {"event": 4, "set": 10}
    outputs = net(torch.randn(2, 8, 3, 32, 32), with_losses=True)
    assert [logits.shape[1] for logits in outputs.level_logits] == [sizes[level] for level in net.level_names]
    assert outputs.logits.shape == (2, 32)


def test_batches_bring_the_labels_of_every_level(gym):
    dataset = load_dataset(gym / "train")
    config = parse("hierarchy_pathways", gym)
    loader = VideoLoader(dataset, config.data, training=True, micro_batch_size=6)
    for batch in loader:
        assert set(batch.level_labels) == {"event", "set"}
        for level, labels in batch.level_labels.items():
            assert labels.dtype == torch.int64
            assert labels.tolist() == dataset.level_labels[level][batch.sample_ids].tolist()
    assert list(batch.labels_of(["set"])) == ["set"]
    loader.close()


def test_the_loss_is_the_sum_of_the_cross_entropies_of_the_levels():
    logits, labels = [torch.randn(3, size) for size in (5, 2, 4)], torch.tensor([1, 0, 1])
    outputs = join_outputs(logits[0], [], tuple(logits[1:]))
    level_labels = {"event": labels, "set": 2 * labels}
    losses = training_losses(outputs, labels, LossConfig(), (), level_labels)
    terms = [nn.functional.cross_entropy(*each) for each in zip(logits, (labels, labels, 2 * labels))]
    torch.testing.assert_close(losses["loss"], sum(terms))
    found = [losses[name] for name in ("classification", "classification/event", "classification/set")]
    torch.testing.assert_close(found, terms)
    with pytest.raises(ValueError, match="zip"):
        training_losses(outputs, labels, LossConfig(), (), {"event": labels})


class Fixed(nn.Module):
    """Says what it is told to of sample i on two levels, and of a level whose labels it is given."""

    level_names, given_levels = ("set",), ("set",)

    def __init__(self, scores: torch.Tensor, of_set: torch.Tensor) -> None:
        super().__init__()
        self.scores, self.of_set = scores, of_set
        self.anything = nn.Parameter(torch.zeros(1))
        self.told: list[int] = []

    def forward(self, clips: torch.Tensor, *given: torch.Tensor, with_losses: bool):
        self.told += [label for labels in given for label in labels.tolist()]
        ids = clips[:, 0, 0, 0, 0].long()
        return join_outputs(self.scores[ids], [], (self.of_set[ids],))


def batches(labels: Sequence[int], of_set: Sequence[int], num_views: int) -> list[VideoBatch]:
    ids = torch.arange(len(labels))
    clips = ids.repeat_interleave(num_views).float().view(-1, 1, 1, 1, 1).expand(-1, 1, 3, 1, 1)
    return [
        VideoBatch(clips, torch.tensor(labels), ids, num_views=num_views, level_labels={"set": torch.tensor(of_set)})
    ]


def test_every_level_is_counted_by_itself():
    scores = 9 * nn.functional.one_hot(torch.tensor([0, 1, 2, 2])).float()
    of_set = 9 * nn.functional.one_hot(torch.tensor([0, 0, 1, 1])).float()
    net = Fixed(scores, of_set)
    levels = [("event", ("only",)), ("set", ("one", "other"))]
    found = evaluate(net, batches([0, 1, 2, 1], [0, 1, 1, 1], num_views=2), 3, "fp32", levels)
    assert found.top1 == 0.75
    assert found.level_confusions["set"].tolist() == [[1, 0], [1, 2]]
    figures = found.figures()
    assert figures["top1/set"] == 0.75
    assert figures["mean_class/set"] == pytest.approx((1 + 2 / 3) / 2)
    assert "set: top-1 75.00%, mean class 83.33%" in str(found)
    assert net.told == []
    evaluate(net, batches([0, 1, 2, 1], [0, 1, 1, 1], num_views=2), 3, "fp32", levels, tell_levels=True)
    assert net.told == [0, 0, 1, 1, 1, 1, 1, 1]  # to each view


def test_mistakes_are_told(gym, motion, tmp_path):
    with pytest.raises(UserError, match=r"model\.pretrained, such as the run folder"):
        parse("hierarchy_integration", gym, "--model.pretrained=null")
    with pytest.raises(UserError, match="blend only the labels of one level"):
        parse("hierarchy_pathways", gym, "--train.mixup=0.2")
    with pytest.raises(UserError, match=r"text_level='element': allowed are event, set"):
        parse("hierarchy_cross_encoder", gym, "--model.encoder.text_level=element")
    done = train_alone(CONFIGS / "hierarchy_pathways.yaml", tmp_path / "run", *options(motion))
    assert done.returncode == 2 and "needs further levels of labels" in done.stderr


@pytest.mark.slow
def test_two_stages_are_trained_and_evaluated(gym, tmp_path):
    first, second = tmp_path / "pathways", tmp_path / "integration"
    done = train_alone(CONFIGS / "hierarchy_pathways.yaml", first, *options(gym))
    assert done.returncode == 0, done.stdout + done.stderr
    more = [*options(gym), f"--model.pretrained={first}"]
    done = train_alone(CONFIGS / "hierarchy_integration.yaml", second, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    before, after = weights(first), weights(second)
    shared = {name for name in after if name.startswith("pathways.")}
    assert shared == set(before) and all(torch.equal(before[name], after[name]) for name in shared)
    assert {name.split(".")[0] for name in set(after) - shared} == {"hidden", "classifiers"}
    logged = {line["kind"]: line for line in read_metrics(second)}
    assert {"classification", "classification/event", "classification/set"} <= set(logged["train"])
    assert {"top1/event", "mean_class/set"} <= set(logged["evaluation"])

    net, _, config = load_checkpoint(second)  # without the files of the first stage
    assert net.level_names == ("event", "set") and config.model.pretrained == str(first)
    command = [sys.executable, "launch/evaluate.py", f"--checkpoint={second}", f"--data={gym / 'val'}"]
    done = run_command([*command, f"--out={tmp_path / 'out'}"])
    assert done.returncode == 0, done.stderr
    assert "set: top-1" in done.stdout
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    with (tmp_path / "out" / "classes-event.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["class"] for row in rows} == {"vault", "floor exercise", "balance beam", "uneven bars"}
    accuracies = [float(row["accuracy"] or 1) for row in rows]
    assert accuracies == sorted(accuracies)  # the worst first
    assert sum(int(row["correct"]) for row in rows) == round(8 * figures["top1/event"])
    done = run_command([*command, "--tell_levels"])
    assert done.returncode == 2 and "no network that reads labels" in done.stderr
    video = gym / "gym" / "videos" / "val-00000.mp4"
    done = run_command([sys.executable, "launch/predict.py", f"--checkpoint={second}", video])
    assert done.returncode == 0 and "%" in done.stdout, done.stderr
    done = run_command([sys.executable, "launch/visualize.py", "gradcam", second, video, f"--out={tmp_path / 'x.png'}"])
    assert done.returncode == 2 and "Grad-CAM looks into one" in done.stderr


@pytest.mark.slow
def test_a_cross_encoder_is_told_the_set_in_training_and_on_request(gym, tmp_path):
    run_dir = tmp_path / "run"
    done = train_alone(CONFIGS / "hierarchy_cross_encoder.yaml", run_dir, *options(gym))
    assert done.returncode == 0, done.stdout + done.stderr
    assert pointed(run_dir / "checkpoints", "best")
    command = [sys.executable, "launch/evaluate.py", f"--checkpoint={run_dir}", f"--data={gym / 'val'}"]
    for flags in ([], ["--tell_levels"]):
        done = run_command([*command, *flags])
        assert done.returncode == 0, done.stderr
