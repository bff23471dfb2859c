"""Model FLOP utilisation: arithmetic on the ledger's counts and the devices' names."""

import pytest
import torch

from launch.training import mfu
from launch.training.mfu import Utilization, peak_flops, training_flops
from model import ModelConfig

CUDA = torch.device("cuda", 0)


def test_training_is_three_forward_passes():
    """The paper's network: 36.0 G multiply-adds a clip of 8 x 224 x 224 without BN; 2 operations each, 3 passes."""
    assert training_flops(ModelConfig(pretrained="imagenet"), 224) == 6 * 36_008_034_304


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H200", 989.4),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA L40S", 362),
        ("Tesla V100-SXM2-16GB", 125),
        ("NVIDIA RTX A4000", None),
    ],
)
def test_peak_by_name(monkeypatch, name, tera):
    monkeypatch.setattr(mfu.torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(CUDA, "bf16") == (tera and pytest.approx(tera * 1e12))
    assert peak_flops(CUDA, "fp32") is None


def test_nothing_is_known_of_a_cpu():
    assert Utilization(ModelConfig(depth=18), 32, torch.device("cpu"), "bf16").figures(100.0) == {}
