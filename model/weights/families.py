"""The families of weights: whose names these are, and what the same tensors are called here.

A family has a table of pairs (their module, our module). Read one way it loads a file, the other way it writes one.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from model.weights import tables
from model.weights.tables import STAGES, Counts, Pairs

Names = Mapping[str, tuple[int, ...]]
"""Shapes by name."""
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of R, G, B in units of 1."""
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
    pairs: Callable[[str, Counts], Pairs]
    """(arch, blocks of each stage) -> their module and ours; with arch "" those of all."""
    volumes: bool = False
    """Whether its kernels have three dimensions where ours have two."""
    statistics: Statistics = IMAGENET
    """Of the pixels it was trained on."""
    prefix: str = ""
    """What most of its names begin with; where only a backbone was saved they may lack it."""
    ignored: str = r"(?!)"
    """Pattern of names that are no weights."""

    def rename(self, names: Names) -> dict[str, str]:
        """Return our name for each of theirs; what the table lacks keeps its name, what is ignored is left out."""
        table = dict(self.pairs("", count_blocks(names)))
        renamed = {}
        for name in names:
            module, _, leaf = name.rpartition(".")
            ours = table.get(module) or table.get(self.prefix + module)
            if not re.match(self.ignored, name):
                renamed[name] = f"{ours}.{leaf}" if ours else name
        return renamed

    def invert(self, arch: str, counts: Counts) -> dict[str, str]:
        """Return their module for each of ours, in an architecture of so many blocks."""
        return {ours: theirs for theirs, ours in self.pairs(arch, counts)}


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

    def matches(names: Names) -> bool:
        inputs = names.get("layer3.0.conv1.weight", (0, 128))[1:2]  # three times as many in slowonly
        whole = "layer1.0.conv1.weight" in names and inputs in ((128,), (512,))
        return whole and all(pattern.fullmatch(name) for name in names)

    return matches


def _stem_of(dimensions: int) -> Callable[[Names], bool]:
    """Return whether mmaction2's first convolution is there and its kernel has so many dimensions."""
    stem = "conv1.conv.weight"
    return lambda names: len(names.get(_BACKBONE + stem, names.get(stem, ()))) == dimensions


FAMILIES = (
    Family("TEA (its authors')", ("tea",), _in_blocks(r"me\.", _BASE), tables.tea, prefix=_BASE),
    Family("GST (its authors')", ("gst",), _in_blocks(r"Tconv\.", _BASE), tables.gst, volumes=True, prefix=_BASE),
    TSM := Family("TSM (its authors')", ("tsm",), _in_blocks(r"conv1\.net\.", _BASE), tables.tsm, prefix=_BASE),
    TSN := Family("TSN (TSM's or TSN's authors')", ("tsn",), _has(r"base_model\.conv1\."), tables.tsm, prefix=_BASE),
    MMACTION2_TSM := Family(
        "TSM (mmaction2)",
        ("tsm",),
        _in_blocks(r"conv1\.(conv\.net|net\.conv)\.", _BACKBONE),
        tables.mmaction2,
        prefix=_BACKBONE,
        ignored=_NOT_WEIGHTS,
    ),
    MMACTION2_TSN := Family(
        "TSN (mmaction2)", ("tsn",), _stem_of(4), tables.mmaction2, prefix=_BACKBONE, ignored=_NOT_WEIGHTS
    ),
    MMACTION2_SLOWONLY := Family(
        "SlowOnly (mmaction2)",
        ("slowonly",),
        _stem_of(5),
        tables.mmaction2,
        volumes=True,
        prefix=_BACKBONE,
        ignored=_NOT_WEIGHTS,
    ),
    SLOWFAST := Family(
        "SLOW (SlowFast)",
        ("slowonly",),
        _has(r"s1\.pathway0_stem\.conv\."),
        tables.slowfast,
        volumes=True,
        statistics=KINETICS,
    ),
    Family(
        "slow_r50 (pytorchvideo)",
        ("slowonly",),
        _has(r"blocks\.0\.conv\.weight", r"blocks\.1\.res_blocks\."),
        tables.pytorchvideo,
        volumes=True,
        statistics=KINETICS,
    ),
    Family(
        "DG-P3D (its authors')",
        ("dg_p3d",),
        _has(r"layer4_dual\.", r"layer1\.\d+\.conv2_t\."),
        tables.dg_p3d,
        volumes=True,
    ),
    Family("Res2Net (timm, its authors')", ("tea",), _made_of(r"conv[13]|bn[13]|(?:convs|bns)\.\d"), tables.same),
    RESNET_RS := Family(
        "ResNet-RS (timm)",
        ("tsn",),
        _has(r"conv1\.6\.weight$", r"maxpool\.0\.weight$", r"layer1\.0\.se\.fc1\."),
        tables.same,
    ),
    RESNET := Family("ResNet (torchvision, timm)", ("tsn",), _made_of(r"(?:conv|bn)[123]"), tables.same),
)
"""In the order in which they are tried."""
TWO_DIMENSIONAL = FAMILIES[-3:]
"""Those whose names are those of this project's networks."""


def recognise(names: Names) -> Family | None:
    """Return the family that a state dict is of, None if it is of none of these."""
    return next((family for family in FAMILIES if family.matches(names)), None)


_PLACE = re.compile(r"(?:^|\.)(?:layer([1-4])\.|s([2-5])\.pathway0_res|blocks\.([1-4])\.res_blocks\.)(\d{1,2})\.")


def count_blocks(names: Names) -> Counts:
    """Return the blocks of each stage of the ResNet that has these names, in any family."""
    counts = [0, 0, 0, 0]
    for name in names:
        found = _PLACE.search(name)
        if found:
            layer, s, blocks, block = found.groups()
            stage = int(layer or blocks or 0) or int(s) - 1
            if stage in STAGES:
                counts[stage - 1] = max(counts[stage - 1], int(block) + 1)
    return tuple(counts)


def count_depth(names: Names) -> int:
    """Return the depth of the ResNet that has these names, in any family: 18, 34, 50, 101, of ResNet-RS up to 420; 0 if
    it is none of them."""
    third = re.compile(r"layer1\.0\.conv3\.|pathway0_res0\.branch2\.c\.|branch2\.conv_c\.")
    bottleneck = any(third.search(name) for name in names)
    depths: dict[Counts, tuple[int, int]] = {(2, 2, 2, 2): (18, 0), (3, 4, 6, 3): (34, 50), (3, 4, 23, 3): (0, 101)}
    if RESNET_RS.matches(names):
        depths |= {(3, 8, 36, 3): (0, 152), (3, 24, 36, 3): (0, 200)}
        depths |= {(4, 29, 53, 4): (0, 270), (4, 36, 72, 4): (0, 350), (4, 44, 87, 4): (0, 420)}
    return depths.get(count_blocks(names), (0, 0))[bottleneck]


def statistics_in(text: str) -> Statistics | None:
    """Return mean and standard deviation that the configuration in a checkpoint names, if it does.

    mmaction2 writes mean=[123.675, 116.28, 103.53], std=[...], SlowFast YAML with MEAN and STD.
    """
    mean, std = (_numbers(text, name) for name in ("mean", "std"))
    if not mean or not std:
        return None
    unit = 255 if max(mean) > 1 else 1
    mean, std = (tuple(round(value / unit, 6) for value in numbers) for numbers in (mean, std))
    return (mean, std) if all(0 < value <= 1 for value in (*mean, *std)) else None


def _numbers(text: str, name: str) -> tuple[float, ...]:
    number = r"(\d{1,4}\.?\d{0,10})"
    python = rf"\b{name}=[\[(]\s*{number},\s*{number},\s*{number}\s*[\])]"
    yaml = rf"\b{name.upper()}:\s*\n\s*- {number}\s*\n\s*- {number}\s*\n\s*- {number}"
    found = re.search(python, text) or re.search(yaml, text)
    return tuple(map(float, found.groups())) if found else ()
