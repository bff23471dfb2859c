"""SIGTERM and SIGUSR1: the step is finished, all is saved, and the run goes on later as if it had never been asked."""

import signal

import pytest

from launch.training.checkpoint import pointed
from tests.conftest import run_command
from tests.launch.conftest import (
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


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_in_the_middle_of_an_epoch(small_config, trained, tmp_path, number):
    run_dir = tmp_path / "run"
    done = run_command(struck_command(small_config, run_dir, number, 2))
    assert done.returncode == 75, done.stdout + done.stderr
    assert last_step(run_dir) == max(losses(run_dir)) == 2
    assert train_alone(small_config, run_dir, "--resume").returncode == 0
    assert losses(run_dir) == losses(trained)
    assert same_weights(run_dir, trained)


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
def test_the_launcher_passes_sigterm_on(small_config, tmp_path):
    run_dir = tmp_path / "run"
    with started(train_command(small_config, run_dir, "--train.epochs=50", num_ranks=2)) as launcher:
        wait_for_step(run_dir, 2, launcher)
        find_rank(launcher, 0).parent().send_signal(signal.SIGTERM)
        assert launcher.wait(60) == 1  # the launcher's own code, whatever its processes end with
    assert last_step(run_dir) == max(losses(run_dir))
