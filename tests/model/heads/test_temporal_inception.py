"""Convolutions of several lengths over frames against the sums they are, and the shapes of the authors' network."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from model import ModelConfig, TemporalInceptionConfig, build_model, fuse_batch_norm
from model.heads.temporal_inception import TemporalInception

INCEPTION = ModelConfig("tsn", 18, 5, 4, dropout=0.0, head="temporal_inception")


def disturbed(module):
    """The module in float64 and evaluation, no statistic or parameter of its norms the initial one."""
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
                tensor.normal_()
            norm.running_var.uniform_(0.5, 2)
    return module.double().eval()


def normalised(norm, x):
    """BN of x (maps, frames, channels) or of a vector."""
    mean, var, weight, bias = (
        values.detach().numpy().reshape(-1, *[1] * (x.ndim - 1))
        for values in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (x - mean) / np.sqrt(var + norm.eps) * weight + bias


def correlation(branch, x):
    """Of maps x (maps, frames, channels): the sum over maps and taps, frames beyond the ends counting as zeros."""
    kernel, (maps, frames, channels) = branch[0].weight.detach().numpy()[..., 0], x.shape
    out, taps = np.zeros((len(kernel), frames, channels)), kernel.shape[2]
    for to in range(len(kernel)):
        for frame in range(frames):
            for tap in range(taps):
                seen = frame + tap - taps // 2
                if 0 <= seen < frames:
                    for of in range(maps):
                        out[to, frame] += kernel[to, of, tap] * x[of, seen]
    return np.maximum(normalised(branch[1], out), 0)


@pytest.mark.parametrize(("frames", "pools"), [(8, (2, 2, 2)), (6, (2, 3)), (1, (1,))])
def test_it_is_a_sum_of_correlations_of_every_length(frames, pools):
    head = disturbed(TemporalInception(9, frames, TemporalInceptionConfig((3, 5), width=11), dropout=0.0))
    clips = torch.randn(2, frames, 9).double()
    assert tuple(layer.pool for layer in head.layers) == pools
    for clip, found in zip(clips.numpy(), head(clips).detach().numpy()):
        x = clip[None]
        for layer, pool in zip(head.layers, pools):
            joined = np.concatenate([correlation(branch, x) for branch in layer.branches])
            x = np.stack([joined[:, at * pool : (at + 1) * pool].max(1) for at in range(x.shape[1] // pool)], axis=1)
        assert x.shape[1] == 1
        for branch in head.reduce:
            x = correlation(branch, x)
        linear, norm, _ = head.hidden
        expected = linear.weight.detach().numpy() @ x[0, 0] + linear.bias.detach().numpy()
        np.testing.assert_allclose(found, np.maximum(normalised(norm, expected), 0), rtol=1e-9, atol=1e-12)


def test_25_frames_have_the_authors_shapes():
    head = TemporalInception(40, 25, TemporalInceptionConfig(), dropout=0.0)
    shapes = [(1, 25)]
    for part in (*head.layers, *head.reduce):
        part.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:3])))
    assert head(torch.randn(2, 25, 40)).shape == (2, 1024)
    assert shapes == [(1, 25), (2, 12), (4, 6), (8, 3), (16, 1), (4, 1), (2, 1), (1, 1)]
    assert [tuple(branch[0].kernel_size) for branch in head.layers[0].branches] == [(5, 1), (7, 1)]


def test_every_feature_is_seen_alike_and_by_itself():
    head = disturbed(TemporalInception(9, 8, TemporalInceptionConfig(), dropout=0.0))
    frames, order = torch.randn(2, 8, 9).double(), torch.randperm(9)

    def values(x):
        return head.reduce(head.layers(x.unsqueeze(1)))[:, 0, 0]

    torch.testing.assert_close(values(frames[..., order]), values(frames)[:, order])
    changed = frames.clone()
    changed[..., 4] += torch.randn(2, 8).double()
    differs = (values(changed) != values(frames)).any(0)
    assert not differs[[0, 1, 2, 3, 5, 6, 7, 8]].any()


def test_batch_norm_is_folded_into_its_convolutions():
    net = build_model(INCEPTION)
    frozen = fuse_batch_norm(net)
    norms = [name for name, module in frozen.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms == ["temporal_inception.hidden.1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_lengths": (5, 4)}, r"kernel_lengths=\[5, 4\]: allowed are odd numbers, at least one$"),
        ({"kernel_lengths": ()}, r"kernel_lengths=\[\]: allowed are odd numbers, at least one$"),
        ({"layers": 0}, r"layers=0: allowed is >= 1$"),
        ({"width": 0}, r"width=0: allowed is >= 1$"),
        ({"layers": 9}, r"layers=9 with 2 kernel_lengths: makes 512 maps, allowed are 256; use fewer"),
    ],
)
def test_impossible_options_are_one_line(options, message):
    with pytest.raises(ValueError, match=r"^model\.temporal_inception\." + message):
        replace(INCEPTION, temporal_inception=TemporalInceptionConfig(**options))
