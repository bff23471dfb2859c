"""What modules are called in other projects and here: tables of pairs (theirs, ours) for every place a block can have.

The last part of a tensor's name (weight, running_mean, ...) is the same everywhere.
"""

from collections.abc import Iterator

Pairs = Iterator[tuple[str, str]]
Counts = tuple[int, ...]
"""Blocks of each stage."""

STAGES = (1, 2, 3, 4)

# What is between the modules of a residual block and its tensors, the same in several families.
_LETTERS = (("a", "1"), ("b", "2"), ("c", "3"))


def _blocks(counts: Counts) -> Iterator[tuple[int, int]]:
    return ((stage, block) for stage, count in zip(STAGES, counts) for block in range(count))


def _shifts(arch: str, block: int, counts: Counts) -> bool:
    """Return whether a block of TSM shifts: every one, of ResNet-101 every second one."""
    return arch == "tsm" and (block % 2 == 0 or counts[2] < 23)


def same(_: str, counts: Counts) -> Pairs:
    """torchvision and timm: the names here, and another for the classifier."""
    yield "last_linear", "fc"
    for module in ("conv1", "bn1", "fc"):
        yield module, module
    for stage, block in _blocks(counts):
        for module in _IN_BLOCKS:
            yield f"layer{stage}.{block}.{module}", f"layer{stage}.{block}.{module}"


def tsm(arch: str, counts: Counts) -> Pairs:
    """TSN and TSM, where `.net` is the convolution inside the shift."""
    for module in ("conv1", "bn1", "fc"):
        yield f"base_model.{module}", module
    yield "new_fc", "fc"
    for stage, block in _blocks(counts):
        theirs, ours = f"base_model.layer{stage}.{block}", f"layer{stage}.{block}"
        shifts = _shifts(arch, block, counts)
        if shifts or not arch:
            yield f"{theirs}.conv1.net", f"{ours}.conv1"
        for module in _IN_BLOCKS:
            if module != "conv1" or not shifts:
                yield f"{theirs}.{module}", f"{ours}.{module}"


_IN_BLOCKS = (*(f"{kind}{number}" for kind in ("conv", "bn") for number in (1, 2, 3)), "downsample.0", "downsample.1")


def gst(_: str, counts: Counts) -> Pairs:
    """GST: the two halves of a 3x3."""
    table = dict(tsm("tsn", counts))
    for stage, block in _blocks(counts):
        theirs, ours = f"base_model.layer{stage}.{block}", f"layer{stage}.{block}"
        table[f"{theirs}.conv2"] = f"{ours}.conv2.spatial"
        table[f"{theirs}.Tconv"] = f"{ours}.conv2.temporal"
    yield from table.items()


def tea(_: str, counts: Counts) -> Pairs:
    """TEA, whose blocks are Res2Net's."""
    yield from tsm("tsn", counts)
    for stage, block in _blocks(counts):
        theirs, ours = f"base_model.layer{stage}.{block}", f"layer{stage}.{block}"
        for module, name in _EXCITATION:
            yield f"{theirs}.me.{module}", f"{ours}.excitation.{name}"
        for split in range(4):
            yield f"{theirs}.shifts.{split}.conv", f"{ours}.temporal.{split}.conv"
            yield f"{theirs}.convs.{split}", f"{ours}.convs.{split}"
            yield f"{theirs}.bns.{split}", f"{ours}.bns.{split}"


_EXCITATION = (("conv1", "squeeze"), ("bn1", "bn1"), ("conv2", "conv"), ("conv3", "expand"), ("bn3", "bn2"))


def mmaction2(arch: str, counts: Counts) -> Pairs:
    """mmaction2: a convolution and its BN are one module."""
    yield "backbone.conv1.conv", "conv1"
    yield "backbone.conv1.bn", "bn1"
    yield "cls_head.fc_cls", "fc"
    for stage, block in _blocks(counts):
        theirs, ours = f"backbone.layer{stage}.{block}", f"layer{stage}.{block}"
        for number in (1, 2, 3):
            shifts = number == 1 and _shifts(arch, block, counts)
            if shifts or not arch:
                yield f"{theirs}.conv{number}.conv.net", f"{ours}.conv{number}"
            if not shifts:
                yield f"{theirs}.conv{number}.conv", f"{ours}.conv{number}"
            yield f"{theirs}.conv{number}.bn", f"{ours}.bn{number}"
        if not arch:  # as its first versions had it
            yield f"{theirs}.conv1.net.conv", f"{ours}.conv1"
            yield f"{theirs}.conv1.net.bn", f"{ours}.bn1"
        yield f"{theirs}.downsample.conv", f"{ours}.downsample.0"
        yield f"{theirs}.downsample.bn", f"{ours}.downsample.1"


def slowfast(_: str, counts: Counts) -> Pairs:
    """SlowFast: the slow pathway alone."""
    yield "s1.pathway0_stem.conv", "conv1"
    yield "s1.pathway0_stem.bn", "bn1"
    yield "head.projection", "fc"
    for stage, block in _blocks(counts):
        theirs, ours = f"s{stage + 1}.pathway0_res{block}", f"layer{stage}.{block}"
        yield f"{theirs}.branch1", f"{ours}.downsample.0"
        yield f"{theirs}.branch1_bn", f"{ours}.downsample.1"
        for letter, number in _LETTERS:
            yield f"{theirs}.branch2.{letter}", f"{ours}.conv{number}"
            yield f"{theirs}.branch2.{letter}_bn", f"{ours}.bn{number}"


def pytorchvideo(_: str, counts: Counts) -> Pairs:
    """pytorchvideo's slow_r50."""
    yield "blocks.0.conv", "conv1"
    yield "blocks.0.norm", "bn1"
    yield "blocks.5.proj", "fc"
    for stage, block in _blocks(counts):
        theirs, ours = f"blocks.{stage}.res_blocks.{block}", f"layer{stage}.{block}"
        yield f"{theirs}.branch1_conv", f"{ours}.downsample.0"
        yield f"{theirs}.branch1_norm", f"{ours}.downsample.1"
        for letter, number in _LETTERS:
            yield f"{theirs}.branch2.conv_{letter}", f"{ours}.conv{number}"
            yield f"{theirs}.branch2.norm_{letter}", f"{ours}.bn{number}"


def dg_p3d(_: str, counts: Counts) -> Pairs:
    """DG-P3D: blocks of the kinds A, B, C in turn; only in C the kernel over time is not next to that over space."""
    yield "fc_dual", "dual.fc"
    for index, (stage, block) in enumerate(_blocks(counts)):
        places = [(f"layer{stage}.{block}", f"layer{stage}.{block}")]
        places += [(f"layer4_dual.{block}", f"dual.layer4.{block}")] * (stage == 4)
        in_c = index % 3 == 2
        for theirs, ours in places:
            yield from ((f"{theirs}.{module}", f"{ours}.{module}") for module in _IN_BLOCKS if module != "conv2")
            yield f"{theirs}.conv2", f"{ours}.conv2" if in_c else f"{ours}.conv2.spatial"
            yield f"{theirs}.conv2_t", f"{ours}.conv_t.conv" if in_c else f"{ours}.conv2.temporal.conv"
            yield f"{theirs}.fc1", f"{ours}.context.squeeze"
            yield f"{theirs}.fc2", f"{ours}.context.expand"
