"""Training on a GPU through the launcher, in both kinds of mixed precision."""

import math

import pytest

from launch.training.run_log import read_metrics
from tests.launch.conftest import motion, small_config, train  # noqa: F401

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_losses_are_finite_and_recorded(small_config, tmp_path, precision):  # noqa: F811
    run_dir = tmp_path / "run"
    done = train(small_config, run_dir, f"--train.precision={precision}")
    assert done.returncode == 0, done.stdout + done.stderr
    losses = [line["loss"] for line in read_metrics(run_dir) if line["kind"] == "train"]
    assert len(losses) == 10
    assert all(map(math.isfinite, losses))
