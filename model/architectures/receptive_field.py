"""The blocks that the paper compares the synthesizer with (Figure 4): residual, on a fraction of a stage's channels.

RF-S                one dense pair 1x3x3, 3x1x1 between compression and expansion: receptive field 3x3x3
RF-L                two such pairs: 5x5x5
RF-L-Inception      one scale per group of channels, no exchange between groups: a synthesizer whose fusion is grouping
RF-L-Inception-T    the same without the spatial kernels
"""

from dataclasses import replace

from torch import Tensor, nn

from model.config import SynthesizerConfig
from model.synthesizer import Synthesizer, TemporalBag, grouped_width, initialize, worked_width
from model.temporal import TemporalConv


class DensePairs(nn.Module):
    """RF-S and RF-L: U + V, V being `num_pairs` times a dense 3x3, BN, ReLU and a dense kernel over 3 frames."""

    def __init__(self, channels: int, num_segments: int, config: SynthesizerConfig, num_pairs: int) -> None:
        super().__init__()
        width = worked_width(channels, config.proportion)
        if not width:
            raise ValueError(
                f"model.synthesizer.proportion={config.proportion}: leaves none of a stage's {channels} channels; "
                "raise it"
            )
        self.compress = nn.Conv2d(channels, width, 1, bias=False)
        self.pairs = nn.Sequential()
        for _ in range(num_pairs):
            self.pairs.extend(
                [
                    nn.Conv2d(width, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                    TemporalConv(width, num_segments),
                ]
            )
        self.expand = nn.Conv2d(width, channels, 1, bias=False)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map folded frames (B*T, C, H, W) to the same shape"""
        return self.expand(self.pairs(self.compress(x))).add_(x)


class TemporalInception(nn.Module):
    """RF-L-Inception-T: U + V, V being the temporal kernels alone."""

    def __init__(self, channels: int, num_segments: int, config: SynthesizerConfig) -> None:
        super().__init__()
        width = grouped_width(channels, config.proportion)
        self.compress = nn.Conv2d(channels, width, 1, bias=False)
        self.temporal = TemporalBag(width, num_segments, config)
        self.expand = nn.Conv2d(width, channels, 1, bias=False)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map folded frames (B*T, C, H, W) to the same shape"""
        return self.expand(self.temporal(self.compress(x))).add_(x)


def build_inception(channels: int, num_segments: int, config: SynthesizerConfig) -> Synthesizer:
    """Return the RF-L-Inception block."""
    return Synthesizer(channels, num_segments, replace(config, fusion="grouping"))
