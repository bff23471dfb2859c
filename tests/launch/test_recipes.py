"""Every file of launch/configs: it parses, builds its network, and takes a step on generated videos."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from launch.training.config import load_config, parse_config
from launch.training.mfu import training_flops
from model import build_model
from tests.launch.conftest import losses, train_alone

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "launch" / "configs").glob("*.yaml"))
GFLOPS = {("vpsn", 8): 36.0, ("vpsn", 16): 72.0, ("dg_p3d", 16): 23.6, ("dg_p3d", 32): 47.2}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_parses_builds_and_comes_back_whole(path, tmp_path):
    config = parse_config("train", [f"--config={path}"])
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(config.to_yaml())
    assert load_config(resolved) == config
    assert config.run_dir == f"runs/{path.stem}"
    with torch.device("meta"):
        net = build_model(replace(config.model, pretrained=None))
    assert net.num_segments == config.data.frames_per_clip
    if config.data.crop_size == 224:
        expected = GFLOPS[config.model.arch, net.num_segments]
        assert training_flops(config.model, 224) / 6e9 == pytest.approx(expected, abs=0.05)
        assert f"{expected} G multiply-adds" in " ".join(path.read_text().split())


# Those of hierarchies need labels on several levels and begin with each other's networks: test_hierarchies.py.
FLAT = [path for path in CONFIGS if not path.stem.startswith("hierarchy_")]


@pytest.mark.slow
@pytest.mark.parametrize("path", FLAT, ids=lambda path: path.stem)
def test_it_takes_a_step(path, motion, tmp_path):
    small = ["--data.short_side=32", "--data.crop_size=32", "--train.batch_size=22", "--train.micro_batch_size=11"]
    small += ["--train.epochs=1", "--schedule.warmup_epochs=0", "--model.pretrained=null", "--data.val=null"]
    small += ["--phases=[]"]
    done = train_alone(path, tmp_path / "run", f"--data.train={motion / 'train'}", *small)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(losses(tmp_path / "run")) == [1]
