"""Killed again and again, a run is what it would have been."""

import random
import time
from pathlib import Path

import pytest

from tests.launch.conftest import alone_command, losses, same_weights, started_ranks, train

NUM_KILLS = 12


def logged_steps(run_dir: Path) -> int:
    """How many steps a run folder's log has seen, those that were taken again included."""
    log = run_dir / "logs" / "rank-0.log"
    return log.read_text().count(", step ") if log.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_killed_at_random_steps(small_config, tmp_path, num_ranks):
    """kill -9 of every process, 12 times, at any moment of training, evaluating or saving."""
    draws = random.Random(num_ranks)
    options = ["--train.epochs=12", "--train.save_every_steps=2", "--train.ema_decay=0.9", "--train.mixup=0.2"]
    options += ["--data.rand_augment=2", "--data.random_erasing=0.5", "--model.drop_path=0.2"]
    done = train(small_config, tmp_path / "whole", *options, num_ranks=num_ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    run_dir, kills = tmp_path / "killed", 0
    while kills < NUM_KILLS:
        steps = logged_steps(run_dir) + draws.randint(1, 4)
        if steps > 50 and kills >= 3:  # of 60, on a fast machine
            break
        with started_ranks(alone_command(small_config, run_dir, *options, "--resume"), num_ranks) as ranks:
            while logged_steps(run_dir) < steps:
                assert all(rank.poll() is None for rank in ranks)
                time.sleep(0.01)
            time.sleep(draws.uniform(0, 0.3))
            for rank in ranks:
                rank.kill()
        kills += 1
    done = train(small_config, run_dir, *options, "--resume", num_ranks=num_ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    assert losses(run_dir) == losses(tmp_path / "whole")
    assert list(losses(run_dir)) == list(range(1, 61))
    for name in ("model", "model_raw"):
        assert same_weights(run_dir, tmp_path / "whole", name)
