"""Heads over the sequence of frames through the ordinary trainer and commands; the networks themselves: tests/model."""

import json
import sys

import pytest

from tests.conftest import run_command
from tests.launch.conftest import kill_and_resume, losses, same_weights, train


@pytest.mark.slow
@pytest.mark.parametrize("head", ["lstm", "ts_lstm", "temporal_inception"])
def test_killed_it_goes_on_bit_for_bit_and_is_evaluated_in_views_and_exported(small_config, motion, tmp_path, head):
    """Two ranks of micro-batches, ZeRO 2 and a moving average; killed within the second epoch, behind a checkpoint."""
    options = ["--model.arch=tsn", f"--model.head={head}", "--train.zero_stage=2", "--train.ema_decay=0.9"]
    options += ["--train.epochs=3", "--train.batch_size=8", "--train.micro_batch_size=2", "--train.mixup=0.2"]
    options += ["--train.save_every_steps=1", "--schedule.warmup_epochs=0"]
    done = train(small_config, tmp_path / "whole", *options, num_ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr
    killed = tmp_path / "killed"
    kill_and_resume(small_config, killed, 4, *options)
    assert losses(killed) == losses(tmp_path / "whole")
    assert all(same_weights(killed, tmp_path / "whole", name) for name in ("model", "model_raw"))

    evaluate = [
        "launch/evaluate.py",
        "--clips=2",
        "--crops=3",
        f"--data={motion / 'val'}",
        f"--out={tmp_path / 'found'}",
    ]
    for command in (evaluate, ["launch/export.py", f"--out={tmp_path / 'net.onnx'}"]):
        done = run_command([sys.executable, *command, f"--checkpoint={killed}"])
        assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "found" / "evaluation.json").read_text())["samples"] == 5
