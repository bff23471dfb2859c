"""TEA: temporal excitation and aggregation (Li et al., 2020), on Res2Net 26w x 4s.

In every bottleneck the 3x3 gives way to four splits of the channels in a hierarchy: each of the first three adds the
result of the one before, and goes through a channel-wise temporal kernel and a 3x3; the last goes through a temporal
kernel alone. Before them, motion excitation weighs every channel by how it changes from frame to frame.
"""

import torch
from torch import Tensor, nn

from model.resnet import BlockSpec, Bottleneck, conv
from model.temporal import ChannelwiseTemporalConv, next_minus_this

SPLITS = 4
SPLIT_WIDTH = 26
"""Channels of a split where the plain ResNet has 64."""
REDUCTION = 16


class MotionExcitation(nn.Module):
    """x + x * (sigmoid(m) - 1/2), m being the channels' motion averaged over space."""

    def __init__(self, channels: int, num_segments: int) -> None:
        super().__init__()
        self.num_segments = num_segments
        squeezed = channels // REDUCTION
        self.squeeze = conv(channels, squeezed, 1)
        self.bn1 = nn.BatchNorm2d(squeezed)
        self.conv = nn.Conv2d(squeezed, squeezed, 3, padding=1, groups=squeezed, bias=False)
        self.expand = conv(squeezed, channels, 1)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.bn1(self.squeeze(x))
        motion = next_minus_this(self.conv(squeezed), squeezed, self.num_segments).mean((2, 3), keepdim=True)
        return x * (self.bn2(self.expand(motion)).sigmoid() + 0.5)


class TEABottleneck(Bottleneck):
    """A Res2Net bottleneck with motion excitation and temporal kernels; it carries Res2Net's names.

    The first block of a stage has no hierarchy, for its splits change resolution, and pools its last split.
    """

    added = ("excitation", "temporal")

    def __init__(self, place: BlockSpec) -> None:
        super().__init__(place)
        split = place.width * SPLIT_WIDTH // 64
        del self.conv2, self.bn2
        self.conv1 = conv(place.in_channels, SPLITS * split, 1)
        self.bn1 = nn.BatchNorm2d(SPLITS * split)
        self.excitation = MotionExcitation(SPLITS * split, place.num_segments)
        self.temporal = nn.ModuleList(
            ChannelwiseTemporalConv(split, place.num_segments, *((0.0, 0.0) if i < SPLITS - 1 else (0.5, 0.5)))
            for i in range(SPLITS)
        )
        self.convs = nn.ModuleList(conv(split, split, 3, place.stride) for _ in range(SPLITS - 1))
        self.bns = nn.ModuleList(nn.BatchNorm2d(split) for _ in range(SPLITS - 1))
        self.pool = nn.AvgPool2d(3, place.stride, padding=1) if place.position == 0 else None
        self.conv3 = conv(SPLITS * split, 4 * place.width, 1)

    def middle(self, x: Tensor) -> Tensor:
        *splits, last = self.excitation(x).chunk(SPLITS, dim=1)
        results: list[Tensor] = []
        for x, temporal, spatial, bn in zip(splits, self.temporal, self.convs, self.bns):
            hierarchical = results and self.pool is None
            results.append(self.relu(bn(spatial(temporal(x + results[-1] if hierarchical else x)))))
        last = self.temporal[-1](last)
        return torch.cat([*results, last if self.pool is None else self.pool(last)], dim=1)
