"""SlowOnly: a ResNet with kernels over time in its last two stages (Feichtenhofer et al., 2019, the slow pathway).

The first convolution of every residual block in layer3 and layer4 spans 3 frames: 3x1x1 in a bottleneck, 3x3x3 in a
basic block. Nothing strides over time.
"""

import torch
from torch import Tensor, nn

from model.resnet import BasicBlock, Block, BlockSpec, Bottleneck
from model.temporal import as_frames, fold, next_frame, previous_frame

FIRST_STAGE = 3


class ThreeFrameConv(nn.Conv2d):
    """A dense kernel of 3 x k x k on folded frames: a k x k convolution of each frame beside its two neighbours.

    Input channels are those of the previous frame, of the frame itself, and of the next; beyond the ends lie zeros.
    Two-dimensional weights become the middle of the three, so that a pretrained network keeps its behaviour.
    """

    def __init__(self, in_channels: int, out_channels: int, size: int, stride: int, num_segments: int) -> None:
        super().__init__(3 * in_channels, out_channels, size, stride, padding=size // 2, bias=False)
        nn.init.normal_(self.weight, std=(2 / (3 * out_channels * size**2)) ** 0.5)  # He's, for all 3 frames
        self.num_segments = num_segments

    def forward(self, x: Tensor) -> Tensor:
        """(B*T, C, H, W) -> (B*T, out_channels, H / stride, W / stride)"""
        frames = as_frames(x, self.num_segments)
        return super().forward(fold(torch.cat([previous_frame(frames), frames, next_frame(frames)], dim=-1)))

    def convert_2d_weights(self, state: dict[str, Tensor], prefix: str) -> None:
        """Gives two-dimensional weights in `state` zeros for the neighbouring frames."""
        weight = state.get(f"{prefix}weight")
        if weight is not None and weight.ndim == 4 and 3 * weight.shape[1] == self.weight.shape[1]:
            nothing = torch.zeros_like(weight)
            state[f"{prefix}weight"] = torch.cat([nothing, weight, nothing], dim=1)


def block(place: BlockSpec, depth: int) -> Block:
    """The block at `place`: with a kernel over time in layer3 and layer4, plain before."""
    plain = BasicBlock(place) if depth < 50 else Bottleneck(place)
    if place.stage >= FIRST_STAGE:
        first: nn.Conv2d = plain.conv1
        size, stride = first.kernel_size[0], first.stride[0]
        plain.conv1 = ThreeFrameConv(place.in_channels, place.width, size, stride, place.num_segments)
    return plain
