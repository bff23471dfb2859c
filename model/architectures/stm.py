"""STM: spatio-temporal and motion encoding (Jiang et al., 2019).

Between the 1x1 convolutions of every bottleneck two paths are summed: a channel-wise temporal kernel before the 3x3,
and the motion between neighbouring frames, 1x1 (to 1/16 of the channels), 3x3(t + 1) - t, 1x1.
"""

from torch import Tensor, nn

from model.resnet import BlockSpec, Bottleneck, conv
from model.temporal import ChannelwiseTemporalConv, next_minus_this

REDUCTION = 16


class Motion(nn.Module):
    """What changes from each frame to the next; zero at the last. The first convolution carries the stride."""

    def __init__(self, place: BlockSpec) -> None:
        super().__init__()
        self.num_segments = place.num_segments
        squeezed = place.width // REDUCTION
        self.squeeze = conv(place.width, squeezed, 1, place.stride)
        self.conv = nn.Conv2d(squeezed, squeezed, 3, padding=1, groups=squeezed, bias=False)
        self.expand = conv(squeezed, place.width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x)
        return self.expand(next_minus_this(self.conv(x), x, self.num_segments))


class STMBottleneck(Bottleneck):
    """A bottleneck with a temporal kernel before its 3x3 and a motion path beside both."""

    added = ("temporal", "motion")

    def __init__(self, place: BlockSpec) -> None:
        super().__init__(place)
        self.temporal = ChannelwiseTemporalConv(place.width, place.num_segments, ahead=0.25, behind=0.25)
        self.motion = Motion(place)

    def middle(self, x: Tensor) -> Tensor:
        return self.relu(self.bn2(self.conv2(self.temporal(x))) + self.motion(x))
