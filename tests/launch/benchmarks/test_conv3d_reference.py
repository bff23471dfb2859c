"""The networks in their usual form are the same networks: else measuring against them would say nothing."""

import pytest
import torch

from launch.benchmarks.conv3d_reference import Conv3dReference
from model import ModelConfig, SynthesizerConfig, build_model, resnet


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("arch", "depth", "synthesizer"),
    [
        ("tsn", 18, {}),
        ("vpsn", 18, {"receptive_field": "5x5x7", "placement": "B"}),
        ("vpsn", 50, {"inter_relu": False, "pooling": "avg", "dilation": False}),
    ],
)
def test_logits_and_gradients_are_ours(
    arch: str, depth: int, synthesizer: dict, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(resnet.LAYERS, depth, (2, 1, 1, 1))
    torch.manual_seed(0)
    config = ModelConfig(arch, depth, 5, 4, dropout=0.0, synthesizer=SynthesizerConfig(**synthesizer))
    net = build_model(config).double().train(training)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    usual = Conv3dReference(net).double().train(training)
    clips = torch.randn(1, 4, 3, 64, 64, dtype=torch.float64)
    ours, theirs = net(clips), usual(clips)
    torch.testing.assert_close(theirs, ours)
    for logits in (ours, theirs):
        logits.square().sum().backward()
    torch.testing.assert_close(usual.stages[0][0].weight.grad.squeeze(2), net.conv1.weight.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "config", [ModelConfig(arch="tsm"), ModelConfig(synthesizer=SynthesizerConfig(fusion="shuffle"))]
)
def test_others_are_refused(config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="usual way"):
        Conv3dReference(build_model(config))
