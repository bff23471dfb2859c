"""Dilated convolutions as dense ones on sub-grids."""

import torch.nn.functional as F
from torch import Tensor, nn


class DilatedConv2d(nn.Conv2d):
    """A dilated convolution with zero padding that keeps the shape.

    Every d-th row and column of a map is a map of its own, on which a kernel dilated by d is dense. On a GPU this is
    how it is computed where the sides are multiples of d: cuDNN's gradients of dilated kernels on few channels take
    ten times as long as those of dense ones. Elsewhere, and on the CPU, it is a plain `nn.Conv2d`.
    """

    def __init__(self, channels: int, kernel: tuple[int, int], dilation: tuple[int, int], groups: int = 1) -> None:
        self.rows, self.columns = ((taps - 1) // 2 * step for taps, step in zip(kernel, dilation))
        padding = self.rows, self.columns
        super().__init__(channels, channels, kernel, padding=padding, dilation=dilation, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape"""
        (down, right), (height, width) = self.dilation, x.shape[2:]
        if self.dilation == (1, 1) or not x.is_cuda or height % down or width % right:
            return super().forward(x)
        return self.on_subgrids(x)

    def on_subgrids(self, x: Tensor) -> Tensor:
        """(N, C, H, W), channels-last, sides multiples of the dilation -> the same."""
        (down, right), (n, _, height, width) = self.dilation, x.shape
        pixels = x.permute(0, 2, 3, 1)
        if right == 1:  # rows d apart are the rows of an image that is d times as wide, in the same memory
            grids = pixels.unflatten(1, (height // down, down)).flatten(2, 3)
        else:
            grids = pixels.unflatten(2, (width // right, right)).unflatten(1, (height // down, down))
            grids = grids.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        padding = self.rows // down, self.columns // right
        y = F.conv2d(grids.permute(0, 3, 1, 2), self.weight, None, 1, padding, 1, self.groups).permute(0, 2, 3, 1)
        if right == 1:
            y = y.unflatten(2, (down, width)).flatten(1, 2)
        else:
            y = y.unflatten(0, (n, down, right)).permute(0, 3, 1, 4, 2, 5)
            y = y.reshape(n, height, width, -1)
        return y.permute(0, 3, 1, 2)
