"""SIGTERM, SIGUSR1, Ctrl-C: the step is finished, all is saved, and the run resumes as if it had never been asked."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from launch.training.checkpoint import pointed
from launch.training.distributed import free_port
from tests.conftest import run_command
from tests.launch.conftest import (
    alone_command,
    find_rank,
    losses,
    same_weights,
    started,
    struck_command,
    train_alone,
    train_command,
    wait_for_step,
)


def last_step(run_dir) -> int:
    return int(pointed(run_dir / "checkpoints", "last").removeprefix("step-"))


@pytest.mark.parametrize(
    "number", [signal.SIGINT, *(pytest.param(number, marks=pytest.mark.slow) for number in (15, 10))]
)
def test_in_the_middle_of_an_epoch(small_config, trained, tmp_path, number):
    run_dir = tmp_path / "run"
    done = run_command(struck_command(small_config, run_dir, number, 2))
    assert done.returncode == 75, done.stdout + done.stderr
    assert last_step(run_dir) == max(losses(run_dir)) == 2
    assert train_alone(small_config, run_dir, "--resume").returncode == 0
    assert losses(run_dir) == losses(trained)
    assert same_weights(run_dir, trained)


@pytest.mark.slow
def test_told_to_one_rank_alone(small_config, tmp_path):
    run_dir = tmp_path / "run"
    with started(train_command(small_config, run_dir, "--train.epochs=50", num_ranks=2)) as launcher:
        wait_for_step(run_dir, 2, launcher)
        find_rank(launcher, 1).send_signal(signal.SIGUSR1)
        assert launcher.wait(60) == 75
    assert last_step(run_dir) == max(losses(run_dir)) < 100
    logs = [(run_dir / "logs" / f"rank-{rank}.log").read_text().splitlines()[-1] for rank in (0, 1)]
    assert "a signal to another rank: saving and leaving" in logs[0]
    assert "SIGUSR1: saving and leaving" in logs[1]


@pytest.mark.slow
@pytest.mark.parametrize("launched", [False, True])
def test_ctrl_c_in_a_terminal(small_config, tmp_path, launched):
    """It reaches the launcher, the ranks and their workers together."""
    run_dir, options = tmp_path / "run", ("--train.epochs=50", "--data.num_workers=1")
    make = train_command if launched else alone_command
    with started(make(small_config, run_dir, *options)) as process:
        wait_for_step(run_dir, 2, process)
        os.killpg(process.pid, signal.SIGINT)
        code = process.wait(60)
    assert code == 75 or launched  # the launcher's own code
    assert last_step(run_dir) == max(losses(run_dir)) < 100
    assert "SIGINT: saving and leaving" in (run_dir / "logs" / "rank-0.log").read_text()


@pytest.mark.slow
def test_the_launcher_passes_sigterm_on(small_config, tmp_path):
    run_dir = tmp_path / "run"
    with started(train_command(small_config, run_dir, "--train.epochs=50", num_ranks=2)) as launcher:
        wait_for_step(run_dir, 2, launcher)
        find_rank(launcher, 0).parent().send_signal(signal.SIGTERM)
        assert launcher.wait(60) == 1  # the launcher's own code, whatever its processes end with
    assert last_step(run_dir) == max(losses(run_dir))


SECOND = """
import os, signal, time
from launch.training.distributed import Ranks
from launch.training.preemption import StopRequest

stop = StopRequest(Ranks(0, 1, None))
os.kill(os.getpid(), signal.SIGINT)
os.kill(os.getpid(), signal.SIGINT)  # of the launcher, at the same time
assert stop.asked()
time.sleep(2.1)
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_second_ctrl_c_does_not_wait():
    done = run_command([sys.executable, "-c", SECOND])
    assert done.stdout.strip() == "interrupted", done.stderr


PARENT = """
import subprocess, sys, time
process = subprocess.Popen(sys.argv[1:])
print(process.pid, flush=True)
process.wait()
"""


def test_a_rank_whose_launcher_is_killed_saves_and_leaves(small_config, tmp_path):
    run_dir = tmp_path / "run"
    command = alone_command(small_config, run_dir, "--train.epochs=500")
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    environment = os.environ | place | {"MASTER_PORT": str(free_port())}
    with started(
        [sys.executable, "-c", PARENT, *command], fresh=True, env=environment, stdout=subprocess.PIPE
    ) as launcher:
        rank = psutil.Process(int(launcher.stdout.readline()))
        wait_for_step(run_dir, 2, launcher)
        launcher.kill()
        rank.wait(60)
    assert last_step(run_dir) == max(losses(run_dir)) < 2000
    assert "SIGTERM: saving and leaving" in (run_dir / "logs" / "rank-0.log").read_text()
