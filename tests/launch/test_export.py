"""ONNX files: the same logits as the network, and a description by which anyone can feed them."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from launch.export import main
from launch.inference.onnx import Exported, _sampling, describe, export, read_opset
from launch.inference.predictor import open_loader
from launch.training.checkpoint import find_checkpoint, load_checkpoint
from launch.training.forward import compute_logits
from model import ModelConfig, build_model, fuse_batch_norm
from pipeline.config import DataConfig
from pipeline.reading import read_media
from pipeline.sampling import middle_frames
from sharding.errors import UserError
from sharding.video.decode import decode_frames
from tests.conftest import run_command
from tests.helpers.videos import write_numbered_video

onnxruntime = pytest.importorskip("onnxruntime")
SHAPE = (4, 3, 32, 32)


def run_onnx(path, clips: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"clips": clips.numpy()})[0])


def small_network(arch: str, depth: int, head: str = "mean") -> nn.Module:
    """A frozen network of few blocks whose statistics and classifier are no longer the initial ones."""
    torch.manual_seed(0)
    net = build_model(ModelConfig(arch=arch, depth=depth, num_classes=5, num_segments=4, head=head))
    for stage, num_blocks in (("layer1", 2), ("layer2", 1), ("layer3", 1), ("layer4", 1)):
        setattr(net, stage, getattr(net, stage)[:num_blocks])
    nn.init.normal_(net.fc.weight)
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(2, *SHAPE))
    return fuse_batch_norm(net.eval())


@pytest.mark.parametrize(
    ("arch", "depth", "head"),
    [
        ("vpsn", 18, "mean"),
        ("tsm", 18, "mean"),
        ("tea", 50, "mean"),
        ("tsn", 18, "lstm"),
        *(pytest.param(arch, depth, "mean", marks=pytest.mark.slow) for arch, depth in (("gst", 50), ("stm", 50))),
        *(
            pytest.param("tsn", 18, head, marks=pytest.mark.slow)
            for head in ("mean", "encoder", "ts_lstm", "temporal_inception")
        ),
    ],
)
def test_any_batch_gives_the_network_s_logits(tmp_path, arch, depth, head):
    net = small_network(arch, depth, head)
    exported = export(net, SHAPE, tmp_path / "net.onnx")
    assert exported.largest_difference <= 1e-4
    for batch in (1, 2, 5):  # 5 the export itself did not try
        clips = torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(batch))
        with torch.inference_mode():
            expected = net(clips)
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(run_onnx(tmp_path / "net.onnx", clips), expected, rtol=0, atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_opset_is_the_one_asked_for(tmp_path):
    path = tmp_path / "net.onnx"
    exported = export(small_network("tsn", 18), SHAPE, path, opset=18)
    assert exported.opset == read_opset(path) == 18


class Drifting(nn.Module):
    """Adds a buffer that grows with each call, which no exported file can follow."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.calls = 0

    def forward(self, clips):
        self.calls += 1
        return self.fc(clips.mean((1, 3, 4))) + self.calls


def test_what_disagrees_gets_no_name(tmp_path):
    with pytest.raises(UserError, match="not written, as onnxruntime's logits differ"):
        export(Drifting().eval(), SHAPE, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_command(trained, tmp_path):
    out = tmp_path / "new" / "model.onnx"
    done = run_command([sys.executable, "launch/export.py", f"--checkpoint={trained}", f"--out={out}"], fresh=True)
    assert done.returncode == 0, done.stderr
    assert "checked against onnxruntime with batches of 1 and 3" in done.stdout
    net, info, _ = load_checkpoint(trained)
    values = json.loads(out.with_suffix(".json").read_text())
    assert values["classes"] == list(info.classes) == ["left", "right"]
    assert values["input"]["shape"] == ["batch", 4, 3, 32, 32]
    assert values["checkpoint"]["train_fingerprint"] == info.train_fingerprint
    assert values["export"]["largest_difference"] <= 1e-4
    assert sorted(path.name for path in out.parent.iterdir()) == ["model.json", "model.onnx"]
    clips = torch.randn(2, 4, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(run_onnx(out, clips), net(clips), rtol=1e-4, atol=1e-4)


def follow(steps: list[dict], frames: list[np.ndarray]) -> torch.Tensor:
    """Stored frames (H, W, 3) -> clip (T, 3, H, W), as the steps of a description after the first say."""
    _, sample, resize, crop, normalise = steps
    segments, height, width = sample["num_segments"], *frames[0].shape[:2]
    taken = [frames[int((i + 0.5) * len(frames) / segments)] for i in range(segments)]
    clip = torch.from_numpy(np.stack(taken)).permute(0, 3, 1, 2).float()
    short = min(height, width)
    size = [height * resize["short_side"] // short, width * resize["short_side"] // short]
    clip = F.interpolate(clip, size, mode="bilinear", antialias=True)
    top, left = (size[0] - crop["height"] + 1) // 2, (size[1] - crop["width"] + 1) // 2
    clip = clip[:, :, top : top + crop["height"], left : left + crop["width"]]
    mean, std = (torch.tensor(normalise[name]).view(3, 1, 1) for name in ("mean", "std"))
    return (clip - mean) / std


def test_the_description_of_segments_of_several_frames():
    """Its formula, followed, gives its example, and that is the loader's frames."""
    step = _sampling(DataConfig(num_segments=3, frames_per_segment=4))
    segments, length, n = step["num_segments"], step["frames_per_segment"], step["example"]["n"]
    begins = [int((i + 0.5) * max(1, n - length + 1) / segments) for i in range(segments)]
    assert step["example"]["frames"] == [min(begin + j, n - 1) for begin in begins for j in range(length)]
    assert step["example"]["frames"] == middle_frames(n, 3, frames_per_segment=4).tolist()
    assert "begin_i = floor((i + 1/2) * max(1, n - frames_per_segment + 1) / num_segments)" in step["frames"]


def test_following_the_description_gives_the_loader_s_clip(trained, tmp_path):
    net, info, config = load_checkpoint(trained)
    out = tmp_path / "model.onnx"
    data = replace(config.data, short_side=48, crop_size=40)
    exported = export(fuse_batch_norm(net), (4, 3, 40, 40), out)
    video = write_numbered_video(tmp_path / "video.mp4", 30, size=(96, 72), first_number=0b0110_1001_0011_0000)
    values = describe(out.name, exported, find_checkpoint(trained), info, replace(config, data=data))
    with open_loader([video], info.packing, data, "cpu") as (loader, _):
        [batch] = loader
        stored = decode_frames(read_media(loader.dataset, 0), np.arange(30))
    clip = follow(values["preprocessing"], list(stored))
    assert clip.shape == batch.clips[0].shape
    assert (clip - batch.clips[0]).abs().mean() < 0.01  # a pixel beside it would be 0.05
    assert (clip.roll(1, -1) - batch.clips[0]).abs().mean() > 0.04
    logits = compute_logits(net, batch.clips, "fp32")
    torch.testing.assert_close(run_onnx(out, clip[None]), logits, rtol=0.01, atol=0.01)


def test_dense_sampling_is_described(trained):
    _, info, config = load_checkpoint(trained)
    dense = replace(config, data=replace(config.data, sampling="dense", frame_stride=8))
    values = describe("model.onnx", Exported(opset=20, largest_difference=0.0), find_checkpoint(trained), info, dense)
    assert values["preprocessing"][1]["example"] == {"n": 64, "frames": [16, 24, 32, 40]}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out=model.pt"], "--out model.pt: use a name that ends in .onnx"),
        (["--out=model.onnx", "--opset=17"], "--opset 17: 18 to "),
        (["--out=/proc/model.onnx"], "/proc/model.onnx: cannot be written: "),
        (["--out=model.onnx", "--checkpoint=tests"], "tests: no checkpoint there"),
    ],
)
def test_bad_input_is_refused_before_the_work(trained, flags, message):
    with pytest.raises(UserError) as caught:
        main([f"--checkpoint={trained}", *flags])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


class Deciding(nn.Module):
    """Asks its input which way to go."""

    def forward(self, clips):
        return clips.mean((1, 3, 4)) if clips.sum() > 0 else clips.amax((1, 3, 4))


def test_what_the_exporter_cannot_follow_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"^Deciding: PyTorch's exporter cannot follow it: .") as caught:
        export(Deciding().eval(), SHAPE, tmp_path / "net.onnx")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
