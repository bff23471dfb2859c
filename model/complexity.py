"""python -m model.complexity: what every published row costs by our networks, next to what the paper says.

Multiply-adds are counted twice: convolutions and the classifier alone, and with 2 per BN element as the paper counts
(ResNet-50 on 8 frames of 224 x 224: 32.88 G). A clip is one view.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import nn

from model.build import build_model
from model.config import Depth, ModelConfig, SynthesizerConfig
from model.synthesizer import GROUPS, FixedFusion, Synthesizer, fixed_matrix


class Cost(NamedTuple):
    """What a network costs for one clip."""

    parameters: int
    fusion_parameters: int
    """Those of the fusion layers."""
    multiply_adds: int
    """Of convolutions, LSTMs and the classifier."""
    multiply_adds_with_bn: int
    """The same and 2 for every element that BN normalises."""
    kernel_shapes: int
    """Different space-time shapes of a block's kernels; 0 without any over time."""
    ir_interactions: int
    """Channels that flow from a spatial to a temporal group, over all synthesizers, i = j included."""
    irregular_interactions: int
    """The same without i = j, which is how the paper defines ir-interactions."""
    dropout_rate: float
    """Fraction of the spatial channels that reach no temporal group."""


@cache
def measure(config: ModelConfig, size: int = 224) -> Cost:
    """Return the cost of one clip of `size` x `size` frames; nothing is computed.

    >>> measure(ModelConfig(arch="tsn", depth=50, num_classes=174)).parameters
    23864558
    """
    with torch.device("meta"):
        net = build_model(config).eval()
        clips = torch.empty(1, config.num_segments, 3, size, size)
    counts = {"multiply_adds": 0, "bn": 0}

    def count(module: nn.Module, inputs: tuple, output: Any) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            counts["multiply_adds"] += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.LSTM):
            steps = output[0].shape[0] * output[0].shape[1]
            counts["multiply_adds"] += steps * sum(each.numel() for each in module.parameters() if each.ndim == 2)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            counts["bn"] += 2 * output.numel()

    for module in net.modules():
        module.register_forward_hook(count)
    net(clips)
    synthesizers = [module for module in net.modules() if isinstance(module, Synthesizer)]
    interactions, irregular, dropout_rate = _interactions(synthesizers)
    return Cost(
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        fusion_parameters=sum(p.numel() for synthesizer in synthesizers for p in synthesizer.fusion.parameters()),
        multiply_adds=counts["multiply_adds"],
        multiply_adds_with_bn=counts["multiply_adds"] + counts["bn"],
        kernel_shapes=_kernel_shapes(config),
        ir_interactions=interactions,
        irregular_interactions=irregular,
        dropout_rate=dropout_rate,
    )


def _kernel_shapes(config: ModelConfig) -> int:
    kernels = GROUPS - 1 if config.synthesizer.pooling == "none" else GROUPS
    routed = kernels if config.synthesizer.fusion == "grouping" else kernels**2
    special = {"tsn": 0, "vpsn": routed, "rf_l_inception": kernels, "rf_l_inception_t": kernels, "tea": 4}
    return special.get(config.arch, 1)


def _interactions(synthesizers: list[Synthesizer]) -> tuple[int, int, float]:
    """Return ir_interactions, irregular_interactions and dropout_rate of `Cost`.

    They are those of the routes that T leaves open: of a learned T all, of a fixed one those where it is not zero.
    """
    all_pairs = same = reached = width = 0
    for synthesizer in synthesizers:
        channels, fusion = len(synthesizer.fusion.weight), synthesizer.fusion
        matrix = (
            fixed_matrix(channels, fusion.kind) if isinstance(fusion, FixedFusion) else torch.ones(channels, channels)
        )
        blocks = matrix.unflatten(0, (GROUPS, -1)).unflatten(2, (GROUPS, -1)).any(1)  # (i, j, c): N_ij = sum over c
        all_pairs += int(blocks.sum())
        same += int(blocks.diagonal().sum())
        reached += int(blocks.any(0).sum())
        width += channels
    rate = 1 - reached / width if width else 0.0
    return all_pairs, all_pairs - same, rate


@dataclass(frozen=True)
class Row:
    """A published row and the network that should reproduce it."""

    table: str
    name: str
    config: ModelConfig
    size: int = 224
    parameters: float | None = None
    """Published, in millions."""
    multiply_adds: float | None = None
    """Published GFLOPs of one view."""
    fusion_parameters: float | None = None
    """Published, in millions."""
    ir_interactions: int | None = None
    note: str = ""


def _vpsn(num_segments: int = 8, **synthesizer) -> ModelConfig:
    return ModelConfig(num_classes=174, num_segments=num_segments, synthesizer=SynthesizerConfig(**synthesizer))


def _baseline(arch: str, num_segments: int = 8, depth: Depth = 50, **synthesizer) -> ModelConfig:
    return ModelConfig(arch, depth, 174, num_segments, synthesizer=SynthesizerConfig(**synthesizer))


_NO_COUNT = "not explained by any placement and proportion tried"
_INCEPTION = "B, p = 1/4; a candidate: whole kernels and no BN, against the caption, are 27,563,758"
_POOLS = "as Max Pool: pooling has no parameters"
_B = "B; one c x c projection more, and BN on the compressed, spatial and expanded parts (25 c^2 + 12 w): 27,553,518"
_WHOLE = "B; with the same projection and BN 27,945,198"
_ROUTES = "not explained: T of Eq. 4 opens 464 routes (348 with i != j) at p = 1/4; 1856 is their number at p = 1"
_THEIRS = "not explained: quoted from its paper, which counts otherwise"

ROWS = (
    Row("1", "TSN", _baseline("tsn"), 112, 23.87),
    Row("1", "TSM", _baseline("tsm"), 112, 23.87),
    Row("1", "GST", _baseline("gst"), 112, 21.04),
    Row("1", "GST, ResNet-101", _baseline("gst", depth=101), 112, 37.52),
    Row("1", "RF-S", _baseline("rf_s", placement="B", proportion=1 / 6), 112, 27.57, note="B, p = 1/6"),
    Row("1", "RF-L", _baseline("rf_l", placement="B", proportion=1 / 8), 112, 27.35, note="B, p = 1/8"),
    Row("1", "RF-L-Inception", _baseline("rf_l_inception", placement="B"), 112, 27.56, note=_INCEPTION),
    Row("1", "RF-L-Inception-T", _baseline("rf_l_inception_t", placement="B"), 112, 27.28, note=_NO_COUNT),
    Row("1", "Ours", _vpsn(placement="B"), 112, 27.55, note=_B),
    Row("1", "Ours", _vpsn(), 112, 27.55, note="not explained by A; Tables 2, 4 and 5 are"),
    Row("1", "Ours-1/16", _vpsn(proportion=1 / 16), 112, 24.05, note="A"),
    Row("1", "Ours-1/16", _vpsn(placement="B", proportion=1 / 16), 112, 24.05, note="not explained by B"),
    Row("2", "Channel grouping", _vpsn(fusion="grouping"), 112, fusion_parameters=0, ir_interactions=0),
    Row("2", "Channel dropout", _vpsn(fusion="dropout"), 112, fusion_parameters=0, ir_interactions=1856, note=_ROUTES),
    Row(
        "2", "Channel shuffling", _vpsn(fusion="shuffle"), 112, fusion_parameters=0, ir_interactions=1856, note=_ROUTES
    ),
    Row("2", "Ours + both losses", _vpsn(), 112, fusion_parameters=0.086, ir_interactions=1856, note="A, G^2 c summed"),
    Row("3", "Max Pool", _vpsn(placement="B"), 112, 27.55, note=_B),
    Row("3", "Avg Pool", _vpsn(placement="B", pooling="avg"), 112, 27.55, note=_POOLS),
    Row("3", "Without Max Pool", _vpsn(placement="B", pooling="none"), 112, 27.55, note=_POOLS + "; the group passes"),
    Row("3", "Without inter ReLU", _vpsn(placement="B", inter_relu=False), 112, 27.55, note=_B),
    Row("3", "Without dilation", _vpsn(placement="B", dilation=False), 112, 27.95, note=_WHOLE),
    Row(
        "3",
        "(1+1+1)D",
        _vpsn(placement="B", factorization="(1+1+1)D"),
        112,
        27.45,
        note="not explained: B gives -0.131 M",
    ),
    Row("4, 5", "TSM, 8 frames", _baseline("tsm"), multiply_adds=33),
    Row("4, 5", "TSM, 16 frames", _baseline("tsm", 16), multiply_adds=65, note="quoted from its paper; twice 33 is 66"),
    Row("4", "GST, 8 frames", _baseline("gst"), multiply_adds=29.5, note=_THEIRS),
    Row("4", "GST, 16 frames", _baseline("gst", 16), multiply_adds=59, note=_THEIRS),
    Row("4, 5", "TEA, 8 frames", _baseline("tea"), multiply_adds=35),
    Row("4, 5", "TEA, 16 frames", _baseline("tea", 16), multiply_adds=70),
    Row("other", "DG-P3D, 16 frames", _baseline("dg_p3d", 16), note="nothing published; its stem strides over time"),
    Row("4, 5", "STM, 16 frames", _baseline("stm", 16), multiply_adds=67),
    Row(
        "4", "Ours, 8 frames, 112 x 112", _vpsn(receptive_field="5x5x7"), 112, multiply_adds=9.12, note="not explained"
    ),
    Row("4, 5", "Ours, 8 frames", _vpsn(receptive_field="5x5x7"), multiply_adds=36.19, note="A, BN counted"),
    Row("4, 5", "Ours, 16 frames", _vpsn(16, receptive_field="5x5x7"), multiply_adds=72.38, note="A, BN counted"),
)

_HEADER = (
    *("table", "row", "parameters", "published", "difference", "fusion", "published"),
    *("G conv+fc", "G with BN", "published", "difference"),
    *("shapes", "ir", "i != j", "published", "dropped", "note"),
)


def format_rows(rows: tuple[Row, ...] = ROWS) -> Iterator[str]:
    """Return the ledger's lines: parameters as exact integers, published ones and differences in millions, G = 10^9."""
    cells = [_HEADER]
    for row in rows:
        cost = measure(row.config, row.size)
        cells.append(
            (
                row.table,
                row.name,
                f"{cost.parameters:,}",
                *_beside(cost.parameters / 1e6, row.parameters, "M"),
                f"{cost.fusion_parameters:,}",
                "" if row.fusion_parameters is None else f"{row.fusion_parameters:g} M",
                f"{cost.multiply_adds / 1e9:.2f}",
                f"{cost.multiply_adds_with_bn / 1e9:.2f}",
                *_beside(cost.multiply_adds_with_bn / 1e9, row.multiply_adds, "G"),
                str(cost.kernel_shapes),
                str(cost.ir_interactions),
                str(cost.irregular_interactions),
                "" if row.ir_interactions is None else str(row.ir_interactions),
                f"{cost.dropout_rate:.2f}",
                row.note,
            )
        )
    widths = [max(map(len, column)) for column in zip(*cells)]
    for line in cells:
        numbers = [cell.rjust(width) for cell, width in zip(line[2:-1], widths[2:-1])]
        yield "  ".join([line[0].ljust(widths[0]), line[1].ljust(widths[1]), *numbers, line[-1]]).rstrip()


def _beside(ours: float, published: float | None, unit: str) -> tuple[str, str]:
    return ("", "") if published is None else (f"{published:g} {unit}", f"{ours - published:+.3f}")


if __name__ == "__main__":
    argparse.ArgumentParser("python -m model.complexity", description=__doc__).parse_args()
    for line in format_rows():
        print(line)
