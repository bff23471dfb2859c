"""Time in folded frames: views of it, shifts and kernels along it.

A folded feature map (B*T, C, H, W) that is channels-last is in memory (B, T, H, W, C). Every view here keeps that
memory, and every operation gives it back.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.dilated import DilatedConv2d


def as_frames(x: Tensor, num_segments: int) -> Tensor:
    """(B*T, C, H, W) -> (B, T, H, W, C), as it is in memory."""
    return x.permute(0, 2, 3, 1).unflatten(0, (-1, num_segments))


def fold(frames: Tensor) -> Tensor:
    """(B, T, H, W, C) -> (B*T, C, H, W), channels-last."""
    return frames.flatten(0, 1).permute(0, 3, 1, 2)


def time_as_rows(x: Tensor, num_segments: int) -> Tensor:
    """(B*T, C, H, W) -> (B, C, T, H*W), channels-last: an image whose rows are frames, for kernels (k, 1)."""
    return as_frames(x, num_segments).flatten(2, 3).permute(0, 3, 1, 2)


def fold_rows(x: Tensor, height: int, width: int) -> Tensor:
    """(B, C, T, H*W) -> (B*T, C, H, W), channels-last."""
    return fold(x.permute(0, 2, 3, 1).unflatten(2, (height, width)))


def clip_means(x: Tensor, num_frames: int) -> Tensor:
    """(B*T, C, H, W) -> (B, C), the means over time and space."""
    return x.mean((2, 3)).unflatten(0, (-1, num_frames)).mean(1)


def select_frames(x: Tensor, frames: Sequence[int]) -> Tensor:
    """(B, T, ...) -> (B, len(frames), ...), without waiting for the device, as indexing by a list of numbers does."""
    return torch.stack([x[:, frame] for frame in frames], 1)


def frame_means(x: Tensor, num_frames: int) -> Tensor:
    """(B*T, C, H, W) -> (B, T, C), the means over space."""
    return x.mean((2, 3)).unflatten(0, (-1, num_frames))


def next_frame(frames: Tensor) -> Tensor:
    """Return the frame after each of frames (B, T, ...), zeros after the last."""
    return torch.cat([frames[:, 1:], torch.zeros_like(frames[:, :1])], dim=1)


def previous_frame(frames: Tensor) -> Tensor:
    """Return the frame before each of frames (B, T, ...), zeros before the first."""
    return torch.cat([torch.zeros_like(frames[:, :1]), frames[:, :-1]], dim=1)


def next_minus_this(following: Tensor, x: Tensor, num_segments: int) -> Tensor:
    """Return following(t+1) - x(t) of folded frames (B*T, C, H, W); zero for the last frame, which has no next."""
    following, this = as_frames(following, num_segments), as_frames(x, num_segments)
    return fold(torch.cat([following[:, 1:] - this[:, :-1], torch.zeros_like(this[:, :1])], dim=1))


def temporal_conv(channels: int, size: int, dilated: bool = False, groups: int = 1) -> nn.Conv2d:
    """Return a kernel over `size` frames for `time_as_rows`; dilated, it has 3 taps."""
    taps, dilation = (3, (size - 1) // 2) if dilated else (size, 1)
    return DilatedConv2d(channels, (taps, 1), (dilation, 1), groups)


class TemporalConv(nn.Module):
    """A kernel over 3 frames on folded frames."""

    def __init__(self, channels: int, num_segments: int, groups: int = 1) -> None:
        super().__init__()
        self.num_segments = num_segments
        self.conv = temporal_conv(channels, 3, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B*T, C, H, W) -> the same shape"""
        return fold_rows(self.conv(time_as_rows(x, self.num_segments)), *x.shape[2:])


class ChannelwiseTemporalConv(TemporalConv):
    """A kernel over 3 frames for each channel; it starts as a shift in time.

    Of the channels the first share `ahead` starts as the next frame, the last share `behind` as the previous one, those
    between as they are.
    """

    @torch.no_grad()
    def __init__(self, channels: int, num_segments: int, ahead: float = 0.0, behind: float = 0.0) -> None:
        super().__init__(channels, num_segments, groups=channels)
        first, last = round(channels * ahead), channels - round(channels * behind)
        taps = self.conv.weight.zero_()[:, 0, :, 0]
        taps[:first, 2] = 1
        taps[first:last, 1] = 1
        taps[last:, 0] = 1
