"""Ctrl-C ends a command and its workers with one line, kill -9 of the command its workers too."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.helpers.commands import ROOT

SLEEPER = """
import sys, time
from pathlib import Path
from sharding.cli import run_command
from sharding.parallel import run_in_workers

def work(number):
    Path(sys.argv[1], str(number)).touch()
    time.sleep(60)

def main(arguments=None):
    found = run_in_workers(work, range(4), 2, ordered=False)
    print("started", flush=True)
    list(found)

run_command(main, "sleeper")
"""


@pytest.fixture
def sleeper(tmp_path):
    """A command with two workers, which has said that it has started them."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, tmp_path],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "started\n"
    children = psutil.Process(process.pid).children(recursive=True)
    yield process, children
    for left in [process, *children]:
        if left.poll() is None if isinstance(left, subprocess.Popen) else left.is_running():
            left.kill()
    process.communicate()


def wait_for_end(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Return those that have not ended after so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        processes = [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        if not processes:
            break
        time.sleep(0.05)
    return processes


@pytest.mark.parametrize("delay", [0, 0.1, 0.3])
def test_ctrl_c_while_workers_start_is_one_line(sleeper, delay):
    process, children = sleeper
    time.sleep(delay)  # into the imports of the workers
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "sleeper: interrupted\n")
    assert wait_for_end(children, 10) == []


def test_no_worker_outlives_a_killed_command(sleeper, tmp_path):
    process, children = sleeper
    deadline = time.monotonic() + 120
    while len(list(tmp_path.iterdir())) < 2:  # until they are at work, and so look after their parent
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    assert wait_for_end(children, 20) == []


def die(_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_a_line():
    from sharding.errors import WorkerKilledError
    from sharding.parallel import run_in_workers

    with pytest.raises(WorkerKilledError, match="a worker process was killed, perhaps for want of memory; run"):
        list(run_in_workers(die, [1, 2, 3], 2))


def test_results_come_in_the_order_of_the_tasks():
    from sharding.parallel import run_in_workers

    assert list(run_in_workers(abs, [-3, -1, -2], 2)) == [3, 1, 2]
    assert list(run_in_workers(Path, ["a"], 1)) == [Path("a")]
