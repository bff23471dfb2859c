"""A packed motion dataset and a run small enough to train in seconds."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from launch.training.checkpoint import pointed
from launch.training.distributed import free_port
from launch.training.run_log import read_metrics
from tests.conftest import pack
from tests.helpers.commands import Process, run_command, started

DEEPSPEED = Path(sys.executable).with_name("deepspeed")


@pytest.fixture(scope="session")
def motion(tmp_path_factory) -> Path:
    """Packed splits `train` (22 videos) and `val` (5) of two motions, 32 x 32 pixels."""
    return pack_motion(tmp_path_factory.mktemp("motion"), size=32)


def pack_motion(folder: Path, size: int) -> Path:
    """Pack small splits `train` and `val` of two motions, size x size pixels, in `folder`, and return it."""
    for split, count in (("train", 22), ("val", 5)):
        flags = ["--num_classes=2", "--num_frames=6", f"--size={size}", f"--split={split}", f"--num_videos={count}"]
        done = run_command([sys.executable, "-m", "sharding", "motion", f"--out={folder / 'videos'}", *flags])
        assert done.returncode == 0, done.stderr
        pack(folder / "videos" / split, folder, split)
    return folder


@pytest.fixture(scope="session")
def small_config(motion, tmp_path_factory) -> Path:
    """A configuration that trains VPSN-18 for two epochs of five steps, evaluating and saving after each."""
    return write_small_config(tmp_path_factory.mktemp("config") / "small.yaml", motion)


def write_small_config(path: Path, motion: Path) -> Path:
    """Write that configuration for a folder that `pack_motion` made, and return its path."""
    path.write_text(
        f"""
data: {{train: {motion}/train, val: {motion}/val, num_segments: 4, short_side: 32, crop_size: 32, flip: false}}
model: {{depth: 18}}
train: {{epochs: 2, batch_size: 4, log_every_steps: 1}}
"""
    )
    return path


def train(config: Path, run_dir: Path, *options: str, num_ranks: int = 1) -> subprocess.CompletedProcess:
    """Run launch/train.py on ranks as a launcher starts them; the exit code is the first that is not 0."""
    return run_ranks(alone_command(config, run_dir, *options), num_ranks)


def run_ranks(command: list[object], num_ranks: int) -> subprocess.CompletedProcess:
    """Run a command on ranks as a launcher starts them; the exit code is the first that is not 0."""
    with started_ranks(command, num_ranks) as ranks:
        outputs, errors = zip(*(rank.communicate(timeout=600) for rank in ranks))
        code = next((rank.returncode for rank in ranks if rank.returncode), 0)
        return subprocess.CompletedProcess([], code, "".join(outputs), "".join(errors))


@contextmanager
def started_ranks(command: list[object], num_ranks: int) -> Iterator[list[Process]]:
    """A command on ranks as a launcher starts them, of which nothing is left in the end."""
    port = free_port()
    with ExitStack() as stack:
        environments = [rank_environment(rank, num_ranks, port) for rank in range(num_ranks)]
        yield [stack.enter_context(started(command, env=environment)) for environment in environments]


def rank_environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """The environment that a launcher gives a rank, all ranks being on one machine."""
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_SIZE": world_size}
    values |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return os.environ | {name: str(value) for name, value in values.items()}


def train_command(config: Path, run_dir: Path, *options: str, num_ranks: int = 1) -> list[object]:
    """launch/train.py under the DeepSpeed launcher."""
    launcher = [DEEPSPEED, f"--num_gpus={num_ranks}", f"--master_port={free_port()}"]
    return [*launcher, "launch/train.py", f"--config={config}", f"--run_dir={run_dir}", *options]


def wait_for_step(run_dir: Path, step: int, process: Process) -> None:
    """Until a run that logs each step has taken `step` of them."""
    deadline = time.monotonic() + 120
    while max(losses(run_dir), default=0) < step:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def find_rank(launcher: subprocess.Popen, rank: int) -> psutil.Process:
    """The process of a rank that the DeepSpeed launcher has started."""
    children = psutil.Process(launcher.pid).children(recursive=True)
    return next(child for child in children if f"--local_rank={rank}" in child.cmdline())


def losses(run_dir: Path) -> dict[int, float]:
    """The logged loss by step."""
    return {line["step"]: line["loss"] for line in read_metrics(run_dir) if line["kind"] == "train"}


def weights(run_dir: Path, name: str = "model") -> dict[str, torch.Tensor]:
    """Of the last checkpoint."""
    folder = run_dir / "checkpoints"
    return load_file(folder / pointed(folder, "last") / f"{name}.safetensors")


def same_weights(one: Path, other: Path, name: str = "model") -> bool:
    a, b = weights(one, name), weights(other, name)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def train_alone(config: Path, run_dir: Path, *options: str):
    """Runs launch/train.py without the launcher, as one rank."""
    return run_command(alone_command(config, run_dir, *options))


def alone_command(config: Path, run_dir: Path, *options: str) -> list[object]:
    """launch/train.py without the launcher."""
    return [sys.executable, "launch/train.py", f"--config={config}", f"--run_dir={run_dir}", *options]


def kill_and_resume(config: Path, run_dir: Path, step: int, *options: str) -> None:
    """Train with two ranks, kill both when `step` steps are logged, and resume to the end."""
    with started_ranks(alone_command(config, run_dir, *options), 2) as ranks:
        wait_for_step(run_dir, step, ranks[0])
        for rank in ranks:
            rank.kill()
    done = train(config, run_dir, *options, "--resume", num_ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr


STRIKING = """
import os, sys
from launch.train import main
from launch.training.trainer import Trainer
from sharding.cli import run_command

number, step = int(sys.argv.pop(1)), int(sys.argv.pop(1))
log_step = Trainer.log_step

def strike(self, figures):
    log_step(self, figures)
    if self.step == step:
        os.kill(os.getpid(), number)

Trainer.log_step = strike
run_command(main, "launch/train.py")
"""


def struck_command(config: Path, run_dir: Path, number: signal.Signals, step: int, *options: str) -> list[object]:
    """launch/train.py without the launcher, which gets a signal as soon as it has logged a step."""
    program = [sys.executable, "-c", STRIKING, int(number), step]
    return [*program, f"--config={config}", f"--run_dir={run_dir}", *options]


@pytest.fixture(scope="session")
def trained(small_config, tmp_path_factory) -> Path:
    """The run folder of a whole small training."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    done = train(small_config, run_dir)
    assert done.returncode == 0, done.stdout + done.stderr
    return run_dir
