"""Parts of a network that fine-tuning treats differently: which stage and how deep, and what is frozen.

Found by the parameters' names, so that networks made of several ResNets (model.head=pathways, the two heads of dg_p3d)
are no special case: `pathways.0.layer2.1.conv1.weight` is of layer2, as `layer2.1.conv1.weight` is.
"""

from collections.abc import Collection, Mapping
from itertools import accumulate, pairwise

from torch import nn

from model.config import ModelConfig
from model.resnet import Stage, VideoResNet

STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")
_STEM = ("conv1", "bn1", "maxpool")
_CLASSIFIERS = ("fc", "coarse")


def freeze(net: nn.Module, config: ModelConfig) -> None:
    """Let those parameters of `net` require no gradient that model.frozen_stages or model.linear_probe freezes.

    Raises:
        ValueError: the network has no such stages or no classifier, or part of it would stay random.
    """
    if config.frozen_stages < 0 and not config.linear_probe:
        return
    parameters = dict(net.named_parameters())
    if config.linear_probe:
        frozen = parameters.keys() - _classifier_names(net, config)
    else:
        check_stages(net, f"model.frozen_stages={config.frozen_stages}")
        stages = STAGES[: config.frozen_stages + 1]
        frozen = {name for name in parameters if stage_of(name) in stages} - _fresh_names(net)
    for name in frozen:
        parameters[name].requires_grad_(False)


def check_stages(net: nn.Module, option: str) -> None:
    """Raise ValueError, in the name of an option, if `net` is no ResNet and has no stages."""
    if not any(isinstance(module, VideoResNet) for module in net.modules()):
        raise ValueError(
            f"{option}: {type(net).__name__} is no ResNet with a stem and layer1 to layer4; leave it out, or derive "
            "the network from model.VideoResNet"
        )


def checkpoint_blocks(net: nn.Module) -> None:
    """Let the backward pass compute each residual block again instead of keeping what it needs of it.

    Raises:
        ValueError: the network has no residual blocks.
    """
    check_stages(net, "train.gradient_checkpointing=true")
    for module in net.modules():
        if isinstance(module, Stage):
            module.checkpointed = True


def _classifier_names(net: nn.Module, config: ModelConfig) -> set[str]:
    names = {name for name, _ in net.named_parameters() if stage_of(name) is None}
    found = {name for name in names if name.split(".")[-2:-1] and name.split(".")[-2] in _CLASSIFIERS}
    if not found:
        raise ValueError(f"model.linear_probe=true: {type(net).__name__} has no classifier; name its last layer fc")
    if random := sorted((names - found) & _fresh_names(net)):
        raise ValueError(
            f"model.linear_probe=true: model.pretrained={config.pretrained!r} has no {random[0]}, which would stay "
            "random; give weights of a network with the same head, or use model.frozen_stages=4"
        )
    return found


def _fresh_names(net: nn.Module) -> frozenset[str]:
    return getattr(net, "fresh_names", frozenset())


def stage_of(name: str) -> str | None:
    """Return the stage of a parameter by its name, of a synthesizer the one that it follows; None behind the stages.

    >>> [stage_of(name) for name in ("conv1.weight", "layer2.0.bn1.bias", "synthesizers.stem.bn.bias", "fc.bias")]
    ['stem', 'layer2', 'stem', None]
    >>> [stage_of(name) for name in ("conv1.3.weight", "maxpool.1.bias")]  # of ResNet-RS
    ['stem', 'stem']
    """
    parts = name.split(".")
    if "synthesizers" in parts[:-1]:
        return parts[parts.index("synthesizers") + 1]
    stage = next((part for part in parts if part in STAGES), None)
    owner = next((part for part in reversed(parts[:-1]) if not part.isdecimal()), "")
    return "stem" if stage is None and owner in _STEM else stage


def parameter_depths(names: Collection[str]) -> Mapping[str, int]:
    """Return how deep in the network each parameter is: 0 the stem, n the n-th residual block and the synthesizer that
    follows it, one more the head.

    >>> parameter_depths(["conv1.weight", "layer1.0.bn1.bias", "layer1.1.bn1.bias", "fc.bias"])
    {'conv1.weight': 0, 'layer1.0.bn1.bias': 1, 'layer1.1.bn1.bias': 2, 'fc.bias': 3}
    """
    places = {name: (stage_of(name), _position(name)) for name in names}
    counts: dict[str, int] = dict.fromkeys(STAGES, 0)
    for stage, position in places.values():
        if stage is not None and position is not None:
            counts[stage] = max(counts[stage], position + 1)
    ends: dict[str, int] = dict(zip(STAGES, accumulate(counts.values())))
    depths = {}
    for name, (stage, position) in places.items():
        if stage is None:
            depths[name] = ends[STAGES[-1]] + 1
        else:
            depths[name] = ends[stage] - (0 if position is None else counts[stage] - position - 1)
    return depths


def _position(name: str) -> int | None:
    """Return the position of a parameter's block in its stage; None outside of blocks."""
    parts = name.split(".")
    if "synthesizers" in parts:
        return None
    return next((int(after) for part, after in pairwise(parts) if part in STAGES and after.isdecimal()), None)
