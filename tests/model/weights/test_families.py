"""Every family: its file loads, one line says whose it is, and the logits are those of its own network."""

import argparse
import logging
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from model import ModelConfig, build_model, resnet
from model.weights.source import read_weights_file
from tests.model.weights.layouts import (
    CLASSES,
    COUNTS,
    Layout,
    chirp,
    mmaction2_names,
    pytorchvideo_names,
    slowfast_names,
    torchvision_names,
)

FRAMES, SIZE = 4, 32
SLOWFAST_CFG = (
    "DATA:\n  CROP_SIZE: 224\n  MEAN:\n  - 0.45\n  - 0.45\n  - 0.45\n  STD:\n  - 0.225\n  - 0.225\n  - 0.225\n"
)
MMACTION2_CFG = "model = dict(backbone=dict(depth=50, style='pytorch', type='ResNetTSM'), shift_div=8)\n"


@pytest.fixture(autouse=True)
def _short(short_networks):
    assert set(resnet.LAYERS.values()) == {COUNTS}


@pytest.fixture
def mmengine(monkeypatch) -> Callable[[], Any]:
    """Make what mmengine's message hub is made of, as far as a pickle shows it; its module is not there on loading."""
    module = types.ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __init__(self) -> None:
            self._log_history, self._count_history = np.array([1.5, 2.5]), np.array([1, 1])
            self._statistics_methods = {"mean": self.mean}  # a bound method: pickled by builtins.getattr

        def mean(self) -> float:
            return float(self._log_history.mean())

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    module.HistoryBuffer = HistoryBuffer
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    return HistoryBuffer


Wrap = Callable[[dict, Any], Any]


def prefixed(state: dict, prefix: str) -> OrderedDict:
    return OrderedDict((prefix + name, value) for name, value in state.items())


# Each row: names, how its program saves them, our architecture, whose it is said to be.
ROWS: dict[str, tuple[Callable[[], Layout], Wrap, str, str]] = {
    "torchvision": (torchvision_names, lambda state, _: OrderedDict(state), "tsn", "ResNet (torchvision"),
    "torchvision reference": (
        torchvision_names,
        lambda state, _: {"model": state, "optimizer": {}, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        "tsn",
        "ResNet (torchvision",
    ),
    "timm train.py": (
        torchvision_names,
        lambda state, _: {
            "epoch": 3,
            "arch": "resnet50",
            "state_dict": state,
            "state_dict_ema": state,
            "args": argparse.Namespace(model="resnet50", mean=None),
            "version": 2,
        },
        "tsn",
        "state_dict_ema is not taken",
    ),
    "last_linear": (lambda: torchvision_names(fc="last_linear"), lambda state, _: state, "tsn", "ResNet"),
    "Lightning, compiled": (
        torchvision_names,
        lambda state, _: {
            "state_dict": prefixed(state, "model._orig_mod."),
            "pytorch-lightning_version": "2.5",
            "hyper_parameters": {"lr": np.float64(0.1)},
        },
        "tsn",
        "without the prefix 'model._orig_mod.'",
    ),
    "TSN": (
        lambda: torchvision_names("base_model.", "new_fc"),
        lambda state, _: {"state_dict": prefixed(state, "module."), "best_prec1": np.float64(71.5), "arch": "resnet50"},
        "tsn",
        "TSN (TSM's",
    ),
    "TSM": (
        lambda: torchvision_names("base_model.", "new_fc", "shift"),
        lambda state, _: {"state_dict": prefixed(state, "module."), "best_prec1": torch.tensor(45.5), "epoch": 50},
        "tsm",
        "TSM (its authors')",
    ),
    "TSM without dropout": (
        lambda: torchvision_names("base_model.", "base_model.fc", "shift"),
        lambda state, _: {"state_dict": prefixed(state, "module.")},
        "tsm",
        "TSM (its authors')",
    ),
    "GST": (
        lambda: torchvision_names("base_model.", "new_fc", "gst", volumes=True),
        lambda state, _: {"state_dict": prefixed(state, "module."), "best_prec1": np.float32(60)},
        "gst",
        "GST (its authors')",
    ),
    "TEA": (
        lambda: torchvision_names("base_model.", "new_fc", "tea"),
        lambda state, _: {"state_dict": prefixed(state, "module.")},
        "tea",
        "TEA (its authors')",
    ),
    "mmaction2 TSN": (
        lambda: mmaction2_names("plain"),
        lambda state, _: {
            "meta": {"cfg": MMACTION2_CFG, "epoch": 100},
            "state_dict": state
            | {"data_preprocessor.mean": torch.zeros(3, 1, 1), "data_preprocessor.std": torch.ones(3, 1, 1)},
        },
        "tsn",
        "TSN (mmaction2)",
    ),
    "mmaction2 TSM": (
        lambda: mmaction2_names("shift"),
        lambda state, make: {
            "meta": {"config": MMACTION2_CFG, "hook_msgs": {}},
            "state_dict": state,
            "message_hub": {"log_scalars": {"train/loss": make()}, "runtime_info": {"iter": np.int64(7)}},
            "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"params": [0]}]},
        },
        "tsm",
        "TSM (mmaction2)",
    ),
    "mmaction2 SlowOnly": (
        lambda: mmaction2_names("slow", volumes=True),
        lambda state, _: {"meta": {}, "state_dict": state},
        "slowonly",
        "SlowOnly (mmaction2)",
    ),
    "SlowFast SLOW": (
        slowfast_names,
        lambda state, _: {"epoch": 195, "model_state": state, "optimizer_state": {"state": {}}, "cfg": SLOWFAST_CFG},
        "slowonly",
        "SLOW (SlowFast)",
    ),
    "pytorchvideo slow": (pytorchvideo_names, lambda state, _: {"model_state": state}, "slowonly", "slow_r50"),
    "DG-P3D": (
        lambda: torchvision_names("", "fc", "dg", volumes=True),
        lambda state, _: {"opt": {"net_name": "dg_p3d_resnet50"}, "model": prefixed(state, "module."), "epoch": 5},
        "dg_p3d",
        "DG-P3D (its authors')",
    ),
}


def read_line(path, arch: str, caplog, depth: int = 50, frames: int | None = None, **options):
    """The network that the file is loaded into, and the line that says what was loaded."""
    frames = frames or (16 if arch == "dg_p3d" else FRAMES)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        net = build_model(ModelConfig(arch, depth, CLASSES, frames, pretrained=str(path), **options))
    [record] = [record for record in caplog.records if record.name == "model.pretrained"]
    return net.double().eval(), record.getMessage()


WRAPPED = ("torchvision reference", "timm train.py", "last_linear", "Lightning, compiled", "TSM without dropout")
"""Rows that differ from another in their wrapping alone."""


def save(name: str, path: Path, make_history: Callable[[], Any], legacy: bool = False) -> Layout:
    """Save what a row describes; afterwards nothing of mmengine can be imported."""
    layout, wrap = ROWS[name][0](), ROWS[name][1]
    torch.save(wrap(layout.make(), make_history), path, _use_new_zipfile_serialization=not legacy)
    for module in list(sys.modules):
        if module.startswith("mmengine"):
            del sys.modules[module]
    return layout


@pytest.mark.parametrize("name", [name for name in ROWS if name not in WRAPPED])
def test_a_file_loads_and_its_logits_are_those_of_its_own_network(name, tmp_path, caplog, mmengine):
    layout, (_, _, arch, said) = save(name, tmp_path / "weights.pth", mmengine), ROWS[name]
    net, line = read_line(tmp_path / "weights.pth", arch, caplog)
    assert said in line and line.isprintable() and "newly initialised" not in line and "initialisation" not in line
    clips = chirp((2, net.num_segments, 3, SIZE, SIZE), 0).double()
    with torch.no_grad():
        logits = net(clips)
    expected = layout.compute(clips)
    assert expected.std() > 1e-3 * expected.abs().max()  # that something is compared
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", [*WRAPPED, "TSN", "GST", "mmaction2 TSM"])
def test_a_wrapped_file_gives_the_same_tensors(name, legacy, tmp_path, mmengine):
    layout = save(name, tmp_path / "weights.pth", mmengine, legacy)
    weights = read_weights_file(tmp_path / "weights.pth")
    loaded = weights.load()
    assert ROWS[name][3] in "; ".join([weights.title, weights.found, *weights.notes])
    for ours, theirs in (
        ("conv1.weight", layout.stem[0] + ".weight"),
        ("fc.bias", layout.fc + ".bias"),
        ("layer1.1.conv1.weight", layout.conv(1, 1, 1) + ".weight"),
        ("layer2.0.downsample.1.running_var", layout.bn(2, 0, 0) + ".running_var"),
        ("layer4.0.bn3.num_batches_tracked", layout.bn(4, 0, 3) + ".num_batches_tracked"),
    ):
        assert torch.equal(loaded[ours], layout.state[theirs].reshape(loaded[ours].shape)), ours
    assert len(loaded) == len(layout.state)


@pytest.mark.parametrize(("block", "depth"), [(Bottleneck, 50), (BasicBlock, 18)])
def test_torchvisions_own_network_computes_the_same(block, depth, tmp_path, caplog):
    layout = torchvision_names()
    state = layout.make(bottlenecks=depth >= 50)
    theirs = ResNet(block, list(COUNTS), num_classes=CLASSES).double().eval()
    theirs.load_state_dict(state)
    safetensors.torch.save_file(state, tmp_path / "resnet.safetensors")
    net, _ = read_line(tmp_path / "resnet.safetensors", "tsn", caplog, depth)
    clips = chirp((2, FRAMES, 3, SIZE, SIZE), 0).double()
    with torch.no_grad():
        expected = theirs(clips.flatten(0, 1)).unflatten(0, (2, FRAMES)).mean(1)
        torch.testing.assert_close(net(clips), expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(layout.compute(clips, depth >= 50), expected, rtol=1e-9, atol=1e-9)


def test_slowonly_of_basic_blocks(tmp_path, caplog):
    layout = mmaction2_names("slow", volumes=True)
    torch.save({"state_dict": layout.make(bottlenecks=False)}, tmp_path / "slowonly18.pth")
    net, _ = read_line(tmp_path / "slowonly18.pth", "slowonly", caplog, depth=18)
    clips = chirp((2, FRAMES, 3, SIZE, SIZE), 0).double()
    with torch.no_grad():
        torch.testing.assert_close(net(clips), layout.compute(clips, bottlenecks=False), rtol=1e-9, atol=1e-9)
