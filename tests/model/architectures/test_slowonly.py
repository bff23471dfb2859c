"""SlowOnly: kernels over time in the last two stages, against torch's three-dimensional convolution."""

import pytest
import torch
from torch import nn

from model import ModelConfig, build_model
from model.architectures.slowonly import ThreeFrameConv
from model.complexity import measure

B, T = 2, 4


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_it_is_a_convolution_over_three_frames(size, stride):
    module = ThreeFrameConv(6, 10, size, stride, T).double()
    x = torch.randn(B, T, 6, 8, 8, dtype=torch.float64)
    weight = module.weight.unflatten(1, (3, 6)).transpose(1, 2)  # (outputs, inputs, time, k, k)
    expected = nn.functional.conv3d(
        x.transpose(1, 2), weight, stride=(1, stride, stride), padding=(1, *[size // 2] * 2)
    )
    actual = module(x.flatten(0, 1).contiguous(memory_format=torch.channels_last)).unflatten(0, (B, T))
    torch.testing.assert_close(actual.transpose(1, 2), expected)


@pytest.mark.parametrize(
    ("depth", "blocks", "size", "names"),
    [
        (18, (2, 2), 3, ("conv1", "conv2")),
        (34, (6, 3), 3, ("conv1", "conv2")),
        (50, (6, 3), 1, ("conv1",)),
        (101, (23, 3), 1, ("conv1",)),
    ],
)
def test_convolutions_of_the_last_two_stages_span_frames(depth, blocks, size, names):
    """Of a bottleneck the first, of a basic block both."""
    with torch.device("meta"):
        net = build_model(ModelConfig("slowonly", depth, 5, T))
        frames = net.forward_features(torch.empty(B, T, 3, 64, 64))
    spanning = {name: module for name, module in net.named_modules() if isinstance(module, ThreeFrameConv)}
    expected = {f"layer{3 + i}.{n}.{name}" for i, count in enumerate(blocks) for n in range(count) for name in names}
    assert set(spanning) == expected
    assert {module.kernel_size for module in spanning.values()} == {(size, size)}
    assert len(frames) == B * T  # nothing strides over time


def test_dropout_is_drawn_once_for_a_clip():
    """With the features and the classifier constant, a clip's logit counts what was kept: it is a multiple of 1 / C."""
    net = build_model(ModelConfig("slowonly", 50, 1, T, dropout=0.5))
    channels = net.fc.in_features
    nn.init.constant_(net.fc.weight, 1 / channels)
    logits = net.forward_head(torch.ones(64 * T, channels, 2, 2)).detach()
    kept = logits * channels / 2
    torch.testing.assert_close(kept, kept.round(), rtol=0, atol=1e-2)
    # Drawn for each frame and averaged, the deviation would be half as large.
    assert logits.std().item() == pytest.approx(channels**-0.5, rel=0.3)
    torch.testing.assert_close(net.eval().forward_head(torch.ones(T, channels, 2, 2)), torch.ones(1, 1))


def test_two_dimensional_weights_keep_their_behaviour(tmp_path):
    plain = build_model(ModelConfig("tsn", 18, 5, T))
    torch.save(plain.state_dict(), tmp_path / "tsn.pth")
    net = build_model(ModelConfig("slowonly", 18, 5, T, pretrained=str(tmp_path / "tsn.pth")))
    clips = torch.randn(B, T, 3, 32, 32)
    torch.testing.assert_close(net.eval()(clips), plain.eval()(clips))
    with torch.no_grad():  # its own weights enter as they are
        net.layer4[0].conv1.weight.normal_()
    torch.save(net.state_dict(), tmp_path / "slowonly.pth")
    again = build_model(ModelConfig("slowonly", 18, 5, T, pretrained=str(tmp_path / "slowonly.pth")))
    assert torch.equal(again.layer4[0].conv1.weight, net.layer4[0].conv1.weight)


def test_its_cost_is_the_published_one():
    """PyTorchVideo's model zoo: Slow R50 8x8 on Kinetics-400, 32.45 M parameters, 54.52 G at 256 x 256."""
    cost = measure(ModelConfig("slowonly", 50, 400, 8), size=256)
    assert cost.parameters == 32_454_096
    assert round(cost.multiply_adds / 1e9, 2) == 54.52
