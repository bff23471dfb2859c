"""TSM: the temporal shift module (Lin, Gan and Han, 2019), a ResNet whose branches see parts of the neighbour frames.

Of a block's C input channels the first C/8 come from the next frame, the second C/8 from the previous one, zeros beyond
the clip's ends; the shortcut sees the input as it is. ResNet-101 and deeper ones shift in every second block.
"""

import torch
from torch import Tensor

from model.resnet import BasicBlock, Block, BlockSpec, Bottleneck
from model.temporal import as_frames, fold, next_frame, previous_frame

FRACTION = 8


class _Shift(Block):
    """Mixed into a residual block: shifts what its residual branch sees."""

    def __init__(self, place: BlockSpec) -> None:
        super().__init__(place)
        self.num_segments = place.num_segments
        self.share = place.in_channels // FRACTION

    def enter(self, x: Tensor) -> Tensor:
        return shift(x, self.num_segments, self.share)


class ShiftBasicBlock(_Shift, BasicBlock):
    """A basic block on shifted features."""


class ShiftBottleneck(_Shift, Bottleneck):
    """A bottleneck on shifted features."""


def shift(x: Tensor, num_segments: int, share: int) -> Tensor:
    """Return channels [0, share) of frame t + 1, [share, 2 share) of t - 1, the rest of t; folded frames (B*T, C, H,
    W)."""
    ahead, behind, rest = as_frames(x, num_segments).split([share, share, x.shape[1] - 2 * share], dim=-1)
    return fold(torch.cat([next_frame(ahead), previous_frame(behind), rest], dim=-1))


def block(place: BlockSpec, depth: int) -> BasicBlock | Bottleneck:
    """Return the residual block at `place` of a TSM-ResNet."""
    plain, shifted = (BasicBlock, ShiftBasicBlock) if depth < 50 else (Bottleneck, ShiftBottleneck)
    every = 2 if depth >= 101 else 1
    return (shifted if place.position % every == 0 else plain)(place)
