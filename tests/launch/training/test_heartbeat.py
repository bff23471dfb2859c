"""A dead rank ends the job with its reason: processes killed and stopped for real."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest

from launch.training.distributed import free_port
from launch.training.run_dir import last_checkpoint
from tests.launch.conftest import run_ranks, started, train, wait_for_step


def start_rank(stack: ExitStack, rank: int, world_size: int, port: int, *arguments: object) -> subprocess.Popen:
    """launch/train.py as one rank, without a launcher that would end the others."""
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1"}
    environment = os.environ | {name: str(value) for name, value in environment.items()} | {"MASTER_PORT": str(port)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return stack.enter_context(started([sys.executable, "launch/train.py", *arguments], env=environment, **pipes))


@pytest.mark.parametrize(
    ("victim", "number"),
    [
        (1, signal.SIGKILL),
        pytest.param(1, signal.SIGSTOP, marks=pytest.mark.slow),  # nothing breaks: the others would wait for good
        pytest.param(0, signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_the_others_end_and_name_the_dead(small_config, tmp_path, victim, number):
    run_dir = tmp_path / "run"
    options = [
        f"--config={small_config}",
        f"--run_dir={run_dir}",
        "--train.epochs=500",
        "--train.heartbeat_timeout_seconds=3",
    ]
    port = free_port()
    with ExitStack() as stack:
        ranks = [start_rank(stack, rank, 2, port, *options) for rank in (0, 1)]
        wait_for_step(run_dir, 2, ranks[0])
        ranks[victim].send_signal(number)
        output, _ = ranks[1 - victim].communicate(timeout=40)
        assert ranks[1 - victim].returncode == 1
    expected = f"rank 1 on {os.uname().nodename}, process {ranks[1].pid}, has died: no sign of life for 3 seconds"
    assert (expected if victim else "rank 0 has died: its store does not answer") in output


def test_a_port_in_use_is_one_line(small_config, tmp_path):
    with ExitStack() as stack:
        taken = stack.enter_context(socket.socket())
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        rank = start_rank(stack, 0, 2, port, f"--config={small_config}", f"--run_dir={tmp_path / 'run'}")
        output, _ = rank.communicate(timeout=60)
        assert rank.returncode == 2
    assert f"launch/train.py: error: MASTER_PORT={port} is in use on this machine" in output
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--run_dir=/dev/null/run", "cannot be written: Not a directory"),  # found together
        ("--train.epochz=3", "did you mean --train.epochs?"),  # found by each alone
    ],
)
def test_a_mistake_of_all_ranks_is_told_once(small_config, tmp_path, option, message):
    port = free_port()
    with ExitStack() as stack:
        arguments = [f"--config={small_config}", f"--run_dir={tmp_path / 'run'}", option]
        ranks = [start_rank(stack, rank, 2, port, *arguments) for rank in (0, 1)]
        outputs = [rank.communicate(timeout=60)[0] for rank in ranks]
        assert [rank.returncode for rank in ranks] == [2, 2]
    assert [output.count("error:") for output in outputs] == [1, 0], outputs
    assert message in outputs[0]


@pytest.mark.slow
def test_what_only_one_rank_finds_is_said(small_config, tmp_path):
    """Under ZeRO each rank reads a file of its own; that of the second is damaged, by which the first is not misled."""
    run_dir = tmp_path / "run"
    options = ["--train.zero_stage=1", "--data.val=null", "--train.heartbeat_timeout_seconds=3"]
    done = train(small_config, run_dir, *options, num_ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr
    (damaged,) = last_checkpoint(run_dir).glob("**/*zero_pp_rank_1*")
    damaged.write_bytes(damaged.read_bytes()[:1000])
    port = free_port()
    with ExitStack() as stack:
        arguments = [f"--config={small_config}", f"--run_dir={run_dir}", *options, "--resume", "--train.epochs=2"]
        ranks = [start_rank(stack, rank, 2, port, *arguments) for rank in (0, 1)]
        outputs = [rank.communicate(timeout=60)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [1, 2]
    assert all(f"rank 1: {damaged}" in " ".join(output.split()) for output in outputs), outputs


@pytest.mark.slow
def test_an_evaluation_says_what_one_rank_meets(trained, motion, tmp_path):
    """Of the second one the server does not answer; training tells it by the signs of life, other programs so."""
    command = [sys.executable, "-c", ONE_RANK_FAILS, "--checkpoint", trained, "--data", motion / "val"]
    done = run_ranks([*command, "--out", tmp_path / "out"], 2)
    assert done.returncode != 0
    assert "rank 1: its server is gone\n" in done.stderr


ONE_RANK_FAILS = """
import os
from launch.evaluate import main
from pipeline.loader import VideoLoader
from sharding.cli import run_command
from sharding.errors import UserError
def fail(self):
    raise UserError("its server is gone")
if os.environ["RANK"] == "1":
    VideoLoader.__iter__ = fail
run_command(main, "launch/evaluate.py")
"""
