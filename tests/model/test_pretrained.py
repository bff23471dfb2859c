"""Weights: what enters is what the file says, and whatever does not fit is listed."""

import logging
import urllib.error

import pytest
import safetensors.torch
import torch
import torchvision
from torchvision.models.resnet import Bottleneck, ResNet

from model import ModelConfig, SynthesizerConfig, build_model, pretrained, resnet
from model.config import DEPTHS


@pytest.fixture
def state():
    return torchvision.models.resnet18(num_classes=11).state_dict()


def build(source, arch="vpsn", num_classes=5):
    return build_model(
        ModelConfig(arch=arch, depth=18, num_classes=num_classes, num_segments=2, pretrained=str(source))
    )


def test_a_file_enters_and_a_classifier_of_another_size_is_replaced_and_reported(state, tmp_path, caplog):
    torch.save(state, tmp_path / "resnet18.pth")
    with caplog.at_level(logging.INFO):
        net = build(tmp_path / "resnet18.pth")
    loaded = net.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items() if not name.startswith("fc."))
    assert loaded["fc.weight"].shape == (5, 512)
    assert "classifier of 11 classes replaced by one of 5" in caplog.text
    assert "has none of 48 added tensors" in caplog.text


def test_nothing_is_reported_of_weights_that_are_refused(state, tmp_path, caplog):
    state["unknown.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "resnet18.pth")
    with caplog.at_level(logging.INFO), pytest.raises(ValueError, match=r"unknown keys: unknown\.weight"):
        build(tmp_path / "resnet18.pth")
    assert "replaced" not in caplog.text and "added tensors" not in caplog.text


def test_a_classifier_of_the_same_size_is_kept(state, tmp_path):
    safetensors.torch.save_file(state, tmp_path / "resnet18.safetensors")
    net = build(tmp_path / "resnet18.safetensors", arch="tsn", num_classes=11)
    assert torch.equal(net.fc.weight, state["fc.weight"])


def test_a_whole_network_enters_with_its_synthesizers(tmp_path):
    net = build_model(ModelConfig(depth=18, num_classes=5, num_segments=2))
    torch.save({"model": {f"module.{name}": value for name, value in net.state_dict().items()}}, tmp_path / "vpsn.pth")
    again = build(tmp_path / "vpsn.pth").state_dict()
    assert all(torch.equal(again[name], value) for name, value in net.state_dict().items())


def test_pretrained_networks_start_as_the_2d_network(state, tmp_path):
    torch.save(state, tmp_path / "resnet18.pth")
    tsn = build(tmp_path / "resnet18.pth", arch="tsn", num_classes=11).eval()
    vpsn = build(tmp_path / "resnet18.pth", num_classes=11).eval()
    clips = torch.randn(2, 2, 3, 64, 64)
    assert (vpsn(clips) - tsn(clips)).abs().max() < 0.05 * tsn(clips).abs().max()
    for synthesizer in vpsn.synthesizers.values():
        torch.nn.init.zeros_(synthesizer.expand.weight)
    assert torch.equal(vpsn(clips), tsn(clips))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("layer1.0.conv1.weight"), "missing keys: layer1.0.conv1.weight$"),
        (lambda state: state.update(extra=torch.zeros(1)), "unknown keys: extra$"),
        (lambda state: state.update({"conv1.weight": torch.zeros(64, 1, 7, 7)}), r"wrong shapes: conv1.weight \(64, 1"),
        (lambda state: state.pop("fc.bias"), "missing keys: fc.bias"),
    ],
)
def test_keys_that_do_not_fit_are_listed(state, tmp_path, change, message):
    change(state)
    torch.save(state, tmp_path / "resnet18.pth")
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "resnet18.pth")


def test_weights_of_another_depth_do_not_fill_the_screen(tmp_path):
    torch.save(torchvision.models.resnet50(num_classes=5).state_dict(), tmp_path / "resnet50.pth")
    with pytest.raises(ValueError, match=r"unknown keys: .* and \d+ more; wrong shapes") as caught:
        build(tmp_path / "resnet50.pth")
    assert len(str(caught.value)) < 4000


def test_files_without_batch_counters_enter(state, tmp_path):
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    assert torch.equal(build(tmp_path / "old.pth").conv1.weight, state["conv1.weight"])


def test_some_synthesizers_missing_is_an_error(tmp_path):
    state = build_model(ModelConfig(depth=18, num_classes=5, num_segments=2)).state_dict()
    del state["synthesizers.stem.expand.weight"]
    torch.save(state, tmp_path / "vpsn.pth")
    with pytest.raises(ValueError, match=r"missing keys: synthesizers.stem.expand.weight$"):
        build(tmp_path / "vpsn.pth")


class Harmful:
    def __reduce__(self):
        return (print, ("unpickled",))


@pytest.mark.parametrize("name", ["absent.pth", "text.pth", "text.safetensors", "harmful.pth", "list.pth"])
def test_what_is_not_a_file_of_tensors_is_refused(tmp_path, name, capsys):
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "text.safetensors").write_text("not weights")
    torch.save({"conv1.weight": Harmful()}, tmp_path / "harmful.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"^model\.pretrained='.*" + name):
        build(tmp_path / name)
    assert capsys.readouterr().out == ""


def test_imagenet_without_a_network_says_what_to_do(monkeypatch):
    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    monkeypatch.setattr("os.path.exists", lambda path: False)
    with pytest.raises(ValueError, match=r"model.pretrained='imagenet'.*resnet18.*give its path"):
        pretrained.read_weights("imagenet", 18)


@pytest.mark.parametrize("arch", [arch for arch, depths in DEPTHS.items() if arch != "tea"])
def test_imagenet_weights_enter_every_backbone(short_networks, arch, tmp_path):
    """What a two-dimensional ResNet has is taken over, by its slice where the architecture keeps only a part."""
    state = ResNet(Bottleneck, resnet.LAYERS[50], num_classes=5).state_dict()
    torch.save(state, tmp_path / "resnet50.pth")
    net = build_model(ModelConfig(arch, 50, 5, 4, pretrained=str(tmp_path / "resnet50.pth")))
    own = net.state_dict()
    for name, value in state.items():
        if arch == "gst" and name.endswith("conv2.weight"):
            width = len(value)
            value, name = value[: 3 * width // 4, : width // 2], name.replace("conv2.", "conv2.spatial.")
        if arch == "dg_p3d" and name not in own:
            name = name.replace("conv2.", "conv2.spatial.")
        ours = own[name]
        if arch == "dg_p3d" and name == "conv1.weight":  # the third of four frames
            ours = ours.chunk(4, dim=1)[2]
        if arch == "slowonly" and ours.shape != value.shape:  # the middle one of three frames
            ours = ours.chunk(3, dim=1)[1]
        assert torch.equal(ours, value), name


@pytest.mark.parametrize("arch", ["p3d_a", "vpsn", "rf_s", "rf_l", "rf_l_inception", "rf_l_inception_t"])
def test_residual_additions_start_as_the_2d_network(short_networks, arch, tmp_path):
    """Equal logits where what is added starts as nothing (an expansion of zero) or as the identity (P3D-A)."""
    tsn = build_model(ModelConfig("tsn", 50, 5, 2)).eval()
    torch.save(tsn.state_dict(), tmp_path / "tsn.pth")
    config = SynthesizerConfig(expand_init_scale=0.0)
    net = build_model(ModelConfig(arch, 50, 5, 2, pretrained=str(tmp_path / "tsn.pth"), synthesizer=config)).eval()
    clips = torch.randn(2, 2, 3, 64, 64)
    # BN of the identity in P3D-A divides by sqrt(1 + eps).
    torch.testing.assert_close(net(clips), tsn(clips), rtol=1e-3 if arch == "p3d_a" else 0, atol=0)


def test_res2net_weights_enter_tea(short_networks, tmp_path):
    tea = build_model(ModelConfig("tea", 50, 5, 2))
    added = pretrained.extra_module_names(tea)
    res2net = {name: value for name, value in tea.state_dict().items() if name not in added}
    assert "layer1.0.convs.0.weight" in res2net
    assert not [name for name in res2net if "temporal" in name or "excitation" in name]
    torch.save(res2net, tmp_path / "res2net.pth")
    again = build_model(ModelConfig("tea", 50, 5, 2, pretrained=str(tmp_path / "res2net.pth"))).state_dict()
    assert all(torch.equal(again[name], value) for name, value in res2net.items())


def test_a_resnet_does_not_enter_tea(tmp_path):
    torch.save(torchvision.models.resnet50(num_classes=5).state_dict(), tmp_path / "resnet50.pth")
    with pytest.raises(ValueError, match=r"unknown keys: .*layer1\.0\.conv2\.weight"):
        build_model(ModelConfig("tea", 50, 5, 2, pretrained=str(tmp_path / "resnet50.pth")))


def test_torchvision_has_no_res2net():
    with pytest.raises(ValueError, match=r"model\.pretrained='imagenet'.*model\.arch=tea.*Res2Net"):
        ModelConfig("tea", 50, pretrained="imagenet")
