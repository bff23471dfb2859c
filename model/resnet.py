"""ResNet on folded frames: the backbone of every architecture.

Clips (B, T, 3, H, W) are folded to frames (B*T, 3, H, W) and stay channels-last all the way, so that in memory a
feature map is (B, T, H, W, C): time can be convolved on a view of it, (B, C, T, H*W), and nothing is ever transposed.
Parameters have torchvision's names, so that ImageNet weights enter as they are.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class Outputs(NamedTuple):
    """Logits and auxiliary losses of one call; S is the number of synthesizers, in the order of `synthesizer_names`."""

    logits: Tensor
    """(B, num_classes)"""
    interaction_loss: Tensor
    """Scalar: Eq. 2, mean over the synthesizers."""
    capacity_loss: Tensor
    """Scalar: Eq. 3, mean over the batch and the synthesizers."""
    interaction_losses: Tensor
    """(S,), detached"""
    capacity_losses: Tensor
    """(S,), detached"""
    mean_gates: Tensor
    """(S,), detached: mean sigmoid(||T_ij||_1); at 1 the interaction loss of Eq. 2 has no gradient left."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, num_segments: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _downsample(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(x.add_(shortcut))


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride) and 1x1 convolutions and a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, num_segments: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _downsample(in_channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(x.add_(shortcut))


class VideoResNet(nn.Module):
    """ResNet of `depth` on every frame; dropout, classifier per frame, mean over the frames (TSN).

    `synthesizers` maps a stage name to the module that follows it.
    """

    def __init__(self, depth: int, num_classes: int, num_segments: int, dropout: float) -> None:
        super().__init__()
        self.num_segments = num_segments
        block = BasicBlock if depth < 50 else Bottleneck
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        channels = 64
        self.stage_channels = {"stem": channels}
        for index, num_blocks in enumerate(LAYERS[depth]):
            width, blocks = 64 * 2**index, []
            for position in range(num_blocks):
                blocks.append(block(channels, width, 2 if index and position == 0 else 1, num_segments))
                channels = width * block.expansion
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
            self.stage_channels[f"layer{index + 1}"] = channels
        self.synthesizers = nn.ModuleDict()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        _initialize(self)

    @property
    def synthesizer_names(self) -> tuple[str, ...]:
        """The stages that carry a synthesizer, in the order of the losses in `Outputs`."""
        return tuple(self.synthesizers)

    def forward(self, clips: Tensor, with_losses: bool = False) -> Tensor | Outputs:
        """Logits (B, num_classes) of clips (B, T, 3, H, W); with `with_losses` the auxiliary losses too.

        Clips in (B, T, H, W, 3) memory, permuted, are taken without a copy.

        Raises:
            ValueError: the clips do not have `num_segments` frames of 3 channels.
        """
        features, losses = self._run(clips, with_losses)
        logits = self.forward_head(features)
        if not with_losses:
            return logits
        if not losses:
            zero, none = logits.new_zeros((), dtype=torch.float32), logits.new_zeros(0, dtype=torch.float32)
            return Outputs(logits, zero, zero, none, none, none)
        interaction, capacity, gates = (torch.stack(terms) for terms in zip(*losses))
        return Outputs(
            logits, interaction.mean(), capacity.mean(), interaction.detach(), capacity.detach(), gates.detach()
        )

    def forward_features(self, clips: Tensor) -> Tensor:
        """Feature maps (B*T, channels, H/32, W/32), channels-last, of clips (B, T, 3, H, W)."""
        return self._run(clips, with_losses=False)[0]

    def forward_head(self, features: Tensor) -> Tensor:
        """Logits (B, num_classes) of feature maps (B*T, channels, h, w): the mean of the frames' logits."""
        frames = self.fc(self.dropout(features.mean((2, 3))))
        return frames.unflatten(0, (-1, self.num_segments)).mean(1)

    def _run(self, clips: Tensor, with_losses: bool) -> tuple[Tensor, list]:
        if clips.ndim != 5 or clips.shape[1:3] != (self.num_segments, 3):
            raise ValueError(
                f"clips of shape {tuple(clips.shape)}: the network takes (B, {self.num_segments}, 3, H, W), "
                f"as model.num_segments={self.num_segments}"
            )
        losses = []
        x = clips.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in self.stage_channels:
            if stage != "stem":
                x = getattr(self, stage)(x)
            if stage in self.synthesizers:
                if with_losses:
                    x, terms = self.synthesizers[stage](x, with_losses=True)
                    losses.append(terms)
                else:
                    x = self.synthesizers[stage](x)
        return x, losses


def _downsample(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """The shortcut's 1x1 convolution and BN where the shape changes."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


def _initialize(net: nn.Module) -> None:
    """He's initialisation for convolutions, N(0, 0.001) for the classifier."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.001)
            nn.init.zeros_(module.bias)
