"""Training on shards with a damaged sample, by real ranks under DeepSpeed."""

import shutil
import sys
from pathlib import Path

import pytest

from launch.training.checkpoint import read_info
from launch.training.run_dir import last_checkpoint
from launch.training.run_log import read_metrics
from sharding.dataset import load_dataset
from tests.conftest import run_command
from tests.launch.conftest import losses, same_weights, train


@pytest.fixture
def damaged(motion, tmp_path) -> tuple[Path, str]:
    """A copy of the training split in which one sample's video is all zeros, and the key of that sample."""
    copy = tmp_path / "damaged"
    shutil.copytree(motion / "train", copy)
    dataset = load_dataset(copy)
    with dataset.shard_path(dataset.shards[9]).open("r+b") as file:
        file.seek(int(dataset.media_offsets[9]))
        file.write(bytes(int(dataset.media_bytes[9])))
    return copy, dataset.key(9)


@pytest.mark.parametrize("num_ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_sample_is_named_and_training_ends(small_config, damaged, tmp_path, num_ranks):
    folder, key = damaged
    done = train(small_config, tmp_path / "run", f"--data.train={folder}", num_ranks=num_ranks)
    assert done.returncode == 1 if num_ranks == 1 else done.returncode != 0
    assert num_ranks > 1 or "Traceback" not in done.stdout + done.stderr
    assert f"sample {key}" in done.stdout + done.stderr
    assert f"python -m sharding verify {folder} --decode" in done.stdout + done.stderr


def test_evaluation_names_it_too(trained, damaged):
    folder, key = damaged
    done = run_command([sys.executable, "launch/evaluate.py", f"--checkpoint={trained}", f"--data={folder}"])
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if "error" in line]
    assert f"sample {key}: " in line and "--quarantine leaves bad samples out" in line
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_all_ranks_leave_it_out_and_go_on(small_config, damaged, tmp_path, num_ranks):
    """Steps, counts and a resume in the middle are those of a run that never had the sample's turn disturbed."""
    folder, key = damaged
    options = [f"--data.train={folder}", "--data.on_bad_sample=quarantine", "--train.save_every_steps=2"]
    done = train(small_config, tmp_path / "run", *options, num_ranks=num_ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"sample {key}" in "".join(path.read_text() for path in (tmp_path / "run").glob("logs/*.log"))
    epochs = [line for line in read_metrics(tmp_path / "run") if line["kind"] == "epoch"]
    assert [(line["samples_seen"], line["most_times_seen"]) for line in epochs] == [(20, 1), (20, 1)]
    # Resumed from a checkpoint in the middle of the second epoch: the same to the last bit.
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    checkpoints = tmp_path / "again" / "checkpoints"
    middle = sorted(path.name for path in checkpoints.glob("step-*"))[0]
    (checkpoints / "last").write_text(middle + "\n")
    done = train(small_config, tmp_path / "again", *options, "--resume", num_ranks=num_ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    assert losses(tmp_path / "again") == losses(tmp_path / "run")
    assert same_weights(tmp_path / "run", tmp_path / "again")


@pytest.mark.slow
def test_steps_are_counted_where_an_epoch_becomes_shorter(small_config, damaged, tmp_path):
    """22 samples are two batches of 11, 21 are one."""
    folder, _ = damaged
    options = [f"--data.train={folder}", "--data.on_bad_sample=quarantine", "--train.batch_size=11", "--train.epochs=3"]
    done = train(small_config, tmp_path / "run", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3]
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [1, 2, 3]
    assert read_info(last_checkpoint(tmp_path / "run")).step == 3
