"""Training on a GPU: in both kinds of mixed precision, and with each decode node."""

import math
from pathlib import Path

import pytest

from launch.training.run_log import read_metrics
from pipeline.nvdec_probe import probe_nvdec
from tests.launch.conftest import pack_motion, train, train_alone, write_small_config

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="session")
def config(tmp_path_factory) -> Path:
    """A small run on videos of 64 x 64 pixels: NVDEC takes none of less than 48 x 16."""
    folder = tmp_path_factory.mktemp("motion64")
    return write_small_config(folder / "small.yaml", pack_motion(folder, size=64))


def check_losses(run_dir: Path) -> None:
    losses = [line["loss"] for line in read_metrics(run_dir) if line["kind"] == "train"]
    assert len(losses) == 10
    assert all(map(math.isfinite, losses))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_losses_are_finite_and_recorded(config, tmp_path, precision):
    done = train(config, tmp_path / "run", f"--train.precision={precision}")
    assert done.returncode == 0, done.stdout + done.stderr
    check_losses(tmp_path / "run")


def test_nvdec_trains_or_ends_with_exit_code_2_and_the_reason(config, tmp_path):
    done = train_alone(config, tmp_path / "run", "--data.decoder=nvdec")
    found = probe_nvdec(0)
    if found.works:
        assert done.returncode == 0, done.stdout + done.stderr
        check_losses(tmp_path / "run")
    else:
        assert done.returncode == 2, done.stdout + done.stderr
        assert found.reason in done.stderr
        assert "sample" not in done.stderr
