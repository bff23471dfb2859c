"""What is minimised for networks with several heads."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from launch.training.class_weights import find_class_weights
from launch.training.config import Config, LossConfig
from launch.training.losses import training_losses
from model import ModelConfig, build_model
from model.resnet import join_outputs
from pipeline.config import DataConfig
from sharding.dataset import PackedDataset
from sharding.errors import UserError
from sharding.manifest import Manifest


def test_each_head_has_its_own_cross_entropy():
    torch.manual_seed(0)
    net = build_model(ModelConfig("dg_p3d", 50, 5, 4, dropout=0.0))
    for fc in (net.fc, net.dual.fc):
        torch.nn.init.normal_(fc.weight, std=0.1)
    outputs = net(torch.randn(3, 4, 3, 32, 32), with_losses=True)
    labels = torch.tensor([0, 4, 2])
    losses = training_losses(outputs, labels, LossConfig(), ())
    expected = -sum(logits.double().log_softmax(1)[range(3), labels].mean() for logits in outputs.head_logits)
    torch.testing.assert_close(losses["classification"].double(), expected, rtol=1e-5, atol=1e-6)
    assert losses["loss"] == losses["classification"]
    losses["loss"].backward()
    assert net.fc.weight.grad.abs().max() > 0 and net.dual.fc.weight.grad.abs().max() > 0


@pytest.mark.parametrize("kind", ["labels", "mixed", "weighted", "several"])
def test_a_network_of_steps_is_trained_by_the_mean_of_their_losses(kind):
    """Written out step by step, each as if it were all that the network says."""
    torch.manual_seed(0)
    steps, labels, options = torch.randn(3, 4, 5), torch.tensor([0, 4, 2]), {}
    if kind == "mixed":
        labels = torch.rand(3, 5).softmax(1)
    if kind == "weighted":
        options["class_weights"] = torch.tensor([0.1, 1.0, 2.0, 3.0, 4.0])
    if kind == "several":
        labels, options["multi_label"] = torch.rand(3, 5).round(), True
    weights, outputs = LossConfig(label_smoothing=0.1), join_outputs(steps.mean(1), [])
    found = training_losses(outputs._replace(step_logits=steps), labels, weights, (), **options)
    each = [training_losses(join_outputs(steps[:, t], []), labels, weights, (), **options)["loss"] for t in range(4)]
    torch.testing.assert_close(found["loss"], torch.stack(each).mean())
    torch.testing.assert_close(found["classification"], found["loss"])
    whole = training_losses(outputs, labels, weights, (), **options)["loss"]
    assert abs(whole - found["loss"]) > 1e-3  # not the loss of the mean


def test_one_head_is_trained_by_its_logits():
    net = build_model(ModelConfig("tsn", 18, 5, 2, dropout=0.0))
    torch.nn.init.normal_(net.fc.weight)
    outputs = net(torch.randn(3, 2, 3, 32, 32), with_losses=True)
    labels = torch.tensor([0, 4, 2])
    loss = training_losses(outputs, labels, LossConfig(), ())["loss"]
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(outputs.logits, labels))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("mixed", [False, True])
def test_class_weights_weigh_each_clip_by_its_label(smoothing, mixed):
    """Written out clip by clip; and two micro-batches of any labels have the mean of the batch."""
    torch.manual_seed(0)
    logits, weights = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64)
    labels = torch.tensor([0, 0, 2, 1, 2, 0])
    targets = torch.eye(3, dtype=torch.float64)[labels]
    if mixed:
        labels = targets = 0.7 * targets + 0.3 * targets.flip(0)
    smooth = (1 - smoothing) * targets + smoothing / 3
    expected = 0.0
    for clip in range(6):
        for number in range(3):
            share = smooth[clip, number] * weights[number]
            expected -= float(share * (logits[clip, number] - logits[clip].exp().sum().log())) / 6

    def loss(rows: slice) -> torch.Tensor:
        config = LossConfig(label_smoothing=smoothing)
        outputs, target = join_outputs(logits[rows].float(), []), labels[rows].float() if mixed else labels[rows]
        return training_losses(outputs, target, config, (), class_weights=weights.float())["loss"]

    assert float(loss(slice(6))) == pytest.approx(expected, rel=1e-5)
    assert float(loss(slice(0, 2)) + 2 * loss(slice(2, 6))) / 3 == pytest.approx(expected, rel=1e-5)


def dataset(flip_pairs=()) -> PackedDataset:
    """Six clips of class 0, two of 1, one of 3, and two that are left out: another of 3 and the one of 2."""
    labels = np.array([0] * 6 + [1] * 2 + [3] * 2 + [2])
    manifest = Manifest("D", "train", "h264", tuple("abcd"), flip_pairs, (), 11, 0, {}, "", "")
    columns = [np.zeros(11, np.int64)] * 9
    return PackedDataset(Path("D"), manifest, labels, *columns, excluded=np.array([9, 10]))


def test_balanced_weights_are_the_inverse_of_how_often_a_class_comes():
    train_set = dataset()
    config = Config(loss=LossConfig(class_weights="balanced"))
    weights = np.array(find_class_weights(config, train_set))
    assert weights.tolist() == pytest.approx([9 / (3 * 6), 9 / (3 * 2), 0, 9 / 3])
    assert (weights * [6, 2, 0, 1]).sum() / 9 == pytest.approx(1)
    even = replace(config, data=DataConfig(class_sampling_exponent=0.0))
    assert find_class_weights(even, train_set) == pytest.approx([1, 1, 0, 1])
    mirrored = dataset(flip_pairs=((0, 1),))
    assert find_class_weights(config, mirrored) == pytest.approx([9 / (3 * 4), 9 / (3 * 4), 0, 9 / 3])
    still = replace(config, data=DataConfig(flip=False))
    assert find_class_weights(still, mirrored) == pytest.approx(weights.tolist())


def test_as_many_weights_as_classes():
    train_set = dataset()
    assert find_class_weights(Config(loss=LossConfig(class_weights=(1.0, 2.0, 3.0, 0.0))), train_set) == [1, 2, 3, 0]
    with pytest.raises(UserError, match=r"^loss.class_weights: 3 weights for the 4 classes of D; give one for each"):
        find_class_weights(Config(loss=LossConfig(class_weights=(1.0, 2.0, 3.0))), train_set)
    assert find_class_weights(Config(), train_set) is None
