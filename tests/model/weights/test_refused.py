"""What no network here computes is refused in one line that says what it looks like and why; our own never is."""

import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from model import ModelConfig, build_model
from model.config import DEPTHS
from model.weights import families
from model.weights.refused import explain_refusal
from model.weights.source import read_weights_file
from tests.model.weights.layouts import mmaction2_names, pytorchvideo_names, slowfast_names, torchvision_names


def renamed(layout, replace: dict[str, str]) -> dict[str, torch.Tensor]:
    """The state dict of a layout with parts of names replaced."""
    state = {}
    for name, value in layout.make().items():
        for old, new in replace.items():
            name = name.replace(old, new)
        state[name] = value
    return state


def with_stem_over(layout, frames: int) -> dict[str, torch.Tensor]:
    state = layout.make()
    state[f"{layout.stem[0]}.weight"] = torch.zeros(64, 3, frames, 7, 7)
    return state


def without_time(layout) -> dict[str, torch.Tensor]:
    return {name: value[:, :, :1] if value.ndim == 5 else value for name, value in layout.make().items()}


def mmaction2(layout, cfg: str) -> dict:
    return {"meta": {"cfg": cfg}, "state_dict": layout.make()}


CASES = {
    "a whole module": (lambda: nn.Sequential(nn.Linear(2, 2)), r"whole pickled object \(torch\.nn\.modules\.container"),
    "a whole module in an entry": (lambda: {"model": nn.Linear(2, 2), "epoch": 3}, r"'model'|whole pickled object"),
    "an optimizer alone": (lambda: {"optimizer": {"state": {}, "param_groups": []}}, "no state dict"),
    "several": (
        lambda: {"student": {"a.b": torch.ones(1)}, "teacher": {"a.b": torch.ones(1)}},
        r"several sets of weights \(student, teacher\)",
    ),
    "resnet50d": (
        lambda: {"conv1.0.weight": torch.ones(1), "layer1.0.conv1.weight": torch.ones(1)},
        r"ResNet-D \(resnet50d of timm\)",
    ),
    "P3D-63": (lambda: renamed(torchvision_names(volumes=True), {"conv1.weight": "conv1_custom.weight"}), "P3D-63"),
    "STM": (lambda: renamed(torchvision_names(), {".bn2.": ".cmm.bn."}), "STM of other"),
    "SlowFast": (lambda: slowfast_names().make() | {"s1.pathway1_stem.conv.weight": torch.ones(1)}, "two pathways"),
    "I3D": (lambda: {"model_state": with_stem_over(slowfast_names(), 5)}, "I3D: its first convolution"),
    "I3D of mmaction2": (lambda: with_stem_over(mmaction2_names("slow", True), 5), "I3D"),
    "C2D": (lambda: without_time(slowfast_names()), "C2D .*pools over time"),
    "C2D of pytorchvideo": (lambda: without_time(pytorchvideo_names()), "C2D .*pools over time"),
    "X3D": (lambda: {"blocks.0.conv.conv_t.weight": torch.ones(1)}, "X3D"),
    "MViT": (
        lambda: {"patch_embed.proj.weight": torch.ones(1), "blocks.0.attn.qkv.weight": torch.ones(1)},
        "a vision transformer",
    ),
    "caffe": (lambda: mmaction2(mmaction2_names("plain"), "backbone=dict(style='caffe')"), "caffe-style ResNet"),
    "C2D of mmaction2": (lambda: mmaction2(mmaction2_names("plain"), "backbone=dict(type='C2D')"), "C2D"),
    "shift_div": (lambda: mmaction2(mmaction2_names("shift"), "dict(shift_div=4)"), "shift_div=8"),
    "STRIDE_1X1": (
        lambda: {"model_state": slowfast_names().make(), "cfg": "RESNET:\n  STRIDE_1X1: true\n"},
        "strides in the first 1x1",
    ),
    "shift before blocks": (
        lambda: {"state_dict": renamed(torchvision_names("base_model.", "new_fc"), {".conv": ".net.conv"})},
        "shift_place=block",
    ),
    "non-local": (lambda: torchvision_names().make() | {"layer2.0.nl.g.weight": torch.ones(1)}, "non-local"),
    "P3D of DG-P3D": (
        lambda: torchvision_names(volumes=True).make() | {"layer1.0.conv2_t.weight": torch.ones(1)},
        "P3D of the repository of DG-P3D",
    ),
    "ResNeXt": (lambda: torchvision_names().make() | {"layer1.0.conv2.weight": torch.ones(128, 4, 3, 3)}, "ResNeXt"),
}


@pytest.mark.parametrize("name", CASES)
def test_it_says_what_it_looks_like_and_why_not(name, short_networks, tmp_path):
    make, said = CASES[name]
    torch.save(make(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=said) as caught:
        build_model(ModelConfig("tsn", 50, 5, 2, pretrained=str(tmp_path / "weights.pth")))
    message = str(caught.value)
    assert message.startswith("model.pretrained=") and message.isprintable() and len(message) < 500


def test_caffe2s_pickle_and_torchscript(tmp_path):
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps({"blobs": {"conv1_w": np.ones((2, 3), np.float32)}}, 2))
    with pytest.raises(ValueError, match=r"Caffe2 \(blobs\)"):
        read_weights_file(tmp_path / "weights.pkl")
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), buffer)
    (tmp_path / "script.pt").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=r"TorchScript program; .*state_dict"):
        read_weights_file(tmp_path / "script.pt")


@pytest.mark.parametrize("arch", DEPTHS)
def test_our_own_names_are_never_taken_for_anothers(arch):
    frames = 16 if arch == "dg_p3d" else 4
    for depth in (18, 50):
        if depth not in DEPTHS[arch]:
            continue
        with torch.device("meta"):
            net = build_model(ModelConfig(arch, depth, 5, frames))
        names = {name: tuple(value.shape) for name, value in net.state_dict().items()}
        assert explain_refusal(names, "") == ""
        assert families.recognise(names) in (None, *families.TWO_DIMENSIONAL)
        assert families.count_depth(names) == depth


def test_the_right_architecture_and_depth_are_named(tmp_path, short_networks):
    torch.save({"model_state": slowfast_names().make()}, tmp_path / "slow.pyth")
    said = r"SLOW \(SlowFast\), for which model\.arch=slowonly is made; .*wrong shapes"
    with pytest.raises(ValueError, match=said) as caught:
        build_model(ModelConfig("tsn", 50, 5, 2, pretrained=str(tmp_path / "slow.pyth")))
    assert len(str(caught.value)) < 900
