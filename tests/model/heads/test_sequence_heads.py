"""What heads over the sequence of frames have in common: any backbone, the order of frames, freezing, export."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from model import LSTMConfig, ModelConfig, TemporalInceptionConfig, TSLSTMConfig, build_model, fuse_batch_norm

T = 8
HEADS = ("lstm", "ts_lstm", "temporal_inception")
OPTIONS = {
    "lstm": LSTMConfig(width=24),
    "ts_lstm": TSLSTMConfig(segments=4, width=24),
    "temporal_inception": TemporalInceptionConfig(width=24),
}


def config_of(head, arch="tsn", **options):
    return ModelConfig(arch, 18, 5, T, dropout=0.0, head=head, **OPTIONS | options)


def trained_a_little(config):
    """A network whose statistics and classifier are not the initial ones, in evaluation mode."""
    net = build_model(config)
    nn.init.normal_(net.fc.weight)
    for _ in range(2):
        net(torch.randn(4, T, 3, 32, 32))
    return net.eval()


@pytest.mark.parametrize("arch", ["tsn", "vpsn", "tsm", "slowonly"])
@pytest.mark.parametrize("head", HEADS)
def test_it_stands_on_any_backbone_and_every_part_learns(short_networks, head, arch):
    net = build_model(config_of(head, arch))
    nn.init.normal_(net.fc.weight)
    outputs = net(torch.randn(3, T, 3, 32, 32), with_losses=True)
    assert outputs.logits.shape == (3, 5)
    assert torch.equal(net.forward_head(outputs.features), outputs.logits)  # what a teacher is shown
    nn.functional.cross_entropy(outputs.logits, torch.tensor([0, 1, 1])).backward()
    assert not [name for name, parameter in net.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("head", HEADS)
def test_clips_stand_for_themselves_and_fusing_and_any_batch_keep_the_logits(short_networks, head):
    net, clips = trained_a_little(config_of(head, "vpsn")), torch.randn(3, T, 3, 32, 32)
    logits = net(clips)
    assert (net(clips.flip(1)) - logits).abs().max() > 1e-3  # the order of frames counts
    torch.testing.assert_close(net(clips[1:2])[0], logits[1], rtol=1e-4, atol=1e-4)
    frozen = fuse_batch_norm(net)
    torch.testing.assert_close(frozen(clips), logits.detach(), rtol=1e-3, atol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        assert (frozen(clips).float() - logits).abs().max() < 0.1 * logits.abs().max()


@pytest.mark.parametrize("head", ["lstm", "ts_lstm"])
def test_lstms_keep_their_precision_in_mixed_precision(head):
    """A GPU would run them in float16 under bf16, too, where no loss scale keeps small gradients."""
    net, seen = trained_a_little(config_of(head)), []
    lstm = next(module for module in net.modules() if isinstance(module, nn.LSTM))
    lstm.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].dtype, output[0].dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        net(torch.randn(2, T, 3, 32, 32))
    assert seen == [(torch.float32, torch.float32)]


def order_task(count):
    """Feature maps (count*T, 512, 1, 1) of noise with two marks in any two frames; the class is which comes first."""
    frames = 0.3 * torch.randn(count, T, 512)
    places = torch.rand(count, T).argsort(1)[:, :2].sort(1).values
    labels = torch.randint(2, (count,))
    for mark in (0, 1):
        at = torch.where(labels == mark, places[:, 0], places[:, 1])  # of class 0 mark 0 comes first
        frames[torch.arange(count), at, 16 * mark : 16 * mark + 16] += 2
    return frames.flatten(0, 1)[..., None, None], labels


@pytest.mark.parametrize("head", ["mean", *HEADS])
def test_the_order_of_two_frames_is_learned_and_not_by_the_mean(head):
    torch.manual_seed(0)
    net = build_model(replace(config_of(head), num_classes=2, ts_lstm=TSLSTMConfig(segments=8, width=24)))
    parameters = [p for name, p in net.named_parameters() if name.startswith((f"{head}.", "fc."))]
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    for _ in range(200):
        features, labels = order_task(32)
        # LRCN as it is trained, at every step.
        logits = net.forward_steps(features).transpose(1, 2) if head == "lstm" else net.forward_head(features)
        targets = labels[:, None].expand(-1, T) if head == "lstm" else labels
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, targets).backward()
        optimizer.step()
    features, labels = order_task(400)
    accuracy = (net.eval().forward_head(features).argmax(1) == labels).float().mean()
    assert accuracy < 0.6 if head == "mean" else accuracy > 0.9, accuracy


@pytest.mark.parametrize("head", [*HEADS, "encoder"])
def test_weights_without_the_head_enter_and_only_what_they_fill_is_frozen(short_networks, head, tmp_path, caplog):
    """A plain network's classifier reads frames and not what the head makes of them, be it as wide, as it is here."""
    options = {name: replace(each, width=512) for name, each in OPTIONS.items()}
    plain, whole = tmp_path / "plain.safetensors", tmp_path / "whole.safetensors"
    for path, config in (
        (plain, replace(config_of(head, **options), head="mean")),
        (whole, config_of(head, **options)),
    ):
        save_file({name: value.contiguous() for name, value in build_model(config).state_dict().items()}, path)
    caplog.set_level("INFO")
    net = build_model(config_of(head, **options, pretrained=str(plain), frozen_stages=4))
    assert "classifier of another head replaced by one of 5 classes, newly initialised" in caplog.text
    assert not torch.equal(net.fc.weight, load_file(plain)["fc.weight"])
    learning = {name.split(".")[0] for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert learning == {head, "fc"}
    with pytest.raises(ValueError, match=rf"^model\.linear_probe=true: .* has no {head}\..*, which would stay random"):
        build_model(config_of(head, **options, pretrained=str(plain), linear_probe=True))
    probed = build_model(config_of(head, **options, pretrained=str(whole), linear_probe=True))
    assert [name for name, each in probed.named_parameters() if each.requires_grad] == ["fc.weight", "fc.bias"]
