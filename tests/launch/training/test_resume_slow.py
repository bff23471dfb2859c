"""Killed again and again, a run is what it would have been."""

import os
import random
import signal
import subprocess
import time

import pytest

from tests.launch.conftest import losses, same_weights, started, train, train_command

NUM_KILLS = 12


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_killed_at_random_steps(small_config, tmp_path, num_ranks):
    """kill -9 of every process, 12 times, at any moment of training, evaluating or saving."""
    draws = random.Random(num_ranks)
    options = ["--train.epochs=12", "--train.save_every_steps=2", "--train.ema_decay=0.9", "--train.mixup=0.2"]
    done = train(small_config, tmp_path / "whole", *options, num_ranks=num_ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    run_dir, kills = tmp_path / "killed", 0
    while kills < NUM_KILLS:
        command = train_command(small_config, run_dir, *options, "--resume", num_ranks=num_ranks)
        with started(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            steps = (line for line in process.stdout if ", step " in line)
            for _ in range(draws.randint(1, 4)):
                next(steps)
            time.sleep(draws.uniform(0, 0.3))
            assert process.poll() is None
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
    done = train(small_config, run_dir, *options, "--resume", num_ranks=num_ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    assert losses(run_dir) == losses(tmp_path / "whole")
    assert list(losses(run_dir)) == list(range(1, 61))
    for name in ("model", "model_raw"):
        assert same_weights(run_dir, tmp_path / "whole", name)
