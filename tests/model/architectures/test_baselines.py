"""Each baseline's own operation against its definition, frame by frame."""

import pytest
import torch
from torch import nn

from model import ModelConfig, build_model
from model.architectures.gst import SplitConv
from model.architectures.p3d import P3DBottleneck
from model.architectures.tea import MotionExcitation, TEABottleneck
from model.architectures.tsm import ShiftBottleneck, shift
from model.resnet import BlockSpec, Bottleneck
from model.temporal import ChannelwiseTemporalConv

B, T, H, W = 2, 4, 6, 5


def place(in_channels=64, width=64, stride=1, stage=1, position=0, index=0):
    return BlockSpec(in_channels, width, stride, T, stage, position, index)


def frames(channels):
    """(B, T, C, H, W) and its folded, channels-last form."""
    x = torch.randn(B, T, channels, H, W)
    return x, x.flatten(0, 1).contiguous(memory_format=torch.channels_last)


def test_tsm_takes_the_first_channels_from_the_next_frame_and_the_second_from_the_previous():
    x, folded = frames(16)
    shifted = shift(folded, T, share=2).unflatten(0, (B, T))
    for t in range(T):
        ahead = x[:, t + 1, :2] if t + 1 < T else torch.zeros(B, 2, H, W)
        behind = x[:, t - 1, 2:4] if t > 0 else torch.zeros(B, 2, H, W)
        assert torch.equal(shifted[:, t], torch.cat([ahead, behind, x[:, t, 4:]], dim=1))


@pytest.mark.parametrize(("depth", "shifted"), [(50, [True] * 16), (101, None)])
def test_tsm_shifts_every_block_or_every_second(depth, shifted):
    net = build_model(ModelConfig("tsm", depth, 5, T))
    blocks = [(i, block) for stage in (1, 2, 3, 4) for i, block in enumerate(getattr(net, f"layer{stage}"))]
    expected = shifted or [i % 2 == 0 for i, _ in blocks]
    assert [isinstance(block, ShiftBottleneck) for _, block in blocks] == expected


@pytest.mark.parametrize("stride", [1, 2])
def test_gst_splits_the_3x3_in_a_spatial_and_a_spatio_temporal_half(stride):
    module = SplitConv(16, 16, stride, T)
    x, folded = frames(16)
    actual = module(folded).unflatten(0, (B, T))
    volume = x.transpose(1, 2)
    assert actual.shape[2] == 16
    for t in range(T):
        torch.testing.assert_close(actual[:, t, :12], module.spatial(x[:, t, :8]), rtol=1e-4, atol=1e-5)
    weight = (
        module.temporal.weight.unflatten(0, (3, 4)).transpose(0, 1).transpose(1, 2)
    )  # (outputs, inputs, time, 3, 3)
    expected = nn.functional.conv3d(volume[:, 8:], weight, stride=(1, stride, stride), padding=1)
    torch.testing.assert_close(actual[:, :, 12:].transpose(1, 2), expected, rtol=1e-4, atol=1e-5)


def temporal(conv, x):
    """A kernel over 3 frames of (B, T, C, H, W), frame by frame."""
    weight = conv.weight[:, :, :, 0]
    rows = []
    for t in range(T):
        terms = [
            torch.einsum("oc,bchw->bohw", weight[:, :, k], x[:, t + k - 1]) for k in range(3) if 0 <= t + k - 1 < T
        ]
        rows.append(sum(terms))
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("kind", ["A", "B", "C"])
@pytest.mark.parametrize("stride", [1, 2])
def test_p3d_arranges_s_and_t_by_kind(kind, stride):
    block = P3DBottleneck(place(stride=stride), kind).eval()
    nn.init.normal_(block.conv_t.conv.weight)
    x, folded = frames(64)

    def s(x):
        return block.bn2(block.conv2(x.flatten(0, 1))).relu().unflatten(0, (B, T))

    def t(x):
        return block.bn_t(temporal(block.conv_t.conv, x).flatten(0, 1)).relu().unflatten(0, (B, T))

    subsampled = x[..., ::stride, ::stride]
    expected = {"A": lambda: t(s(x)), "B": lambda: s(x) + t(subsampled), "C": lambda: s(x) + t(s(x))}[kind]()
    torch.testing.assert_close(block.middle(folded).unflatten(0, (B, T)), expected, rtol=1e-3, atol=1e-4)


def test_p3d_cycles_through_its_kinds_and_leaves_the_last_stage_plain():
    net = build_model(ModelConfig("p3d", 50, 5, T))
    kinds = [block.kind for stage in (1, 2, 3) for block in getattr(net, f"layer{stage}")]
    assert "".join(kinds) == "ABCABCABCABCA"
    assert all(type(block) is Bottleneck for block in net.layer4)
    only_b = build_model(ModelConfig("p3d_b", 50, 5, T))
    assert {block.kind for block in only_b.layer3} == {"B"}


def test_channel_wise_kernels_start_as_shifts():
    module = ChannelwiseTemporalConv(8, T, ahead=0.25, behind=0.25)
    x, folded = frames(8)
    actual = module(folded).unflatten(0, (B, T))
    nothing = torch.zeros(B, 2, H, W)
    for t in range(T):
        ahead = x[:, t + 1, :2] if t + 1 < T else nothing
        behind = x[:, t - 1, 6:] if t > 0 else nothing
        torch.testing.assert_close(actual[:, t], torch.cat([ahead, x[:, t, 2:6], behind], dim=1))


def test_tea_excitation_weighs_channels_by_their_motion():
    module = MotionExcitation(32, T).eval()
    x, folded = frames(32)
    actual = module(folded).unflatten(0, (B, T))
    squeezed = [module.bn1(module.squeeze(x[:, t])) for t in range(T)]
    for t in range(T):
        motion = module.conv(squeezed[t + 1]) - squeezed[t] if t + 1 < T else torch.zeros_like(squeezed[0])
        m = module.bn2(module.expand(motion.mean((2, 3), keepdim=True)))
        torch.testing.assert_close(actual[:, t], x[:, t] + x[:, t] * (m.sigmoid() - 0.5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("position", [0, 1])
def test_tea_adds_each_split_to_the_next_but_not_where_the_resolution_changes(position):
    block = TEABottleneck(place(stride=2 - position, position=position)).eval()
    nn.init.zeros_(block.excitation.bn2.weight)  # so that the excitation is the identity
    channels = block.conv1.out_channels
    assert channels == 104
    x, folded = frames(channels)
    actual = block.middle(folded).unflatten(0, (B, T))
    splits = x.chunk(4, dim=2)
    previous = None
    for i in range(3):
        given = splits[i] if previous is None or position == 0 else splits[i] + previous
        previous = block.bns[i](block.convs[i](given.flatten(0, 1))).relu().unflatten(0, (B, T))
        torch.testing.assert_close(actual[:, :, 26 * i : 26 * (i + 1)], previous, rtol=1e-3, atol=1e-4)
    last = actual[:, :, 78:]
    pool = nn.AvgPool2d(3, 2, padding=1) if position == 0 else nn.Identity()
    torch.testing.assert_close(last[:, 0, :13], pool(splits[3][:, 1, :13]))
    torch.testing.assert_close(last[:, 1, 13:], pool(splits[3][:, 0, 13:]))
