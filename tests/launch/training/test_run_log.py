"""The record of a run."""

import os
import subprocess
import sys

import pytest

from launch.training.run_log import RunLog, read_metrics
from sharding.errors import UserError
from tests.conftest import ROOT


def test_lines_beyond_the_step_are_dropped(tmp_path):
    log = RunLog(tmp_path, 0, 0)
    for step in (1, 2, 3):
        log.write("train", step, loss=1.0 / step)
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # a killed process's last line
    log = RunLog(tmp_path, 0, 2)
    log.write("train", 3, loss=9.0)
    log.close()
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [(1, 1.0), (2, 0.5), (3, 9.0)]
    RunLog(tmp_path, 1, 0).write("train", 1, loss=0.0)
    assert len(read_metrics(tmp_path)) == 3


def test_weights_and_biases_without_a_network(tmp_path):
    pytest.importorskip("wandb")
    program = (
        "from pathlib import Path; from launch.training.run_log import RunLog\n"
        f"log = RunLog(Path({str(tmp_path)!r}), 0, 0, {{'train': {{'epochs': 2}}}})\n"
        "log.write('train', 1, loss=0.5); log.close()"
    )
    environment = os.environ | {"WANDB_MODE": "offline"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert (tmp_path / "wandb-id.txt").read_text().strip()


@pytest.mark.parametrize("line", ["\0\0\0", "[1]", '{"loss": 1}', "{"])
def test_a_line_that_no_run_wrote_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f'{{"kind": "train", "step": 1}}\n{line}\n{{"kind": "train", "step": 2}}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2: .*; remove the line"):
        read_metrics(tmp_path)
