"""Pathways: which frames they see, what is frozen, and what each level's classifier is joined from."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from model import ModelConfig, build_model, fuse_batch_norm
from model.complexity import measure
from model.heads.hierarchy import HIDDEN, pathway_frames

LEVELS = (("event", ("one", "two")), ("set", ("a", "b", "c")))
CONFIG = ModelConfig("slowonly", 18, 5, 8, dropout=0.0, head="pathways", pathway_frames=(2, 4, 8), levels=LEVELS)
INTEGRATION = replace(CONFIG, head="integration")


def clips_of(batch=2):
    return torch.randn(batch, 8, 3, 32, 32)


@pytest.mark.parametrize(
    ("num_segments", "num_frames", "expected"),
    [(16, 4, [2, 6, 10, 14]), (16, 8, [1, 3, 5, 7, 9, 11, 13, 15]), (16, 16, [*range(16)]), (8, 1, [4])],
)
def test_a_pathway_takes_the_middle_of_each_part_of_a_clip(num_segments, num_frames, expected):
    assert pathway_frames(num_segments, num_frames) == expected


def test_pathways_are_separate_networks_on_their_own_frames():
    net, clips = build_model(CONFIG).eval(), clips_of()
    outputs = net(clips, with_losses=True)
    assert net.level_names == ("event", "set")
    assert [logits.shape[1] for logits in (*outputs.level_logits, outputs.logits)] == [2, 3, 5]
    assert torch.equal(net(clips), outputs.logits)
    for logits, pathway, frames in zip(outputs.level_logits, net.pathways, ([2, 6], [1, 3, 5, 7])):
        assert torch.equal(logits, pathway(clips[:, frames]))
    outputs.level_logits[1].sum().backward()
    reached = {name.split(".")[1] for name, parameter in net.named_parameters() if parameter.grad is not None}
    assert reached == {"1"}


def test_integration_joins_each_level_with_the_coarser_ones():
    net, clips = build_model(INTEGRATION).eval(), clips_of()
    e, s, el = (
        layer(pathway.forward_features(clips[:, frames]).mean((2, 3)).unflatten(0, (2, -1)).mean(1))
        for layer, pathway, frames in zip(net.hidden, net.pathways, net.frames)
    )
    assert e.shape == s.shape == el.shape == (2, HIDDEN) and (e >= 0).all()
    event, of_set, element = net.classifiers
    outputs = net(clips, with_losses=True)
    torch.testing.assert_close(outputs.level_logits[0], event(e))
    torch.testing.assert_close(outputs.level_logits[1], of_set(torch.cat([e, s], 1)))
    torch.testing.assert_close(outputs.logits, element(torch.cat([e, s, el], 1)))


def test_without_joining_a_level_sees_its_own_features_alone():
    net, clips = build_model(replace(INTEGRATION, join_levels=False)).eval(), clips_of()
    assert [classify.in_features for classify in net.classifiers] == [HIDDEN] * 3
    net(clips).sum().backward()
    reached = {name.split(".")[1] for name, p in net.named_parameters() if p.grad is not None}
    assert reached == {"2"}


def test_frozen_pathways_learn_nothing():
    net = build_model(INTEGRATION).train()
    before = {name: value.clone() for name, value in net.pathways.state_dict().items()}
    outputs = net(clips_of(4), with_losses=True)
    for logits in (*outputs.level_logits, outputs.logits):
        nn.functional.cross_entropy(logits, torch.tensor([0, 1, 0, 1])).backward(retain_graph=True)
    with_gradient = {name for name, parameter in net.named_parameters() if parameter.grad is not None}
    assert with_gradient == {name for name, _ in net.named_parameters() if not name.startswith("pathways.")}
    assert not any(parameter.requires_grad for parameter in net.pathways.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.pathways.state_dict().items())


def test_the_second_stage_begins_with_the_pathways_of_the_first(tmp_path):
    first = build_model(CONFIG)
    torch.save(first.state_dict(), tmp_path / "first.pth")
    second = build_model(replace(INTEGRATION, pretrained=str(tmp_path / "first.pth")))
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_one_resnet_enters_every_pathway(tmp_path):
    plain = build_model(ModelConfig("tsn", 18, 11))
    torch.save(plain.state_dict(), tmp_path / "tsn.pth")
    net = build_model(replace(CONFIG, pretrained=str(tmp_path / "tsn.pth")))
    assert all(torch.equal(pathway.conv1.weight, plain.conv1.weight) for pathway in net.pathways)
    assert [pathway.fc.out_features for pathway in net.pathways] == [2, 3, 5]


@pytest.mark.parametrize("config", [CONFIG, INTEGRATION], ids=["pathways", "integration"])
def test_frozen_for_prediction_it_says_the_same(config):
    net, clips = build_model(config), clips_of(4)
    net(clips)
    torch.testing.assert_close(fuse_batch_norm(net)(clips), net.eval()(clips))


def test_the_published_size_can_be_built_and_counted():
    levels = (("event", ("",) * 4), ("set", ("",) * 15))
    config = ModelConfig("slowonly", 50, 99, 16, head="pathways", levels=levels)
    frames = {count: measure(replace(config, head="mean", num_segments=count)).multiply_adds for count in (4, 8, 16)}
    assert measure(config).multiply_adds == pytest.approx(sum(frames.values()), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pathway_frames": (4, 8)}, r"pathway_frames=\[4, 8\]: allowed are 3 numbers"),
        ({"pathway_frames": (4, 8, 16)}, "allowed are 1 to 8 frames"),
        ({"arch": "vpsn"}, "model.arch=vpsn: allowed for model.head=pathways is one without synthesizers"),
        ({"head": "heads"}, "model.head='heads': allowed are mean"),
    ],
)
def test_impossible_pathways_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)
