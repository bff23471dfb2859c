"""Every example runs as its docstring says, on small shards, and its output is checked against what was packed."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from sharding import open_dataset
from tests.conftest import NUMBERED_FRAMES, ROOT
from tests.helpers.videos import read_number

EXAMPLES = ROOT / "examples"
TINY = ["--size=32", "--batch-size=4"]


@pytest.fixture
def run(monkeypatch, capsys):
    """A function that runs an example with arguments, as `python examples/NAME ...` does, and returns its output."""

    def run_example(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run_example


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_every_example_says_how_to_run_it_and_is_run_here(path):
    text = path.read_text()
    assert f"    python examples/{path.name} " in text.split('"""')[1]
    assert f'"{path.name}"' in Path(__file__).read_text()


def test_plain_pytorch(run, numbered):
    head, *epochs = run("plain_pytorch.py", numbered, "--epochs=2", *TINY).splitlines()
    assert re.fullmatch(r"13 samples, 2 classes, 3 steps an epoch, (cpu|cuda)", head)
    losses = [float(re.fullmatch(rf"epoch {n}: loss (\d+\.\d{{4}})", line)[1]) for n, line in enumerate(epochs)]
    assert len(losses) == 2 and losses[0] != losses[1] and all(0 < loss < 20 for loss in losses)


def test_pack_from_python(run, numbered_videos, tmp_path):
    output = run("pack_from_python.py", numbered_videos, tmp_path)
    assert "even 6, odd 5" in output and "even 1, odd 1" in output
    train, val = (open_dataset(tmp_path / split) for split in ("train", "val"))
    assert f"{tmp_path / 'val'}: 2 samples, 0 failures, fingerprint {val.fingerprint[:16]}" in output
    assert train.manifest.classes == val.manifest.classes == ("even", "odd")
    sources = [*train.column("source"), *val.column("source")]
    assert sorted(sources) == sorted(
        path.relative_to(numbered_videos).as_posix() for path in numbered_videos.rglob("*.mp4")
    )


@pytest.mark.parametrize("decoder", ["torchcodec", "PyAV"])
def test_webdataset_torchcodec(run, numbered, monkeypatch, decoder):
    """Frame i of a numbered video shows the number i, whichever library decodes it."""
    if decoder == "PyAV":
        monkeypatch.setitem(sys.modules, "torchcodec", None)
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    elif runpy.run_path(str(EXAMPLES / "webdataset_torchcodec.py"))["VideoDecoder"] is None:
        pytest.skip("torchcodec is not installed, or finds no FFmpeg; the same is tested with PyAV")
    head, *lines = run("webdataset_torchcodec.py", numbered, "--frames=4").splitlines()
    assert head == f"decoded with {decoder}" and len(lines) == len(NUMBERED_FRAMES)
    assert "even-video12_40: label 0 (even), frames [0, 13, 26, 39] of 40, (4, 3, 64, 96)" in lines
    example = runpy.run_path(str(EXAMPLES / "webdataset_torchcodec.py"))
    for _, numbers, clip in example["read"](numbered, 4):
        assert [read_number(frame) for frame in clip.permute(0, 2, 3, 1).numpy()] == numbers


def test_dali_reader(run, numbered_jpeg):
    lines = run("dali_reader.py", numbered_jpeg, "--batch-size=4").splitlines()
    assert len(lines) == 4 and lines[-1].endswith("frames (1, 224, 224, 3)")
    dataset = open_dataset(numbered_jpeg)
    example = runpy.run_path(str(EXAMPLES / "dali_reader.py"))
    labels, frames = zip(*example["read"](numbered_jpeg, 4, 96))
    assert np.concatenate(labels).tolist() == dataset.labels.tolist()
    assert [read_number(frame) for frame in np.concatenate(frames)] == (dataset.num_frames // 2).tolist()


def test_lightning_module(run, numbered):
    pytest.importorskip("lightning", reason="Lightning is not installed: pip install 'lightning>=2.5'")
    output = run("lightning_module.py", numbered, numbered, "--epochs=2", *TINY)
    accuracy = float(re.search(r"top-1 after 2 epoch\(s\): (\d+\.\d\d) %", output)[1])
    assert accuracy * 13 / 100 == pytest.approx(round(accuracy * 13 / 100), abs=0.01)  # of all 13 samples


def test_pytorch_dataloader(run, numbered):
    lines = run("pytorch_dataloader.py", numbered, "--epochs=2", *TINY).splitlines()
    assert lines == [f"epoch {n}: 3 batches, clips (4, 8, 3, 32, 32), 12 different samples" for n in range(2)]


def test_hugging_face(run, numbered):
    pytest.importorskip("datasets", reason="Hugging Face datasets is not installed: pip install datasets")
    head, *lines = run("hugging_face.py", numbered, "--frames=4").splitlines()
    assert head == f"13 rows; {sum(n >= 20 for n in NUMBERED_FRAMES)} of them have 20 frames or more"
    assert "even-video12_40: label 0, frames [0, 13, 26, 39] of 40, (4, 64, 96, 3)" in lines
    example = runpy.run_path(str(EXAMPLES / "hugging_face.py"))
    dataset = open_dataset(numbered)
    for sample_id, (row, numbers, frames) in enumerate(example["clips"](example["read_table"](numbered), 4)):
        assert (row["key"], row["label"]) == (dataset.key(sample_id), dataset.labels[sample_id])
        assert [read_number(frame) for frame in frames] == numbers
