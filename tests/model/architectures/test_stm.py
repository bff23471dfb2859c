"""STM: one block against its definition, written frame by frame with torch's plain operations."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model import ModelConfig, build_model
from model.architectures.stm import STMBottleneck
from model.resnet import BlockSpec

B, T, WIDTH = 2, 4, 64


def normalize(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """BatchNorm in evaluation mode."""
    mean, var, weight, bias = (
        state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def reference(clips: Tensor, state: dict[str, Tensor], stride: int) -> Tensor:
    """A block on clips (B, T, C, H, W), as the first author's code has it."""
    frames = [F.relu(normalize(F.conv2d(clips[:, t], state["conv1.weight"]), state, "bn1")) for t in range(T)]
    nothing = torch.zeros_like(frames[0])
    squeezed = [normalize(F.conv2d(x, state["motion.squeeze.weight"]), state, "motion.bn1") for x in frames]
    taps = state["temporal.conv.weight"][:, 0, :, 0]  # (channels, 3)
    results = []
    for t in range(T):
        before, after = (frames[t - 1] if t else nothing), (frames[t + 1] if t + 1 < T else nothing)
        mixed = sum(tap[:, None, None] * x for tap, x in zip(taps.unbind(1), (before, frames[t], after)))
        spatial = F.conv2d(mixed, state["conv2.weight"], stride=stride, padding=1)
        middle = F.relu(normalize(spatial, state, "bn2"))
        if t + 1 < T:
            following = F.conv2d(squeezed[t + 1], state["motion.conv.weight"], padding=1, groups=WIDTH // 16)
            motion = F.conv2d(following - squeezed[t], state["motion.expand.weight"])
            middle = middle + (F.max_pool2d(motion, 2) if stride == 2 else motion)
        shortcut = F.conv2d(clips[:, t], state["downsample.0.weight"], stride=stride)
        branch = normalize(F.conv2d(middle, state["conv3.weight"]), state, "bn3")
        results.append(F.relu(branch + normalize(shortcut, state, "downsample.1")))
    return torch.stack(results, 1)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_is_its_definition(stride):
    block = STMBottleneck(BlockSpec(32, WIDTH, stride, T, 2, 0, 3)).double().eval()
    with torch.no_grad():
        for name, value in block.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point():
                value.add_(0.2 * torch.randn_like(value))
        clips = torch.randn(B, T, 32, 8, 6, dtype=torch.float64)
        actual = block(clips.flatten(0, 1).contiguous(memory_format=torch.channels_last)).unflatten(0, (B, T))
        expected = reference(clips, block.state_dict(), stride)
    assert expected.abs().max() > 1
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_frames_of_any_size_pass():
    """Of 112 pixels layer3 leaves 7 x 7, which the 3x3 of layer4 makes 4 x 4, and so must the pooling of motion."""
    with torch.device("meta"):
        net = build_model(ModelConfig("stm", 50, 5, T)).eval()
        assert net.forward_features(torch.empty(1, T, 3, 112, 112)).shape[2:] == (4, 4)
