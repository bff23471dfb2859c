"""ResNet-RS: its published counts, its mathematics written out, and the architectures that stand on it."""

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model import BasicBlock, ModelConfig, VideoNet, build_model, fuse_batch_norm
from model.complexity import measure
from model.config import DEPTHS, RS_DEPTHS
from model.freeze import parameter_depths, stage_of
from model.resnet import LAYERS, Bottleneck
from model.weights.families import RESNET_RS, count_depth, recognise
from model.weights.refused import explain_refusal

RS = {"backbone": "resnet_rs", "num_classes": 5, "num_segments": 4, "dropout": 0.0}
ARCHS = [arch for arch in DEPTHS if arch not in ("tea", "dg_p3d")]
PUBLISHED = {50: 35.69, 101: 63.62, 152: 86.62, 200: 93.21, 270: 129.86, 350: 163.96, 420: 191.89}
"""Millions of parameters with 1000 classes, as timm lists its resnetrs50 to resnetrs420."""


def count(depth: int) -> int:
    """The parameters with 1000 classes, by arithmetic."""
    total = 9 * (3 * 32 + 32 * 32 + 32 * 64 + 64 * 64) + 2 * (32 + 32 + 64 + 64) + 2049 * 1000
    channels = 64
    for width, blocks in zip((64, 128, 256, 512), LAYERS[depth]):
        out = 4 * width
        squeeze = 2 * out * out // 4 + out // 4 + out
        block = 9 * width**2 + width * out + 2 * (2 * width + out) + squeeze
        total += channels * width + channels * out + 2 * out + (blocks - 1) * out * width + blocks * block
        channels = out
    return total


@pytest.mark.parametrize("depth", RS_DEPTHS)
def test_parameters_are_the_published_ones(depth):
    found = measure(ModelConfig("tsn", depth, 1000, 1, backbone="resnet_rs"), size=32).parameters
    assert found == count(depth)
    assert abs(found / 1e6 - PUBLISHED[depth]) < 0.0051
    assert depth != 50 or found == 35_691_912


def test_multiply_adds_of_the_published_picture():
    """4.6 GFLOPs of 160 x 160 pixels in the paper, two for a multiply-add."""
    assert 2 * measure(ModelConfig("tsn", 50, 1000, 1, backbone="resnet_rs"), 160).multiply_adds / 1e9 == pytest.approx(
        4.6, abs=0.05
    )


@pytest.fixture
def rs(short_networks):
    """A short network whose zeros are disturbed, and whose BN has seen something."""

    def build(arch="tsn", **options):
        net = build_model(ModelConfig(arch, 50, **RS | options))
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        net(torch.randn(4, 4, 3, 32, 32))
        return net

    return build


def written_out(state: dict[str, torch.Tensor], frames: torch.Tensor) -> torch.Tensor:
    """Logits (N, classes) of frames by timm's names, with nothing but functions."""

    def norm(x, name):
        values = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        mean, var, weight, bias = (value[:, None, None] for value in values)
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def conv(x, name, stride=1):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    x = norm(conv(frames, "conv1.0", 2), "conv1.1").relu()
    x = norm(conv(x, "conv1.3"), "conv1.4").relu()
    x = norm(conv(x, "conv1.6"), "bn1").relu()
    x = norm(conv(x, "maxpool.0", 2), "maxpool.1").relu()
    for stage, blocks in enumerate((2, 1, 1, 1), 1):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            shortcut = x
            if block == 0:
                height, width = x.shape[2:]
                padded = F.pad(x, (0, width % stride, 0, height % stride))
                ones = F.pad(torch.ones_like(x), (0, width % stride, 0, height % stride))
                sums, counts = (F.avg_pool2d(value, stride) * stride**2 for value in (padded, ones))
                shortcut = norm(conv(sums / counts, f"{name}.downsample.1"), f"{name}.downsample.2")
            y = norm(conv(x, f"{name}.conv1"), f"{name}.bn1").relu()
            y = norm(conv(y, f"{name}.conv2", stride), f"{name}.bn2").relu()
            y = norm(conv(y, f"{name}.conv3"), f"{name}.bn3")
            gate = y.mean((2, 3)) @ state[f"{name}.se.fc1.weight"][:, :, 0, 0].T + state[f"{name}.se.fc1.bias"]
            gate = gate.relu() @ state[f"{name}.se.fc2.weight"][:, :, 0, 0].T + state[f"{name}.se.fc2.bias"]
            x = (y / (1 + (-gate).exp())[:, :, None, None] + shortcut).relu()
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


@pytest.mark.parametrize("size", [32, 71])
def test_it_computes_what_is_written_out(rs, size):
    net = rs().double().eval()
    clips = torch.randn(2, 4, 3, size, size, dtype=torch.float64)
    with torch.no_grad():
        expected = written_out(net.state_dict(), clips.flatten(0, 1)).unflatten(0, (2, 4)).mean(1)
        torch.testing.assert_close(net(clips), expected, rtol=1e-9, atol=1e-9)


def test_a_block_begins_as_its_shortcut(short_networks):
    net = build_model(ModelConfig("tsn", 50, **RS))
    second = net.layer1[1]
    x = torch.rand(4, 256, 8, 8)
    assert torch.equal(second(x.clone()), x)
    assert sum(isinstance(module, nn.MaxPool2d) for module in net.modules()) == 0


@pytest.mark.parametrize("arch", ARCHS)
def test_architectures_stand_on_it(rs, arch):
    net = rs(arch, drop_path=0.1)
    blocks = [module for module in net.modules() if isinstance(module, Bottleneck)]
    assert all(block.se is not None and block.drop_path is not None for block in blocks) and len(blocks) == 5
    for block in blocks:
        block.drop_path.probability = 0
    outputs = net(torch.randn(2, 4, 3, 32, 32), with_losses=True)
    F.cross_entropy(outputs.logits, torch.tensor([0, 3])).backward()
    assert not [name for name, value in net.named_parameters() if value.grad is None or not value.grad.abs().max() > 0]
    stages = {stage_of(name) for name in net.state_dict() if name.startswith(("conv1", "bn1", "maxpool"))}
    assert stages == {"stem"}
    depths = parameter_depths([name for name, _ in net.named_parameters()])
    assert depths["conv1.3.weight"] == depths["maxpool.1.bias"] == 0 and max(depths.values()) == 6
    names = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    assert explain_refusal(names, "") == "" and recognise(names) is RESNET_RS


def test_fused_it_computes_the_same_without_bn(rs):
    net = rs("vpsn").double().eval()
    fused = fuse_batch_norm(net)
    assert not [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d)]
    clips = torch.randn(2, 4, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(fused(clips), net(clips).detach(), rtol=1e-9, atol=1e-9)


def test_timms_weights_enter_and_others_are_refused_with_the_switch(rs, tmp_path, caplog):
    state = copy.deepcopy(rs(num_classes=7).state_dict())
    torch.save(state, tmp_path / "resnetrs.pth")
    with caplog.at_level(logging.INFO):
        net = build_model(ModelConfig("vpsn", 50, pretrained=str(tmp_path / "resnetrs.pth"), **RS))
    assert "ResNet-RS (timm)" in caplog.text and "classifier of 7 classes replaced" in caplog.text
    loaded = net.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items() if not name.startswith("fc."))
    plain = RS | {"backbone": "resnet"}
    with pytest.raises(ValueError, match=r"ResNet-RS \(timm\), for which model.backbone=resnet_rs is made; "):
        build_model(ModelConfig("tsn", 50, pretrained=str(tmp_path / "resnetrs.pth"), **plain))
    torch.save(build_model(ModelConfig("tsn", 50, **plain)).state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match=r"timm\), for which model.backbone=resnet is made; "):
        build_model(ModelConfig("tsn", 50, pretrained=str(tmp_path / "resnet.pth"), **RS))


@pytest.mark.parametrize("depth", RS_DEPTHS)
def test_the_depth_of_weights_is_found(depth):
    with torch.device("meta"):
        net = build_model(ModelConfig("tsn", depth, **RS))
    assert count_depth({name: tuple(value.shape) for name, value in net.state_dict().items()}) == depth


class Alone(VideoNet):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()


class Basic(BasicBlock):
    pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "tea"}, "model.arch=tea has a ResNet of its own"),
        ({"arch": "dg_p3d"}, "model.arch=dg_p3d has a ResNet of its own"),
        ({"arch": "tsn", "depth": 18}, "model.depth=18: .* on model.backbone=resnet_rs are 50, 101, 152, "),
        ({"arch": "tsn", "depth": 152, "backbone": "resnet"}, "model.depth=152: .* are 18, 34, 50, 101$"),
        ({"arch": "tsn", "init": "am_mup"}, "model.init=am_mup"),
        ({"arch": "tsn", "pretrained": "imagenet"}, "torchvision has no ResNet-RS.*resnetrs50"),
        ({"arch": f"{__name__}:Alone"}, "is no VideoResNet and has its own backbone"),
        ({"arch": f"{__name__}:Basic"}, "which is a BasicBlock"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_line(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_model(ModelConfig(**RS | options))
    assert "\n" not in str(caught.value)
