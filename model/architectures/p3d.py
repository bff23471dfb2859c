"""P3D: pseudo-3D residual networks (Qiu, Yao and Mei, 2017).

Between the 1x1 convolutions of a bottleneck are a spatial kernel S, 1x3x3, and a temporal kernel T, 3x1x1, each
followed by BN and ReLU:

    A  T(S(x))
    B  S(x) + T(x)
    C  S(x) + T(S(x))

The mixed network cycles through A, B, C block by block. The last stage stays two-dimensional.

The public code strides on the first 1x1 of a bottleneck and pools time four times. Here the spatial kernel carries the
stride, as in torchvision's ResNet, so that its weights fit; and nothing pools or strides over time, as in every other
network here: all T frames reach the classifier.
"""

from torch import Tensor, nn

from model.resnet import BlockSpec, Bottleneck
from model.temporal import TemporalConv

LAST_STAGE = 4


class P3DBottleneck(Bottleneck):
    """A bottleneck of kind A, B or C; S carries the names of the plain 3x3, conv2 and bn2.

    T starts so that pretrained weights keep their meaning: in A as the identity, in B and C with a small BN factor.
    (With a factor of zero nothing would ever pass the ReLU behind it, nor any gradient.) In B, where the shapes of S(x)
    and T(x) must agree, T strides as S does.
    """

    added = ("conv_t", "bn_t")

    def __init__(self, place: BlockSpec, kind: str) -> None:
        super().__init__(place)
        self.kind = kind
        self.stride = place.stride if kind == "B" else 1
        self.conv_t = TemporalConv(place.width, place.num_segments)
        self.bn_t = nn.BatchNorm2d(place.width)
        if kind == "A":
            nn.init.dirac_(self.conv_t.conv.weight)
        else:
            nn.init.kaiming_normal_(self.conv_t.conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.constant_(self.bn_t.weight, 0.01)

    def middle(self, x: Tensor) -> Tensor:
        spatial = super().middle(x)
        if self.kind == "A":
            return self._temporal(spatial)
        return spatial + self._temporal(x[:, :, :: self.stride, :: self.stride] if self.kind == "B" else spatial)

    def _temporal(self, x: Tensor) -> Tensor:
        return self.relu(self.bn_t(self.conv_t(x)))


def block(place: BlockSpec, kinds: str) -> Bottleneck:
    """Return the block at `place`: the kinds in turn, plain in the last stage."""
    return Bottleneck(place) if place.stage == LAST_STAGE else P3DBottleneck(place, kinds[place.index % len(kinds)])
