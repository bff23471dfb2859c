"""The mean of checkpoints."""

import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from launch.inference.averaging import BatchNormOptions, average_checkpoints, estimate_batch_norm
from launch.training.checkpoint import CheckpointInfo, load_checkpoint, write_checkpoint
from launch.training.config import Config
from model import ModelConfig, build_model
from pipeline.config import DataConfig
from pipeline.loader import VideoLoader
from sharding.errors import UserError
from tests.conftest import run_command


def test_the_mean_of_checkpoints_is_a_checkpoint(trained, motion, tmp_path):
    checkpoints = sorted((trained / "checkpoints").glob("step-*"))
    assert len(checkpoints) == 2
    command = [sys.executable, "launch/average.py", "--checkpoint", *checkpoints]
    done = run_command([*command, f"--out={tmp_path / 'plain'}", "--bn-batches=0"])
    assert done.returncode == 0, done.stderr
    states = [load_file(folder / "model.safetensors") for folder in checkpoints]
    plain = load_file(tmp_path / "plain" / "model.safetensors")
    for name, value in plain.items():
        if value.is_floating_point():
            expected = sum(state[name].numpy().astype("f8") for state in states) / 2
            assert torch.equal(value, torch.from_numpy(expected).to(value.dtype)), name
    done = run_command([*command, f"--out={tmp_path / 'mean'}", "--bn-batches=3", "--batch-size=4"])
    assert done.returncode == 0, done.stderr
    assert f"BatchNorm: estimated from 12 clips of {motion / 'train'}" in done.stdout
    mean = load_file(tmp_path / "mean" / "model.safetensors")
    changed = {name for name in mean if not torch.equal(mean[name], plain[name])}
    assert changed and all("running_" in name or "num_batches" in name for name in changed)
    # The first BatchNorm sees the very clips: its statistics by another way.
    net, _, config = load_checkpoint(tmp_path / "mean")
    loader = VideoLoader(motion / "train", config.data, training=True, micro_batch_size=4, seed=config.train.seed)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        maps = [net.conv1(batch.clips.flatten(0, 1)).float() for _, batch in zip(range(3), loader)]
    expected = torch.stack([x.mean((0, 2, 3)) for x in maps]).mean(0)
    torch.testing.assert_close(mean["bn1.running_mean"], expected, rtol=0.02, atol=1e-3)
    done = run_command([*command, f"--out={tmp_path / 'mean'}"])
    assert done.returncode == 2 and "already there and not an empty folder" in done.stderr


def test_held_layers_keep_their_statistics():
    norms = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3))
    clips = [torch.rand(4, 3, 5, 5) for _ in range(2)]
    estimate_batch_norm(norms, iter(clips), "fp32", held=[norms[1]])
    torch.testing.assert_close(norms[0].running_mean, torch.cat(clips).mean((0, 2, 3)))
    assert torch.equal(norms[1].running_mean, torch.zeros(3))
    assert norms[0].momentum == 0.1 and not norms[0].training


def test_heads_that_normalise_clips_take_no_batch_of_one(motion, tmp_path):
    model = ModelConfig("tsn", 18, 2, 4, head="ts_lstm")
    for step in (1, 2):
        info = CheckpointInfo(step, step, ("a", "b"), {}, "")
        folder = tmp_path / f"step-{step:08d}"
        folder.mkdir()
        write_checkpoint(folder, build_model(model), info, replace(Config(), model=model))
    options = BatchNormOptions(1, 1, str(motion / "train"))
    with pytest.raises(UserError, match=r"^--batch-size 1: model\.head=ts_lstm has BatchNorm over clips; use 2"):
        average_checkpoints(sorted(tmp_path.glob("step-*")), tmp_path / "mean", options)
    assert not (tmp_path / "mean").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoint", "{0}/last", "{0}/checkpoints/last"], "takes two different checkpoints or more"),
        (["--checkpoint={0}", "--bn-batches=-1"], "--bn-batches -1: use 0 or more"),
    ],
)
def test_averages_that_are_none(trained, tmp_path, options, message):
    options = [option.format(trained) for option in options]
    done = run_command([sys.executable, "launch/average.py", *options, f"--out={tmp_path / 'out'}"])
    assert done.returncode == 2 and message in done.stderr
    assert not (tmp_path / "out").exists()


def test_layers_that_training_held_are_found_by_their_statistics(motion, tmp_path):
    """Those of frozen stages are the same in all checkpoints; what is in front of them is not estimated anew."""
    model = ModelConfig("tsn", 18, 2, 4)
    data = DataConfig(num_segments=4, short_side=32, crop_size=32, flip=False)
    torch.manual_seed(0)
    net = build_model(model)
    for step in (1, 2):
        for name, buffer in net.named_buffers():
            if name.startswith("layer4") and name.endswith("running_mean"):
                buffer += step
        folder = tmp_path / f"step-{step:08d}"
        folder.mkdir()
        info = CheckpointInfo(step, step, ("a", "b"), {}, "")
        write_checkpoint(folder, net, info, replace(Config(), model=model, data=data))
    options = BatchNormOptions(1, 4, str(motion / "train"))
    average_checkpoints(sorted(tmp_path.glob("step-*")), tmp_path / "mean", options)
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "mean" / "model.safetensors")
    changed = {name for name in before if name.endswith("running_var") and not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("layer4") and name.endswith("running_var")}
