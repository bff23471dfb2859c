"""The action perceptron synthesizer: z = U + V, V being Eq. 1 on a fraction of the channels.

U (B*T, C, H, W) is compressed to w = pC channels in G = 4 groups of c. Each group has its own spatial kernel
(identity, 3x3, 5x5, pooling); BN and ReLU follow; the fusion layer T, a w x w matrix of blocks T_ij, routes every
spatial group j to every temporal group i; each temporal group has its own temporal kernel (identity, 3, 5 or 7,
pooling); a last 1x1 convolution goes back to C channels.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import SynthesizerConfig
from model.dilated import DilatedConv2d
from model.temporal import fold_rows, temporal_conv, time_as_rows

GROUPS = 4


class SynthesizerLosses(NamedTuple):
    """Scalars of one synthesizer in one call."""

    interaction: Tensor
    capacity: Tensor
    mean_gate: Tensor


class Synthesizer(nn.Module):
    """Folded frames (B*T, C, H, W) -> the same shape."""

    fusion: "nn.Conv2d | FixedFusion"

    def __init__(self, channels: int, num_segments: int, config: SynthesizerConfig) -> None:
        super().__init__()
        self.num_segments = num_segments
        self.interaction_norm = config.interaction_norm
        width = grouped_width(channels, config.proportion)
        self.compress = nn.Conv2d(channels, width, 1, bias=False)
        self.spatial = SpatialBag(width, config)
        is_learned = config.fusion == "learned"
        self.fusion = nn.Conv2d(width, width, 1, bias=False) if is_learned else FixedFusion(width, config.fusion)
        self.temporal = TemporalBag(width, num_segments, config)
        self.expand = nn.Conv2d(width, channels, 1, bias=False)
        initialize(self)
        if is_learned and config.inter_relu:
            nn.init.kaiming_normal_(self.fusion.weight, nonlinearity="relu")

    def forward(self, x: Tensor, with_losses: bool = False) -> Tensor | tuple[Tensor, SynthesizerLosses]:
        """Return z (B*T, C, H, W) of U = x; with `with_losses` also the losses of this call's activations."""
        fused = self.fusion(self.spatial(self.compress(x)))
        z = self.expand(self.temporal(fused)).add_(x)
        return (z, self.losses(fused)) if with_losses else z

    def fusion_norms(self) -> Tensor:
        """Return ||T_ij||_1 as (G, G), float32: row i the temporal group, column j the spatial group."""
        blocks = self.fusion.weight.float().flatten(1).unflatten(0, (GROUPS, -1)).unflatten(2, (GROUPS, -1))
        return blocks.abs().sum((1, 3))

    def losses(self, fused: Tensor) -> SynthesizerLosses:
        """Compute Eq. 2 and Eq. 3 for the fusion layer's output Y (B*T, w, H, W), in float32.

        L_interaction = -1/G^2 sum_ij sigmoid(||T_ij||_1)
        L_capacity    =  1/G^2 sum_ij cos(avg(Y_i), avg(Y_j)) = 1/G^2 ||sum_i avg(Y_i) / ||avg(Y_i)||_2||_2^2

        avg runs over space and time, L_capacity is a mean over the batch.
        """
        norms = self.fusion_norms()
        mean_gate = norms.sigmoid().mean()
        if self.interaction_norm == "mean":
            interaction = -(norms / (fused.shape[1] // GROUPS)).sigmoid().mean()
        else:
            interaction = -mean_gate
        means = _SpatialMean.apply(fused).unflatten(0, (-1, self.num_segments)).mean(1)
        # The eps bounds the gradient of a group that a clip leaves all but silent.
        directions = F.normalize(means.unflatten(1, (GROUPS, -1)), dim=2, eps=1e-6)
        capacity = directions.sum(1).square().sum(1).mean() / GROUPS**2
        return SynthesizerLosses(interaction, capacity, mean_gate)


class _SpatialMean(torch.autograd.Function):
    """Mean over space, (N, C, H, W) -> (N, C), in float32.

    Its gradient, the same everywhere in space, stays a view of N x C numbers until it is added to the others;
    autograd's own would write the complete map twice, once in float32.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.shape, ctx.dtype = x.shape, x.dtype
        return x.mean((2, 3), dtype=torch.float32)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        each = gradient / (ctx.shape[2] * ctx.shape[3])
        return each.to(ctx.dtype)[:, :, None, None].expand(ctx.shape)


class SpatialBag(nn.Module):
    """Identity, 3x3, 5x5 and pooling, each on its group of channels; then BN and ReLU on all."""

    def __init__(self, width: int, config: SynthesizerConfig) -> None:
        super().__init__()
        self.pooling, self.relu = config.pooling, config.inter_relu
        self.small, self.large = (_spatial_kernel(width // GROUPS, size, config) for size in (3, 5))
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B*T, w, H, W) -> the same shape"""
        identity, small, large, pool = x.chunk(GROUPS, dim=1)
        branches = [identity, self.small(small), self.large(large), pool_in_place(pool, self.pooling, (3, 3))]
        x = self.bn(torch.cat(branches, dim=1))
        return F.relu(x, inplace=True) if self.relu else x


class TemporalBag(nn.Module):
    """Identity, the 3-frame and the longest kernel, and pooling over 3 frames, each on its group of channels."""

    def __init__(self, width: int, num_segments: int, config: SynthesizerConfig) -> None:
        super().__init__()
        self.num_segments, self.pooling = num_segments, config.pooling
        group, longest = width // GROUPS, int(config.receptive_field[-1])
        self.small, self.large = (temporal_conv(group, size, config.dilation) for size in (3, longest))

    def forward(self, x: Tensor) -> Tensor:
        """(B*T, w, H, W) -> the same shape"""
        identity, small, large, pool = time_as_rows(x, self.num_segments).chunk(GROUPS, dim=1)
        branches = [identity, self.small(small), self.large(large), pool_in_place(pool, self.pooling, (3, 1))]
        return fold_rows(torch.cat(branches, dim=1), *x.shape[2:])


class FixedFusion(nn.Module):
    """A fusion layer without parameters: T is a constant matrix of zeros and ones."""

    weight: Tensor

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("weight", fixed_matrix(width, kind)[:, :, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B*T, w, H, W) -> the same shape"""
        return x if self.kind == "grouping" else F.conv2d(x, self.weight)


def grouped_width(channels: int, proportion: float) -> int:
    """Return w: `proportion` of the channels, rounded down to full groups.

    >>> grouped_width(64, 1 / 4), grouped_width(64, 1 / 6)
    (16, 8)

    Raises:
        ValueError: not one channel per group is left.
    """
    width = worked_width(channels, proportion) // GROUPS * GROUPS
    if not width:
        raise ValueError(
            f"model.synthesizer.proportion={proportion}: leaves less than {GROUPS} of a stage's {channels} channels; "
            "raise it"
        )
    return width


def worked_width(channels: int, proportion: float) -> int:
    """Return floor(p C), p being a fraction such as 1/6 that a float only nearly holds."""
    return int(channels * proportion + 1e-6)


def initialize(module: nn.Module) -> None:
    """Give every convolution unit gain: what a block adds is of the size of what it is added to."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, nonlinearity="linear")


def pool_in_place(x: Tensor, pooling: str, size: tuple[int, int]) -> Tensor:
    """Pool with stride 1, keeping the shape; zero padding counts in the average."""
    padding = (size[0] // 2, size[1] // 2)
    if pooling == "max":
        return F.max_pool2d(x, size, 1, padding)
    return F.avg_pool2d(x, size, 1, padding) if pooling == "avg" else x


def _spatial_kernel(channels: int, size: int, config: SynthesizerConfig) -> nn.Module:
    """Return the size x size kernel: dilated or dense, square or as a row and a column."""
    taps, dilation = (3, (size - 1) // 2) if config.dilation else (size, 1)
    if config.factorization == "(2+1)D":
        return DilatedConv2d(channels, (taps, taps), (dilation, dilation))
    return nn.Sequential(
        DilatedConv2d(channels, (1, taps), (1, dilation)), DilatedConv2d(channels, (taps, 1), (dilation, 1))
    )


def fixed_matrix(width: int, kind: str) -> Tensor:
    """Return T (w, w) of a fusion without parameters, as Eq. 4 writes channel grouping, shuffle and dropout.

    Sub-group k of group i holds the channels [i c + k c/G, i c + (k + 1) c/G).

        grouping  Y_i    = X_i
        shuffle   Y_i(j) = X_j(i)
        dropout   Y_i(j) = X_j(0): the same c/G channels of every spatial group, for every temporal group

    Raises:
        ValueError: there are no sub-groups, as w is no multiple of G^2.
    """
    source = torch.arange(width)
    if kind != "grouping":
        if width % GROUPS**2:
            raise ValueError(
                f"model.synthesizer.fusion={kind!r}: needs a multiple of {GROUPS**2} channels, and proportion leaves "
                f"{width}; raise it"
            )
        by_group = source.view(GROUPS, GROUPS, -1)
        source = by_group.transpose(0, 1) if kind == "shuffle" else by_group[:, 0].expand(GROUPS, GROUPS, -1)
    return F.one_hot(source.flatten(), width).float()
