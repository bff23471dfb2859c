"""One thread: the test networks are too small to gain from more."""

import pytest
import torch
from torch import nn

from model import ModelConfig, build_model, resnet


@pytest.fixture(autouse=True)
def _reproducible():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def short_networks(monkeypatch):
    """Networks of every depth have two blocks in the first stage and one in each other: one of every kind of block."""
    for depth in resnet.LAYERS:
        monkeypatch.setitem(resnet.LAYERS, depth, (2, 1, 1, 1))


@pytest.fixture
def build():
    return build_disturbed


def build_disturbed(arch, depth, num_segments=4, calibrate=True):
    """A network of 5 classes with its zeros and identities disturbed, so that they hide nothing.

    `calibrate` gives it BN statistics of 32 x 32 noise.
    """
    net = build_model(ModelConfig(arch, depth, 5, num_segments, dropout=0.0))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter) * parameter.std().nan_to_num(1.0).clamp(min=0.1))
        net.fc.weight.mul_(100)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        if calibrate:
            net(torch.randn(8, num_segments, 3, 32, 32))
    return net
