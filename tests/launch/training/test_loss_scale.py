"""fp16 under ZeRO: gradients unscaled before they are clipped, steps that overflow skipped, the scale kept."""

import pytest
import torch

from launch.training.config import Config, TrainConfig
from launch.training.distributed import Ranks
from launch.training.engine import build_engine, deepspeed_options, load_engine, save_engine
from launch.training.loss_scale import GROWTH_INTERVAL, INITIAL_SCALE, LossScale
from launch.training.optimizer_config import OptimizerConfig


def build(ranks: Ranks, zero_stage: int, precision: str, clip_norm: float = 20.0):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 2))
    optimizer = OptimizerConfig(learning_rate=100.0, reference_batch_size=0, momentum=0.0, clip_norm=clip_norm)
    train = TrainConfig(batch_size=2, precision=precision, zero_stage=zero_stage)
    config = Config(train=train, optimizer=optimizer)
    return build_engine(config, net, deepspeed_options(config, 1), ranks)


def take_step(engine, factor: float = 1e-3) -> float:
    """A step on fixed data with the loss times `factor`; returns how far the parameters moved."""
    before = torch.cat([value.detach().flatten().clone() for value in engine.module.parameters()])
    x = torch.linspace(-1, 1, 2 * 3 * 4 * 4).view(2, 3, 4, 4)
    engine.backward(engine(x).float().square().sum() * factor)
    engine.step()
    after = torch.cat([value.detach().flatten() for value in engine.module.parameters()])
    return float((after - before).norm())


@pytest.mark.parametrize("clip_norm", [0.0, 0.001, 20.0])
@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_steps_are_as_long_as_without_a_scale(alone, zero_stage, clip_norm):
    lengths = {name: take_step(build(alone, zero_stage, name, clip_norm)) for name in ("fp32", "fp16")}
    assert lengths["fp32"] > 0.01
    assert lengths["fp16"] == pytest.approx(lengths["fp32"], rel=0.01)


@pytest.mark.parametrize("zero_stage", [1, 2])
def test_an_overflow_skips_the_step_and_halves_the_scale(alone, zero_stage):
    engine = build(alone, zero_stage, "fp16")
    assert take_step(engine, 1e38) == 0.0
    assert engine.optimizer.loss_scaler.cur_scale == INITIAL_SCALE / 2
    assert take_step(engine) > 0.01


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_the_scale_survives_a_checkpoint(alone, tmp_path, zero_stage):
    engine = build(alone, zero_stage, "fp16")
    for factor in (1e-3, 1e38, 1e38, 1e-3):
        take_step(engine, factor)
    save_engine(engine, tmp_path, "step-00000004", {"loader": {"epoch": 0}})
    resumed = build(alone, zero_stage, "fp16")
    assert load_engine(resumed, tmp_path, "step-00000004")["loader"] == {"epoch": 0}
    scalers = [one.torch_autocast_z0_gradscaler or one.optimizer.loss_scaler for one in (engine, resumed)]
    states = [scaler.state_dict() for scaler in scalers]
    assert states[0] == states[1]
    assert states[0]["scale"] == INITIAL_SCALE / 4
    assert take_step(resumed) == take_step(engine)


def test_a_scale_that_grows_counts_from_the_next_loss():
    scale, one = LossScale(), torch.ones(())
    for _ in range(GROWTH_INTERVAL):
        assert scale.scale_loss(one) == INITIAL_SCALE
        scale.update_scale(False)
        assert scale.cur_scale == INITIAL_SCALE  # the gradients at hand are divided by what they were scaled with
    assert scale.scale_loss(one) == 2 * INITIAL_SCALE
    for _ in range(40):
        scale.update_scale(True)
    assert scale.cur_scale == 1.0
