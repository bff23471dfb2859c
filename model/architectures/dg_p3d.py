"""DG-P3D: P3D with global context and two heads (Qiu et al., 2021, Optimization Planning for 3D ConvNets).

The stem spans 4x7x7 pixels and strides over (4, 2, 2): of T frames T/4 are left. In every bottleneck, layer4's too, a
spatial kernel S, 1x3x3, meets a temporal kernel T, 3x1x1, in the three arrangements of P3D in turn; each has one BN:

    A  relu(bn(T(S(x))))
    B  relu(bn(S(x) + T(x)))
    C  relu(s + T(s)) with s = relu(bn(S(x)))

Before its last ReLU each block adds to every pixel of a clip what two linear layers make of the mean over the clip.

One head is layer4; the other sees layer3's frames pooled over time in fours, and is a copy of layer4 that does not
stride. Each is trained on its own; what they say is averaged.

T starts as the identity in A and as nothing in B and C, the context as nothing, and two-dimensional weights of the stem
are at its third frame: a pretrained network starts as the two-dimensional one on every fourth frame.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.resnet import (
    LAYERS,
    Block,
    BlockSpec,
    Bottleneck,
    Outputs,
    Stage,
    VideoResNet,
    classifier,
    join_outputs,
)
from model.temporal import TemporalConv, clip_means

STRIDE = 4
"""Frames that the stem makes one of."""
PRETRAINED_FRAME = 2
"""Of these, the one that two-dimensional weights are for."""
POOLED = 4
"""Of the frames behind the stem, how many the second head makes one of; all of them where there are fewer."""
REDUCTION = 16


class Stem(nn.Conv2d):
    """A kernel of 4x7x7 that strides over (4, 2, 2): as it never meets a frame twice, 7x7 on four stacked frames."""

    def __init__(self, out_channels: int) -> None:
        super().__init__(STRIDE * 3, out_channels, 7, 2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B*T, 3, H, W) -> (B*T/4, out_channels, H/2, W/2)"""
        x = x.unflatten(0, (-1, STRIDE)).flatten(1, 2)
        return super().forward(x.contiguous(memory_format=torch.channels_last))

    def convert_2d_weights(self, state: dict[str, Tensor], prefix: str) -> None:
        """Put two-dimensional weights in `state` at their frame, with zeros for the others."""
        weight = state.get(f"{prefix}weight")
        if weight is not None and weight.shape[1:] == (3, 7, 7):
            inflated = weight.new_zeros(len(weight), STRIDE, 3, 7, 7)
            inflated[:, PRETRAINED_FRAME] = weight
            state[f"{prefix}weight"] = inflated.flatten(1, 2)


class SpatioTemporalConv(nn.Module):
    """S and T of the arrangements A and B, in the place of a 3x3 convolution."""

    added = ("temporal",)

    def __init__(self, spatial: nn.Conv2d, temporal: TemporalConv, kind: str) -> None:
        super().__init__()
        self.kind, self.stride = kind, spatial.stride[0]
        self.spatial, self.temporal = spatial, temporal

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "A":
            return self.temporal(self.spatial(x))
        return self.spatial(x) + self.temporal(x[:, :, :: self.stride, :: self.stride])

    def convert_2d_weights(self, state: dict[str, Tensor], prefix: str) -> None:
        """Take the 3x3 weights of a two-dimensional ResNet for S."""
        if (weight := state.pop(f"{prefix}weight", None)) is not None:
            state[f"{prefix}spatial.weight"] = weight


class GlobalContext(nn.Module):
    """x + expand(relu(squeeze(mean of x over the clip))); it starts as x."""

    def __init__(self, channels: int, num_frames: int) -> None:
        super().__init__()
        self.num_frames = num_frames
        self.squeeze = nn.Linear(channels, channels // REDUCTION)
        self.expand = nn.Linear(channels // REDUCTION, channels)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B*T, C, H, W) -> the same shape"""
        context = self.expand(self.squeeze(clip_means(x, self.num_frames)).relu())
        return x + context.repeat_interleave(self.num_frames, dim=0)[:, :, None, None]


class DGP3DBottleneck(Bottleneck):
    """A bottleneck of kind A, B or C with global context."""

    added = ("conv_t", "context")

    def __init__(self, place: BlockSpec, kind: str) -> None:
        super().__init__(place)
        temporal = TemporalConv(place.width, place.num_segments)
        if kind == "A":
            nn.init.dirac_(temporal.conv.weight)
        else:
            nn.init.zeros_(temporal.conv.weight)
        self.kind, spatial = kind, self.conv2
        if kind == "C":
            self.conv_t = temporal
        else:
            assert isinstance(spatial, nn.Conv2d)
            self.conv2 = SpatioTemporalConv(spatial, temporal, kind)
        self.context = GlobalContext(self.out_channels, place.num_segments)

    def middle(self, x: Tensor) -> Tensor:
        x = super().middle(x)
        return self.relu(x + self.conv_t(x)) if self.kind == "C" else x

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.context(self.bn3(self.conv3(self.middle(self.relu(self.bn1(self.conv1(x)))))))
        return self.join(x, shortcut)


def block(place: BlockSpec, depth: int) -> Bottleneck:
    """Return the block at `place`: A, B, C in turn."""
    return DGP3DBottleneck(place, "ABC"[place.index % 3])


class DualHead(nn.Module):
    """The second head: frames pooled over time in fours, layer4 without its stride, a classifier."""

    def __init__(self, layer4: nn.Sequential, pooled: int, num_frames: int, fc: nn.Linear) -> None:
        super().__init__()
        self.pooled, self.num_frames = pooled, num_frames
        self.layer4, self.fc = layer4, fc

    def forward(self, x: Tensor, dropout: nn.Module) -> Tensor:
        """(B*num_frames*pooled, C, H, W) -> (B, num_classes)"""
        x = self.layer4(x.unflatten(0, (-1, self.pooled)).amax(1))
        return self.fc(dropout(clip_means(x, self.num_frames)))

    def convert_2d_weights(self, state: dict[str, Tensor], prefix: str) -> None:
        """Take the first head's weights where `state` has none for this one."""
        if not any(name.startswith(prefix) for name in state):
            first = {name: value for name, value in state.items() if name.startswith(("layer4.", "fc."))}
            state.update({prefix + name: value for name, value in first.items()})


class DGP3D(VideoResNet):
    """The network: its features are layer3's, and its head both that follow."""

    layer4: nn.Sequential

    def __init__(
        self, depth: int, num_classes: int, num_segments: int, dropout: float, block: Callable[[BlockSpec], Block]
    ) -> None:
        num_frames = num_segments // STRIDE
        super().__init__(depth, num_classes, num_frames, dropout, block)
        self.num_segments, self.num_frames = num_segments, num_frames
        self.conv1 = Stem(self.conv1.out_channels)
        # What follows layer3 is the heads'.
        del self.stage_channels["layer4"]
        pooled = min(POOLED, num_frames)
        self.dual = _build_dual(depth, self.stage_channels["layer3"], num_frames, pooled, block, num_classes)

    def forward(self, clips: Tensor, with_losses: bool = False) -> Tensor | Outputs:
        """Return logits (B, num_classes) of clips (B, T, 3, H, W), the mean of both heads; with `with_losses` each
        head's too.

        Raises:
            ValueError: the clips do not have `num_segments` frames of 3 channels.
        """
        features = self.forward_features(clips)
        heads = self.forward_heads(features)
        logits = torch.stack(heads).mean(0)
        return join_outputs(logits, [])._replace(head_logits=heads, features=features) if with_losses else logits

    def forward_head(self, features: Tensor) -> Tensor:
        """Return logits (B, num_classes) of feature maps (B*T/4, channels, H/16, W/16): the mean of both heads."""
        return torch.stack(self.forward_heads(features)).mean(0)

    def forward_heads(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, num_classes) of each head."""
        first = self.fc(self.dropout(clip_means(self.layer4(features), self.num_frames)))
        return first, self.dual(features, self.dropout)


def _build_dual(
    depth: int, channels: int, num_frames: int, pooled: int, block: Callable[[BlockSpec], Block], num_classes: int
) -> DualHead:
    frames = num_frames // pooled
    layer4, index = Stage(), sum(LAYERS[depth][:3])
    for position in range(LAYERS[depth][3]):
        made = block(BlockSpec(channels, 512, 1, frames, 4, position, index + position))
        layer4.append(made)
        channels = made.out_channels
    return DualHead(layer4, pooled, frames, classifier(channels, num_classes))
