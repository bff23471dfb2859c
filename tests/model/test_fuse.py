"""Frozen networks: the same logits, no BN left where a convolution could take it."""

import itertools

import pytest
import torch
from torch import nn

from model import ModelConfig, SynthesizerConfig, build_model, fuse_batch_norm
from model.config import DEPTHS

CLIPS = (2, 4, 3, 32, 32)
OPTIONS = [
    {"fusion": fusion, "pooling": pooling, "proportion": 1.0}
    for fusion, pooling in itertools.product(("learned", "grouping", "shuffle", "dropout"), ("max", "avg", "none"))
]
OPTIONS += [
    {"inter_relu": False},
    {"dilation": False, "factorization": "(1+1+1)D", "receptive_field": "5x5x7"},
    {"placement": ("layer2", "layer4"), "proportion": 1 / 6},
]


@pytest.mark.parametrize("arch", [arch for arch in DEPTHS if not arch.startswith("p3d_")])
def test_freezing_any_network_keeps_its_logits(build, short_networks, arch):
    # In float64: a deep network with random weights multiplies the order of additions by more than 1e-5.
    net = build(arch, DEPTHS[arch][0]).double()
    frozen = fuse_batch_norm(net)
    assert net.training
    clips = torch.randn(CLIPS).double()
    actual = frozen(clips)
    assert not actual.requires_grad
    torch.testing.assert_close(actual, net.eval()(clips).detach())


def test_freezing_keeps_logits_to_1e_5_in_float32(build):
    net = build("vpsn", 18)
    clips = torch.randn(CLIPS)
    actual, expected = fuse_batch_norm(net)(clips), net.eval()(clips).detach()
    assert (actual - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(map(str, options.values())))
def test_freezing_a_synthesizer_keeps_what_it_computes(short_networks, options):
    config = SynthesizerConfig(**options)
    net = build_model(ModelConfig(depth=18, num_classes=5, num_segments=4, synthesizer=config)).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Negative factors too: a maximum of what is negated is no negated maximum.
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.normal_()
            module.running_var.uniform_(0.5, 2)
    frozen = fuse_batch_norm(net)
    net.eval()
    for stage in config.stages:
        x = torch.randn(8, net.stage_channels[stage], 6, 6).double().to(memory_format=torch.channels_last)
        torch.testing.assert_close(frozen.synthesizers[stage](x), net.synthesizers[stage](x))


def test_no_batch_norm_is_left():
    frozen = fuse_batch_norm(build_model(ModelConfig(depth=50, num_classes=5, num_segments=4)))
    assert not [name for name, module in frozen.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert not [name for name, parameter in frozen.named_parameters() if parameter.requires_grad]


def test_a_dropping_fusion_is_not_computed():
    config = SynthesizerConfig(fusion="dropout")
    net = build_model(ModelConfig(depth=18, num_classes=5, num_segments=4, synthesizer=config))
    frozen = fuse_batch_norm(net)
    assert (
        frozen.synthesizers["layer3"].small.weight.shape[0] * 4 == net.synthesizers["layer3"].spatial.small.out_channels
    )


def test_frozen_networks_export(build):
    net = fuse_batch_norm(build("vpsn", 18))
    clips = torch.randn(CLIPS)
    exported = torch.export.export(net, (clips,)).module()
    torch.testing.assert_close(exported(clips), net(clips), rtol=1e-4, atol=1e-4)
