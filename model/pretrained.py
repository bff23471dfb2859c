"""Pretrained weights: torchvision's ImageNet ResNets or a file, into any backbone, with nothing left unsaid."""

import logging
import pickle
import urllib.error
from collections.abc import Collection, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

CLASSIFIER = "fc"


def load_pretrained(net: nn.Module, source: str, depth: int) -> set[str]:
    """Load `source`, "imagenet" or the path of a .pth, .pt or .safetensors file, into `net`.

    A classifier of another size is left as initialised and reported; so is all that the architecture adds to its ResNet
    if the weights have none of it. The names of all that is left so are returned.

    Raises:
        ValueError: the weights cannot be had, or their keys or shapes are not those of `net`.
    """
    state = read_weights(source, depth)
    for prefix, module in net.named_modules():
        convert = getattr(module, "convert_2d_weights", None)
        if convert is not None:
            convert(state, f"{prefix}.")
    own = net.state_dict()
    # Files written before BatchNorm counted its batches lack the counters; nothing here reads them.
    fresh = {name for name in own if name.endswith("num_batches_tracked")}
    messages = []
    for prefix in (name.removesuffix("bias") for name in own if name.split(".")[-2:] == [CLASSIFIER, "bias"]):
        names = {prefix + "weight", prefix + "bias"}
        if all(name in state and state[name].shape != own[name].shape for name in names):
            old, new = (len(tensors[prefix + "bias"]) for tensors in (state, own))
            messages.append(f"{source}: classifier of {old} classes replaced by one of {new}, newly initialised")
            state = {name: value for name, value in state.items() if name not in names}
            fresh |= names
    added = extra_module_names(net)
    if added and not added & state.keys():
        messages.append(f"{source}: has none of {len(added)} added tensors; they start from their initialisation")
        fresh |= added
    mismatch = describe_mismatch(net, {name: tuple(value.shape) for name, value in state.items()}, fresh)
    if mismatch:
        raise ValueError(f"model.pretrained={source!r}: {mismatch}")
    net.load_state_dict(state, strict=False)
    for message in messages:  # only now they are true
        logger.info("%s", message)
    return own.keys() & (fresh - state.keys())


def extra_module_names(net: nn.Module) -> set[str]:
    """Return the names in `net`'s state dict of what no two-dimensional ResNet has: its modules say so in `added`."""
    prefixes = tuple(
        f"{prefix}.{child}.".removeprefix(".")
        for prefix, module in net.named_modules()
        for child in getattr(module, "added", ())
    )
    return {name for name in net.state_dict() if name.startswith(prefixes)}


def read_weights(source: str, depth: int) -> dict[str, Tensor]:
    """Return the state dict of `source`; only tensors are ever unpickled.

    Raises:
        ValueError: no such file, not weights, or torchvision's weights cannot be downloaded.
    """
    if source == "imagenet":
        return _download_imagenet(depth)
    path = Path(source)
    if not path.is_file():
        raise ValueError(
            f"model.pretrained={source!r}: no such file; give imagenet or the path of a .pth or .safetensors file"
        )
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, RuntimeError, EOFError, ValueError, OSError, pickle.UnpicklingError) as error:
        raise ValueError(f"model.pretrained={source!r}: not a file of tensors: {str(error).splitlines()[0]}") from error
    return _unwrap(source, state)


def _unwrap(source: str, state: object) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, which may wrap them in "state_dict", "model" or "module" or prefix
    "module."."""
    for wrapper in ("state_dict", "model", "module"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"model.pretrained={source!r}: holds no state dict (a mapping from names to tensors)")
    return {name.removeprefix("module."): value for name, value in state.items()}


def _download_imagenet(depth: int) -> dict[str, Tensor]:
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
    missing = sorted(own.keys() - shapes.keys() - set(may_lack))
    wrong = [name for name in own if name in shapes and shapes[name] != own[name]]
    problems = {
        "missing keys": missing,
        "unknown keys": sorted(shapes.keys() - own.keys()),
        "wrong shapes": [f"{name} {shapes[name]} instead of {own[name]}" for name in wrong],
    }
    reasons = dict.fromkeys(
        str(module.changed_weights)
        for prefix, module in net.named_modules()
        if hasattr(module, "changed_weights") and any(name.startswith(f"{prefix}.") for name in (*missing, *wrong))
    )
    return "; ".join([*reasons, *(f"{problem}: {_listed(names)}" for problem, names in problems.items() if names)])


def _listed(names: list[str], most: int = 20) -> str:
    """Return the names, or the first of them and how many more there are: weights of another depth lack hundreds."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
