"""Stochastic depth (Huang et al., 2016): in training residual branches are dropped, the deeper the more often.

Of L blocks the l-th, l = 1 .. L, drops its branch with the probability p l / L (Eq. 4 of the paper, whose p_L is the
1 - p of here); what is left of a dropped block is its shortcut. It is drawn for each clip, all frames of it alike,
where the paper draws for a batch. A branch that is kept is divided by its probability of being kept, instead of
multiplying it by that in evaluation as Eq. 5 does: the mean is the same, and evaluation needs to know nothing of it.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from model.config import ModelConfig
from model.resnet import LAYERS, BasicBlock, Block, BlockSpec, Bottleneck


class DropPath(nn.Module):
    """Zeros for some clips of folded frames (B*T, C, H, W), the others divided by the probability of being kept.

    It draws from torch's generator, as dropout does, and in evaluation returns what it is given.
    """

    def __init__(self, probability: float, num_frames: int) -> None:
        super().__init__()
        self.probability, self.num_frames = probability, num_frames

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.probability:
            return x
        kept = 1 - self.probability
        factors = x.new_empty(len(x) // self.num_frames).bernoulli_(kept).div_(kept)
        return x * factors.repeat_interleave(self.num_frames)[:, None, None, None]

    def extra_repr(self) -> str:
        return f"{self.probability:.4g}"


def with_drop_path(config: ModelConfig, block: Callable[[BlockSpec], Block] | None) -> Callable[[BlockSpec], Block]:
    """Return a maker of the same blocks, None for those of the plain ResNet, that drop their branches."""
    return partial(_make, block or (BasicBlock if config.depth < 50 else Bottleneck), config)


def _make(block: Callable[[BlockSpec], Block], config: ModelConfig, place: BlockSpec) -> Block:
    made = block(place)
    check_joins(made, f"model.drop_path={config.drop_path}: {type(made).__name__} of model.arch={config.arch}", "0")
    made.drop_path = DropPath(config.drop_path * (place.index + 1) / sum(LAYERS[config.depth]), place.num_segments)
    return made


def check_joins(block: Block, subject: str, otherwise: str) -> None:
    """Raise ValueError if `block`, of a class that is not ours, adds its branch itself instead of by `Block.join`.

    Args:
        subject: the beginning of the message: the option, and whose block it is.
        otherwise: what to use instead.
    """
    forward = type(block).forward
    names = getattr(getattr(forward, "__code__", None), "co_names", ())
    if not forward.__module__.startswith(f"{__package__}.") and "join" not in names:
        raise ValueError(
            f"{subject} adds its branch itself; let its forward end with self.join(x, shortcut), or use {otherwise}"
        )


def check_drop_path(net: nn.Module, config: ModelConfig) -> None:
    """Raise ValueError if no block of `net` drops its branch, though `config` asks for it."""
    if not any(isinstance(module, DropPath) for module in net.modules()):
        raise ValueError(
            f"model.drop_path={config.drop_path}: model.arch={config.arch} has no residual blocks made for it; use 0"
        )
