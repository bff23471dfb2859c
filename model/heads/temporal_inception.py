"""Temporal-Inception: convolutions of several lengths over the frames of a clip, with max pooling between.

Of Ma et al., *TS-LSTM and Temporal-Inception*, 2017 (arXiv 1703.10667), as the authors' code has it. The features of a
clip are an image of one map, T frames high and as wide as there are features. A layer has a branch for each kernel
length, 5 and 7 frames, that sees one feature at a time and is the same for all: convolution, BatchNorm, ReLU. The maps
of the branches are joined and of every two frames the larger value is kept, of the last layer's that of all:

    frames  25 -> 12 -> 6 -> 3 -> 1        maps  1 -> 2 -> 4 -> 8 -> 16

Convolutions of 1 x 1 with BatchNorm and ReLU make a quarter, an eighth and then a single map of these, one value a
feature; a linear layer of 1,024 with BatchNorm and ReLU and the classifier follow.

Ours: any number of frames and of lengths; ordinary dropout in front of the linear layer, where the authors' drops all
features of a clip at once; RGB without optical flow, and a network that learns with the head unless it is frozen.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.heads.config import TemporalInceptionConfig
from model.resnet import Block, BlockSpec, VideoResNet, classifier
from model.temporal import frame_means


class InceptionLayer(nn.Module):
    """Kernels of several lengths next to each other, and the largest of every `pool` frames."""

    def __init__(self, maps: int, lengths: Sequence[int], pool: int) -> None:
        super().__init__()
        self.pool = pool
        self.branches = nn.ModuleList(_convolution(maps, maps, length) for length in lengths)

    def forward(self, x: Tensor) -> Tensor:
        """(B, maps, T, channels) -> (B, maps * branches, T // pool, channels)"""
        return F.max_pool2d(torch.cat([branch(x) for branch in self.branches], dim=1), (self.pool, 1))


class TemporalInception(nn.Module):
    """Such layers over the frames' features, (B, T, channels) -> (B, width)."""

    def __init__(self, channels: int, num_frames: int, config: TemporalInceptionConfig, dropout: float) -> None:
        super().__init__()
        pools = pool_sizes(num_frames, config.num_layers(num_frames))
        maps = [len(config.kernel_lengths) ** layer for layer in range(len(pools) + 1)]
        self.layers = nn.Sequential(
            *(InceptionLayer(before, config.kernel_lengths, pool) for before, pool in zip(maps, pools))
        )
        widths = [maps[-1], max(1, maps[-1] // 4), max(1, maps[-1] // 8), 1]
        self.reduce = nn.Sequential(*(_convolution(before, after, 1) for before, after in pairwise(widths)))
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Sequential(nn.Linear(channels, config.width), nn.BatchNorm1d(config.width), nn.ReLU())

    def forward(self, frames: Tensor) -> Tensor:
        x = self.reduce(self.layers(frames.unsqueeze(1)))  # (B, 1, 1, channels)
        return self.hidden(self.dropout(x.flatten(1)))


class TemporalInceptionResNet(VideoResNet):
    """Any backbone, with convolutions over its frames instead of their mean."""

    added = ("synthesizers", "temporal_inception")
    head_module = "temporal_inception"

    def __init__(self, config: ModelConfig, block: Callable[[BlockSpec], Block] | None) -> None:
        super().__init__(config.depth, config.num_classes, config.num_segments, config.dropout, block)
        options = config.temporal_inception
        self.temporal_inception = TemporalInception(self.fc.in_features, config.num_segments, options, config.dropout)
        self.fc = classifier(options.width, config.num_classes)

    def forward_head(self, features: Tensor) -> Tensor:
        """Return logits (B, num_classes) of feature maps (B*T, channels, h, w)."""
        return self.fc(self.dropout(self.temporal_inception(frame_means(features, self.num_segments))))


def pool_sizes(num_frames: int, layers: int) -> list[int]:
    """Return how many frames each layer makes one of: two, the last all that are left; one where one is left.

    >>> pool_sizes(25, 4), pool_sizes(8, 3), pool_sizes(8, 5), pool_sizes(8, 1)
    ([2, 2, 2, 3], [2, 2, 2], [2, 2, 2, 1, 1], [8])
    """
    sizes = []
    for _ in range(layers - 1):
        sizes.append(min(2, num_frames))
        num_frames //= sizes[-1]
    return [*sizes, num_frames]


def _convolution(maps: int, out_maps: int, length: int) -> nn.Sequential:
    kernel = nn.Conv2d(maps, out_maps, (length, 1), padding=(length // 2, 0), bias=False)
    return nn.Sequential(kernel, nn.BatchNorm2d(out_maps), nn.ReLU(inplace=True))
