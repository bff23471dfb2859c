"""Kernels of three dimensions, as other projects have them, in two, as here, where time is folded (`model.temporal`).

Only the order of numbers changes, so both ways are exact.
"""

import re

import torch
from torch import Tensor


def to_ours(name: str, value: Tensor) -> Tensor:
    """Return a tensor of any family in the shape that it has here, by its name here."""
    if name.endswith(".temporal.weight") and value.ndim == 5:  # GST: the taps one after the other, over the outputs
        return _taps(value, 0)
    if "temporal." in name and value.ndim == 3:  # TEA: (C, 1, 3) -> (C, 1, 3, 1)
        return value.unsqueeze(-1)
    if value.ndim != 5:
        return value
    if name.endswith(("conv_t.conv.weight", "temporal.conv.weight")) and value.shape[3:] == (1, 1):
        return value.squeeze(-1)  # a kernel over time alone
    if value.shape[2] == 1:
        return value.squeeze(2)
    return _taps(value, 1)  # what the frames of a kernel see, stacked over the inputs


def to_theirs(name: str, value: Tensor, bottlenecks: bool) -> Tensor:
    """Return a tensor of slowonly in three dimensions, by its name here; `to_ours` undoes it."""
    if value.ndim != 4:
        return value
    if not _over_time(name, bottlenecks):
        return value.unsqueeze(2)
    return value.unflatten(1, (3, -1)).transpose(1, 2).contiguous()


def _over_time(name: str, bottlenecks: bool) -> bool:
    """Return whether a convolution of SlowOnly has a kernel over three frames."""
    found = re.fullmatch(r"layer[34]\.\d+\.conv(\d)\.weight", name)
    return found is not None and (found[1] == "1" or (not bottlenecks and found[1] == "2"))


def _taps(weight: Tensor, dimension: int) -> Tensor:
    """(O, I, T, H, W) -> (T*O, I, H, W) or (O, T*I, H, W), the earliest frame first."""
    return torch.cat(list(weight.unbind(2)), dim=dimension)
