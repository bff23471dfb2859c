"""Residual-aware initialisation of AM-muP: branches start the smaller the more of them there are.

Of K residual blocks every convolution of a branch starts with

    Var[w] = 2 / (K fan_in)

so that what K additions make of a signal does not grow with K. The stem and the shortcuts have He's 2 / fan_in, and the
classifier is as ever.
"""

import math

from torch import nn

from model.resnet import LAYERS, Block, VideoResNet


def initialize(net: VideoResNet, depth: int) -> None:
    """Draw the weights of the ResNet in `net` again.

    What an architecture adds to the ResNet (synthesizers; kernels over time that start as the identity, a shift or
    nothing) keeps its own beginning.
    """
    num_blocks = sum(LAYERS[depth])
    _draw(net.conv1, 1)
    for block in net.modules():
        if isinstance(block, Block):
            for name, child in block.named_children():
                if name not in block.added:
                    for convolution in _two_dimensional(child):
                        _draw(convolution, 1 if name == "downsample" else num_blocks)


def minimal_depth(depth: int) -> int:
    """Return L of a ResNet: the layers on its shortest path, the stem, a residual addition for each block, the
    classifier.

    >>> [minimal_depth(depth) for depth in (18, 34, 50, 101)]
    [10, 18, 18, 35]
    """
    return sum(LAYERS[depth]) + 2


def _two_dimensional(module: nn.Module) -> list[nn.Conv2d]:
    """Return the convolutions in `module` but for those that it says no two-dimensional ResNet has."""
    if isinstance(module, nn.Conv2d):
        return [module]
    added = getattr(module, "added", ())
    return [
        convolution
        for name, child in module.named_children()
        if name not in added
        for convolution in _two_dimensional(child)
    ]


def _draw(convolution: nn.Conv2d, num_blocks: int) -> None:
    fan_in = convolution.weight[0].numel()
    nn.init.normal_(convolution.weight, std=math.sqrt(2 / (num_blocks * fan_in)))
