"""What is minimised for networks with several heads."""

import torch

from launch.training.config import LossConfig
from launch.training.losses import training_losses
from model import ModelConfig, build_model


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


def test_one_head_is_trained_by_its_logits():
    net = build_model(ModelConfig("tsn", 18, 5, 2, dropout=0.0))
    torch.nn.init.normal_(net.fc.weight)
    outputs = net(torch.randn(3, 2, 3, 32, 32), with_losses=True)
    labels = torch.tensor([0, 4, 2])
    loss = training_losses(outputs, labels, LossConfig(), ())["loss"]
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(outputs.logits, labels))
