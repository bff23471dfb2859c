"""The action perceptron synthesizer: z = U + V, V being Eq. 1 on a share of the channels.

U (B*T, C, H, W) is compressed to w = pC channels in G = 4 groups. Each group has its own spatial kernel (identity, 3x3,
5x5, pooling); BN and ReLU follow; the fusion layer T, a w x w matrix of blocks T_ij, routes every spatial group j to
every temporal group i; each temporal group has its own temporal kernel (identity, 3, 5 or 7, pooling); a last 1x1
convolution goes back to C channels.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import SynthesizerConfig

GROUPS = 4


class SynthesizerLosses(NamedTuple):
    """Scalars of one synthesizer in one call."""

    interaction: Tensor
    capacity: Tensor
    mean_gate: Tensor


class Synthesizer(nn.Module):
    """Folded frames (B*T, C, H, W) -> the same shape."""

    def __init__(self, channels: int, num_segments: int, config: SynthesizerConfig) -> None:
        super().__init__()
        self.num_segments = num_segments
        self.interaction_norm = config.interaction_norm
        self.inter_relu = config.inter_relu
        self.pooling = config.pooling
        group = int(channels * config.proportion + 1e-6) // GROUPS
        if group < 1:
            raise ValueError(
                f"model.synthesizer.proportion={config.proportion}: leaves less than {GROUPS} of a stage's {channels} "
                "channels; raise it"
            )
        width = group * GROUPS
        self.compress = nn.Conv2d(channels, width, 1, bias=False)
        self.spatial = nn.ModuleList(_spatial(group, size, config) for size in (3, 5))
        self.bn = nn.BatchNorm2d(width)
        self.fusion = _fusion(width, config.fusion)
        longest = int(config.receptive_field[-1])
        self.temporal = nn.ModuleList(_temporal(group, size, config.dilation) for size in (3, longest))
        self.expand = nn.Conv2d(width, channels, 1, bias=False)
        self._initialize()

    def _initialize(self) -> None:
        """Unit gain in every convolution: He's factor 2 only behind the ReLU."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        if isinstance(self.fusion, nn.Conv2d):
            nn.init.kaiming_normal_(self.fusion.weight, nonlinearity="relu" if self.inter_relu else "linear")

    def forward(self, x: Tensor, with_losses: bool = False) -> Tensor | tuple[Tensor, SynthesizerLosses]:
        """z (B*T, C, H, W) of U = x; with `with_losses` also the losses of this call's activations."""
        fused = self.fusion(self._spatial_bag(self.compress(x)))
        z = x + self.expand(self._temporal_bag(fused))
        return (z, self.losses(fused)) if with_losses else z

    def _spatial_bag(self, x: Tensor) -> Tensor:
        identity, three, five, pool = x.chunk(GROUPS, dim=1)
        pool = _pool(pool, self.pooling, (3, 3))
        x = self.bn(torch.cat([identity, self.spatial[0](three), self.spatial[1](five), pool], dim=1))
        return F.relu(x, inplace=True) if self.inter_relu else x

    def _temporal_bag(self, x: Tensor) -> Tensor:
        batch_frames, channels, height, width = x.shape
        # In (B, T, H, W, C) memory this is a view, itself channels-last with rows = time.
        x = x.permute(0, 2, 3, 1).reshape(-1, self.num_segments, height * width, channels).permute(0, 3, 1, 2)
        identity, short, long, pool = x.chunk(GROUPS, dim=1)
        pool = _pool(pool, self.pooling, (3, 1))
        x = torch.cat([identity, self.temporal[0](short), self.temporal[1](long), pool], dim=1)
        return x.permute(0, 2, 3, 1).reshape(batch_frames, height, width, channels).permute(0, 3, 1, 2)

    def fusion_blocks(self) -> Tensor:
        """||T_ij||_1 as (G, G), float32: row i the temporal group, column j the spatial group."""
        weight = self.fusion.weight.float().flatten(1)
        return weight.abs().unflatten(0, (GROUPS, -1)).unflatten(2, (GROUPS, -1)).sum((1, 3))

    def losses(self, fused: Tensor) -> SynthesizerLosses:
        """Eq. 2 and Eq. 3 for the fusion layer's output (B*T, w, H, W), in float32.

        L_interaction = -1/G^2 sum_ij sigmoid(||T_ij||_1)
        L_capacity    =  1/G^2 sum_ij cos(avg(Y_i), avg(Y_j)) = 1/G^2 ||sum_i avg(Y_i) / ||avg(Y_i)||_2||_2^2

        avg runs over space and time, the losses are means over the batch.
        """
        norms = self.fusion_blocks()
        mean_gate = norms.sigmoid().mean()
        if self.interaction_norm == "mean":
            interaction = -(norms / (fused.shape[1] // GROUPS)).sigmoid().mean()
        else:
            interaction = -mean_gate
        means = fused.mean((2, 3), dtype=torch.float32).unflatten(0, (-1, self.num_segments)).mean(1)
        directions = F.normalize(means.unflatten(1, (GROUPS, -1)), dim=2)
        capacity = directions.sum(1).square().sum(1).mean() / GROUPS**2
        return SynthesizerLosses(interaction, capacity, mean_gate)


def _spatial(channels: int, size: int, config: SynthesizerConfig) -> nn.Module:
    """The size x size kernel: dilated or whole, square or as a row and a column."""
    taps, dilation = (3, (size - 1) // 2) if config.dilation else (size, 1)
    padding = size // 2
    if config.factorization == "(2+1)D":
        return nn.Conv2d(channels, channels, taps, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(
        nn.Conv2d(channels, channels, (1, taps), padding=(0, padding), dilation=dilation, bias=False),
        nn.Conv2d(channels, channels, (taps, 1), padding=(padding, 0), dilation=dilation, bias=False),
    )


def _temporal(channels: int, size: int, dilated: bool) -> nn.Conv2d:
    """The kernel over `size` frames for features (B, c, T, H*W)."""
    taps, dilation = (3, (size - 1) // 2) if dilated else (size, 1)
    return nn.Conv2d(channels, channels, (taps, 1), padding=(size // 2, 0), dilation=(dilation, 1), bias=False)


def _pool(x: Tensor, pooling: str, size: tuple[int, int]) -> Tensor:
    """Pooling with stride 1 that keeps the shape; zero padding counts in the average."""
    padding = (size[0] // 2, size[1] // 2)
    if pooling == "max":
        return F.max_pool2d(x, size, 1, padding)
    return F.avg_pool2d(x, size, 1, padding) if pooling == "avg" else x


class FixedFusion(nn.Module):
    """A fusion layer without parameters: T is a constant matrix of zeros and ones."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", matrix[:, :, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight)


def _fusion(width: int, kind: str) -> nn.Module:
    """T (w, w), with Y = T X: learned, or fixed as Eq. 4 writes channel grouping, shuffle and dropout.

    Group i's sub-group k holds channels [i*c + k*c/G, i*c + (k+1)*c/G) of the w = G*c.

        grouping  Y_i    = X_i
        shuffle   Y_i(j) = X_j(i)
        dropout   Y_i(j) = X_j(0): the same c/G channels of every spatial group, for every temporal group
    """
    if kind == "learned":
        return nn.Conv2d(width, width, 1, bias=False)
    source = torch.arange(width)
    if kind != "grouping":
        if width % GROUPS**2:
            raise ValueError(
                f"model.synthesizer.fusion={kind!r}: needs a multiple of {GROUPS**2} channels, and proportion leaves "
                f"{width}; raise it"
            )
        index = source.view(GROUPS, GROUPS, -1)
        source = index.transpose(0, 1) if kind == "shuffle" else index[:, 0].expand(GROUPS, GROUPS, -1)
    return FixedFusion(F.one_hot(source.flatten(), width).float())
