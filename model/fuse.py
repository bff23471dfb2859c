"""After training: the network with its filters fixed, for prediction and export.

BN is folded into the convolution before it. A synthesizer becomes the bag of filters it has produced: BN is folded into
its kernels and its compression; where T is fixed, its zeros and ones become the order in which the groups are joined,
and what it drops is not computed. (A learned T stays a 1x1 convolution: merged into the kernels before or behind it, it
would multiply their channels by G.)
"""

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from model.synthesizer import GROUPS, FixedFusion, SpatialBag, Synthesizer, pool_in_place

Net = TypeVar("Net", bound=nn.Module)


def fuse_batch_norm(net: Net) -> Net:
    """Return a copy of `net` for inference: in evaluation mode, without gradients, its logits the same up to
    rounding."""
    net = copy.deepcopy(net).eval().requires_grad_(False)
    for module in list(net.modules()):
        for name, child in module.named_children():
            if type(child) is Synthesizer:
                setattr(module, name, FrozenSynthesizer(child))
    for module in list(net.modules()):
        _fold_batch_norms(module)
    return net


def _fold_batch_norms(module: nn.Module) -> None:
    """Fold BN into the plain convolutions among the children: convX and bnX of a block, neighbours in a sequence.

    What is neither a sequence nor a class of ours is left: its convX and bnX may follow each other in any order.
    """
    if not (isinstance(module, nn.Sequential) or type(module).__module__.startswith(f"{__package__}.")):
        return
    children = dict(module.named_children())
    for name, child in children.items():
        follower = str(int(name) + 1) if name.isdecimal() else name.replace("conv", "bn")
        norm = children.get(follower)
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        if isinstance(child, nn.Conv2d):
            setattr(module, name, _channels_last(fuse_conv_bn_eval(child, norm)))
            setattr(module, follower, nn.Identity())
        elif isinstance(child, nn.Sequential) and isinstance(last := child[-1], nn.Conv2d):  # the stem of ResNet-RS
            child[-1] = _channels_last(fuse_conv_bn_eval(last, norm))
            setattr(module, follower, nn.Identity())


class FrozenSynthesizer(nn.Module):
    """What a trained synthesizer computes in evaluation mode, without BN."""

    pool_factor: Tensor
    pool_shift: Tensor

    def __init__(self, synthesizer: Synthesizer) -> None:
        super().__init__()
        spatial: SpatialBag = synthesizer.spatial
        fusion = synthesizer.fusion
        self.kind = fusion.kind if isinstance(fusion, FixedFusion) else "learned"
        self.pooling, self.relu = spatial.pooling, spatial.relu
        self.fusion = fusion if self.kind == "learned" else None
        self.temporal, self.expand = synthesizer.temporal, synthesizer.expand

        factor, shift = _affine(spatial.bn)
        factors, shifts = factor.chunk(GROUPS), shift.chunk(GROUPS)
        group = len(factor) // GROUPS
        # Of a dropping T only the first c/G channels of each spatial group are ever seen.
        kept = group // GROUPS if self.kind == "dropout" else group
        self.small = _scaled(spatial.small, factors[1], shifts[1], kept)
        self.large = _scaled(spatial.large, factors[2], shifts[2], kept)
        # The unchanged groups' BN goes into the compression; that of a pooled one stays behind the pooling, through
        # which neither a negative factor nor a shift (the padding has none) could be moved.
        weights, nothing = list(synthesizer.compress.weight.chunk(GROUPS)), torch.zeros_like(shifts[0])
        biases = [shifts[0], nothing, nothing, nothing]
        weights[0] = weights[0] * factors[0][:, None, None, None]
        if self.pooling == "none":
            weights[3], biases[3] = weights[3] * factors[3][:, None, None, None], shifts[3]
        for i in (0, 3):
            weights[i], biases[i] = weights[i][:kept], biases[i][:kept]
        self.widths = [len(bias) for bias in biases]
        self.compress = _convolution(torch.cat(weights), torch.cat(biases))
        self.register_buffer("pool_factor", factors[3][:kept, None, None].clone())
        self.register_buffer("pool_shift", shifts[3][:kept, None, None].clone())
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Map folded frames (B*T, C, H, W) to the same shape"""
        return self.expand(self.temporal(self._fuse(self._spatial(self.compress(x))))).add_(x)

    def _spatial(self, x: Tensor) -> list[Tensor]:
        identity, small, large, pool = x.split(self.widths, dim=1)
        if self.pooling != "none":
            pool = torch.addcmul(self.pool_shift, pool_in_place(pool, self.pooling, (3, 3)), self.pool_factor)
        return [identity, self.small(small), self.large(large), pool]

    def _fuse(self, groups: list[Tensor]) -> Tensor:
        if self.kind == "shuffle":
            groups = [sub_group for row in zip(*(group.chunk(GROUPS, dim=1) for group in groups)) for sub_group in row]
        x = torch.cat(groups, dim=1)
        x = F.relu(x, inplace=True) if self.relu else x
        if self.kind == "dropout":
            return torch.cat([x] * GROUPS, dim=1)
        return x if self.fusion is None else self.fusion(x)


def _affine(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return factor and shift, each (channels,), of BN in evaluation mode, x * factor + shift."""
    assert bn.running_mean is not None and bn.running_var is not None
    factor = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
    return factor, bn.bias - bn.running_mean * factor


def _scaled(kernel: nn.Module, factor: Tensor, shift: Tensor, kept: int) -> nn.Module:
    """Return the kernel, a convolution or a row and a column, with BN folded into it and its first `kept` outputs."""
    first, last = ([kernel[0]], kernel[1]) if isinstance(kernel, nn.Sequential) else ([], kernel)
    assert isinstance(last, nn.Conv2d) and not isinstance(last.padding, str)
    weight = (last.weight * factor[:, None, None, None])[:kept]
    padding, dilation = (last.padding[0], last.padding[1]), (last.dilation[0], last.dilation[1])
    folded = _convolution(weight, shift[:kept], padding, dilation)
    return nn.Sequential(*first, folded) if first else folded


def _convolution(
    weight: Tensor, bias: Tensor, padding: tuple[int, int] = (0, 0), dilation: tuple[int, int] = (1, 1)
) -> nn.Conv2d:
    out_channels, in_channels, height, width = weight.shape
    module = nn.Conv2d(in_channels, out_channels, (height, width), padding=padding, dilation=dilation)
    module.weight, module.bias = nn.Parameter(weight.detach().clone()), nn.Parameter(bias.detach().clone())
    return _channels_last(module)


def _channels_last(module: nn.Conv2d) -> nn.Conv2d:
    return module.to(memory_format=torch.channels_last)
