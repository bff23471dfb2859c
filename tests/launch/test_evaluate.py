"""Evaluation of a checkpoint, and what is made of its results: ensembles and pictures."""

import csv
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from launch.ensemble import main as ensemble_main
from launch.evaluate import main as evaluate_main
from launch.inference.scores import Scores, read_scores, write_scores
from launch.training.checkpoint import find_checkpoint, load_checkpoint
from launch.training.distributed import free_port
from launch.training.evaluation import evaluate
from launch.training.forward import compute_logits
from model import fuse_batch_norm
from model.resnet import join_outputs
from pipeline.loader import VideoLoader
from sharding.dataset import load_dataset
from sharding.errors import UserError
from tests.conftest import pack, run_command
from tests.launch.conftest import DEEPSPEED, run_ranks

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def evaluated(trained, motion, tmp_path_factory):
    """The output folder of launch/evaluate.py on two ranks, which share five samples."""
    out = tmp_path_factory.mktemp("evaluated")
    arguments = [f"--checkpoint={trained}", f"--data={motion / 'val'}", f"--out={out}", "--batch_size=2"]
    done = run_ranks([sys.executable, "launch/evaluate.py", *arguments], 2)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_evaluate_counts_each_sample_once(evaluated, trained, motion):
    values = json.loads((evaluated / "evaluation.json").read_text())
    confusion = np.array(values["confusion"])
    dataset = load_dataset(motion / "val")
    assert confusion.sum(1).tolist() == np.bincount(dataset.labels, minlength=2).tolist()
    assert values["samples"] == values["samples_in_data"] == 5
    assert values["top1"] == pytest.approx(confusion.trace() / 5)
    assert values["fingerprint"] == dataset.fingerprint
    assert (values["clips"], values["crops"]) == (1, 1)
    scores = read_scores(evaluated / "scores.parquet")
    assert scores.keys == tuple(dataset.keys)
    assert scores.labels.tolist() == dataset.labels.tolist()
    assert scores.top(1) == pytest.approx(values["top1"])
    np.testing.assert_allclose(scores.scores.sum(1), 1, atol=1e-5)
    with (evaluated / "classes.csv").open() as file:
        classes = {line["class"]: line for line in csv.DictReader(file)}
    assert [int(classes[name]["correct"]) for name in dataset.manifest.classes] == confusion.diagonal().tolist()
    assert (evaluated / "confusion.png").read_bytes().startswith(PNG)


def test_evaluation_in_training_and_by_itself_agree(trained, motion):
    net, info, config = load_checkpoint(trained)
    loader = VideoLoader(load_dataset(motion / "val"), config.data, training=False, micro_batch_size=4)
    assert evaluate(net, loader, 2, config.train.precision).top1 == info.metrics["top1"]


def test_metrics_against_counting_by_hand():
    logits = torch.tensor([[9.0, 1, 0], [0, 9, 1], [9, 0, 1], [0, 1, 9], [5, 4, 3]])
    labels = torch.tensor([0, 1, 1, 2, 2])

    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.parameter = torch.nn.Parameter(torch.zeros(1))

        level_names = given_levels = ()

        def forward(self, clips, with_losses):
            return join_outputs(logits[clips[:, 0, 0, 0, 0].long()], [])

    class Batch:
        def __init__(self, ids):
            self.clips = torch.tensor(ids).view(-1, 1, 1, 1, 1).float()
            self.labels = labels[ids]
            self.sample_ids = torch.tensor(ids)
            self.num_views = 1

        def labels_of(self, levels):
            return {}

    found = evaluate(Fixed(), [Batch([0, 1]), Batch([2, 3, 4])], 3, "fp32")
    assert found.top1 == pytest.approx(3 / 5)
    assert found.top5 == 1.0
    assert found.mean_class == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert found.confusion.tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    assert found.samples == 5


def test_views_are_averaged(trained, motion, evaluated, tmp_path):
    """Two clips of three crops, by the command, against each view alone through the network."""
    views = ["--clips=2", "--crops=3", "--batch_size=12"]
    done = run_command(
        [sys.executable, "launch/evaluate.py", f"--checkpoint={trained}", f"--data={motion / 'val'}", *views]
        + [f"--out={tmp_path}"]
    )
    assert done.returncode == 0, done.stderr
    assert "2 clip(s) x 3 crop(s) of" in done.stdout
    net, _, config = load_checkpoint(trained)
    data = replace(config.data, test_clips=2, test_crops=3)
    expected = []
    for batch in VideoLoader(load_dataset(motion / "val"), data, training=False, micro_batch_size=6):
        logits = torch.cat(
            [compute_logits(fuse_batch_norm(net), clip[None], config.train.precision) for clip in batch.clips]
        )
        expected.append(logits.softmax(1).mean(0))
    found = read_scores(tmp_path / "scores.parquet")
    np.testing.assert_allclose(found.scores, torch.stack(expected), atol=0.02)  # bf16, in batches of other sizes
    assert not np.array_equal(found.scores, read_scores(evaluated / "scores.parquet").scores)
    files = [evaluated / "scores.parquet", tmp_path / "scores.parquet"]
    done = run_command([sys.executable, "launch/ensemble.py", *files, f"--out={tmp_path / 'mean.parquet'}"])
    assert done.returncode == 0, done.stderr
    mean = read_scores(tmp_path / "mean.parquet")
    np.testing.assert_allclose(mean.scores, (read_scores(files[0]).scores + found.scores) / 2, atol=1e-6)
    assert f"together: top-1 {mean.top(1):.2%}" in done.stdout


def test_scores_of_any_names_and_of_versions_before(tmp_path):
    names = ("x", "a\nb", "[1]")
    scores = Scores(("k",), np.array([0], np.int32), np.ones((1, 3), np.float32) / 3, names, "f")
    write_scores(tmp_path / "scores.parquet", scores)
    assert read_scores(tmp_path / "scores.parquet").classes == names
    table = pq.read_table(tmp_path / "scores.parquet")
    pq.write_table(table.replace_schema_metadata({"classes": "x\ny\nz", "fingerprint": "f"}), tmp_path / "old.parquet")
    assert read_scores(tmp_path / "old.parquet").classes == ("x", "y", "z")


def test_scores_that_do_not_go_together_are_refused(evaluated, tmp_path):
    scores = read_scores(evaluated / "scores.parquet")
    write_scores(tmp_path / "other.parquet", replace(scores, fingerprint="another"))
    command = [sys.executable, "launch/ensemble.py", evaluated / "scores.parquet"]
    done = run_command([*command, tmp_path / "other.parquet"], fresh=True)
    assert done.returncode == 2
    assert "it is of another fingerprint than" in done.stderr
    done = run_command([*command, evaluated / "evaluation.json"])
    assert done.returncode == 2
    assert "not a score file" in done.stderr


def test_pictures(trained, evaluated):
    (evaluated / "confusion.png").unlink()
    for arguments, picture in (
        (["curves", trained], trained / "curves.png"),
        (["confusion", evaluated / "evaluation.json"], evaluated / "confusion.png"),
        (["confusion", evaluated], evaluated / "confusion.png"),
    ):
        done = run_command([sys.executable, "launch/visualize.py", *arguments])
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str(picture)
        assert picture.read_bytes().startswith(PNG)


def test_checkpoints_that_are_none(trained, tmp_path):
    with pytest.raises(UserError, match="no checkpoint there"):
        find_checkpoint(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(find_checkpoint(trained), copy)
    tensors = load_file(copy / "model.safetensors")
    tensors.pop("fc.bias")
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(UserError, match=r"damaged checkpoint.*fc\.bias"):
        load_checkpoint(copy)
    (copy / "model.safetensors").write_bytes(b"{}")
    with pytest.raises(UserError, match="damaged checkpoint"):
        load_checkpoint(copy)


def test_other_classes_are_refused(trained, numbered):
    command = [sys.executable, "launch/evaluate.py", f"--checkpoint={trained}", f"--data={numbered}"]
    done = run_command(command, fresh=True)
    assert done.returncode == 2
    assert "its classes are not those that" in done.stderr


@pytest.mark.parametrize(
    ("option", "message"),
    [("--batch_size=0", "--batch-size 0: use 1 or more"), ("--crop_size=0", "data.crop_size=0: use 1 or more")],
)
def test_evaluate_takes_no_nothing(option, message, trained, motion):
    with pytest.raises(UserError, match=message):
        evaluate_main([f"--checkpoint={trained}", f"--data={motion / 'val'}", option])


def test_evaluate_refuses_what_cannot_be_written(trained, motion, tmp_path):
    """Before it evaluates, or hours would be lost."""
    (tmp_path / "file").write_text("in the way of a folder")
    arguments = [f"--checkpoint={trained}", f"--data={motion / 'val'}", f"--out={tmp_path / 'file'}"]
    done = run_command([sys.executable, "launch/evaluate.py", *arguments])
    assert done.returncode == 2
    assert "evaluation.json: cannot be written" in done.stderr


def test_ensemble_refuses_what_cannot_be_written(evaluated, tmp_path):
    (tmp_path / "file").write_text("in the way of a folder")
    files = [str(evaluated / "scores.parquet")] * 2
    with pytest.raises(UserError, match="cannot be written"):
        ensemble_main([*files, f"--out={tmp_path / 'file' / 'mean.parquet'}"])


def test_a_mistake_of_two_ranks_is_reported_once(trained, tmp_path):
    command = [DEEPSPEED, "--num_gpus=2", f"--master_port={free_port()}", "launch/evaluate.py"]
    done = run_command([*command, f"--checkpoint={trained}", f"--data={tmp_path / 'nowhere'}"])
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1 and "nowhere" in errors[0], done.stderr
    assert "Traceback" not in done.stderr


def test_a_split_of_fewer_and_of_other_classes(trained, motion, evaluated, tmp_path):
    """Of one class of the network's two, and of a class that it does not know."""
    dataset = load_dataset(motion / "val")
    known = dataset.manifest.classes[1]
    for name in (known, "another"):
        shutil.copytree(motion / "videos" / "val" / known, tmp_path / "videos" / name)
    split = pack(tmp_path / "videos", tmp_path, "val")
    command = [sys.executable, "launch/evaluate.py", f"--checkpoint={trained}", f"--data={split}"]
    done = run_command([*command, f"--out={tmp_path / 'refused'}"])
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "does not know 1 of its 2 classes" in done.stderr and not (tmp_path / "refused").exists()
    done = run_command([*command, f"--out={tmp_path / 'out'}", "--exclude-unknown-classes"])
    assert done.returncode == 0, done.stderr
    assert "classes matched by name: the split has 1 of the network's 2; excluded: " in done.stdout
    values = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    number = int((dataset.labels == 1).sum())
    assert (values["samples"], values["excluded"], values["samples_in_data"]) == (number, number, 2 * number)
    # The same videos have the scores that they have in the split of both classes.
    both, found = (read_scores(folder / "scores.parquet") for folder in (evaluated, tmp_path / "out"))
    np.testing.assert_allclose(
        sorted(found.scores.tolist()), sorted(both.scores[both.labels == 1].tolist()), atol=0.02
    )  # bf16, in batches of other sizes
    assert found.classes == both.classes and set(found.labels.tolist()) == {1}
    assert np.array(values["confusion"])[0].sum() == 0
    done = run_command([*command, f"--out={tmp_path / 'only'}", "--exclude-unknown-classes", "--only-shared-classes"])
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "only" / "evaluation.json").read_text())["top1"] == 1  # there is only one class left


def test_checkpoints_are_compared(trained, motion, evaluated, tmp_path):
    names = [trained / "last", trained / "best", *sorted((trained / "checkpoints").glob("step-*"))]
    command = [sys.executable, "launch/evaluate.py", "--checkpoint", *names, f"--data={motion / 'val'}"]
    done = run_command(command)
    assert done.returncode == 2 and "name a folder for their comparison with --out FOLDER" in done.stderr
    done = run_command([*command, f"--out={tmp_path}", "--batch-size=2"])
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "comparison.json").read_text())
    assert len(rows) == len({row["checkpoint"] for row in rows}) == len(names) - 2  # each once
    for row in rows:
        folder = tmp_path / row["name"].replace("/", "-")
        values = json.loads((folder / "evaluation.json").read_text())
        assert [row["top1_low_95"], row["top1_high_95"]] == values["top1_interval_95"]
        assert row["top1"] == values["top1"] and row["step"] == int(row["name"][-8:])
        assert row["expected_calibration_error"] == values["calibration"]["expected_calibration_error"]
        assert (folder / "reliability.png").read_bytes().startswith(PNG)
        assert row["name"] in done.stdout
    with (tmp_path / "comparison.csv").open() as file:
        assert [row["top1"] for row in csv.DictReader(file)] == [str(row["top1"]) for row in rows]
    best = next(row for row in rows if find_checkpoint(trained / "best").samefile(row["checkpoint"]))
    assert best["top1"] == json.loads((evaluated / "evaluation.json").read_text())["top1"]


def test_checkpoints_by_name(trained, tmp_path):
    for name in ("last", "best"):
        assert find_checkpoint(trained / name) == find_checkpoint(trained / "checkpoints" / name)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last").write_text("step-00000005\n")
    with pytest.raises(UserError, match=r"best: the run has no best checkpoint.*use \S+last"):
        find_checkpoint(tmp_path / "best")
