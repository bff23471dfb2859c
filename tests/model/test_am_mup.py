"""AM-muP: the variances of initial weights, read off the weights."""

import math

import pytest
import torch

from model import ModelConfig, build_model
from model.am_mup import minimal_depth
from model.config import DEPTHS
from model.pretrained import extra_module_names


def build(arch, depth, init="am_mup", num_segments=4):
    return build_model(ModelConfig(arch, depth, 5, num_segments, init=init))


@pytest.mark.parametrize(("depth", "blocks"), [(18, 8), (34, 16), (50, 16), (101, 33)])
def test_branches_are_scaled_by_their_number_and_nothing_else_is(depth, blocks):
    for name, parameter in build("tsn", depth).named_parameters():
        if parameter.ndim < 4:
            continue
        in_branch = name.startswith("layer") and "downsample" not in name
        expected = math.sqrt(2 / ((blocks if in_branch else 1) * parameter[0].numel()))
        # Four standard deviations of what n draws of a normal distribution show.
        tolerance = 4 / math.sqrt(2 * parameter.numel())
        assert parameter.std().item() == pytest.approx(expected, rel=tolerance), name


def test_the_classifier_is_as_ever():
    assert build("tsn", 18).fc.weight.std().item() == pytest.approx(0.001, rel=0.1)


@pytest.mark.parametrize("arch", DEPTHS)
def test_what_an_architecture_adds_keeps_its_beginning(short_networks, arch):
    """Only convolutions of the ResNet are drawn anew; synthesizers are drawn later, so from other random numbers."""
    torch.manual_seed(0)
    ordinary = dict(build(arch, DEPTHS[arch][0], "kaiming").named_parameters())
    torch.manual_seed(0)
    net = build(arch, DEPTHS[arch][0])
    added = extra_module_names(net)
    changed = {name for name, parameter in net.named_parameters() if not torch.equal(parameter, ordinary[name])}
    assert not [name for name in changed & added if not name.startswith("synthesizers.")]
    convolutions = {name for name, parameter in net.named_parameters() if parameter.ndim == 4} - added
    assert changed - added == convolutions


def test_signals_do_not_grow_with_depth():
    """Of the ResNet without BN, between 18 and 101 layers; with ordinary weights they do."""

    def mean_square(depth, init):
        torch.manual_seed(0)
        net = build("tsn", depth, init, num_segments=1)
        for module in list(net.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, torch.nn.BatchNorm2d):
                    setattr(module, name, torch.nn.Identity())
        with torch.no_grad():
            return net.forward_features(torch.randn(4, 1, 3, 64, 64)).square().mean().item()

    assert 1 / 3 < mean_square(101, "am_mup") / mean_square(18, "am_mup") < 3
    assert mean_square(101, "kaiming") > 1000 * mean_square(18, "kaiming")


def test_behind_batch_norm_the_scale_only_makes_relative_updates_larger():
    """Branch weights divided by sqrt(K): the same logits, and a relative gradient K times as large."""
    blocks = 8
    torch.manual_seed(0)
    nets = [build("tsn", 18, "kaiming", num_segments=2).double() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    branches = [name for name in dict(nets[0].named_parameters()) if ".conv" in name and name.startswith("layer")]
    scaled = dict(nets[1].named_parameters())
    with torch.no_grad():
        for name in branches:
            scaled[name].div_(math.sqrt(blocks))
    for net in nets:
        net.dropout.p = 0.0
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eps = 1e-12  # which would bound how small the variances may be
    clips = torch.randn(4, 2, 3, 64, 64, dtype=torch.float64)
    logits = [net.train()(clips) for net in nets]
    torch.testing.assert_close(*logits)
    for found in logits:
        torch.nn.functional.cross_entropy(found, torch.tensor([0, 1, 2, 3])).backward()

    def relative(net, name):
        parameter = dict(net.named_parameters())[name]
        return (parameter.grad.norm() / parameter.norm()).item()

    for name in branches:
        assert relative(nets[1], name) / relative(nets[0], name) == pytest.approx(blocks, rel=1e-3), name


def test_the_shortest_path():
    assert [minimal_depth(depth) for depth in (18, 34, 50, 101)] == [10, 18, 18, 35]


def test_pretrained_weights_would_replace_it():
    with pytest.raises(ValueError, match=r"model\.init='am_mup'.*model\.pretrained='imagenet'"):
        ModelConfig("tsn", init="am_mup", pretrained="imagenet")
