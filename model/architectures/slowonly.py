"""SlowOnly: a ResNet with kernels over time in its last two stages (Feichtenhofer et al., 2019, the slow pathway).

In layer3 and layer4 the first convolution of every bottleneck spans 3 frames, 3x1x1; of a basic block, which the paper
does not have, both convolutions do, 3x3x3, as in mmaction2. Nothing strides over time.
"""

import torch
from torch import Tensor, nn

from model.resnet import BasicBlock, Block, BlockSpec, Bottleneck, VideoResNet
from model.temporal import as_frames, clip_means, fold, next_frame, previous_frame

FIRST_STAGE = 3


class ThreeFrameConv(nn.Conv2d):
    """A dense kernel of 3 x k x k on folded frames: a k x k convolution of each frame and its two neighbours.

    Input channels are those of the previous frame, of the frame itself, and of the next; beyond the ends are zeros.
    Two-dimensional weights become the middle of the three, so that a pretrained network keeps its behaviour.
    """

    changed_weights = (
        "slowonly of depth 18 and 34 before version 0.2 had only one convolution over time in a block; give the file "
        "as model.pretrained, where such weights fit, or train the network again"
    )

    def __init__(self, in_channels: int, out_channels: int, size: int, stride: int, num_segments: int) -> None:
        super().__init__(3 * in_channels, out_channels, size, stride, padding=size // 2, bias=False)
        nn.init.normal_(self.weight, std=(2 / (3 * out_channels * size**2)) ** 0.5)  # He's, for all 3 frames
        self.num_segments = num_segments

    def forward(self, x: Tensor) -> Tensor:
        """(B*T, C, H, W) -> (B*T, out_channels, H / stride, W / stride)"""
        frames = as_frames(x, self.num_segments)
        return super().forward(fold(torch.cat([previous_frame(frames), frames, next_frame(frames)], dim=-1)))

    def convert_2d_weights(self, state: dict[str, Tensor], prefix: str) -> None:
        """Give two-dimensional weights in `state` zeros for the neighbouring frames."""
        weight = state.get(f"{prefix}weight")
        if weight is not None and weight.ndim == 4 and 3 * weight.shape[1] == self.weight.shape[1]:
            nothing = torch.zeros_like(weight)
            state[f"{prefix}weight"] = torch.cat([nothing, weight, nothing], dim=1)


class SlowOnly(VideoResNet):
    """The network: dropout is drawn once for a clip, after the mean over its frames."""

    def forward_head(self, features: Tensor) -> Tensor:
        """Return logits (B, num_classes) of feature maps (B*T, channels, h, w)."""
        return self.fc(self.dropout(clip_means(features, self.num_segments)))


def block(place: BlockSpec, depth: int) -> Block:
    """Return the block at `place`: with kernels over time in layer3 and layer4, plain before."""
    plain = BasicBlock(place) if depth < 50 else Bottleneck(place)
    if place.stage >= FIRST_STAGE:
        plain.conv1 = _over_time(plain.conv1, place.num_segments)
        if depth < 50:
            plain.conv2 = _over_time(plain.conv2, place.num_segments)
    return plain


def _over_time(spatial: nn.Conv2d, num_segments: int) -> ThreeFrameConv:
    size, stride = spatial.kernel_size[0], spatial.stride[0]
    return ThreeFrameConv(spatial.in_channels, spatial.out_channels, size, stride, num_segments)
