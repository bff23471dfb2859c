"""ResNet-RS (Bello et al., 2021, "Revisiting ResNets"): the parts by which its networks differ from a plain ResNet.

    stem       3x3 stride 2, 3x3, 3x3 to 32, 32, 64 channels in the place of the 7x7 (ResNet-D)
    pooling    a 3x3 of stride 2 in the place of the max-pool, as in the authors' code
    shortcuts  where a block strides, 2x2 averages before the 1x1, which then does not stride (ResNet-D)
    blocks     squeeze-and-excitation to a quarter of a bottleneck's channels, for each frame, at the end of its branch
    start      the last BN of every branch begins with a factor of zero, so that a block begins as its shortcut

All of it is around the branch's own convolutions, so it joins any architecture here that is made of bottlenecks. The
parameters have timm's names, so that the authors' ImageNet weights, which timm publishes (resnetrs50 to resnetrs420),
enter as they are.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from model.config import ModelConfig
from model.drop_path import check_joins
from model.resnet import Block, BlockSpec, Bottleneck, VideoResNet, conv

STEM_WIDTH = 32
SQUEEZE = 4
"""Channels of a block for each one that they are squeezed to: a ratio of 0.25."""


class SqueezeExcitation(nn.Module):
    """x * sigmoid(fc2(relu(fc1(mean of x over space)))), for each frame by itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // SQUEEZE, 1)
        self.fc2 = nn.Conv2d(channels // SQUEEZE, channels, 1)
        for module in (self.fc1, self.fc2):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="linear")
            assert module.bias is not None
            nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B*T, C, H, W) -> the same shape"""
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


def with_resnet_rs(config: ModelConfig, block: Callable[[BlockSpec], Block] | None) -> Callable[[BlockSpec], Block]:
    """Return a maker of the same blocks, None for those of the plain ResNet, with the shortcuts and the
    squeeze-and-excitation of ResNet-RS."""
    return partial(_make, block or Bottleneck, config)


def _make(block: Callable[[BlockSpec], Block], config: ModelConfig, place: BlockSpec) -> Block:
    made = block(place)
    option = f"model.backbone={config.backbone}"
    check_joins(made, f"{option}: {type(made).__name__} of model.arch={config.arch}", "model.backbone=resnet")
    if not isinstance(made, Bottleneck):
        raise ValueError(
            f"{option}: {type(made).__name__} of model.arch={config.arch} is no model.Bottleneck, which it is made "
            "for; use model.backbone=resnet"
        )
    made.se = SqueezeExcitation(made.out_channels)
    if made.downsample is not None:
        made.downsample = _pooled_downsample(place.in_channels, made.out_channels, place.stride)
    nn.init.zeros_(made.bn3.weight)
    return made


def _pooled_downsample(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Return the shortcut's averages, 1x1 convolution and BN; at an odd border fewer pixels are averaged."""
    pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
    return nn.Sequential(pool, conv(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels))


def replace_stem(net: VideoResNet) -> None:
    """Give `net` the stem of ResNet-RS in the place of its 7x7 and its max-pool.

    Raises:
        ValueError: the stem of `net` is another than the plain ResNet's.
    """
    if not (isinstance(net.conv1, nn.Conv2d) and isinstance(net.maxpool, nn.MaxPool2d)):
        raise ValueError(f"model.backbone=resnet_rs: {type(net).__name__} has a stem of its own; use resnet")
    width, channels = STEM_WIDTH, net.conv1.out_channels
    first = conv(3, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    second = conv(width, width, 3), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    pool = conv(channels, channels, 3, 2), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
    net.add_module("conv1", nn.Sequential(*first, *second, conv(width, channels, 3)))
    net.add_module("maxpool", nn.Sequential(*pool))
