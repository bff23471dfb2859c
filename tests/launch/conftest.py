"""A packed motion dataset and a run small enough to train in seconds."""

import os
import socket
import sys
from pathlib import Path

import pytest

from tests.conftest import pack, run_command

# Small networks gain nothing from more threads, and wait long for them on a busy machine.
os.environ["OMP_NUM_THREADS"] = "1"

DEEPSPEED = Path(sys.executable).with_name("deepspeed")


@pytest.fixture(scope="session")
def motion(tmp_path_factory) -> Path:
    """Packed splits `train` (22 videos) and `val` (5) of two motions, 32 x 32 pixels."""
    folder = tmp_path_factory.mktemp("motion")
    for split, count in (("train", 22), ("val", 5)):
        flags = ["--num_classes=2", "--num_frames=6", "--size=32", f"--split={split}", f"--num_videos={count}"]
        done = run_command([sys.executable, "-m", "sharding", "motion", f"--out={folder / 'videos'}", *flags])
        assert done.returncode == 0, done.stderr
        pack(folder / "videos" / split, folder, split)
    return folder


@pytest.fixture(scope="session")
def small_config(motion, tmp_path_factory) -> Path:
    """A configuration that trains VPSN-18 for two epochs of five steps, evaluating and saving after each."""
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(
        f"""
data: {{train: {motion}/train, val: {motion}/val, num_segments: 4, short_side: 32, crop_size: 32, flip: false}}
model: {{depth: 18}}
train: {{epochs: 2, batch_size: 4, log_every_steps: 1}}
"""
    )
    return path


def train(config: Path, run_dir: Path, *options: str, num_ranks: int = 1):
    """Runs launch/train.py under the DeepSpeed launcher."""
    launcher = [DEEPSPEED, f"--num_gpus={num_ranks}", f"--master_port={_free_port()}"]
    command = [*launcher, "launch/train.py", f"--config={config}", f"--run_dir={run_dir}", *options]
    return run_command(command)


def train_alone(config: Path, run_dir: Path, *options: str):
    """Runs launch/train.py without the launcher, as one rank."""
    return run_command([sys.executable, "launch/train.py", f"--config={config}", f"--run_dir={run_dir}", *options])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def trained(small_config, tmp_path_factory) -> Path:
    """The run folder of a whole small training."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    done = train(small_config, run_dir)
    assert done.returncode == 0, done.stdout + done.stderr
    return run_dir
