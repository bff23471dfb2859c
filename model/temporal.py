"""Time in folded frames: views, shifts and channel-wise convolutions along it.

A folded feature map (B*T, C, H, W) that is channels-last lies in memory as (B, T, H, W, C). Every view here keeps that
memory.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def time_as_rows(x: Tensor, num_segments: int) -> Tensor:
    """(B*T, C, H, W) -> (B, C, T, H*W), channels-last: an image whose rows are frames, for kernels (k, 1)."""
    _, channels, height, width = x.shape
    return x.permute(0, 2, 3, 1).reshape(-1, num_segments, height * width, channels).permute(0, 3, 1, 2)


def rows_as_frames(x: Tensor, height: int, width: int) -> Tensor:
    """(B, C, T, H*W) -> (B*T, C, H, W), channels-last: undoes `time_as_rows`."""
    return x.permute(0, 2, 3, 1).reshape(-1, height, width, x.shape[1]).permute(0, 3, 1, 2)


def time_as_depth(x: Tensor, num_segments: int) -> Tensor:
    """(B*T, C, H, W) -> (B, C, T, H, W), channels-last: a volume, for three-dimensional kernels."""
    _, channels, height, width = x.shape
    return x.permute(0, 2, 3, 1).reshape(-1, num_segments, height, width, channels).permute(0, 4, 1, 2, 3)


def depth_as_frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B*T, C, H, W), channels-last: undoes `time_as_depth`."""
    return x.permute(0, 2, 3, 4, 1).flatten(0, 1).permute(0, 3, 1, 2)


def next_frame(x: Tensor) -> Tensor:
    """Of frames (B, T, ...) the one after each, zeros after the last."""
    return torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], dim=1)


def previous_frame(x: Tensor) -> Tensor:
    """Of frames (B, T, ...) the one before each, zeros before the first."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)


def next_minus_this(following: Tensor, x: Tensor, num_segments: int) -> Tensor:
    """following(t+1) - x(t) of folded frames (B*T, C, H, W); zero for the last frame, which has no next."""
    following, x = following.unflatten(0, (-1, num_segments)), x.unflatten(0, (-1, num_segments))
    return torch.cat([following[:, 1:] - x[:, :-1], torch.zeros_like(x[:, :1])], dim=1).flatten(0, 1)


def temporal_conv(in_channels: int, out_channels: int, size: int, dilated: bool = False) -> nn.Conv2d:
    """A kernel over `size` frames for `time_as_rows`; dilated, it has 3 taps."""
    taps, dilation = (3, (size - 1) // 2) if dilated else (size, 1)
    return nn.Conv2d(
        in_channels, out_channels, (taps, 1), padding=(size // 2, 0), dilation=(dilation, 1), bias=False
    )  # fmt: skip


class TemporalConv(nn.Module):
    """A dense kernel over 3 frames on folded frames."""

    def __init__(self, in_channels: int, out_channels: int, num_segments: int) -> None:
        super().__init__()
        self.num_segments = num_segments
        self.conv = temporal_conv(in_channels, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B*T, C, H, W) -> (B*T, C', H, W)"""
        return rows_as_frames(self.conv(time_as_rows(x, self.num_segments)), *x.shape[2:])


class ChannelwiseTemporalConv(nn.Module):
    """A kernel over 3 frames for each channel; it starts as a shift in time.

    Of the channels the first share `ahead` starts as the next frame, the last share `behind` as the previous one, those
    between as they are.
    """

    def __init__(self, channels: int, num_segments: int, ahead: float = 0.0, behind: float = 0.0) -> None:
        super().__init__()
        self.num_segments = num_segments
        self.shares = (ahead, behind)
        self.weight = nn.Parameter(torch.empty(channels, 1, 3, 1))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        channels = len(self.weight)
        first, last = (round(channels * share) for share in self.shares)
        self.weight.zero_()
        self.weight[:first, 0, 2] = 1
        self.weight[first : channels - last, 0, 1] = 1
        self.weight[channels - last :, 0, 0] = 1

    def forward(self, x: Tensor) -> Tensor:
        """(B*T, C, H, W) -> the same shape"""
        rows = time_as_rows(x, self.num_segments)
        rows = F.conv2d(rows, self.weight, padding=(1, 0), groups=len(self.weight))
        return rows_as_frames(rows, *x.shape[2:])
