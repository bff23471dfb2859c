"""Every file of launch/configs: it parses, builds its network, and takes a step on generated videos."""

import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from launch.training.config_parser import load_config, parse_config
from launch.training.mfu import training_flops
from launch.training.run_log import read_metrics
from model import ModelConfig, build_model
from tests.conftest import SHARED_VIDEOS, pack, run_command
from tests.launch.conftest import losses, train_alone

FOLDER = Path(__file__).resolve().parents[2] / "launch" / "configs"
CONFIGS = sorted(path for path in FOLDER.rglob("*.yaml") if path.parent.name != "plans")
GFLOPS = {
    ("tsm", 8): 32.7,
    ("vpsn", 8): 36.0,
    ("vpsn", 16): 72.0,
    ("dg_p3d", 16): 23.6,
    ("dg_p3d", 32): 47.2,
    ("slowonly", 8): 44.7,
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_parses_builds_and_comes_back_whole(path, tmp_path):
    needs_file = ".pth" in path.read_text()  # of another project, read as the configuration is
    config = parse_config("train", [f"--config={path}", *(["--model.pretrained=null"] if needs_file else [])])
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


@pytest.mark.slow
def test_the_recipe_of_fine_tuning_begins_with_given_weights(motion, tmp_path):
    net = build_model(ModelConfig("vpsn", 50, 5, 8))
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, tmp_path / "net.safetensors")
    options = ["--data.short_side=32", "--data.crop_size=32", "--train.batch_size=8", "--train.micro_batch_size=4"]
    options += ["--train.epochs=2", f"--model.pretrained={tmp_path / 'net.safetensors'}", "--train.log_every_steps=1"]
    options += ["--model.frozen_stages=2", f"--data.train={motion / 'train'}", f"--data.val={motion / 'val'}"]
    done = train_alone(FOLDER / "finetune_folder.yaml", tmp_path / "run", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert "classifier of 5 classes replaced by one of 2" in said and "of them trained)" in said
    assert list(losses(tmp_path / "run")) == [1, 2, 3, 4]


@pytest.mark.slow
def test_the_recipe_of_ones_own_folders_on_real_clips(tmp_path):
    """Six interactions, 60 clips to train on and 60 of another place to be tested: minutes, and far above chance."""
    videos = SHARED_VIDEOS.parent / "real" / "ut_interaction"
    if not videos.is_dir():
        pytest.skip(f"no real videos in {videos}")
    for split in ("set1", "set2"):
        pack(videos, tmp_path, split)
    options = [f"--data.train={tmp_path / 'set1'}", f"--data.val={tmp_path / 'set2'}", "--train.keep_checkpoints=1"]
    done = train_alone(FOLDER / "own_folder.yaml", tmp_path / "run", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    accuracies = [line["top1"] for line in read_metrics(tmp_path / "run") if line["kind"] == "evaluation"]
    assert len(accuracies) == 60 and max(accuracies) >= 0.65


def test_the_recipe_of_ones_own_folders_trains(tmp_path):
    """As its comments say: class folders in folders of splits are packed, trained on and evaluated."""
    for split, count in (("train", 12), ("val", 4)):
        options = ["--num-classes", "2", "--num-frames", "8", "--size", "64", "--num-videos", count, "--split", split]
        for command in (
            ["motion", "--out", tmp_path / "videos", *options],
            ["pack", "--dataset", "folder", "--videos", tmp_path / "videos", "--split", split, "--out", tmp_path],
        ):
            done = run_command([sys.executable, "-m", "sharding", *command])
            assert done.returncode == 0, done.stderr
    options = [f"--data.train={tmp_path / 'train'}", f"--data.val={tmp_path / 'val'}"]
    options += ["--train.epochs=2", "--schedule.warmup_epochs=1", "--train.log_every_steps=1"]
    done = train_alone(FOLDER / "own_folder.yaml", tmp_path / "run", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(losses(tmp_path / "run")) == [1, 2, 3, 4]
    assert "4 steps in all" in done.stdout
    assert "(chance 50.00 %)" in done.stdout
    evaluate = ["python", "launch/evaluate.py", "--checkpoint", str(tmp_path / "run"), "--data", str(tmp_path / "val")]
    assert f"next: {shlex.join(evaluate)}" in done.stdout
    assert done.stderr == "", "no library speaks at every start"
    assert "top-5" not in done.stdout
