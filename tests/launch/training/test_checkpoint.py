"""Checkpoint folders: what is loaded runs no code, damage is one line, nothing half-written stays."""

import importlib.metadata
import json
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch
from torch import nn

from launch.benchmarks.report import conditions
from launch.training import versions
from launch.training.checkpoint import (
    CheckpointInfo,
    describe_versions,
    find_checkpoint,
    load_checkpoint,
    packing_settings,
    pointed,
    read_info,
    write_checkpoint,
)
from launch.training.config import Config, TrainConfig
from launch.training.distributed import Ranks
from launch.training.ema import WeightEma
from launch.training.engine import build_engine, deepspeed_options, load_engine, save_engine
from launch.training.run_dir import locked, open_run, save_run
from sharding.errors import UserError

CPU = torch.device("cpu")
INFO = CheckpointInfo(step=1, epoch=0, classes=("a", "b"), packing={}, train_fingerprint="", versions={})


class Hostile:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def build(ranks: Ranks, zero_stage: int):
    config = Config(train=TrainConfig(batch_size=2, precision="fp32", zero_stage=zero_stage))
    return build_engine(config, nn.Linear(3, 2), deepspeed_options(config, 1), ranks)


def take_step(engine) -> None:
    engine.backward(engine(torch.ones(2, 3)).square().sum())
    engine.step()


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_resuming_runs_no_code_of_a_checkpoint(alone, tmp_path, zero_stage):
    engine = build(alone, zero_stage)
    take_step(engine)
    save_engine(engine, tmp_path, "good", {"loader": {}})
    assert load_engine(build(alone, zero_stage), tmp_path, "good")["loader"] == {}
    for number, path in enumerate(sorted((tmp_path / "good").glob("*.pt"))):
        original, values = path.read_bytes(), torch.load(path, weights_only=False)
        for member in ("global_steps", "optimizer_state_dict"):
            torch.save(values | {member: Hostile(tmp_path / f"made-{number}")}, path)
            with pytest.raises(UserError, match="refused: it holds more than tensors and plain values") as caught:
                load_engine(build(alone, zero_stage), tmp_path, "good")
            assert str(path.name) in str(caught.value) and "\n" not in str(caught.value)
        path.write_bytes(original[: len(original) // 2])
        with pytest.raises(UserError, match=path.name):
            load_engine(build(alone, zero_stage), tmp_path, "good")
        path.write_bytes(original)
    assert not list(tmp_path.glob("made-*"))


@pytest.mark.parametrize("zero_stage", [1, 2])
def test_checkpoints_with_deepspeeds_own_objects_resume(alone, tmp_path, zero_stage):
    """As DeepSpeed's own writer makes them, and versions before 0.2 did: with its loss scaler among the values."""
    engine = build(alone, zero_stage)
    take_step(engine)
    save_engine(engine, tmp_path, "old", {"loader": {}})
    [path] = (tmp_path / "old").glob("*optim_states.pt")
    values = torch.load(path, weights_only=False)
    assert "loss_scaler" not in values["optimizer_state_dict"]
    values["optimizer_state_dict"]["loss_scaler"] = engine.optimizer.loss_scaler
    torch.save(values, path)
    resumed = build(alone, zero_stage)
    load_engine(resumed, tmp_path, "old")
    for each in (engine, resumed):
        take_step(each)
    assert torch.equal(engine.module.weight, resumed.module.weight)


def test_versions_without_metadata(monkeypatch):
    """A checkout that was never installed has none, nor has a package that was built into a container by hand."""

    def no_metadata(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    assert torch.__version__.startswith(describe_versions()["torch"])  # which lacks the build, as in +cu132
    for module in (importlib.metadata, versions):
        monkeypatch.setattr(module, "version", no_metadata)
    found = describe_versions()
    assert found.pop("vpsn") == versions.VERSION and found.pop("python")
    assert set(found) == {"torch", "torchvision", "deepspeed", "av", "numpy"} and set(found.values()) == {"unknown"}
    assert "av unknown" in conditions()


def test_all_files_have_the_same_mode(tmp_path):
    net = nn.Linear(3, 2)
    write_checkpoint(tmp_path, net, INFO, Config(), raw=net)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 4 and len(set(modes.values())) == 1, modes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"format_version": 1}',
        '{"format_version": "new"}',
        "[" * 100_000,
        '"\\ud800"',
        json.dumps({**vars(INFO), "classes": 3}),
        json.dumps({**vars(INFO), "classes": [3]}),
        json.dumps({**vars(INFO), "metrics": []}),
        json.dumps({**vars(INFO), "metrics": {"top1": "high"}}),
        json.dumps({**vars(INFO), "step": None}),
        json.dumps({**vars(INFO), "unknown": 1}),
    ],
)
def test_a_broken_description_is_one_line(tmp_path, text):
    (tmp_path / "checkpoint.json").write_text(text)
    with pytest.raises(UserError) as caught:
        read_info(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: damaged checkpoint: checkpoint.json: ")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    (tmp_path / "checkpoint.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="damaged checkpoint"):
        read_info(tmp_path)


@pytest.mark.parametrize("value", [None, 3, [], {}])
@pytest.mark.parametrize("name", ["profile", "max_frames", "short_side", "quality"])
def test_packing_settings_that_no_video_can_be_prepared_with(name, value):
    packing = {"profile": "h264", "max_frames": 64, "short_side": 256, "quality": 23}
    assert packing_settings({**packing, "pixels": "square"}) == packing
    wrong = {**packing, name: "256" if value == 3 and name != "profile" else value}
    with pytest.raises(UserError, match=f"checkpoint.json: packing: {name}: "):
        packing_settings(wrong)
    del wrong[name]
    with pytest.raises(UserError, match=f"packing: {name}: None: it must be"):
        packing_settings(wrong)


def test_classes_that_are_not_those_of_the_network(trained, tmp_path):
    shutil.copytree(find_checkpoint(trained), tmp_path / "copy")
    path = tmp_path / "copy" / "checkpoint.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"classes": values["classes"][:-1]}))
    with pytest.raises(UserError, match=r"damaged checkpoint: \d classes in checkpoint.json, but model.num_classes=\d"):
        load_checkpoint(tmp_path / "copy")


def test_a_lock_is_not_taken_through_a_link(alone, tmp_path):
    (tmp_path / "other").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "other")
    match = r"run_dir=.* cannot be written: Too many levels of symbolic links"
    with pytest.raises(UserError, match=match), locked(tmp_path / "run", alone):
        pass
    assert (tmp_path / "other").read_text() == "precious"


def test_a_checkpoint_by_its_pointer(tmp_path):
    folder = tmp_path / "checkpoints"
    for name in ("step-00000001", "step-00000002"):
        (folder / name).mkdir(parents=True)
    (folder / "last").write_text("step-00000002\n")
    (folder / "best").write_text("step-00000001\n")
    assert find_checkpoint(folder / "last") == folder / "step-00000002"
    assert find_checkpoint(folder / "best") == find_checkpoint(folder) == folder / "step-00000001"
    assert find_checkpoint(tmp_path) == folder / "step-00000001"


@pytest.mark.parametrize("content", ["../../elsewhere", "/etc", "", "step-1\nstep-2", "\0"])
def test_a_pointer_names_nothing_outside(tmp_path, content):
    (tmp_path / "last").write_text(content)
    with pytest.raises(UserError, match="should name a checkpoint of this folder"):
        pointed(tmp_path, "last")


def test_another_number_of_ranks_is_refused_for_an_optimizer_in_parts(tmp_path):
    config = Config(run_dir=str(tmp_path), resume="auto")
    folder = tmp_path / "checkpoints" / "step-00000001"
    folder.mkdir(parents=True)
    write_checkpoint(folder, nn.Linear(3, 2), INFO, config)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    (tmp_path / "checkpoints" / "last").write_text(folder.name)
    open_run(config, ("a", "b"), Ranks(0, 1, CPU))
    for rank in range(2):
        (folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
    open_run(config, ("a", "b"), Ranks(0, 2, CPU))
    with pytest.raises(
        UserError, match=r"saved by 2 rank\(s\).*this run of 1 rank\(s\) cannot resume; use 2"
    ) as caught:
        open_run(config, ("a", "b"), Ranks(0, 1, CPU))
    assert "\n" not in str(caught.value)


class FullEngine:
    """An engine whose files find no space left."""

    global_steps, torch_autocast_z0_gradscaler, optimizer = 1, None, None

    def __init__(self, engine):
        self.module, self.checkpoint_engine = engine.module, engine.checkpoint_engine

    def save_checkpoint(self, folder: str, tag: str, client_state: dict, save_latest: bool) -> None:
        self.checkpoint_engine.save({"state": torch.zeros(100_000)}, "/dev/full")


def test_a_full_disk_is_one_line_and_leaves_nothing(alone, tmp_path):
    engine = FullEngine(build(alone, 0))
    loader = type("Loader", (), {"state_dict": lambda self: {}})()
    average = WeightEma(engine.module, 0.0, CPU)
    with pytest.raises(UserError, match="no space left on the device for a checkpoint; the last one is none") as caught:
        save_run(tmp_path, engine, loader, average, INFO, Config(), alone)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_what_a_killed_saving_left_is_swept(tmp_path):
    (tmp_path / "checkpoints" / ".unfinished-step-00000003").mkdir(parents=True)
    open_run(Config(run_dir=str(tmp_path)), ("a",), Ranks(0, 1, CPU))
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_one_training_at_a_time_writes_to_a_folder(alone, tmp_path):
    run_dir = tmp_path / "run"
    with locked(run_dir, alone):
        with pytest.raises(UserError) as caught, locked(run_dir, alone):
            pass
        message = (
            f"run_dir={run_dir}: another training is writing to it (process {os.getpid()} on {os.uname().nodename})"
        )
        assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    with locked(run_dir, alone):
        pass
