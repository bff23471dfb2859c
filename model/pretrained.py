"""Pretrained weights: torchvision's ImageNet ResNets or a file, into any backbone, with nothing left unsaid."""

import logging
import urllib.error
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from model.weights.families import IMAGENET, RESNET, RESNET_RS
from model.weights.files import FileTensor, WeightFileError
from model.weights.refused import explain_refusal
from model.weights.source import Weights, read_weights_file
from model.weights.stand_ins import printable

logger = logging.getLogger(__name__)

CLASSIFIER = "fc"


def load_pretrained(net: nn.Module, source: str, depth: int) -> set[str]:
    """Load `source`, "imagenet" or the path of a file of weights of this or another project, into `net`.

    One line reports whose weights they are and what starts from its initialisation: a classifier that the file lacks or
    has for other classes, and all that the architecture adds to its ResNet if the weights have none of it. The names of
    all that is left so are returned.

    Raises:
        ValueError: the weights cannot be had, or their names or shapes are not those of `net`.
    """
    return enter_weights(net, source, read_weights(source, depth, frozenset(net.state_dict())), depth)


def enter_weights(net: nn.Module, source: str, weights: Weights, depth: int) -> set[str]:
    """Load weights that were opened into `net`. See `load_pretrained`."""
    try:
        state = weights.load()
    except (WeightFileError, OSError) as error:
        raise ValueError(f"model.pretrained={source!r}: {error}") from error
    count = len(state)
    for prefix, module in net.named_modules():
        convert = getattr(module, "convert_2d_weights", None)
        if convert is not None:
            convert(state, f"{prefix}.")
    own = net.state_dict()
    # Files written before BatchNorm counted its batches lack the counters; nothing here reads them.
    fresh = {name for name in own if name.endswith("num_batches_tracked")}
    messages = [f"{count} tensors of {weights.title}"]
    messages += [note for note in (weights.found, *weights.notes) if note]
    state, replaced, said = _without_other_classifiers(state, own, getattr(net, "head_module", None))
    fresh |= replaced
    messages += said
    added = extra_module_names(net)
    if added and not added & state.keys():
        messages.append(f"has none of {len(added)} added tensors; they start from their initialisation")
        fresh |= added
    mismatch = describe_mismatch(net, {name: tuple(value.shape) for name, value in state.items()}, fresh)
    if mismatch:
        described = _describe_weights(weights, depth, RESNET_RS.matches(dict.fromkeys(own, ())))
        raise ValueError(f"model.pretrained={source!r}: {described}{mismatch}")
    net.load_state_dict(state, strict=False)
    logger.info("%s: %s", source, "; ".join(messages))  # only now it is true
    return own.keys() & (fresh - state.keys())


def _without_other_classifiers(
    state: dict[str, Tensor], own: Mapping[str, Tensor], head: str | None
) -> tuple[dict[str, Tensor], set[str], list[str]]:
    """Return `state` without classifiers of other sizes or behind another head than the child `head` of the network,
    the names of all that start anew, and that in words."""
    is_other_head = head is not None and not any(name.startswith(f"{head}.") for name in state)
    fresh: set[str] = set()
    messages = []
    for prefix in (name.removesuffix("bias") for name in own if name.split(".")[-2:] == [CLASSIFIER, "bias"]):
        names = {prefix + "weight", prefix + "bias"}
        new = len(own[prefix + "bias"])
        if not names & state.keys():
            messages.append(f"no classifier: one of {new} classes, newly initialised")
        elif is_other_head:
            messages.append(f"classifier of another head replaced by one of {new} classes, newly initialised")
        elif all(name in state and state[name].shape != own[name].shape for name in names):
            old = len(state[prefix + "bias"])
            messages.append(f"classifier of {old} classes replaced by one of {new}, newly initialised")
        else:
            continue
        state = {name: value for name, value in state.items() if name not in names}
        fresh |= names
    return state, fresh, messages


def _describe_weights(weights: Weights, depth: int, of_resnet_rs: bool) -> str:
    """Return what weights that do not fit are of, as the beginning of a message.

    Args:
        depth, of_resnet_rs: of the network that they do not fit.
    """
    if reason := explain_refusal(weights.shapes, ""):
        return f"it looks like {reason}; "
    keys = []
    if weights.family in (RESNET, RESNET_RS) and of_resnet_rs != (weights.family is RESNET_RS):
        keys.append(f"model.backbone={'resnet' if of_resnet_rs else 'resnet_rs'}")
    elif weights.family is not None and weights.family not in (RESNET, RESNET_RS):
        keys.append(f"model.arch={' or '.join(weights.family.archs)}")
    if weights.depth not in (0, depth):
        keys.append(f"model.depth={weights.depth}")
    if not keys:
        return f"{weights.title}; " if weights.family else ""
    return f"{weights.title}, for which {' with '.join(keys)} is made; "


def extra_module_names(net: nn.Module) -> set[str]:
    """Return the names in `net`'s state dict of what no two-dimensional ResNet has: its modules say so in `added`."""
    prefixes = tuple(
        f"{prefix}.{child}.".removeprefix(".")
        for prefix, module in net.named_modules()
        for child in getattr(module, "added", ())
    )
    return {name for name in net.state_dict() if name.startswith(prefixes)}


def read_weights(source: str, depth: int, own: frozenset[str] = frozenset()) -> Weights:
    """Open `source`; nothing in it is run, and no tensor is read yet.

    Args:
        own: the names of the network's tensors, which count before those of other projects.

    Raises:
        ValueError: no such file, not weights, or torchvision's weights cannot be downloaded.
    """
    if source == "imagenet":
        state = _download_imagenet(depth)
        tensors = {name: FileTensor(tuple(value.shape), lambda value=value: value) for name, value in state.items()}
        return Weights(tensors, replace(RESNET, name="ResNet (torchvision, ImageNet)"), depth, IMAGENET)
    try:
        return read_weights_file(Path(source), own)
    except WeightFileError as error:
        raise ValueError(f"model.pretrained={source!r}: {error}") from error


def _download_imagenet(depth: int) -> Mapping[str, Tensor]:
    from torchvision.models import get_model_weights

    weights = get_model_weights(f"resnet{depth}")["IMAGENET1K_V1"]
    try:
        return weights.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise ValueError(
            f"model.pretrained='imagenet': {weights.url} could not be downloaded ({error}); "
            "download it where there is a network and give its path"
        ) from error


def describe_mismatch(net: nn.Module, shapes: Mapping[str, tuple[int, ...]], may_lack: Collection[str] = ()) -> str:
    """Return in one line how weights of these names and shapes differ from those of `net`; "" if they fit.

    Where a module says in `changed_weights` how its weights were once others, that comes first.
    """
    own = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    missing = sorted(own.keys() - shapes.keys() - set(may_lack), key=_weights_first)
    wrong = [name for name in own if name in shapes and shapes[name] != own[name]]
    problems = {
        "missing keys": missing,
        "unknown keys": sorted(shapes.keys() - own.keys(), key=_weights_first),
        "wrong shapes": [f"{name} {shapes[name]} instead of {own[name]}" for name in wrong],
    }
    reasons = dict.fromkeys(
        str(module.changed_weights)
        for prefix, module in net.named_modules()
        if hasattr(module, "changed_weights") and any(name.startswith(f"{prefix}.") for name in (*missing, *wrong))
    )
    return "; ".join([*reasons, *(f"{problem}: {_listed(names)}" for problem, names in problems.items() if names)])


def _weights_first(name: str) -> tuple[bool, str]:
    return not name.endswith(".weight"), name


def _listed(names: list[str], most: int = 4) -> str:
    """Return the names, or the first of them and how many more there are: weights of another depth lack hundreds."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(printable, names[:most])) + more
