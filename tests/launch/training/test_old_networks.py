"""Checkpoints of networks whose architecture has changed since: refused in a line that says why."""

from types import SimpleNamespace

import pytest
import torch

from launch.training import run_dir
from launch.training.checkpoint import CheckpointInfo, load_checkpoint, point, write_checkpoint
from launch.training.config import Config
from launch.training.distributed import Ranks
from model import ModelConfig, build_model
from sharding.errors import UserError


class Tensors(torch.nn.Module):
    """Nothing but a state dict."""

    def __init__(self, state):
        super().__init__()
        self._state = state

    def state_dict(self):
        return self._state


def old_weights(config: ModelConfig) -> dict[str, torch.Tensor]:
    """The names and shapes of the networks before version 0.2."""
    state = build_model(config).state_dict()
    if config.arch == "stm":
        return {name: value for name, value in state.items() if ".motion.bn1." not in name}
    for name in [name for name in state if name.startswith(("layer3", "layer4")) and name.endswith("conv2.weight")]:
        state[name] = state[name].chunk(3, dim=1)[1]
    return state


@pytest.fixture(params=[("stm", 50), ("slowonly", 18)], ids=lambda param: param[0])
def old_run(request, tmp_path):
    """A run folder with one checkpoint of such a network."""
    config = Config(model=ModelConfig(*request.param, num_classes=3, num_segments=2))
    folder = tmp_path / "run" / "checkpoints" / "step-00000001"
    folder.mkdir(parents=True)
    info = CheckpointInfo(step=1, epoch=1, classes=("a", "b", "c"), packing={}, train_fingerprint="")
    write_checkpoint(folder, Tensors(old_weights(config.model)), info, config)
    point(folder.parent, "last", folder.name)
    return config, folder


REASONS = {
    "stm": "stm before version 0.2 had no BatchNorm in its motion path; train the network again; missing keys: ",
    "slowonly": "slowonly of depth 18 and 34 before version 0.2 had only one convolution over time in a block; give ",
}


def test_evaluation_says_what_has_changed(old_run):
    config, folder = old_run
    with pytest.raises(UserError) as caught:
        load_checkpoint(folder)
    assert REASONS[config.model.arch] in str(caught.value) and "\n" not in str(caught.value)


def test_a_resumed_run_says_it_before_the_engine_reads_anything(old_run, monkeypatch):
    config, folder = old_run
    monkeypatch.setattr(run_dir, "load_engine", lambda *_: pytest.fail("read"))
    engine, ranks = SimpleNamespace(module=build_model(config.model)), Ranks(0, 1, torch.device("cpu"))
    average = SimpleNamespace(module=engine.module)
    with pytest.raises(UserError) as caught:
        run_dir.resume(folder.parent.parent, engine, None, average, ranks)
    assert REASONS[config.model.arch] in str(caught.value) and "\n" not in str(caught.value)


def test_old_slowonly_weights_still_start_a_network(tmp_path):
    """As weights to start from they fit: the second convolution begins with zeros for the neighbouring frames."""
    config = ModelConfig("slowonly", 18, 3, 2)
    old = old_weights(config)
    torch.save(old, tmp_path / "old.pth")
    net = build_model(ModelConfig("slowonly", 18, 3, 2, pretrained=str(tmp_path / "old.pth")))
    before, own, after = net.layer3[0].conv2.weight.chunk(3, dim=1)
    assert torch.equal(own, old["layer3.0.conv2.weight"]) and not before.any() and not after.any()


def test_old_stm_weights_do_not_start_one(tmp_path):
    torch.save(old_weights(ModelConfig("stm", 50, 3, 2)), tmp_path / "old.pth")
    with pytest.raises(ValueError, match="no BatchNorm in its motion path"):
        build_model(ModelConfig("stm", 50, 3, 2, pretrained=str(tmp_path / "old.pth")))
