"""STM: spatio-temporal and motion encoding (Jiang et al., 2019), as its first author's code has it.

Between the 1x1 convolutions of every bottleneck two paths are summed: a channel-wise temporal kernel, the 3x3, BN and
ReLU; and the motion between neighbouring frames, 1x1 (to 1/16 of the channels) and BN, then 3x3(t + 1) - t, 1x1. The
motion is not rectified. Where the block strides, motion is found at full size and max-pooled over 2x2.
"""

from torch import Tensor, nn

from model.resnet import BlockSpec, Bottleneck, conv
from model.temporal import ChannelwiseTemporalConv, next_minus_this

REDUCTION = 16


class Motion(nn.Module):
    """What changes from each frame to the next; zero at the last."""

    changed_weights = "stm before version 0.2 had no BatchNorm in its motion path; train the network again"

    def __init__(self, place: BlockSpec) -> None:
        super().__init__()
        self.num_segments = place.num_segments
        squeezed = place.width // REDUCTION
        self.squeeze = conv(place.width, squeezed, 1)
        self.bn1 = nn.BatchNorm2d(squeezed)  # not "bn": model.fuse would fold that into `conv`
        self.conv = nn.Conv2d(squeezed, squeezed, 3, padding=1, groups=squeezed, bias=False)
        self.expand = conv(squeezed, place.width, 1)
        # Rounded up, as the 3x3 of the other path rounds; for even sizes it is the plain pooling.
        self.pool = nn.MaxPool2d(place.stride, ceil_mode=True) if place.stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B*T, C, H, W) -> (B*T, C, H / stride, W / stride)"""
        x = self.bn1(self.squeeze(x))
        return self.pool(self.expand(next_minus_this(self.conv(x), x, self.num_segments)))


class STMBottleneck(Bottleneck):
    """A bottleneck with a temporal kernel before its 3x3 and a motion path in parallel to both."""

    added = ("temporal", "motion")

    def __init__(self, place: BlockSpec) -> None:
        super().__init__(place)
        self.temporal = ChannelwiseTemporalConv(place.width, place.num_segments, ahead=0.25, behind=0.25)
        self.motion = Motion(place)

    def middle(self, x: Tensor) -> Tensor:
        return self.relu(self.bn2(self.conv2(self.temporal(x)))) + self.motion(x)
