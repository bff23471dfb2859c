"""Logits of every published architecture, recorded once they agreed with the public code of its authors.

Weights and clips are made by a formula, not by a random generator, whose stream may change between versions of torch.
"""

import pytest
import torch
from torch import Tensor, nn

from model import ModelConfig, build_model

FRAMES, SIZE, CLASSES = 4, 32, 3


def chirp(shape: tuple[int, ...], number: int) -> Tensor:
    """sin(0.37 i^2 + number) of the index i: values in [-1, 1] of variance 1/2 that look random."""
    index = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return torch.sin(0.37 * index**2 + number).reshape(shape)


@torch.no_grad()
def fill(net: nn.Module) -> None:
    """Give every parameter and every statistic of BatchNorm the values of the formula, in the order of their names."""
    norms = {name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for number, (name, value) in enumerate(sorted(net.state_dict().items())):
        module, _, kind = name.rpartition(".")
        values = chirp(value.shape, number)
        if kind == "running_var" or (module in norms and kind == "weight"):
            values = 1 + 0.3 * values
        elif value.ndim > 1:  # He's standard deviation
            values = values * (4 / value[0].numel()) ** 0.5
        else:
            values = 0.1 * values
        value.copy_(values.to(value.dtype))


def logits_of(arch: str, depth: int) -> list[float]:
    frames = 16 if arch == "dg_p3d" else FRAMES  # of which its stem makes four
    net = build_model(ModelConfig(arch, depth, CLASSES, frames)).double().eval()
    fill(net)
    with torch.no_grad():
        return net(chirp((1, frames, 3, SIZE, SIZE), 0))[0].tolist()


EXPECTED = {
    ("tsn", 50): [-3.27957450722, -244.179439893, -583.064331302],
    ("tsm", 18): [-1.7293045278, 7.5034611059, 3.42775963124],
    ("tsm", 50): [9.21465179604, -259.489392526, -547.912953178],
    ("slowonly", 50): [665.614649003, 24.4873633894, -293.888275645],
    ("gst", 50): [-6890.61942358, 2263.10783115, 1944.72555009],
    ("tea", 50): [-30481.9874465, 29981.8698585, -93241.6417334],
    ("stm", 50): [-7967624.22667, -2644469.8346, -42693606.6032],
    ("p3d", 50): [476.991952703, 158.547150854, 371.723180601],
    ("dg_p3d", 50): [327214.293622, 48405.3408638, -30087.5764308],
    ("vpsn", 50): [29008.3268288, 6987.36363285, -42708.1013814],
}


@pytest.mark.parametrize(("arch", "depth"), EXPECTED, ids=lambda value: str(value))
def test_logits_are_those_that_were_recorded(arch, depth):
    assert logits_of(arch, depth) == pytest.approx(EXPECTED[arch, depth], rel=1e-9, abs=0)
