"""GST: grouped spatial-temporal aggregation (Luo and Yuille, 2019).

The 3x3 of every bottleneck is split: half of its input channels go through a 1x3x3 kernel to 3/4 of its output
channels, the other half through a 3x3x3 kernel to the last 1/4 (alpha = 4, beta = 2). BN and ReLU follow on all
channels. The paper has bottlenecks only; of a basic block the first 3x3 is split, which carries the stride, BN and ReLU
too.
"""

import torch
from torch import Tensor, nn

from model.resnet import BasicBlock, Block, BlockSpec, Bottleneck, conv
from model.temporal import as_frames, fold, next_frame, previous_frame


class SplitConv(nn.Module):
    """Takes the place of a 3x3 convolution.

    The 3x3x3 kernel is one two-dimensional convolution to three times its outputs (what each frame gives to the next,
    to itself and to the previous one) and their sum.
    """

    added = ("temporal",)

    def __init__(self, in_channels: int, out_channels: int, stride: int, num_segments: int) -> None:
        super().__init__()
        self.num_segments = num_segments
        self.in_space, quarter = in_channels // 2, out_channels // 4
        self.spatial = conv(self.in_space, out_channels - quarter, 3, stride)
        self.temporal = conv(in_channels - self.in_space, 3 * quarter, 3, stride)

    def forward(self, x: Tensor) -> Tensor:
        spatial, temporal = x[:, : self.in_space], x[:, self.in_space :]
        to_next, to_this, to_previous = as_frames(self.temporal(temporal), self.num_segments).chunk(3, dim=-1)
        temporal = fold(previous_frame(to_next) + to_this + next_frame(to_previous))
        return torch.cat([self.spatial(spatial), temporal], dim=1)

    def convert_2d_weights(self, state: dict[str, Tensor], prefix: str) -> None:
        """Turn the 3x3 weights of a two-dimensional ResNet into the slice that the spatial kernel replaces."""
        if (weight := state.pop(prefix + "weight", None)) is not None:
            outputs, inputs = self.spatial.weight.shape[:2]
            state[prefix + "spatial.weight"] = weight[:outputs, :inputs]


class GSTBottleneck(Bottleneck):
    """A bottleneck with a split 3x3."""

    def __init__(self, place: BlockSpec) -> None:
        super().__init__(place)
        self.conv2 = SplitConv(place.width, place.width, place.stride, place.num_segments)


class GSTBasicBlock(BasicBlock):
    """A basic block whose first 3x3 is split."""

    def __init__(self, place: BlockSpec) -> None:
        super().__init__(place)
        self.conv1 = SplitConv(place.in_channels, place.width, place.stride, place.num_segments)


def block(place: BlockSpec, depth: int) -> Block:
    """Return the block of a ResNet of `depth`."""
    return (GSTBottleneck if depth >= 50 else GSTBasicBlock)(place)
