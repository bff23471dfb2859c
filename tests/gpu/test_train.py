"""Training on a GPU: in both kinds of mixed precision, and with each decode node."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from launch.training.config import Config, TrainConfig
from launch.training.engine import build_engine, deepspeed_options, note_loss, seed_step
from launch.training.run_log import read_metrics
from launch.training.stall import StallTimer
from pipeline.nvdec_probe import probe_nvdec
from tests.conftest import ROOT
from tests.launch.conftest import pack_motion, train, train_alone, write_small_config
from tests.launch.training.conftest import alone, group_of_one  # noqa: F401
from tests.launch.training.test_config import OFF_BY_DEFAULT

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


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_losses_are_finite_and_recorded(config, tmp_path, precision, zero_stage):
    done = train(config, tmp_path / "run", f"--train.precision={precision}", f"--train.zero_stage={zero_stage}")
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


def keep_busy(seconds: float) -> None:
    """Occupy the stream for at least about this long, without waiting for it: a GPU's clock is below 2.5 GHz."""
    torch.cuda._sleep(int(seconds * 2.5e9))


def test_stall_is_time_in_which_the_stream_is_idle(gpu):
    timer = StallTimer(gpu)
    keep_busy(0.2)
    timer.step_ended()
    time.sleep(0.05)  # the host waits, the stream has work
    timer.step_begins()
    assert timer.take() < 0.02
    timer.step_ended()
    time.sleep(0.2)
    timer.step_begins()
    assert 0.15 < timer.take() < 0.4


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_step_does_not_wait_for_the_device(alone, precision):  # noqa: F811
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 2))
    config = Config(train=TrainConfig(precision=precision, batch_size=4))
    engine = build_engine(config, net, deepspeed_options(config, 1), alone)
    images = torch.randn(4, 3, 8, 8, device=alone.device)

    def take_step() -> None:
        seed_step(engine, 0, 0)
        loss = engine(images).float().square().mean()
        engine.backward(loss)
        note_loss(engine, loss, 10)
        engine.step()

    take_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        take_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("options", OFF_BY_DEFAULT)
def test_what_is_off_by_default_trains_too(config, tmp_path, options):
    done = train(config, tmp_path / "run", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    check_losses(tmp_path / "run")


def test_a_teacher_is_learned_from(config, tmp_path):
    assert train(config, tmp_path / "teacher").returncode == 0
    options = [f"--distillation.teacher={tmp_path / 'teacher'}", "--distillation.logits=1"]
    done = train(config, tmp_path / "run", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    check_losses(tmp_path / "run")


def test_windows_are_those_of_the_cpu(config, tmp_path):
    """To the rounding of the network's arithmetic."""
    done = train(config, tmp_path / "run", "--train.precision=fp32")
    assert done.returncode == 0, done.stdout + done.stderr
    [video, *_] = sorted((config.parent / "videos").rglob("*.mp4"))
    command = [sys.executable, "launch/predict.py", f"--checkpoint={tmp_path / 'run'}", "--json", "--window=0.2", video]
    found = []
    for device in ("cuda", "cpu"):
        done = subprocess.run([*command, f"--device={device}"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        [row] = json.loads(done.stdout)
        found.append([sorted((p["class"], p["probability"]) for p in w["predictions"]) for w in row["windows"]])
    on_gpu, on_cpu = found
    assert len(on_gpu) == len(on_cpu) > 0
    for one, other in zip(on_gpu, on_cpu):
        assert [name for name, _ in one] == [name for name, _ in other]
        assert [p for _, p in one] == pytest.approx([p for _, p in other], abs=5e-3)
