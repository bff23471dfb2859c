"""Mean and standard deviation of the pixels: from the weights into the configuration, the checkpoint and the export."""

import json
import logging
import subprocess
import sys
from dataclasses import replace

import pytest
import safetensors
import torch
import yaml

from launch.inference import onnx
from launch.training.checkpoint import CheckpointInfo, load_checkpoint, point, write_checkpoint
from launch.training.config import Config
from launch.training.config_parser import load_config, parse_config
from launch.training.run_dir import check_same_run
from model import ModelConfig, build_model
from model.weights import families
from pipeline import config as pipeline_config
from pipeline.config import IMAGENET_MEAN, IMAGENET_STD, DataConfig
from sharding.errors import UserError
from tests.model.weights.layouts import slowfast_names, torchvision_names

KINETICS = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
PACKING = {"profile": "h264", "max_frames": 64, "short_side": 32, "quality": 20}


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "SLOW.pyth"
    torch.save({"model_state": slowfast_names().make()}, path)
    return path


def parse(*options: str) -> Config:
    return parse_config("train", list(options))


def statistics(config: Config) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return config.data.mean, config.data.std


def test_both_rooms_mean_the_same():
    assert families.IMAGENET == (pipeline_config.IMAGENET_MEAN, pipeline_config.IMAGENET_STD)
    assert DataConfig().pixel_mean == (0.485 * 255, 0.456 * 255, 0.406 * 255)
    assert DataConfig().pixel_std == (0.229 * 255, 0.224 * 255, 0.225 * 255)


def test_they_are_those_of_the_weights(slow, tmp_path):
    assert statistics(parse()) == (IMAGENET_MEAN, IMAGENET_STD)
    assert statistics(parse("--model.pretrained=imagenet")) == (IMAGENET_MEAN, IMAGENET_STD)
    assert statistics(parse("--model.arch=slowonly", f"--model.pretrained={slow}")) == KINETICS
    torch.save(torchvision_names().make(), tmp_path / "resnet.pth")
    assert statistics(parse(f"--model.pretrained={tmp_path}/resnet.pth")) == (IMAGENET_MEAN, IMAGENET_STD)


def test_a_configuration_in_the_file_counts(tmp_path):
    """Of SlowFast's cfg, and of mmaction2's, whose pixels are 0 to 255."""
    slowfast = "DATA:\n  MEAN:\n  - 0.5\n  - 0.4\n  - 0.3\n  STD:\n  - 0.2\n  - 0.2\n  - 0.25\n"
    mmaction2 = "data_preprocessor=dict(mean=[\n 127.5, 102.0, 76.5],\n std=[51.0, 51, 63.75])"
    for name, saved in {
        "a.pyth": {"model_state": slowfast_names().make(), "cfg": slowfast},
        "b.pth": {"state_dict": torchvision_names().make(), "meta": {"cfg": mmaction2}},
    }.items():
        torch.save(saved, tmp_path / name)
        config = parse("--model.arch=slowonly", f"--model.pretrained={tmp_path / name}")
        assert statistics(config) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.25))


def test_those_given_count_and_are_warned_of(slow, caplog):
    options = ("--model.arch=slowonly", f"--model.pretrained={slow}", "--data.mean", "0.4", "0.4", "0.4")
    assert statistics(parse(*options)) == ((0.4, 0.4, 0.4), KINETICS[1])
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "data.mean=[0.4, 0.4, 0.4]" in record.getMessage()
    assert "SLOW (SlowFast)" in record.getMessage() and "[0.45, 0.45, 0.45]" in record.getMessage()
    caplog.clear()
    parse("--model.arch=slowonly", f"--model.pretrained={slow}", "--data.std=[0.225,0.225,0.225]")
    parse("--data.mean=[0.1,0.2,0.3]")
    assert not caplog.records


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--data.mean=[123.675,116.28,103.53]", "divide by 255"),
        ("--data.mean=[0.5]", "a number for each of red, green and blue"),
        ("--data.std=[0.2,0,0.2]", "data.std="),
        ("--data.std=[0.2,.nan,0.2]", "data.std="),
        ("--model.pretrained=absent.pth", "model.pretrained='absent.pth': no such file"),
    ],
)
def test_mistakes_are_one_line(option, said):
    with pytest.raises(UserError) as caught:
        parse(option)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_weights_that_cannot_be_had_are_refused_before_torch_is_imported(tmp_path):
    torch.save({"blocks.0.conv.conv_t.weight": torch.ones(1)}, tmp_path / "x3d.pth")
    program = "import sys\nfrom launch.train import main\nfrom sharding.errors import UserError\n"
    program += "try:\n    main(sys.argv[1:])\nexcept UserError as error:\n    print('torch' in sys.modules, error)"
    command = [sys.executable, "-c", program, f"--model.pretrained={tmp_path}/x3d.pth"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.startswith("False model.pretrained=") and "X3D" in done.stdout, done.stderr


def test_the_loader_subtracts_and_divides_by_them(motion):
    from pipeline.loader import VideoLoader

    clips = []
    data = DataConfig(num_segments=4, short_side=32, crop_size=32, worker_type="thread")
    for changed in (data, replace(data, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0))):
        with VideoLoader(motion / "val", changed, training=False, micro_batch_size=2) as loader:
            clip = next(iter(loader)).clips[0].double()
        std, mean = (torch.tensor(values).view(3, 1, 1) for values in (changed.pixel_std, changed.pixel_mean))
        clips.append(clip * std + mean)
    torch.testing.assert_close(clips[0], clips[1], rtol=0, atol=1e-3)
    assert clips[0].max() > 10


@pytest.fixture
def run(tmp_path):
    """A run folder whose checkpoint was trained with the statistics of Kinetics."""
    data = DataConfig(num_segments=2, short_side=32, crop_size=32, mean=KINETICS[0], std=KINETICS[1])
    config = Config(data=data, model=ModelConfig("tsm", 18, 2, 2))
    folder = tmp_path / "run" / "checkpoints" / "step-00000001"
    folder.mkdir(parents=True)
    info = CheckpointInfo(1, 1, ("a", "b"), PACKING, "fingerprint")
    write_checkpoint(folder, build_model(config.model), info, config)
    point(folder.parent, "last", folder.name)
    return tmp_path / "run"


def test_they_stay_with_checkpoint_export_and_next_run(run):
    _, info, config = load_checkpoint(run)
    assert statistics(config) == KINETICS
    normalise = onnx._preprocessing(info.packing, config.data)[-1]
    assert normalise["mean"] == [114.75] * 3 and normalise["std"] == [57.375] * 3
    assert statistics(parse(f"--model.pretrained={run}")) == KINETICS
    weights = run / "checkpoints" / "step-00000001" / "model.safetensors"
    with safetensors.safe_open(weights, "pt") as file:
        said = json.loads(file.metadata()["vpsn"])
    assert said == {"arch": "tsm", "mean": [0.45] * 3, "std": [0.225] * 3}
    assert statistics(parse(f"--model.pretrained={weights}")) == KINETICS


def test_a_checkpoint_from_before_there_were_statistics_means_imagenets(run):
    path = run / "checkpoints" / "step-00000001" / "config.yaml"
    values = yaml.safe_load(path.read_text())
    del values["data"]["mean"], values["data"]["std"]
    path.write_text(yaml.safe_dump(values))
    old = load_config(path)
    assert (
        old.data.pixel_mean == DataConfig().pixel_mean and statistics(parse(f"--model.pretrained={run}"))[0][0] == 0.485
    )
    new = replace(old, data=replace(old.data, mean=IMAGENET_MEAN, std=IMAGENET_STD))
    check_same_run(old, new, run)  # a run may be resumed
    with pytest.raises(UserError, match=r"data\.mean=\(0\.485, 0\.456, 0\.406\), not \(0\.4, 0\.4, 0\.4\)"):
        check_same_run(old, replace(old, data=replace(old.data, mean=(0.4, 0.4, 0.4))), run)
