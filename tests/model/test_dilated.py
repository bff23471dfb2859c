"""Dilated kernels as dense ones on sub-grids: the same numbers, whatever the layout of what comes in."""

import pytest
import torch
from torch.nn.functional import conv2d

from model.dilated import DilatedConv2d


@pytest.mark.parametrize(
    ("kernel", "dilation", "groups"),
    [((3, 3), (2, 2), 1), ((3, 1), (2, 1), 1), ((3, 1), (3, 1), 4), ((1, 3), (1, 2), 1), ((3, 3), (3, 2), 2)],
)
def test_a_dilated_kernel_is_a_dense_one_on_subgrids(kernel, dilation, groups):
    torch.manual_seed(0)
    module = DilatedConv2d(4, kernel, dilation, groups).double()
    channels = torch.randn(2, 16, 12, 24, dtype=torch.float64).to(memory_format=torch.channels_last)
    x = channels[:, 4:8].requires_grad_()  # a group of channels, as in a synthesizer
    padding = [(taps - 1) // 2 * step for taps, step in zip(kernel, dilation)]
    expected = conv2d(x, module.weight, None, 1, padding, dilation, groups)
    found = module.on_subgrids(x)
    assert found.shape == x.shape and found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradient = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, (x, module.weight), gradient)
    for one, other in zip(torch.autograd.grad(found, (x, module.weight), gradient), wanted):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(module(x), expected, rtol=0, atol=0)  # on the CPU, as it always was
