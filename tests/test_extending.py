"""docs/extending.md: its files and commands, as they stand, in a folder that is not the project's."""

import csv
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18

from launch.training.builders import build_network
from launch.training.checkpoint import CheckpointInfo, load_checkpoint, write_checkpoint
from launch.training.config import Config
from launch.training.distributed import free_port
from model import BasicBlock, ModelConfig, build_model, fuse_batch_norm
from model.heads.hierarchy import PathwayNet
from sharding.__main__ import main as sharding
from sharding.dataset import load_dataset
from sharding.errors import UserError
from sharding.records import Annotations, VideoRecord, check_records
from tests.conftest import ROOT, run_command
from tests.helpers.videos import write_numbered_video

PAGE = (ROOT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"```(?:python|yaml)\n# (\w+\.\w+)\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
NET, BLOCK, STAGES = "my_net:R2Plus1D", "my_block:MotionGate", "my_stages:TimeAfterStages"

MORE = """
import torch
from torch import nn
from model import BasicBlock, Bottleneck
NUMBER = 3
class Deep(Bottleneck): pass
class Backwards(BasicBlock):
    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.conv1(self.relu(self.bn1(x)) if self.downsample is None else x)
        return self.relu(self.conv2(self.relu(self.bn2(x))) + shortcut)
def generator(videos, annotations, split): yield 1
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The page's files and some more, on the Python path."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "my_more.py").write_text(MORE)
    (tmp_path / "my_need.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


def small(arch: str, **options) -> ModelConfig:
    return ModelConfig(**{"arch": arch, "depth": 18, "num_classes": 3, "num_segments": 4, "dropout": 0.0} | options)


def clips(seed: int = 0, size: int = 32) -> torch.Tensor:
    return torch.randn(2, 4, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_the_page_has_all_and_each_is_short():
    assert FILES.keys() == {"my_data.py", "my_net.py", "my.yaml", "my_block.py", "my_stages.py"}
    assert all(len(text.splitlines()) < 20 for text in FILES.values())
    classes = (
        f"{Path(name).stem}:{found}" for name in FILES for found in re.findall(r"^class (\w+)", FILES[name], re.M)
    )
    assert set(classes) == {NET, BLOCK, STAGES}


def test_a_dataset(folder):
    with (folder / "actions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["split", "video", "start", "end", "action"])
        for number in range(4):
            write_numbered_video(folder / "videos" / f"v{number}.mp4", 20, fps=10)
            table.writerow(["train", f"v{number}", 0, 0.5, "wait"])
            table.writerow(["train" if number else "val", f"v{number}", 0.5, 2, "pour"])
    for split in ("train", "val"):
        arguments = [
            "pack",
            "--dataset=my_data:read",
            f"--videos={folder / 'videos'}",
            f"--split={split}",
            "--workers=1",
        ]
        assert sharding([*arguments, "--annotations", str(folder / "actions.csv"), f"--out={folder / 'out'}"]) == 0
    train, val = (load_dataset(folder / "out" / split) for split in ("train", "val"))
    assert train.manifest.dataset == "my_data:read"
    assert train.manifest.classes == val.manifest.classes == ("pour", "wait")
    found = {key: (label, frames) for key, label, frames in zip(train.keys, train.labels.tolist(), train.num_frames)}
    assert found == {"v0_0": (1, 5)} | {
        key: value for n in (1, 2, 3) for key, value in ((f"v{n}_{2 * n}", (1, 5)), (f"v{n}_{2 * n + 1}", (0, 15)))
    }
    assert val.keys == ["v0_1"] and val.num_frames.tolist() == [15]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("kinetcs", "known are activitynet, charades,.* or a function of your own as MODULE:FUNCTION"),
        ("my_data.py:read", "known are .* MODULE:FUNCTION"),
        ("my_data:", "known are .* MODULE:FUNCTION"),
        ("my_missing:read", "No module named 'my_missing'; install it, or put its folder on the Python path"),
        ("my_need:read", "No module named 'a_package_that_nobody_has'; install it"),
        ("my_data:rad", r"no function rad in .*/my_data\.py"),
        ("my_more:NUMBER", r"no function NUMBER in .*/my_more\.py"),
        ("my_more:generator", r"it returned a generator, not sharding\.records\.Annotations"),
    ],
)
def test_a_reader_that_cannot_be_used_is_told_in_a_line(folder, dataset, message):
    (folder / "videos").mkdir()
    with pytest.raises(UserError, match=rf"^--dataset {dataset}: {message}") as caught:
        sharding(["pack", f"--dataset={dataset}", f"--videos={folder / 'videos'}", f"--out={folder / 'out'}"])
    assert "\n" not in str(caught.value) and not (folder / "out").exists()


@pytest.mark.parametrize(
    ("record", "more", "message"),
    [
        (VideoRecord("a", Path("a.mp4"), "x"), {}, "source .*Path.* is no text"),
        (VideoRecord(1, "a.mp4", "x"), {}, "key 1 is no text"),
        (VideoRecord("a", "a.mp4", 0), {}, "label 0 is no text"),
        (VideoRecord("a", "a.mp4", "x"), {"levels": (("event", ("e",)),)}, r"level_labels=\(\): .* levels: event"),
        (
            VideoRecord("a", "a.mp4", "x", level_labels=("f",)),
            {"levels": (("event", ("e",)),)},
            "a class of each level",
        ),
        (VideoRecord("a", "a.mp4", "x", level_labels=("f",)), {}, "levels: none"),
        (VideoRecord("a", "a.mp4", "x"), {"flip_pairs": ((0, 2),)}, r"flip_pairs: \(0, 2\): label ids from 0 to 1"),
    ],
)
def test_what_a_reader_returns_is_checked(record, more, message):
    with pytest.raises(UserError, match=message):
        check_records(Annotations([record], ("x", "y"), **more))


@pytest.mark.parametrize("arch", [NET, BLOCK, STAGES])
def test_a_network_learns_and_is_frozen_with_the_same_logits(folder, arch):
    net = build_model(small(arch)).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    losses = []
    for _ in range(3):
        outputs = net(clips(0, 16).double(), with_losses=True)
        losses.append(nn.functional.cross_entropy(outputs.logits, torch.tensor([0, 2])) + outputs.capacity_loss)
        optimizer.zero_grad()
        losses[-1].backward()
        assert all(parameter.grad is not None for parameter in net.parameters())
        optimizer.step()
    assert losses[-1] < losses[0]
    expected = net.eval()(clips(1, 16).double()).detach()
    torch.testing.assert_close(fuse_batch_norm(net)(clips(1, 16).double()), expected)
    again = build_model(small(arch)).double().eval()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(clips(1, 16).double()), expected)


def test_freezing_leaves_an_order_of_layers_that_is_not_ours(folder):
    net = build_model(small("my_more:Backwards")).double()
    for seed in range(3):
        net(clips(seed).double())
    expected = net.eval()(clips(9).double())
    torch.testing.assert_close(fuse_batch_norm(net)(clips(9).double()), expected.detach())


@pytest.mark.parametrize("arch", [BLOCK, STAGES])
def test_imagenet_weights_enter_and_what_is_added_begins_as_nothing(folder, arch):
    weights = {name: torch.randn_like(v) * 0.1 if v.ndim > 1 else v for name, v in resnet18().state_dict().items()}
    torch.save(weights, folder / "resnet18.pth")
    torch.manual_seed(0)
    net, plain = (build_model(small(name, pretrained=str(folder / "resnet18.pth"))).eval() for name in (arch, "tsn"))
    net.fc = plain.fc
    torch.testing.assert_close(net(clips()), plain(clips()))


def test_a_file_of_its_own_weights_enters_a_whole_network(folder):
    other = build_model(small(NET, num_classes=7))
    save_file(other.state_dict(), folder / "other.safetensors")
    net = build_model(small(NET, pretrained=str(folder / "other.safetensors")))
    assert torch.equal(net.net.stem[0].weight, other.net.stem[0].weight) and net.net.fc.out_features == 3


def test_a_block_stands_under_every_head(folder):
    net = build_model(small(BLOCK, head="encoder", init="am_mup"))
    assert net(clips()).shape == (2, 3)
    net = build_model(small(BLOCK, head="pathways", pathway_frames=(2, 4), levels=(("event", ("e", "f")),)))
    assert isinstance(net, PathwayNet) and isinstance(net.pathways[1].layer1[0], BasicBlock)
    assert net(clips(), with_losses=True).level_logits[0].shape == (2, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "vpn"}, r"model\.arch='vpn': allowed are vpsn, .* MODULE:CLASS"),
        ({"arch": "my_net.py:R2Plus1D"}, r"model\.arch='my_net\.py:R2Plus1D': allowed are"),
        ({"arch": "my_missing:Net"}, "No module named 'my_missing'; install it, or put its folder on the Python path"),
        ({"arch": "my_need:Net"}, "No module named 'a_package_that_nobody_has'; install it"),
        ({"arch": "my_net:Net"}, r"Net is not in .*/my_net\.py; allowed is a class derived from model\.Block"),
        ({"arch": "os:system"}, "system is <built-in function system>; allowed is a class derived"),
        ({"arch": "torch.nn:Linear"}, "Linear is <class .*Linear'>; allowed is a class derived"),
        ({"arch": BLOCK, "depth": 50}, r"model\.depth=50: .*MotionGate, which is a BasicBlock, are 18, 34"),
        ({"arch": "my_more:Deep"}, r"model\.depth=18: .*Deep, which is a Bottleneck, are 50, 101"),
        ({"arch": NET, "head": "encoder"}, r"model\.head=encoder: .*R2Plus1D, which is a complete network, is mean"),
        ({"arch": NET, "head": "pathways", "pathway_frames": (4,)}, r"model\.head=pathways: .*is mean"),
        ({"arch": STAGES, "head": "cross_encoder"}, r"model\.head=cross_encoder: .*is mean"),
        ({"arch": NET, "init": "am_mup"}, r"model\.init=am_mup: .* initialises itself"),
        ({"arch": NET, "pretrained": "imagenet"}, "weights of a ResNet, and model.arch=my_net:R2Plus1D is none"),
    ],
)
def test_a_class_that_cannot_be_used_is_told_in_a_line(folder, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_model(small(**options))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_holds_the_name_and_runs_nothing_that_lies_beside_it(folder, monkeypatch):
    model = small(BLOCK)
    net = build_model(model)
    info = CheckpointInfo(1, 1, ("a", "b", "c"), {}, "")
    write_checkpoint(folder, net, info, replace(Config(), model=model))
    assert "arch: my_block:MotionGate" in (folder / "config.yaml").read_text()
    read, _, config = load_checkpoint(folder)
    assert config.model == model
    assert torch.equal(read(clips()), net.eval()(clips()))

    (folder / "my_trap.py").write_text("raise SystemExit('it was run')\n")
    text = (folder / "config.yaml").read_text().replace("my_block:MotionGate", "my_trap:MotionGate")
    (folder / "config.yaml").write_text(text)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(folder)])
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as caught:
        load_checkpoint(folder)
    assert str(caught.value) == (
        f"{folder}: model.arch='my_trap:MotionGate': No module named 'my_trap'; install it, or put its folder on the "
        "Python path: export PYTHONPATH=FOLDER"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_bf16_of_3d_convolutions_is_refused_on_a_cpu(folder):
    config = replace(Config(), model=small(NET))
    with pytest.raises(UserError, match=r"^train\.precision=bf16: on a CPU, .* 3D convolution .*; use fp32$"):
        build_network(config)
    build_network(replace(config, train=replace(config.train, precision="fp32")))
    build_network(replace(config, model=small(BLOCK)))


@pytest.mark.slow
def test_every_command_runs(folder):
    values = yaml.safe_load(FILES["my.yaml"])
    values["data"] |= {"num_segments": 4, "short_side": 32, "crop_size": 32}
    values["train"] |= {"epochs": 1, "batch_size": 4, "precision": "fp32"}
    values["schedule"] = {"milestones": []}
    (folder / "my.yaml").write_text(yaml.safe_dump(values))
    (folder / "lab" / "videos").mkdir(parents=True)
    rows = []
    for split, count in (("train", 24), ("val", 8)):
        flags = ["--num_classes=2", "--num_frames=10", "--size=32", f"--split={split}", f"--num_videos={count}"]
        done = run_command([sys.executable, "-m", "sharding", "motion", f"--out={folder / 'motion'}", *flags])
        assert done.returncode == 0, done.stderr
        for number, video in enumerate(sorted((folder / "motion" / split).rglob("*.mp4"))):
            name = f"{split}{number:03d}"
            video.rename(folder / "lab" / "videos" / f"{name}.mp4")
            rows.append([split, name, 0, 0.66, video.parent.name])  # of 10 frames at 15 a second
    with (folder / "lab" / "actions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["split", "video", "start", "end", "action"], *rows])

    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "VPSN": str(ROOT), "OMP_NUM_THREADS": "1"}
    begin = f'set -euo pipefail\ndeepspeed() {{ command deepspeed --master_port={free_port()} "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-c", begin + COMMANDS], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    print(done.stdout)
    assert "samples      24 of 24 listed" in done.stdout
    assert re.search(r"my_net:R2Plus1D, 31\.30 M parameters, 2 classes; 24 samples", done.stdout)
    assert re.search(r"my_block:MotionGate-18, \d+\.\d+ M parameters, 2 classes; 24 samples", done.stdout)
    assert len(re.findall(r"^top-1 .* of 8 samples", done.stdout, re.MULTILINE)) == 2
    assert (folder / "net.onnx").is_file() and (folder / "runs" / "block" / "checkpoints" / "best").is_file()

    command = [sys.executable, ROOT / "launch" / "predict.py", "--checkpoint=runs/net", "lab/videos/val000.mp4"]
    without = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=without, capture_output=True, text=True)
    assert done.returncode == 2
    shown = re.search(r"(launch/predict\.py: error: .*)-\d+(: model.arch='my_net:R2Plus1D': .*)", PAGE)
    assert done.stderr.startswith(shown[1]) and done.stderr.endswith(shown[2] + "\n")
