"""ResNet on folded frames: the backbone of every architecture.

Clips (B, T, 3, H, W) are folded to frames (B*T, 3, H, W) and stay channels-last all the way, so that in memory a
feature map is (B, T, H, W, C): time can be convolved on a view of it, (B, C, T, H*W), and nothing is ever transposed.
Parameters have torchvision's names, so that ImageNet weights enter as they are.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.synthesizer import Synthesizer

Net = TypeVar("Net", bound=nn.Module)

LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
LAYERS |= {152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}  # from here on of ResNet-RS alone
LAYERS |= {270: (4, 29, 53, 4), 350: (4, 36, 72, 4), 420: (4, 44, 87, 4)}


class Outputs(NamedTuple):
    """Logits and auxiliary losses of one call; S is the number of synthesizers, in the order of `synthesizer_names`."""

    logits: Tensor
    """(B, num_classes)"""
    interaction_loss: Tensor
    """Scalar: Eq. 2, mean over the synthesizers."""
    capacity_loss: Tensor
    """Scalar: Eq. 3, mean over the batch and the synthesizers."""
    interaction_losses: Tensor
    """(S,), detached"""
    capacity_losses: Tensor
    """(S,), detached"""
    mean_gates: Tensor
    """(S,), detached: mean sigmoid(||T_ij||_1); at 1 the interaction loss of Eq. 2 has no gradient left."""
    level_logits: tuple[Tensor, ...] = ()
    """(B, classes of the level) for each coarser level of labels, in the order of the network's `level_names`."""
    head_logits: tuple[Tensor, ...] = ()
    """(B, num_classes) of each head of a network that has several, whose mean is `logits`; each is trained."""
    step_logits: Tensor | None = None
    """(B, T, num_classes) of each time step of a network that predicts at all of them, whose mean is `logits`; the mean
    of the steps' losses is trained."""
    features: Tensor | None = None
    """(B*T, channels, h, w) feature maps that the head was given, of networks that are a ResNet."""
    teacher_losses: tuple[tuple[str, Tensor], ...] = ()
    """Names and scalars, times their weights, of what a network in training has to learn from a teacher."""


def join_outputs(logits: Tensor, losses: list, level_logits: tuple[Tensor, ...] = ()) -> Outputs:
    """Return the outputs of one call; `losses` are those of each synthesizer."""
    if not losses:
        zero, none = logits.new_zeros((), dtype=torch.float32), logits.new_zeros(0, dtype=torch.float32)
        return Outputs(logits, zero, zero, none, none, none, level_logits)
    interaction, capacity, gates = (torch.stack(terms) for terms in zip(*losses))
    means = interaction.mean(), capacity.mean()
    return Outputs(logits, *means, interaction.detach(), capacity.detach(), gates.detach(), level_logits)


class BlockSpec(NamedTuple):
    """Where a block is; all that is passed to its constructor."""

    in_channels: int
    width: int
    """Channels of the block's 3x3 convolution in the plain ResNet: 64, 128, 256, 512."""
    stride: int
    num_segments: int
    stage: int
    """1 to 4"""
    position: int
    """Among the blocks of the stage, from 0."""
    index: int
    """Among all blocks, from 0."""


class Block(nn.Module):
    """A residual block; baselines replace what its residual branch sees."""

    added: tuple[str, ...] = ()
    """Children that no two-dimensional ResNet has; pretrained weights may lack them."""

    out_channels: int

    def __init__(self, *place: BlockSpec) -> None:
        super().__init__()
        self.se: nn.Module | None = None
        self.drop_path: nn.Module | None = None

    def enter(self, x: Tensor) -> Tensor:
        """Return what the residual branch sees of the block's input."""
        return x

    def join(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """Return the block's output: the branch `x`, which may be changed, and the shortcut added and rectified; in
        ResNet-RS the branch's channels are weighed first, and with model.drop_path it is dropped now and then."""
        if self.se is not None:
            x = self.se(x)
        if self.drop_path is not None:
            x = self.drop_path(x)
        return F.relu(x.add_(shortcut), inplace=True)


class BasicBlock(Block):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, place: BlockSpec) -> None:
        super().__init__()
        in_channels, width, stride = place[:3]
        self.out_channels = width
        self.conv1 = conv(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(self.enter(x))))
        x = self.bn2(self.conv2(x))
        return self.join(x, shortcut)


class Bottleneck(Block):
    """1x1, 3x3 (carrying the stride) and 1x1 convolutions and a shortcut; baselines replace also its middle."""

    def __init__(self, place: BlockSpec) -> None:
        super().__init__()
        in_channels, width, stride = place[:3]
        self.out_channels = 4 * width
        self.conv1 = conv(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, 4 * width, 1)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = downsample(in_channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(self.enter(x))))
        x = self.bn3(self.conv3(self.middle(x)))
        return self.join(x, shortcut)

    def middle(self, x: Tensor) -> Tensor:
        """Apply what is between the two 1x1 convolutions, ReLUs included."""
        return self.relu(self.bn2(self.conv2(x)))


class Stage(nn.Sequential):
    """The residual blocks of a stage, one after the other.

    With `checkpointed` only their inputs are kept for the backward pass, which computes each block again.
    """

    checkpointed = False

    def forward(self, x: Tensor) -> Tensor:
        if not (self.checkpointed and torch.is_grad_enabled()):
            return super().forward(x)
        for block in self:
            contexts = partial(_recomputation_contexts, block)
            x = cast(Tensor, checkpoint(block, x, use_reentrant=False, context_fn=contexts))
        return x


def _recomputation_contexts(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Return what a block is computed in, the first time and again."""
    return nullcontext(), _without_statistics(block)


@contextmanager
def _without_statistics(block: nn.Module) -> Iterator[None]:
    """Let BatchNorm count a batch in buffers that are thrown away: it has counted it before."""
    norms = [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    kept = [(norm, dict(norm._buffers)) for norm in norms if norm.training]  # in evaluation they are read
    for norm, buffers in kept:
        norm._buffers.update({name: None if old is None else torch.empty_like(old) for name, old in buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in kept:
            norm._buffers.update(buffers)


class VideoResNet(nn.Module):
    """ResNet of `depth` on every frame; dropout, classifier per frame, mean over the frames (TSN).

    `block` makes the residual blocks. `synthesizers` maps a stage name to the module that follows it.
    """

    added = ("synthesizers",)
    head_module: str | None = None
    """Child between the frames and the classifier; weights that lack it are of another head, their classifier too."""
    level_names: tuple[str, ...] = ()
    """Coarser levels of labels that it predicts too."""
    given_levels: tuple[str, ...] = ()
    """Levels whose true labels are passed to it in training, after the clips."""
    fresh_names: frozenset[str] = frozenset()
    """Names in its state dict of what the weights that it began with had not got."""

    def __init__(
        self,
        depth: int,
        num_classes: int,
        num_segments: int,
        dropout: float = 0.0,
        block: Callable[[BlockSpec], Block] | None = None,
    ) -> None:
        super().__init__()
        self.num_segments = num_segments
        block = block or (BasicBlock if depth < 50 else Bottleneck)
        self.conv1 = conv(3, 64, 7, 2)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        channels = 64
        self.stage_channels = {"stem": channels}
        index = 0
        for stage, num_blocks in enumerate(LAYERS[depth], start=1):
            blocks = Stage()
            for position in range(num_blocks):
                stride = 2 if stage > 1 and position == 0 else 1
                place = BlockSpec(channels, 32 * 2**stage, stride, num_segments, stage, position, index)
                made = block(place)
                blocks.append(made)
                channels = made.out_channels
                index += 1
            self.add_module(f"layer{stage}", blocks)
            self.stage_channels[f"layer{stage}"] = channels
        self.synthesizers = nn.ModuleDict()
        self.dropout = nn.Dropout(dropout)
        self.fc = classifier(channels, num_classes)

    @property
    def synthesizer_names(self) -> tuple[str, ...]:
        """The stages whose synthesizer has losses, in the order of `Outputs`."""
        return tuple(name for name, module in self.synthesizers.items() if isinstance(module, Synthesizer))

    def forward(self, clips: Tensor, with_losses: bool = False) -> Tensor | Outputs:
        """Return logits (B, num_classes) of clips (B, T, 3, H, W); with `with_losses` the auxiliary losses too.

        Clips in (B, T, H, W, 3) memory, permuted, are taken without a copy.

        Raises:
            ValueError: the clips do not have `num_segments` frames of 3 channels.
        """
        features, losses = self._run(clips, with_losses)
        logits = self.forward_head(features)
        return join_outputs(logits, losses)._replace(features=features) if with_losses else logits

    def forward_features(self, clips: Tensor) -> Tensor:
        """Return feature maps (B*T, channels, H/32, W/32), channels-last, of clips (B, T, 3, H, W)."""
        return self._run(clips, with_losses=False)[0]

    def forward_head(self, features: Tensor) -> Tensor:
        """Return logits (B, num_classes) of feature maps (B*T, channels, h, w): the mean of the frames' logits."""
        frames = self.fc(self.dropout(features.mean((2, 3))))
        return frames.unflatten(0, (-1, self.num_segments)).mean(1)

    def _run(self, clips: Tensor, with_losses: bool) -> tuple[Tensor, list]:
        if clips.ndim != 5 or clips.shape[1:3] != (self.num_segments, 3):
            raise ValueError(
                f"clips of shape {tuple(clips.shape)}: the network takes (B, {self.num_segments}, 3, H, W), "
                f"as model.num_segments={self.num_segments}"
            )
        losses = []
        x = clips.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in self.stage_channels:
            if stage != "stem":
                x = getattr(self, stage)(x)
            if stage in self.synthesizers:
                if with_losses and isinstance(self.synthesizers[stage], Synthesizer):
                    x, terms = self.synthesizers[stage](x, with_losses=True)
                    losses.append(terms)
                else:
                    x = self.synthesizers[stage](x)
        return x, losses


def to_channels_last(net: Net) -> Net:
    """Lay out the kernels of 2D convolutions channels-last, in place; `Module.to` fails where there are 3D ones."""
    for tensor in (*net.parameters(), *net.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
    return net


def classifier(channels: int, num_classes: int) -> nn.Linear:
    """Return a linear classifier that starts near zero."""
    module = nn.Linear(channels, num_classes)
    nn.init.normal_(module.weight, std=0.001)
    nn.init.zeros_(module.bias)
    return module


def conv(in_channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the shape but for its stride, without bias, with He's initialisation."""
    module = nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return module


def downsample(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """Return the shortcut's 1x1 convolution and BN where the shape changes."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))
