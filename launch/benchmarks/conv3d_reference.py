"""The networks as they are usually written, to be measured against: volumes (B, C, T, H, W), channels first, Conv3d.

They have the weights of ours and give the same logits; only the layout in memory and the operators differ.
"""

import torch
from torch import Tensor, nn

from model import ModelConfig, build_model
from model.resnet import BasicBlock, Bottleneck, Outputs, VideoResNet, join_outputs
from model.synthesizer import GROUPS, Synthesizer

POOLS = {"max": nn.MaxPool3d, "avg": nn.AvgPool3d}


class Conv3dReference(nn.Module):
    """A TSN or VPSN, with copies of its weights.

    Raises:
        ValueError: another architecture.
    """

    def __init__(self, net: VideoResNet) -> None:
        super().__init__()
        pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.stages = nn.Sequential(nn.Sequential(lift(net.conv1), lift_norm(net.bn1), nn.ReLU(inplace=True), pool))
        for stage in net.stage_channels:
            if stage != "stem":
                self.stages.append(nn.Sequential(*map(UsualBlock, getattr(net, stage))))
            if stage in net.synthesizers:
                self.stages.append(UsualSynthesizer(net.synthesizers[stage]))
        self.dropout, self.fc = nn.Dropout(net.dropout.p), nn.Linear(net.fc.in_features, net.fc.out_features)
        self.fc.load_state_dict(net.fc.state_dict())

    def forward(self, clips: Tensor, with_losses: bool = False) -> Tensor | Outputs:
        """Return logits (B, num_classes) of clips (B, T, 3, H, W); the auxiliary losses are left out, as zeros."""
        x = self.stages(clips.transpose(1, 2).contiguous())
        frames = self.fc(self.dropout(x.mean((3, 4)).transpose(1, 2)))
        logits = frames.mean(1)
        return join_outputs(logits, []) if with_losses else logits


def build_conv3d_reference(config: ModelConfig) -> Conv3dReference:
    """Return the network of `build_model(config)` in its usual form."""
    net = build_model(config)
    if not isinstance(net, VideoResNet):
        raise ValueError(f"model.arch={config.arch}, model.head={config.head}: only tsn and vpsn are written so")
    return Conv3dReference(net)


class UsualBlock(nn.Module):
    """A residual block of the plain ResNet."""

    def __init__(self, block: BasicBlock | Bottleneck) -> None:
        super().__init__()
        if type(block) not in (BasicBlock, Bottleneck):
            raise ValueError(f"{type(block).__name__}: only tsn and vpsn are written in the usual way")
        last = 2 if type(block) is BasicBlock else 3
        self.branch = nn.Sequential()
        for number in range(1, last + 1):
            conv, norm = (getattr(block, f"{kind}{number}") for kind in ("conv", "bn"))
            self.branch.extend([lift(conv), lift_norm(norm)])
            if number < last:
                self.branch.append(nn.ReLU(inplace=True))
        self.shortcut = nn.Identity()
        if block.downsample is not None:
            self.shortcut = nn.Sequential(lift(block.downsample[0]), lift_norm(block.downsample[1]))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C', T, H', W')"""
        return self.relu(self.branch(x) + self.shortcut(x))


class UsualSynthesizer(nn.Module):
    """A synthesizer with a learned fusion."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        if not isinstance(block, Synthesizer) or not isinstance(block.fusion, nn.Conv2d):
            raise ValueError(f"{type(block).__name__}: only learned fusion is written in the usual way")
        spatial, temporal = block.spatial, block.temporal
        self.compress, self.fusion, self.expand = lift(block.compress), lift(block.fusion), lift(block.expand)
        self.spatial = nn.ModuleList([lift(spatial.small), lift(spatial.large), _pool(spatial.pooling, (1, 3, 3))])
        self.norm = nn.Sequential(lift_norm(spatial.bn), nn.ReLU(inplace=True) if spatial.relu else nn.Identity())
        kernels = [lift(kernel, in_time=True) for kernel in (temporal.small, temporal.large)]
        self.temporal = nn.ModuleList([*kernels, _pool(temporal.pooling, (3, 1, 1))])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the same shape"""
        mixed = self.fusion(self.norm(_bag(self.compress(x), self.spatial)))
        return x + self.expand(_bag(mixed, self.temporal))


def lift(conv: nn.Module, in_time: bool = False) -> nn.Conv3d:
    """Return the same kernel on volumes: (h, w) as (1, h, w), or, `in_time`, (t, 1) as (t, 1, 1)."""
    assert isinstance(conv, nn.Conv2d) and not isinstance(conv.padding, str)

    def three(values: tuple[int, ...], absent: int) -> tuple[int, int, int]:
        first, second = values
        return (first, absent, second) if in_time else (absent, first, second)

    lifted = nn.Conv3d(
        conv.in_channels,
        conv.out_channels,
        three(conv.kernel_size, 1),
        three(conv.stride, 1),
        three(conv.padding, 0),
        three(conv.dilation, 1),
        bias=False,
    )
    with torch.no_grad():
        lifted.weight.copy_(conv.weight.unsqueeze(3 if in_time else 2))
    return lifted


def lift_norm(norm: nn.Module) -> nn.BatchNorm3d:
    """Return the same normalisation of volumes."""
    assert isinstance(norm, nn.BatchNorm2d)
    lifted = nn.BatchNorm3d(norm.num_features)
    lifted.load_state_dict(norm.state_dict())
    return lifted


def _pool(kind: str, size: tuple[int, int, int]) -> nn.Module:
    return nn.Identity() if kind == "none" else POOLS[kind](size, 1, tuple(length // 2 for length in size))


def _bag(x: Tensor, kernels: nn.ModuleList) -> Tensor:
    """Return the first group of channels as it is, each other one through its kernel."""
    identity, *groups = x.chunk(GROUPS, dim=1)
    return torch.cat([identity, *(kernel(group) for kernel, group in zip(kernels, groups))], dim=1)
