"""Weights under the names of other projects, where they have the same network: the way back of `families`."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from model.weights.families import (
    IMAGENET,
    KINETICS,
    MMACTION2_SLOWONLY,
    MMACTION2_TSN,
    RESNET,
    RESNET_RS,
    SLOWFAST,
    TSN,
    Family,
    Statistics,
    count_blocks,
    count_depth,
)
from model.weights.files import WeightFileError
from model.weights.source import Weights
from model.weights.stand_ins import printable
from model.weights.volumes import to_theirs

State = dict[str, Tensor]


@dataclass(frozen=True)
class Target:
    """A project that weights can be written for."""

    networks: Mapping[str, Family]
    """Whose names are written, by the architecture here."""
    expects: Statistics = IMAGENET
    """What it does to pixels unless it is told otherwise."""
    remedy: str = ""
    """How it is told otherwise; {mean} and {std} are lists, {mean255} and {std255} for pixels of 0 to 255."""
    prefix: str = ""
    """In front of every name."""
    wrap: Callable[[State, int], Any] = field(default=lambda state, depth: state)
    """(state, depth) -> what its programs save."""


TARGETS = {
    "torchvision": Target({"tsn": RESNET, "tsm": RESNET}),
    "tsm": Target(
        {"tsn": TSN, "tsm": TSN},
        prefix="module.",
        wrap=lambda state, depth: {"epoch": 0, "arch": f"resnet{depth}", "state_dict": state, "best_prec1": 0.0},
    ),
    "mmaction2": Target(
        {"tsn": MMACTION2_TSN, "tsm": MMACTION2_TSN, "slowonly": MMACTION2_SLOWONLY},
        remedy="data_preprocessor=dict(type='ActionDataPreprocessor', mean={mean255}, std={std255})",
        wrap=lambda state, depth: {"meta": {}, "state_dict": state},
    ),
    "slowfast": Target(
        {"slowonly": SLOWFAST},
        expects=KINETICS,
        remedy='DATA.MEAN "{mean}" DATA.STD "{std}"',
        wrap=lambda state, depth: {"epoch": 0, "model_state": state},
    ),
}
"""Besides "ours", which takes all weights that can be read."""


def find_arch(weights: Weights, given: str | None) -> str:
    """Return the architecture here that weights are of: the one given, else what the file says, else ""."""
    if given or weights.arch:
        return given or weights.arch
    family = weights.family
    if family is not None and family not in (RESNET, RESNET_RS):
        return family.archs[0]
    inputs = weights.shapes.get("layer3.0.conv1.weight", (0, 0))[1]
    return "slowonly" if family is None and inputs in (384, 1536) else ""


def rename_for(name: str, state: State, arch: str) -> tuple[State, int]:
    """Return a state dict of ours under the names of a target and in its shapes, and the depth of its network.

    Raises:
        WeightFileError: the target has no such network, or more is needed to know which it is.
    """
    target = TARGETS[name]
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    depth, counts = count_depth(shapes), count_blocks(shapes)
    if not arch and name == "torchvision":
        arch = "tsn"
    known = ", ".join(target.networks)
    if arch not in target.networks and (arch or "tsn" not in target.networks):
        raise WeightFileError(f"{printable(arch) or 'a plain ResNet'} is no network of {name}, which has {known}")
    if not arch:
        raise WeightFileError(f"these names are those of tsn and of tsm alike; say which it is: --arch, one of {known}")
    bottlenecks = "layer1.0.conv3.weight" in state
    if name == "slowfast" and not bottlenecks:
        raise WeightFileError("SLOW in SlowFast is made of bottlenecks; of this network that is not so")
    family = target.networks[arch]
    modules = family.invert(arch, counts)
    renamed = {}
    for key, value in state.items():
        module, _, leaf = key.rpartition(".")
        theirs = modules.get(module)
        if theirs is None:
            raise WeightFileError(f"{printable(key)} is in no network of {name}; {arch} there is a plain ResNet")
        value = to_theirs(key, value, bottlenecks) if family.volumes else value
        renamed[f"{target.prefix}{theirs}.{leaf}"] = value.contiguous()
    return renamed, depth


def describe_statistics(name: str, statistics: Statistics) -> str:
    """Return what a target has to be told about pixels, "" if it expects them so by itself."""
    target = TARGETS[name]
    if all(abs(a - b) < 1e-3 for ours, theirs in zip(statistics, target.expects) for a, b in zip(ours, theirs)):
        return ""
    values = {key: list(numbers) for key, numbers in zip(("mean", "std"), statistics)}
    values |= {f"{key}255": [round(255 * number, 3) for number in numbers] for key, numbers in values.items()}
    remedy = target.remedy or "normalise them with mean={mean}, std={std}"
    return f"it was trained on other pixels than {name} makes by itself: {remedy.format(**values)}"


def write_weights(path: Path, content: Any, metadata: Mapping[str, str] | None = None) -> None:
    """Write a state dict as safetensors, or anything by torch.save, as the suffix says; the file appears complete."""
    temporary = path.with_name(f".{os.getpid()}{path.suffix}")
    temporary.unlink(missing_ok=True)
    # It is new, so that nothing is written through a link that somebody else has laid there.
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    try:
        if path.suffix == ".safetensors":
            safetensors.torch.save_file(content, temporary, dict(metadata) if metadata else None)
        else:
            torch.save(content, temporary)
        temporary.chmod(0o666 & ~_umask())  # safetensors lets only the owner read it
        temporary.replace(path)
    except safetensors.SafetensorError as error:
        raise OSError(f"{path}: cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
