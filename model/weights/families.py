"""The families of weights: whose names these are, and what the same tensors are called, and shaped, here.

A family is a table of pairs (their module, our module), made for every place a block can have; the last part of a
tensor's name (weight, running_mean, ...) is the same everywhere. Read one way the table loads a file, read the other way it
writes one. Kernels over time that the others have in three dimensions are two-dimensional here (`model.temporal`), which
only reorders numbers, so that both ways are exact.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Names = Mapping[str, tuple[int, ...]]
"""Shapes by name."""
Pairs = Iterator[tuple[str, str]]

STAGES, MOST_BLOCKS = (1, 2, 3, 4), 36
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
KINETICS = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))


@dataclass(frozen=True)
class Family:
    """Whose names a state dict has."""

    name: str
    """For messages."""
    archs: tuple[str, ...]
    """The values of model.arch that compute what the original did."""
    matches: Callable[[Names], bool]
    """Whether these are its names, without wrappers and common prefixes."""
    pairs: Callable[[str, int], Pairs]
    """(arch, depth) -> their module and ours; with arch "" those of all."""
    volumes: bool = False
    """Whether its kernels have three dimensions where ours have two."""
    statistics: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    """Mean and standard deviation of the pixels it was trained on, in units of 1."""
    prefix: str = ""
    """What most of its names begin with; where only a backbone was saved they may lack it."""
    ignored: str = r"(?!)"
    """Pattern of names that are no weights."""

    def rename(self, names: Names) -> dict[str, str]:
        """Return our name for each of theirs; what the table lacks keeps its name, what is ignored is left out."""
        depth = count_depth(names)
        table = dict(self.pairs("", depth))
        renamed = {}
        for name in names:
            module, _, leaf = name.rpartition(".")
            ours = table.get(module) or table.get(self.prefix + module)
            if not re.match(self.ignored, name):
                renamed[name] = f"{ours}.{leaf}" if ours else name
        return renamed


# What is between the modules of a residual block and its tensors, the same in several families.
_LETTERS = (("a", "1"), ("b", "2"), ("c", "3"))


def _blocks() -> Iterator[tuple[int, int]]:
    return ((stage, block) for stage in STAGES for block in range(MOST_BLOCKS))


def _same(_: str, __: int) -> Pairs:
    yield "last_linear", "fc"


def _tsm(arch: str, depth: int) -> Pairs:
    """`.net` is the convolution inside the shift, in every block, of ResNet-101 in every second one."""
    every = 2 if depth == 101 else 1
    for module in ("conv1", "bn1", "fc"):
        yield f"base_model.{module}", module
    yield "new_fc", "fc"
    for stage, block in _blocks():
        theirs, ours = f"base_model.layer{stage}.{block}", f"layer{stage}.{block}"
        shifts = arch == "" or (arch == "tsm" and block % every == 0)
        for module in _IN_BLOCKS:
            if not (arch and shifts and module == "conv1"):
                yield f"{theirs}.{module}", f"{ours}.{module}"
        if shifts:
            yield f"{theirs}.conv1.net", f"{ours}.conv1"


_IN_BLOCKS = (*(f"{kind}{number}" for kind in ("conv", "bn") for number in (1, 2, 3)), "downsample.0", "downsample.1")


def _gst(arch: str, depth: int) -> Pairs:
    table = dict(_tsm("tsn", depth))
    for stage, block in _blocks():
        theirs, ours = f"base_model.layer{stage}.{block}", f"layer{stage}.{block}"
        table[f"{theirs}.conv2"] = f"{ours}.conv2.spatial"
        table[f"{theirs}.Tconv"] = f"{ours}.conv2.temporal"
    yield from table.items()


def _tea(arch: str, depth: int) -> Pairs:
    yield from _tsm("tsn", depth)
    for stage, block in _blocks():
        theirs, ours = f"base_model.layer{stage}.{block}", f"layer{stage}.{block}"
        for module, name in (("conv1", "squeeze"), ("bn1", "bn1"), ("conv2", "conv"), ("conv3", "expand"), ("bn3", "bn2")):
            yield f"{theirs}.me.{module}", f"{ours}.excitation.{name}"
        for split in range(4):
            yield f"{theirs}.shifts.{split}.conv", f"{ours}.temporal.{split}.conv"
            yield f"{theirs}.convs.{split}", f"{ours}.convs.{split}"
            yield f"{theirs}.bns.{split}", f"{ours}.bns.{split}"


def _mmaction2(arch: str, depth: int) -> Pairs:
    every = 2 if depth == 101 else 1
    yield "backbone.conv1.conv", "conv1"
    yield "backbone.conv1.bn", "bn1"
    yield "cls_head.fc_cls", "fc"
    for stage, block in _blocks():
        theirs, ours = f"backbone.layer{stage}.{block}", f"layer{stage}.{block}"
        for number in (1, 2, 3):
            shifts = number == 1 and (arch == "" or (arch == "tsm" and block % every == 0))
            if shifts:
                yield f"{theirs}.conv1.conv.net", f"{ours}.conv1"
            if not (arch and shifts):
                yield f"{theirs}.conv{number}.conv", f"{ours}.conv{number}"
            yield f"{theirs}.conv{number}.bn", f"{ours}.bn{number}"
        yield f"{theirs}.downsample.conv", f"{ours}.downsample.0"
        yield f"{theirs}.downsample.bn", f"{ours}.downsample.1"


def _slowfast(_: str, __: int) -> Pairs:
    yield "s1.pathway0_stem.conv", "conv1"
    yield "s1.pathway0_stem.bn", "bn1"
    yield "head.projection", "fc"
    for stage, block in _blocks():
        theirs, ours = f"s{stage + 1}.pathway0_res{block}", f"layer{stage}.{block}"
        yield f"{theirs}.branch1", f"{ours}.downsample.0"
        yield f"{theirs}.branch1_bn", f"{ours}.downsample.1"
        for letter, number in _LETTERS:
            yield f"{theirs}.branch2.{letter}", f"{ours}.conv{number}"
            yield f"{theirs}.branch2.{letter}_bn", f"{ours}.bn{number}"


def _pytorchvideo(_: str, __: int) -> Pairs:
    yield "blocks.0.conv", "conv1"
    yield "blocks.0.norm", "bn1"
    yield "blocks.5.proj", "fc"
    for stage, block in _blocks():
        theirs, ours = f"blocks.{stage}.res_blocks.{block}", f"layer{stage}.{block}"
        yield f"{theirs}.branch1_conv", f"{ours}.downsample.0"
        yield f"{theirs}.branch1_norm", f"{ours}.downsample.1"
        for letter, number in _LETTERS:
            yield f"{theirs}.branch2.conv_{letter}", f"{ours}.conv{number}"
            yield f"{theirs}.branch2.norm_{letter}", f"{ours}.bn{number}"


def _dg_p3d(_: str, depth: int) -> Pairs:
    """Its blocks are of the kinds A, B, C in turn; only in C the kernel over time is not next to that over space."""
    yield "fc_dual", "dual.fc"
    counts = (3, 4, 23, 3) if depth == 101 else (3, 4, 6, 3)
    for stage, count in zip(STAGES, counts):
        for block in range(count):
            kind = "ABC"[(sum(counts[: stage - 1]) + block) % 3]
            places = [(f"layer{stage}.{block}", f"layer{stage}.{block}")]
            places += [(f"layer4_dual.{block}", f"dual.layer4.{block}")] * (stage == 4)
            for theirs, ours in places:
                if stage == 4:
                    yield from ((f"{theirs}.{module}", f"{ours}.{module}") for module in _IN_BLOCKS)
                yield f"{theirs}.fc1", f"{ours}.context.squeeze"
                yield f"{theirs}.fc2", f"{ours}.context.expand"
                yield f"{theirs}.conv2", f"{ours}.conv2" if kind == "C" else f"{ours}.conv2.spatial"
                yield f"{theirs}.conv2_t", f"{ours}.conv_t.conv" if kind == "C" else f"{ours}.conv2.temporal.conv"


def _has(*patterns: str) -> Callable[[Names], bool]:
    """Return whether there is a name that matches, for each pattern, one that begins so."""
    return lambda names: all(any(re.match(pattern, name) for name in names) for pattern in patterns)


_BASE, _BACKBONE = "base_model.", "backbone."
_NOT_WEIGHTS = r"data_preprocessor\."


def _in_blocks(pattern: str, prefix: str) -> Callable[[Names], bool]:
    """Return whether blocks have such a module, with the prefix or without."""
    return _has(rf"(?:{re.escape(prefix)})?layer\d\.\d+\.{pattern}")


def _made_of(modules: str) -> Callable[[Names], bool]:
    """Return whether these are the names of a two-dimensional ResNet whose blocks have such modules, and no others."""
    outside = r"(?:conv1|bn1|fc|last_linear)"
    pattern = re.compile(rf"{outside}\.\w+|layer[1-4]\.\d+\.(?:{modules}|downsample\.[01])\.\w+")
    return lambda names: "layer1.0.conv1.weight" in names and all(pattern.fullmatch(name) for name in names)


def _stem_of(dimensions: int) -> Callable[[Names], bool]:
    """Return whether mmaction2's first convolution is there and its kernel has so many dimensions."""
    stem = "conv1.conv.weight"
    return lambda names: len(names.get(_BACKBONE + stem, names.get(stem, ()))) == dimensions


FAMILIES = (
    Family("TEA (its authors')", ("tea",), _in_blocks(r"me\.", _BASE), _tea, prefix=_BASE),
    Family("GST (its authors')", ("gst",), _in_blocks(r"Tconv\.", _BASE), _gst, volumes=True, prefix=_BASE),
    TSM := Family("TSM (its authors')", ("tsm",), _in_blocks(r"conv1\.net\.", _BASE), _tsm, prefix=_BASE),
    TSN := Family("TSN (TSM's or TSN's authors')", ("tsn",), _has(r"base_model\.conv1\."), _tsm, prefix=_BASE),
    MMACTION2_TSM := Family(
        "TSM (mmaction2)",
        ("tsm",),
        _in_blocks(r"conv1\.(conv\.net|net\.conv)\.", _BACKBONE),
        _mmaction2,
        prefix=_BACKBONE,
        ignored=_NOT_WEIGHTS,
    ),
    MMACTION2_TSN := Family(
        "TSN (mmaction2)", ("tsn",), _stem_of(4), _mmaction2, prefix=_BACKBONE, ignored=_NOT_WEIGHTS
    ),
    MMACTION2_SLOWONLY := Family(
        "SlowOnly (mmaction2)",
        ("slowonly",),
        _stem_of(5),
        _mmaction2,
        volumes=True,
        prefix=_BACKBONE,
        ignored=_NOT_WEIGHTS,
    ),
    SLOWFAST := Family(
        "SLOW (SlowFast)",
        ("slowonly",),
        _has(r"s1\.pathway0_stem\.conv\."),
        _slowfast,
        volumes=True,
        statistics=KINETICS,
    ),
    Family(
        "slow_r50 (pytorchvideo)",
        ("slowonly",),
        _has(r"blocks\.0\.conv\.weight", r"blocks\.1\.res_blocks\."),
        _pytorchvideo,
        volumes=True,
        statistics=KINETICS,
    ),
    Family(
        "DG-P3D (its authors')", ("dg_p3d",), _has(r"layer4_dual\.", r"layer1\.\d+\.conv2_t\."), _dg_p3d, volumes=True
    ),
    Family("Res2Net (timm, its authors')", ("tea",), _made_of(r"conv[13]|bn[13]|(?:convs|bns)\.\d"), _same),
    RESNET := Family("ResNet (torchvision, timm)", ("tsn",), _made_of(r"(?:conv|bn)[123]"), _same),
)
"""In the order in which they are tried."""
TWO_DIMENSIONAL = FAMILIES[-2:]
"""Those whose names are those of this project's networks."""


def recognise(names: Names) -> Family | None:
    """Return the family that a state dict is of, None if it is of none of these."""
    return next((family for family in FAMILIES if family.matches(names)), None)


def count_depth(names: Names) -> int:
    """Return the depth of the ResNet that has these names, in any family: 18, 34, 50 or 101; 0 if it is none of them."""
    counts = [0, 0, 0, 0]
    for name in names:
        found = re.search(r"(?:^|\.)(?:layer([1-4])\.|s([2-5])\.pathway0_res|blocks\.([1-4])\.res_blocks\.)(\d{1,2})\.", name)
        if found:
            layer, s, blocks, block = found.groups()
            stage = int(layer or blocks or 0) or int(s) - 1
            if stage in STAGES:
                counts[stage - 1] = max(counts[stage - 1], int(block) + 1)
    bottleneck = any(re.search(r"layer1\.0\.conv3\.|pathway0_res0\.branch2\.c\.|branch2\.conv_c\.", name) for name in names)
    depths = {(2, 2, 2, 2): (18, 0), (3, 4, 6, 3): (34, 50), (3, 4, 23, 3): (0, 101)}
    return depths.get(tuple(counts), (0, 0))[bottleneck]


def to_ours(name: str, value: "Tensor") -> "Tensor":
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


def to_theirs(family: Family, name: str, value: "Tensor", depth: int) -> "Tensor":
    """Return a tensor of ours in the shape that a family has, by its name here: what `to_ours` undoes."""
    if not family.volumes or value.ndim != 4:
        return value
    return value.unflatten(1, (3, -1)).transpose(1, 2).contiguous() if _over_time(name, depth) else value.unsqueeze(2)


def _over_time(name: str, depth: int) -> bool:
    """Return whether a convolution of SlowOnly has a kernel over three frames."""
    found = re.fullmatch(r"layer[34]\.\d+\.conv(\d)\.weight", name)
    return found is not None and (found[1] == "1" or (depth < 50 and found[1] == "2"))


def _taps(weight: "Tensor", dimension: int) -> "Tensor":
    """(O, I, T, H, W) -> (T*O, I, H, W) or (O, T*I, H, W), the earliest frame first."""
    import torch

    return torch.cat(list(weight.unbind(2)), dim=dimension)


def invert(family: Family, arch: str, depth: int) -> dict[str, str]:
    """Return their module for each of ours, for an architecture."""
    return {ours: theirs for theirs, ours in reversed(list(family.pairs(arch, depth)))}


def statistics_in(meta: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return mean and standard deviation, in units of 1, that the configuration in a checkpoint names, if it does.

    mmaction2 writes mean=[123.675, 116.28, 103.53], std=[...], SlowFast YAML with MEAN and STD.
    """
    if not isinstance(meta, str):
        return None
    found = [_numbers(meta, name) for name in ("mean", "std")]
    if not all(found):
        return None
    mean, std = found
    unit = 255 if max(mean) > 1 else 1
    values = tuple(tuple(round(value / unit, 6) for value in numbers) for numbers in (mean, std))
    return (values[0], values[1]) if all(value > 0 for value in values[1]) else None


def _numbers(text: str, name: str) -> tuple[float, ...]:
    number = r"(\d{1,4}\.?\d{0,10})"
    python = rf"\b{name}=[\[(]\s*{number},\s*{number},\s*{number}\s*[\])]"
    yaml = rf"\b{name.upper()}:\s*\n\s*- {number}\s*\n\s*- {number}\s*\n\s*- {number}"
    found = re.search(python, text) or re.search(yaml, text)
    return tuple(map(float, found.groups())) if found else ()
