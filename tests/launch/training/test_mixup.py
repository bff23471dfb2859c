"""Mixup and CutMix of clips and labels; label smoothing."""

import pytest
import torch

from launch.training.config import Config, LossConfig, TrainConfig
from launch.training.engine import deepspeed_options
from launch.training.losses import training_losses
from launch.training.mixup import build_mixing
from model import Outputs
from sharding.errors import UserError

CLIPS = torch.arange(4.0)[:, None, None, None, None].expand(4, 2, 3, 16, 16).contiguous()  # clip i is full of i
LABELS = torch.tensor([0, 1, 2, 3])


def mixed(seed: int = 0, **alphas: float) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return build_mixing(TrainConfig(**alphas), 4)(CLIPS, LABELS)


def test_neither_changes_nothing():
    clips, labels = mixed()
    assert clips is CLIPS and labels is LABELS


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_labels_are_the_shares_of_the_clips(kind):
    clips, labels = mixed(seed=1, **{kind: 1.0})
    assert type(clips) is torch.Tensor and clips.shape == CLIPS.shape
    # Clip i is full of i and has label i, so the mean over its pixels is the mean over its label.
    torch.testing.assert_close(clips.mean((1, 2, 3, 4)), labels @ torch.arange(4.0))
    assert not torch.equal(clips, CLIPS)
    values = len(clips[1].unique())
    assert values == (1 if kind == "mixup" else 2)
    for frame in clips[1].unbind():
        assert torch.equal(frame, clips[1, 0])  # the same in all frames of a clip


def test_both_take_turns_and_follow_the_seed():
    kinds = {len(mixed(seed, mixup=1.0, cutmix=1.0)[0][1].unique()) for seed in range(20)}
    assert kinds == {1, 2}
    assert all(torch.equal(a, b) for a, b in zip(mixed(3, mixup=0.4), mixed(3, mixup=0.4)))


def test_smoothed_labels():
    logits, zero, none = torch.tensor([[2.0, 0.0, 0.0, 0.0]]), torch.tensor(0.0), torch.zeros(0)
    outputs = Outputs(logits, zero, zero, none, none, none)
    smooth = training_losses(outputs, torch.tensor([0]), LossConfig(label_smoothing=0.2), ())["loss"]
    target = torch.tensor([0.85, 0.05, 0.05, 0.05])
    torch.testing.assert_close(smooth, -(target * logits.log_softmax(1)).sum())
    same = training_losses(outputs, target[None], LossConfig(), ())["loss"]
    torch.testing.assert_close(smooth, same)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_micro_batch_of_one_has_nothing_to_blend(kind):
    config = Config(train=TrainConfig(batch_size=8, micro_batch_size=1, **{kind: 0.5}))
    with pytest.raises(UserError, match=r"^train\.micro_batch_size=1: train\.mixup and train\.cutmix blend"):
        deepspeed_options(config, 2)
    assert deepspeed_options(Config(train=TrainConfig(batch_size=8, micro_batch_size=1)), 2)
