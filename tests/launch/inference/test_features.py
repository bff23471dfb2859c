"""Features: what a hook on the plain network gives, the same over any number of ranks, resumed after a kill."""

import json
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from launch.features import main
from launch.inference.feature_files import FeatureFolder, VideoFeatures
from launch.inference.features import STAGES, FeatureExtractor
from launch.training.checkpoint import load_checkpoint
from launch.training.forward import autocast
from model import ModelConfig, build_model, fuse_batch_norm
from pipeline.loader import VideoLoader
from sharding.dataset import load_dataset
from sharding.errors import UserError
from tests.helpers.commands import started
from tests.helpers.odd_videos import zeroed
from tests.helpers.videos import write_numbered_video
from tests.launch.conftest import run_ranks


def plain_features(net: torch.nn.Module, clips: torch.Tensor, stage: str) -> torch.Tensor:
    """What a hook of one's own on the network as it was trained gives: (B, D)."""
    kept = []
    if stage == "pool":
        handle = net.fc.register_forward_hook(lambda module, inputs, output: kept.append(inputs[0]))
    else:
        module = net.synthesizers[stage] if stage in net.synthesizers else getattr(net, stage)
        handle = module.register_forward_hook(lambda module, inputs, output: kept.append(output))
    with torch.no_grad():
        net(clips)
    handle.remove()
    values = kept[0].mean((2, 3)) if kept[0].ndim == 4 else kept[0]
    return values.reshape(len(clips), -1, values.shape[1]).mean(1)


@pytest.mark.parametrize(
    ("arch", "options"),
    [("vpsn", {}), ("slowonly", {}), *(("tsn", {"head": head}) for head in ("encoder", "lstm", "temporal_inception"))],
)
def test_features_are_those_of_a_hook_on_the_plain_network(arch, options):
    torch.manual_seed(0)
    net = build_model(ModelConfig(arch=arch, depth=18, num_classes=3, num_segments=4, **options)).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
    clips = torch.randn(5, 4, 3, 32, 32)
    fused = fuse_batch_norm(net)
    for stage in STAGES:
        found = FeatureExtractor(fused, stage, "fp32", batch_size=3)(clips)
        expected = plain_features(net, clips, stage)
        assert found.dtype == torch.float32 and found.shape == expected.shape
        assert torch.allclose(found, expected, atol=1e-4, rtol=1e-3), stage


def test_a_network_without_such_a_stage_is_refused():
    with pytest.raises(
        UserError, match=r"^--stage layer2: no such stage in Flatten; it has none of a ResNet's stages$"
    ):
        FeatureExtractor(torch.nn.Flatten(), "layer2", "fp32", 4)


def test_the_table_has_few_groups_of_rows_and_loses_none(tmp_path, monkeypatch):
    monkeypatch.setattr("launch.inference.feature_files._ROWS_PER_GROUP", 4)
    folder, names = FeatureFolder(tmp_path, {}), [f"v{number}" for number in range(7)]
    values = {name: np.full((1 + number % 3, 2), number, np.float32) for number, name in enumerate(names)}
    for name, rows in values.items():
        folder.write(VideoFeatures(name, rows, [0.0] * len(rows), [1.0] * len(rows), {}))
    file = pq.ParquetFile(folder.write_table(names))
    table = file.read().to_pylist()
    assert [row["video"] for row in table] == [name for name in names for _ in values[name]]
    assert [row["features"] for row in table] == np.concatenate(list(values.values())).tolist()
    assert file.num_row_groups == 3  # v0 to v2 have 6 rows, v3 to v5 again, v6 has 1


def test_a_name_that_is_no_utf_8_is_in_the_table(tmp_path):
    name = os.fsdecode(b"bad\xff")
    folder = FeatureFolder(tmp_path, {})
    folder.write(VideoFeatures(name, np.zeros((1, 2), np.float32), [0.0], [1.0], {}))
    assert pq.read_table(folder.write_table([name]))["video"].to_pylist() == ["bad\\udcff"]


def read(folder: Path) -> dict[str, bytes]:
    """All files of a folder by their names."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_packed_samples_over_ranks(trained, motion, tmp_path):
    """Each sample's features are those of the plain network on the loader's clips; two ranks write the same bytes."""
    command = [f"--checkpoint={trained}", f"--data={motion / 'val'}", "--stage=layer3", "--clips=2", "--batch-size=4"]
    assert main([*command, f"--out={tmp_path / 'one'}"]) == 0
    net, _, config = load_checkpoint(trained)
    dataset = load_dataset(motion / "val")
    with VideoLoader(dataset, replace(config.data, test_clips=2), training=False, micro_batch_size=20) as loader:
        [batch] = loader
    with autocast(batch.clips, config.train.precision):
        expected = plain_features(net, batch.clips, "layer3").float().view(len(dataset), 2, 256).numpy()
    for sample_id, name in enumerate(dataset.keys):
        values = np.load(tmp_path / "one" / f"{name}.npy")
        assert values.shape == (2, 256) and values.dtype == np.float32
        assert np.allclose(values, expected[sample_id], atol=0.02, rtol=0.02)
        assert not np.allclose(values, expected[sample_id - 1], atol=0.02, rtol=0.02)
        described = json.loads((tmp_path / "one" / f"{name}.json").read_text())
        assert described["shape"] == [2, 256] and described["fps"] > 0
    table = pq.read_table(tmp_path / "one" / "features.parquet")
    assert table.column_names == ["video", "row", "start", "end", "features"]
    assert table["video"].to_pylist() == [name for name in dataset.keys for _ in range(2)]
    stacked = np.concatenate([np.load(tmp_path / "one" / f"{name}.npy") for name in dataset.keys])
    assert np.array_equal(np.array(table["features"].to_pylist(), np.float32), stacked)
    done = run_ranks([sys.executable, "launch/features.py", *command, f"--out={tmp_path / 'two'}"], 2)
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "one") == read(tmp_path / "two")


def test_windows_of_files(trained, tmp_path, capsys):
    """Rows are of a regular grid; damage makes rows of NaN, and is said."""
    write_numbered_video(tmp_path / "in" / "a" / "v.mp4", 110, fps=10, size=(64, 48), gop=10, noise=30)
    sound = write_numbered_video(tmp_path / "in" / "b" / "v.mp4", 55, fps=10, size=(64, 48), gop=10, noise=30)
    command = [f"--checkpoint={trained}", "--window=2", "--stride=1", f"--out={tmp_path / 'out'}"]
    assert main([*command, str(tmp_path / "in")]) == 0
    values = np.load(tmp_path / "out" / "a" / "v.npy")
    described = json.loads((tmp_path / "out" / "a" / "v.json").read_text())
    assert values.shape == (10, 512) and not np.isnan(values).any()
    assert described["starts"] == list(range(10)) and described["stride_seconds"] == 1
    assert described["fps"] == pytest.approx(10) and described["stride_frames"] == pytest.approx(10)
    assert np.load(tmp_path / "out" / "b" / "v.npy").shape == (4, 512)
    before = read(tmp_path / "out")
    assert main([*command, str(tmp_path / "in")]) == 0
    assert "2 were there already" in capsys.readouterr().out and read(tmp_path / "out") == before
    with pytest.raises(UserError, match=r"holds features with stride_seconds 1\.0, not 0\.5; give another --out"):
        main([*command, "--stride=0.5", str(tmp_path / "in")])
    damaged = zeroed(sound, 0.5, 1500)
    assert main([*command[:-1], f"--out={tmp_path / 'damaged'}", str(damaged)]) == 1
    values = np.load(tmp_path / "damaged" / f"{damaged.stem}.npy")
    lost = json.loads((tmp_path / "damaged" / f"{damaged.stem}.json").read_text())["lost_rows"]
    assert len(values) == 4 and lost == np.flatnonzero(np.isnan(values).all(1)).tolist() != []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["v.mp4", "--window=9"], "v: it lasts 0.40 s, less than --window 9"),
        (["v.mp4", "--window=0"], "--window 0: use seconds, more than 0"),
        (["v.mp4", "--stride=1"], "--stride: it is of windows"),
        (["notes.txt"], "notes: open: "),
        ([], "give either video files and folders, or --data SHARDS"),
        (["--data=x", "--window=1"], "--window: packed samples are seen as wholes"),
        (["v.mp4", "other/v.mp4"], "v.mp4 and other/v.mp4 would both be v.npy"),
    ],
)
def test_bad_input_is_one_line(trained, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    for path in ("v.mp4", "other/v.mp4"):
        write_numbered_video(Path(path), 10)
    Path("notes.txt").write_text("no video")
    with pytest.raises(UserError) as caught:
        main([f"--checkpoint={trained}", "--out=out", *arguments])
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    assert not list(tmp_path.glob("out/*.npy"))


@pytest.mark.slow
def test_killed_and_run_again_gives_the_same(trained, tmp_path):
    for number in range(12):
        write_numbered_video(tmp_path / "in" / f"v{number}.mp4", 100, fps=10, size=(64, 48), first_number=number)
    command = [sys.executable, "launch/features.py", f"--checkpoint={trained}", "--window=1", str(tmp_path / "in")]
    with started([*command, f"--out={tmp_path / 'killed'}"], env=os.environ) as process:
        while len(list((tmp_path / "killed").glob("*.npy"))) < 4:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "killed" / "features.parquet").exists()
    for out in ("killed", "whole"):
        with started([*command, f"--out={tmp_path / out}"], env=os.environ) as process:
            assert process.wait(timeout=300) == 0
    left = {name: data for name, data in read(tmp_path / "killed").items() if not name.startswith(".")}
    assert left == read(tmp_path / "whole")


def test_a_split_of_which_nothing_is_left_is_one_line(trained, motion, tmp_path):
    copy = tmp_path / "val"
    shutil.copytree(motion / "val", copy)
    keys = load_dataset(copy).keys
    (copy / "quarantine.jsonl").write_text("".join(json.dumps({"key": str(key), "reason": "x"}) + "\n" for key in keys))
    with pytest.raises(UserError, match=r"val: none of its samples is left: all are quarantined$"):
        main([f"--checkpoint={trained}", f"--out={tmp_path / 'out'}", f"--data={copy}"])
