"""Clipping of gradients by their total norm, as DeepSpeed computes it, without waiting for the device."""

from collections.abc import Iterable

import torch
from torch import nn

from launch.training.distributed import sum_over_ranks


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float, world_size: int) -> torch.Tensor:
    """Scale the gradients down, in place, to a total 2-norm of `max_norm`; return the norm they had, a scalar.

    The gradients are those that the ranks share after their all-reduce. The mean of the ranks' norms decides, so that
    all ranks scale alike even if their devices round differently.
    """
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack([norm.float() for norm in torch.ops.aten._foreach_norm.Scalar(grads)])
    norm = sum_over_ranks(norms.square().sum().sqrt() / world_size)
    factor = (torch.full_like(norm, max_norm) / (norm + 1e-6)).clamp(max=1.0)
    torch.ops.aten._foreach_mul_.Tensor(grads, factor)
    return norm
