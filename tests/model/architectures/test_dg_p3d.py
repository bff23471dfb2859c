"""DG-P3D: its blocks, heads and beginning against three-dimensional convolutions written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model import ModelConfig, build_model, fuse_batch_norm
from model.architectures.dg_p3d import DGP3DBottleneck, GlobalContext, Stem
from model.resnet import BlockSpec
from tests.model.architectures.test_baselines import temporal

B, T, H, W = 2, 4, 6, 5


def frames(channels, size=(H, W)):
    """(B, T, C, H, W) and its folded, channels-last form."""
    x = torch.randn(B, T, channels, *size)
    return x, x.flatten(0, 1).contiguous(memory_format=torch.channels_last)


def test_the_stem_is_a_kernel_of_four_frames_that_strides_over_time():
    stem = Stem(8)
    clips = torch.randn(2, 8, 3, 20, 24)
    actual = stem(clips.flatten(0, 1)).unflatten(0, (2, 2))
    volume = stem.weight.unflatten(1, (4, 3)).transpose(1, 2)  # (outputs, 3, time, 7, 7)
    expected = F.conv3d(clips.transpose(1, 2), volume, stride=(4, 2, 2), padding=(0, 3, 3)).transpose(1, 2)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["A", "B", "C"])
@pytest.mark.parametrize("stride", [1, 2])
def test_blocks_arrange_s_and_t_by_kind_with_one_bn(kind, stride):
    block = DGP3DBottleneck(BlockSpec(64, 64, stride, T, 1, 0, 0), kind).eval()
    kernel = block.conv_t if kind == "C" else block.conv2.temporal
    spatial = block.conv2 if kind == "C" else block.conv2.spatial
    nn.init.normal_(kernel.conv.weight, std=0.1)
    for tensor in (block.bn2.weight, block.bn2.bias, block.bn2.running_mean):
        tensor.data.normal_()
    x, folded = frames(64)

    def s(x):
        return spatial(x.flatten(0, 1)).unflatten(0, (B, T))

    def normalised(x):
        return block.bn2(x.flatten(0, 1)).relu().unflatten(0, (B, T))

    def t(x):
        return temporal(kernel.conv, x)

    expected = {
        "A": lambda: normalised(t(s(x))),
        "B": lambda: normalised(s(x) + t(x[..., ::stride, ::stride])),
        "C": lambda: (normalised(s(x)) + t(normalised(s(x)))).relu(),
    }[kind]()
    torch.testing.assert_close(block.middle(folded).unflatten(0, (B, T)), expected, rtol=1e-3, atol=1e-3)


def test_context_is_of_the_whole_clip_and_begins_as_nothing():
    context = GlobalContext(32, T)
    x, folded = frames(32)
    assert torch.equal(context(folded), folded)
    nn.init.normal_(context.expand.weight)
    nn.init.normal_(context.expand.bias)
    actual = context(folded).unflatten(0, (B, T))
    for clip in range(B):
        mean = x[clip].mean((0, 2, 3))
        hidden = (context.squeeze.weight @ mean + context.squeeze.bias).clamp(min=0)
        added = context.expand.weight @ hidden + context.expand.bias
        torch.testing.assert_close(actual[clip], x[clip] + added[:, None, None], rtol=1e-4, atol=1e-4)


def test_context_enters_before_the_last_relu():
    block = DGP3DBottleneck(BlockSpec(64, 16, 1, T, 1, 0, 0), "A").eval()
    nn.init.normal_(block.context.expand.weight)
    _, folded = frames(64)
    branch = block.bn3(block.conv3(block.middle(block.bn1(block.conv1(folded)).relu())))
    torch.testing.assert_close(block(folded), (block.context(branch) + folded).relu(), rtol=1e-4, atol=1e-4)


def network(num_segments=16, **options):
    return build_model(ModelConfig("dg_p3d", 50, 5, num_segments, dropout=0.0, **options))


def test_kinds_take_turns_over_all_blocks_and_the_second_head_repeats_layer4():
    net = network()
    blocks = [block for stage in (1, 2, 3, 4) for block in getattr(net, f"layer{stage}")]
    assert "".join(block.kind for block in blocks) == "ABCABCABCABCABCA"
    assert [block.kind for block in net.dual.layer4] == [block.kind for block in net.layer4] == ["B", "C", "A"]
    assert net.layer4[0].downsample[0].stride == (2, 2)
    assert net.dual.layer4[0].downsample[0].stride == (1, 1)


@pytest.mark.parametrize(("num_segments", "pooled"), [(4, 1), (12, 3), (32, 4)])
def test_the_second_head_sees_layer3_pooled_over_time_in_fours(num_segments, pooled):
    net = network(num_segments).eval()
    nn.init.normal_(net.fc.weight)
    nn.init.normal_(net.dual.fc.weight)
    seen, given = [], []
    net.dual.layer4.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net.layer3.register_forward_hook(lambda module, inputs, output: given.append(output))
    with torch.no_grad():
        outputs = net(torch.randn(2, num_segments, 3, 32, 32), with_losses=True)
    volume = given[0].unflatten(0, (2, -1)).transpose(1, 2)  # (B, C, T/4, H, W)
    expected = F.max_pool3d(volume, (pooled, 1, 1)).transpose(1, 2).flatten(0, 1)
    assert torch.equal(seen[0], expected)
    first, second = outputs.head_logits
    assert not torch.equal(first, second)
    torch.testing.assert_close(outputs.logits, (first + second) / 2)
    assert outputs.interaction_loss == outputs.capacity_loss == 0


def test_pretrained_it_begins_as_the_2d_network_on_every_third_of_four_frames(tmp_path):
    tsn = build_model(ModelConfig("tsn", 50, 5, 2, dropout=0.0)).eval()
    nn.init.normal_(tsn.fc.weight)
    torch.save(tsn.state_dict(), tmp_path / "tsn.pth")
    net = network(8, pretrained=str(tmp_path / "tsn.pth")).eval()
    clips = torch.randn(2, 8, 3, 64, 64)
    with torch.no_grad():
        outputs = net(clips, with_losses=True)
        torch.testing.assert_close(outputs.head_logits[0], tsn(clips[:, 2::4]), rtol=1e-3, atol=1e-3)
    assert torch.equal(net.dual.fc.weight, tsn.fc.weight)
    second = net.dual.layer4.state_dict()
    for name, value in net.layer4.state_dict().items():
        assert torch.equal(second[name], value) or "context.squeeze" in name, name


def test_classifiers_of_another_size_are_replaced_in_both_heads(tmp_path, caplog):
    torch.save(build_model(ModelConfig("tsn", 50, 11, 2)).state_dict(), tmp_path / "tsn.pth")
    with caplog.at_level("INFO"):
        net = network(8, pretrained=str(tmp_path / "tsn.pth"))
    assert caplog.text.count("classifier of 11 classes replaced by one of 5") == 2
    assert net.fc.weight.shape == net.dual.fc.weight.shape == (5, 2048)


def test_its_own_weights_enter_whole(tmp_path):
    net = network(8)
    nn.init.normal_(net.dual.fc.weight)
    torch.save(net.state_dict(), tmp_path / "dg.pth")
    again = network(8, pretrained=str(tmp_path / "dg.pth")).state_dict()
    assert all(torch.equal(again[name], value) for name, value in net.state_dict().items())


def test_kernels_over_time_that_begin_as_nothing_learn():
    net = network(8)
    nn.init.normal_(net.fc.weight)
    nn.init.normal_(net.dual.fc.weight)
    net(torch.randn(2, 8, 3, 32, 32)).square().sum().backward()
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        for block in stage:
            kernel = block.conv_t if block.kind == "C" else block.conv2.temporal
            assert kernel.conv.weight.grad.abs().max() > 0


def test_only_what_bn_follows_at_once_is_folded(build):
    net = build("dg_p3d", 50, 8)
    frozen = fuse_batch_norm(net)
    kinds = {block.kind: block for block in frozen.layer1}
    assert isinstance(kinds["C"].bn2, nn.Identity)
    assert isinstance(kinds["A"].bn2, nn.BatchNorm2d) and isinstance(kinds["B"].bn2, nn.BatchNorm2d)
    net = net.double()
    clips = torch.randn(2, 8, 3, 32, 32).double()
    torch.testing.assert_close(fuse_batch_norm(net)(clips), net.eval()(clips).detach())


@pytest.mark.parametrize("num_segments", [1, 6, 20])
def test_frames_that_cannot_be_shared_out_are_refused(num_segments):
    with pytest.raises(ValueError, match=rf"num_segments={num_segments}: allowed .* are 4, 8, 12, multiples of 16"):
        ModelConfig("dg_p3d", 50, num_segments=num_segments)


def test_other_heads_are_refused():
    with pytest.raises(ValueError, match=r"model\.head=encoder: allowed for model\.arch=dg_p3d.* is mean"):
        ModelConfig("dg_p3d", 50, num_segments=8, head="encoder")
