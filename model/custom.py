"""Blocks and networks that are not ours: `model.arch` names their class as MODULE:CLASS, and Python finds the module.

A configuration, and so a checkpoint, holds the name alone. It is looked for on the Python path and nowhere else, never
next to a checkpoint, and nothing is called that is not derived from `Block`, `VideoResNet` or `VideoNet`.
"""

import importlib

from torch import Tensor, nn

from model.config import ModelConfig
from model.resnet import BasicBlock, Block, Bottleneck, Outputs, VideoResNet, join_outputs


class VideoNet(nn.Module):
    """A network of any kind. A subclass is made of the ModelConfig alone, and has `logits`; the rest is here."""

    synthesizer_names: tuple[str, ...] = ()
    level_names: tuple[str, ...] = ()
    given_levels: tuple[str, ...] = ()
    fresh_names: frozenset[str] = frozenset()

    def logits(self, clips: Tensor) -> Tensor:
        """Return logits (B, num_classes) of clips (B, T, 3, H, W)."""
        raise NotImplementedError(f"{type(self).__name__} has no method logits(self, clips)")

    def forward(self, clips: Tensor, with_losses: bool = False) -> Tensor | Outputs:
        """Run the network as `VideoResNet`'s forward does, with no auxiliary losses."""
        logits = self.logits(clips)
        return join_outputs(logits, []) if with_losses else logits


def find_class(config: ModelConfig) -> type[Block] | type[VideoResNet] | type[VideoNet]:
    """Return the class that `config.arch` names.

    Raises:
        ValueError: it cannot be imported, is of another kind, or does not go with another option of `config`.
    """
    module, _, name = config.arch.partition(":")
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"model.arch={config.arch!r}: {error}; install it, or put its folder on the Python path: "
            "export PYTHONPATH=FOLDER"
        ) from error
    found = getattr(imported, name, None)
    if not (isinstance(found, type) and issubclass(found, (Block, VideoResNet, VideoNet))):
        what = f"is {found!r}" if hasattr(imported, name) else f"is not in {getattr(imported, '__file__', module)}"
        raise ValueError(
            f"model.arch={config.arch!r}: {name} {what}; allowed is a class derived from model.Block, model.VideoNet "
            "or model.VideoResNet"
        )
    if issubclass(found, (BasicBlock, Bottleneck)) and issubclass(found, Bottleneck) != (config.depth >= 50):
        kind, depths = ("Bottleneck", "50, 101") if issubclass(found, Bottleneck) else ("BasicBlock", "18, 34")
        raise ValueError(
            f"model.depth={config.depth}: allowed for model.arch={config.arch}, which is a {kind}, are {depths}"
        )
    if issubclass(found, Block):
        return found
    if config.backbone != "resnet" and issubclass(found, VideoNet):
        raise ValueError(
            f"model.backbone={config.backbone}: model.arch={config.arch} is no VideoResNet and has its own "
            "backbone; leave it out"
        )
    if config.head != "mean":
        raise ValueError(
            f"model.head={config.head}: allowed for model.arch={config.arch}, which is a complete network, is mean"
        )
    if issubclass(found, VideoNet):
        if config.init != "kaiming":
            raise ValueError(
                f"model.init={config.init}: model.arch={config.arch}, which is no VideoResNet, initialises itself; "
                "leave it out"
            )
        if config.pretrained == "imagenet":
            raise ValueError(
                f"model.pretrained='imagenet': these are weights of a ResNet, and model.arch={config.arch} is none; "
                "give a .pth or .safetensors file with its own names"
            )
    return found
