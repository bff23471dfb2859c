"""Losses, mixing, average precision and refusals where a sample has several labels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from launch.training.average_precision import average_precisions, mean_over_known
from launch.training.builders import load_splits
from launch.training.config import Config, LossConfig, TrainConfig
from launch.training.config_parser import parse_config
from launch.training.losses import training_losses
from launch.training.mixup import build_mixing
from launch.training.multilabel import evaluate_multilabel
from model import ModelConfig
from model.resnet import join_outputs
from pipeline.config import DataConfig
from pipeline.loader import VideoBatch
from sharding.errors import UserError


def test_average_precision_is_that_of_scikit_learn():
    """Recorded from sklearn.metrics.average_precision_score 1.9.1, class by class, on these very draws (NumPy 2.4.6);
    the first set has ties, a class without samples, of which it says 0, and a sample without labels."""
    random = np.random.default_rng(7)
    scores = random.random((40, 6)).round(1)
    labels = random.random((40, 6)) < [0.05, 0.2, 0.4, 0.6, 0.95, 0.1]
    labels[3] = False
    assert labels.sum(0).tolist() == [0, 8, 13, 22, 38, 2]
    found = average_precisions(scores, labels)
    assert np.isnan(found[0])
    expected = [0.18916, 0.585549, 0.664232, 0.961747, 0.1]
    np.testing.assert_allclose(found[1:], expected, atol=1e-6)
    assert mean_over_known(found) == pytest.approx(np.mean(expected), abs=1e-6)
    scores = random.random((200, 3))
    labels = random.random((200, 3)) < 0.3
    found = average_precisions(scores, labels)
    np.testing.assert_allclose(found, [0.257685, 0.350872, 0.3067], atol=1e-6)
    assert mean_over_known(found) == pytest.approx(0.3050855653799142)


def test_the_loss_is_the_mean_of_binary_cross_entropies():
    logits, labels = torch.randn(4, 3), torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0.3, 0.7, 0]])
    for smoothing in (0.0, 0.2):
        weights = LossConfig(label_smoothing=smoothing)
        losses = training_losses(join_outputs(logits, []), labels, weights, (), multi_label=True)
        targets = labels * (1 - smoothing) + smoothing / 2
        p = logits.sigmoid()
        expected = -(targets * p.log() + (1 - targets) * (1 - p).log()).sum() / 12
        torch.testing.assert_close(losses["classification"], expected)
        torch.testing.assert_close(losses["loss"], expected)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_blends_all_labels(kind):
    torch.manual_seed(0)
    labels = torch.tensor([[1.0, 1, 0], [0, 0, 1]])
    mix = build_mixing(TrainConfig(**{kind: 1.0}), 3)
    # One clip is all 0, the other all 1: what is left of each says how it was blended.
    clips = torch.stack([torch.zeros(2, 3, 32, 32), torch.ones(2, 3, 32, 32)])
    mixed, targets = mix(clips, labels)
    part = mixed.mean((1, 2, 3, 4))[:, None]  # of the second clip
    torch.testing.assert_close(targets, (1 - part) * labels[0] + part * labels[1])
    assert 0 < float(part[0]) < 1


class Fixed(nn.Module):
    """Says of clips that hold the number i what `logits` says of i."""

    level_names = given_levels = ()

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits
        self.anything = nn.Parameter(torch.zeros(1))

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.logits[clips[:, 0, 0, 0, 0].long()]


def test_evaluation_of_views_and_of_classes_that_do_not_occur():
    logits = torch.tensor([[9.0, -1, 2], [-3, 0, 2], [4, -2, 2], [2, 5, 2]])  # of four views
    labels = torch.tensor([[1.0, 1, 0], [0, 1, 0]])
    clips = torch.arange(4.0).view(4, 1, 1, 1, 1).expand(-1, 1, 3, 1, 1)
    batch = VideoBatch(clips, labels, torch.tensor([5, 7]), num_views=2)
    found = evaluate_multilabel(Fixed(logits), [batch], 3, "fp32")
    torch.testing.assert_close(found.scores, logits.sigmoid().view(2, 2, 3).mean(1))
    assert found.sample_ids.tolist() == [5, 7] and found.positives.tolist() == [1, 2, 0]
    assert found.average_precision[:2].tolist() == [0.5, 1.0] and np.isnan(found.average_precision[2])
    figures = found.figures()
    assert (figures["map"], figures["map_of_guessing"], figures["samples"]) == (0.75, 0.75, 2)
    assert "mAP 75.00% (guessing 75.00%) over the 2 of 3 classes that occur, 2 samples" in str(found)
    assert Config(model=ModelConfig(multi_label=True)).monitored_figure in figures
    assert Config().monitored_figure == "top1"


@pytest.mark.parametrize(
    "option", ["loss.class_weights=balanced", "data.class_sampling_exponent=0.5", "train.monitor=mean_class"]
)
def test_what_counts_one_label_a_video_is_refused(option):
    section, _, setting = option.partition(".")
    name, _, value = setting.partition("=")
    kinds = {"loss": LossConfig, "data": DataConfig, "train": TrainConfig}
    given = {section: kinds[section](**{name: float(value) if value[0].isdigit() else value})}
    with pytest.raises(ValueError, match=f"{section}.{name}=.*: the videos of data.train have several labels each"):
        Config(model=ModelConfig(multi_label=True), **given)


def parse(several_labels: Path, *options: str):
    return parse_config("train", [f"--data.train={several_labels}", "--schedule.warmup_epochs=0", *options])


def test_the_configuration_follows_the_data(several_labels, numbered):
    assert parse(several_labels).model.multi_label is True
    assert parse(numbered).model.multi_label is False
    with pytest.raises(UserError, match=r"videos have several labels if data\.train was packed with them"):
        parse(numbered, "--model.multi_class=true")
    with pytest.raises(UserError, match=r"model\.head=pathways needs one label on each level.*use mean or encoder"):
        parse(several_labels, "--model.head=pathways", "--model.arch=tsn", "--data.num_segments=16")


def test_splits_of_the_other_kind_are_refused(several_labels, numbered):
    with pytest.raises(UserError, match=r"its videos have several labels each, those of .* one; pack both alike"):
        load_splits(parse(several_labels, f"--data.val={numbered}"))
    with pytest.raises(UserError, match=r"its videos have several labels each, those of .* one; pack both alike"):
        load_splits(parse(numbered, f"--data.val={several_labels}"))
