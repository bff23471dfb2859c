"""BatchNorm held still."""

import pytest
import torch
from torch import nn

from launch.training.batch_norm import prepare_batch_norm, set_training_mode
from launch.training.config import Config, TrainConfig
from launch.training.engine import deepspeed_options
from launch.training.optimizer_config import OptimizerConfig
from launch.training.optimizers import parameter_groups
from model import ModelConfig, build_model
from sharding.errors import UserError


@pytest.mark.parametrize(("mode", "learning"), [("train", 24), ("partial", 1), ("frozen", 0)])
def test_what_still_learns(mode, learning):
    config = TrainConfig(batch_norm=mode)
    net = prepare_batch_norm(build_model(ModelConfig(depth=18, num_classes=2, num_segments=2)), config)
    set_training_mode(net.eval(), config)
    norms = {name: module for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)}
    before = {name: norm.running_mean.clone() for name, norm in norms.items()}
    net(torch.randn(2, 2, 3, 32, 32)).sum().backward()
    assert len(norms) == 24
    moved = [name for name, norm in norms.items() if not torch.equal(before[name], norm.running_mean)]
    trained = [name for name, norm in norms.items() if norm.weight.grad is not None]
    assert moved == trained == list(norms)[:learning]
    groups = {group["name"]: len(group["params"]) for group in parameter_groups(net, OptimizerConfig())}
    assert groups.get("others", 0) == 2 * learning
    assert net.dropout.training


def test_statistics_over_all_ranks():
    net = build_model(ModelConfig(depth=18, num_classes=2, num_segments=2))
    names = list(net.state_dict())
    net = prepare_batch_norm(net, TrainConfig(sync_batch_norm=True))
    assert list(net.state_dict()) == names
    assert isinstance(net.bn1, nn.SyncBatchNorm)


@pytest.mark.parametrize("head", ["ts_lstm", "temporal_inception"])
def test_heads_that_normalise_clips_take_no_single_one(head):
    """As a network in training would refuse it, with a traceback; before anything is begun."""
    model = ModelConfig("tsn", 18, 2, 4, head=head)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        build_model(model)(torch.randn(1, 4, 3, 32, 32))
    said = rf"^train\.micro_batch_size=1: model\.head={head} has BatchNorm over the clips of a micro-batch; use 2 or"
    for options in ({"micro_batch_size": 1}, {"batch_size": 2}):
        with pytest.raises(UserError, match=said):
            deepspeed_options(Config(model=model, train=TrainConfig(**{"batch_size": 4} | options)), world_size=2)
    for options in ({"micro_batch_size": 2}, {"micro_batch_size": 1, "batch_norm": "partial"}):
        assert deepspeed_options(Config(model=model, train=TrainConfig(batch_size=4, **options)), world_size=2)
