"""Training for real: the launcher, DeepSpeed, real shards, processes killed for real."""

import fcntl
import os
import pty
import shutil
import signal
import struct
import termios
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launch.train import main
from launch.training.checkpoint import find_checkpoint, load_checkpoint, pointed
from launch.training.run_log import read_metrics
from sharding.dataset import load_dataset
from sharding.errors import UserError
from tests.conftest import run_command
from tests.helpers.manifests import edit_manifest
from tests.launch.conftest import (
    alone_command,
    losses,
    same_weights,
    started,
    struck_command,
    train,
    train_alone,
    train_command,
    weights,
)

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def seen(run_dir: Path) -> list[tuple[int, int]]:
    """For each epoch, how many different samples its ranks saw, and how often the one seen most."""
    lines = [line for line in read_metrics(run_dir) if line["kind"] == "epoch"]
    return [(line["samples_seen"], line["most_times_seen"]) for line in lines]


def test_a_run_leaves_figures_and_checkpoints(trained, motion):
    lines = read_metrics(trained)
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 11))
    evaluations = [line for line in lines if line["kind"] == "evaluation"]
    assert [line["epoch"] for line in evaluations] == [1, 2]
    assert all(line["samples"] == 5 for line in evaluations)
    assert seen(trained) == [(20, 1), (20, 1)]
    assert list((trained / "tensorboard").iterdir())
    assert (trained / "logs" / "rank-0.log").read_text()
    net, info, config = load_checkpoint(trained)
    assert info.classes == load_dataset(motion / "train").manifest.classes == ("left", "right")
    assert config.model.num_classes == 2
    assert net(torch.zeros(1, 4, 3, 32, 32)).shape == (1, 2)
    assert find_checkpoint(trained).name in ("step-00000005", "step-00000010")


@pytest.mark.slow
def test_killed_and_resumed_is_as_if_undisturbed(small_config, trained, tmp_path):
    """kill -9 in the middle of an epoch, after a checkpoint within it."""
    run_dir = tmp_path / "run"
    options = ["--train.save_every_steps=2", "--train.keep_checkpoints=9"]
    assert run_command(struck_command(small_config, run_dir, signal.SIGKILL, 7, *options)).returncode == -9
    assert pointed(run_dir / "checkpoints", "last") == "step-00000006"
    done = train(small_config, run_dir, *options, "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed from" in done.stdout
    assert losses(run_dir) == losses(trained)
    assert same_weights(run_dir, trained)


@pytest.mark.parametrize("zero_stage", [*(pytest.param(stage, marks=pytest.mark.slow) for stage in (0, 1)), 2])
def test_two_ranks_share_the_samples(small_config, trained, tmp_path, zero_stage):
    run_dir = tmp_path / "run"
    done = train(small_config, run_dir, "--train.epochs=1", f"--train.zero_stage={zero_stage}", num_ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("epoch 1.00, step 5: loss") == 1  # rank 1 logs to its file
    assert seen(run_dir) == [(20, 1)]
    assert [line["samples"] for line in read_metrics(run_dir) if line["kind"] == "evaluation"] == [5]
    assert {path.name for path in (run_dir / "logs").iterdir()} == {"rank-0.log", "rank-1.log"}
    load_checkpoint(run_dir)


def test_accumulation_equals_ranks(small_config, tmp_path):
    """Two ranks without accumulation and one rank with two micro-batches a step: the same losses, up to rounding."""
    same = ["--train.micro_batch_size=2", "--train.precision=fp32", "--model.dropout=0", "--train.epochs=1"]
    for name, num_ranks in (("one", 1), ("two", 2)):
        done = train(small_config, tmp_path / name, *same, num_ranks=num_ranks)
        assert done.returncode == 0, done.stdout + done.stderr
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert one == pytest.approx(two, rel=1e-4)


def test_a_second_run_in_the_folder_is_refused(small_config, trained):
    done = train(small_config, trained)
    assert done.returncode == 2
    assert f"run_dir={trained} holds a run already; resume it with --resume" in done.stderr
    assert "Traceback" not in done.stderr
    done = train_alone(small_config, trained, "--resume", "--optimizer.learning_rate=0.5")
    assert done.returncode == 2
    assert "holds a run with optimizer.learning_rate=0.01, not 0.5" in done.stderr


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--data.train=nowhere", "nowhere: no such folder"),
        pytest.param("--train.require_gpu=true", "but this machine has no GPU", marks=WITHOUT_GPU),
        pytest.param("--train.precision=fp16", "train.precision=fp16 needs a GPU", marks=WITHOUT_GPU),
        pytest.param("--train.sync_batch_norm=true", "train.sync_batch_norm=true needs GPUs", marks=WITHOUT_GPU),
        ("--train.micro_batch_size=3", "train.batch_size=4 is not a multiple of 1 rank(s) times"),
    ],
)
def test_mistakes_found_before_anything_is_begun(small_config, tmp_path, option, message):
    with pytest.raises(UserError) as caught:
        main([f"--config={small_config}", f"--run_dir={tmp_path / 'run'}", option])
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.val=null", "--train.batch_size=23"], "fill one batch of 23; use --train.batch_size=22 or less"),
        pytest.param(["--model.pretrained=absent.pth"], "absent.pth", marks=pytest.mark.slow),
        pytest.param(["--data.decoder=nvdec"], "data.decoder=nvdec", marks=pytest.mark.slow),
        (["--run_dir=/dev/null/run"], "run_dir=/dev/null/run cannot be written: Not a directory"),
    ],
)
def test_mistakes_end_in_one_line(small_config, tmp_path, options, message):
    done = train_alone(small_config, tmp_path / "run", *options)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1 and message in errors[0], done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_loss_that_is_no_number_ends_the_run(small_config, tmp_path):
    """On all ranks alike; the step is named though only every hundredth is logged, and no checkpoint holds it."""
    run_dir = tmp_path / "run"
    options = ["--optimizer.learning_rate=1e30", "--train.log_every_steps=100", "--train.save_every_steps=1"]
    done = train(small_config, run_dir, *options, num_ranks=2)
    assert done.returncode == 1
    errors = [line for line in (done.stdout + done.stderr).splitlines() if "last good checkpoint" in line]
    assert len(errors) == 1 and "step" in errors[0], done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    for path in run_dir.glob("checkpoints/step-*/model.safetensors"):
        assert all(value.isfinite().all() for value in load_file(path).values())


@pytest.mark.slow
def test_all_that_is_averaged_mixed_and_held_still_resumes_exactly(small_config, tmp_path):
    options = ["--train.ema_decay=0.8", "--train.mixup=0.4", "--train.cutmix=1", "--loss.label_smoothing=0.1"]
    options += ["--train.batch_norm=partial", "--train.micro_batch_size=2"]
    assert train_alone(small_config, tmp_path / "whole", *options).returncode == 0
    struck = struck_command(small_config, tmp_path / "parts", signal.SIGTERM, 7, *options)
    assert run_command(struck).returncode == 75
    assert train_alone(small_config, tmp_path / "parts", *options, "--resume").returncode == 0
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    for name in ("model", "model_raw"):
        assert same_weights(tmp_path / "parts", tmp_path / "whole", name)
    average, raw = (weights(tmp_path / "whole", name) for name in ("model", "model_raw"))
    assert not torch.equal(average["fc.weight"], raw["fc.weight"])


def test_a_run_of_other_classes_is_refused(small_config, trained, motion, tmp_path):
    """As many classes, but not the same."""
    other = tmp_path / "other"
    shutil.copytree(motion, other)
    for split in ("train", "val"):
        edit_manifest(other / split, classes=["anywhere", "right"])
    done = train_alone(
        small_config, trained, "--resume", f"--data.train={other / 'train'}", f"--data.val={other / 'val'}"
    )
    assert done.returncode == 2
    assert f"run_dir={trained} holds a run with other classes than those of data.train={other / 'train'}" in done.stderr


@pytest.mark.slow
def test_compiled(small_config, tmp_path):
    done = train_alone(small_config, tmp_path / "run", "--train.compile=true", "--train.epochs=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(losses(tmp_path / "run")) == 5


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_ranks_leave_no_shared_memory_behind(small_config, tmp_path, num_ranks):
    command = train_command(small_config, tmp_path / "run", "--train.epochs=1", num_ranks=num_ranks)
    [port] = (str(part).split("=")[1] for part in command if str(part).startswith("--master_port="))
    done = run_command(command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert seen(tmp_path / "run") == [(20, 1)]
    assert not list(Path("/dev/shm").glob(f"deepspeed_*_{port}_*"))


@pytest.mark.slow
def test_a_progress_bar_on_a_terminal_only(small_config, tmp_path):
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = alone_command(small_config, tmp_path / "on", "--train.epochs=1")
    with started(command, fresh=True, stdout=end, stderr=end) as process:
        os.close(end)
        shown = b""
        with suppress(OSError):  # how the end of a terminal reads
            while part := os.read(terminal, 4096):
                shown += part
        assert process.wait(60) == 0
    os.close(terminal)
    assert b"epoch 1" in shown and b"step/s" in shown and b"5/5 [" in shown
    done = train_alone(small_config, tmp_path / "off", "--train.epochs=1")
    assert "5/5 [" not in done.stdout + done.stderr
    assert "epoch 1.00, step 5: loss" in done.stdout
