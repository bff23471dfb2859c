"""What a training step costs besides its arithmetic: waits for the device, garbage collection, layouts, clipping."""

import gc
import time

import pytest
import torch
from deepspeed.runtime.utils import clip_grad_norm_

import launch.training.trainer as trainer_module
from launch.training.clipping import clip_gradients
from launch.training.config import Config, TrainConfig
from launch.training.distributed import Ranks
from launch.training.engine import build_engine, deepspeed_options
from launch.training.garbage import frozen_heap, no_automatic_collection
from launch.training.mfu import Utilization
from launch.training.optimizer_config import OptimizerConfig
from launch.training.stall import StallTimer
from launch.training.step_meter import StepMeter
from launch.training.trainer import Trainer, count_samples
from model import ModelConfig, build_model

CPU = torch.device("cpu")


def test_samples_are_counted_where_batches_repeat_them():
    ids = [torch.tensor([2, 0, 2]), torch.tensor([2])]
    assert count_samples(ids, 4).tolist() == [1, 0, 3, 0]
    assert count_samples([], 2).tolist() == [0, 0]


def test_the_throughput_timer_of_deepspeed_is_off_unless_asked_for():
    assert deepspeed_options(Config(), 1)["timers"] == {"throughput": {"enabled": False}}
    asked = {"timers": {"throughput": {"enabled": True, "synchronized": False}}}
    assert deepspeed_options(Config(deepspeed=asked), 1)["timers"] == asked["timers"]


class Clock:
    """Goes on when it is told to."""

    def __init__(self):
        self.seconds = 100.0

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.seconds)
    return clock


class SlowLoader:
    """Yields two batches, each after a tenth of a second."""

    steps_per_epoch, step, epoch = 2, 0, 0

    def __init__(self, clock: Clock):
        self._clock = clock

    def __iter__(self):
        for _ in range(2):
            self._clock.sleep(0.1)
            yield type("Batch", (), {"is_last_micro_batch": True})


def test_waiting_for_the_loader_is_stall_and_computing_is_not(alone, clock):
    meter = StepMeter(alone, Utilization(ModelConfig(), 32, CPU, "fp32"))
    for _ in meter.timed(SlowLoader(clock)):
        clock.sleep(0.3)
        meter.add({"loss": torch.ones(())}, 1, 4)
    clock.sleep(0.2)  # what a log or a checkpoint takes after the last batch is none either
    figures = meter.take()
    assert figures["loading_share"] == pytest.approx(0.2)  # 0.2 of 1.0 seconds


def test_stall_begins_again_at_each_reading(clock):
    timer = StallTimer(CPU)
    timer.step_ended()
    clock.sleep(0.05)
    timer.step_begins()
    assert timer.take() == pytest.approx(0.05)
    assert timer.take() == 0


class Probe(Trainer):
    """A trainer of which only the frame around the epochs is real."""

    def __init__(self, fails: bool):
        self.fails, self.seen = fails, []
        self.evaluation_due = False
        self.config = Config(train=TrainConfig(epochs=1))
        self.ranks, self.run_dir = Ranks(0, 1, CPU), "RUN"
        self.val_loader, self.train_set = None, type("Split", (), {"label_sets": None})()
        self.engine, self.net = type("Engine", (), {"module": None}), None
        self.loader = type("Loader", (), {"epoch": 0, "steps_per_epoch": 1})()
        self.stop = type("Stop", (), {"asked": lambda self: False})()

    def train_epoch(self) -> bool:
        self.seen.append(("epoch", gc.isenabled(), gc.get_freeze_count() > 0))
        self.loader.epoch += 1
        if self.fails:
            raise RuntimeError("in a step")
        return True

    def save(self) -> None: ...

    def evaluate(self) -> None:
        self.seen.append(("evaluation", gc.isenabled(), gc.get_freeze_count() > 0))


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_collected_in_the_middle_of_an_epoch(monkeypatch, fails):
    monkeypatch.setattr(trainer_module, "describe_run", lambda *_: "a run")
    probe = Probe(fails)
    try:
        probe.train()
    except RuntimeError:
        assert fails
    expected = [("epoch", False, True), ("evaluation", True, True)]
    assert probe.seen == expected[: 1 if fails else 2]
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_a_process_without_collection_stays_so():
    gc.disable()
    try:
        with frozen_heap(), no_automatic_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize("max_norm", [0.1, 1000.0])
def test_clipping_is_that_of_deepspeed_bit_for_bit(alone, max_norm):
    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 5, 3))
        net(torch.randn(4, 3, 9, 9)).square().sum().backward()
        nets.append(net)
    build_engine(*fp32_engine_arguments(torch.nn.Linear(2, 2)), alone)  # DeepSpeed's own needs its groups
    expected = clip_grad_norm_(nets[0].parameters(), max_norm)
    assert clip_gradients(nets[1].parameters(), max_norm, 1) == expected
    for one, other in zip(nets[0].parameters(), nets[1].parameters()):
        assert torch.equal(one.grad, other.grad)


def fp32_engine_arguments(net: torch.nn.Module, zero_stage: int = 0) -> tuple:
    train = TrainConfig(precision="fp32", zero_stage=zero_stage, batch_size=2)
    config = Config(train=train, optimizer=OptimizerConfig())
    return config, net, deepspeed_options(config, 1)


@pytest.mark.parametrize("zero_stage", [1, 2])
def test_feature_maps_are_laid_out_alike_under_every_zero_stage(alone, zero_stage):
    """Channels-last also where the kernels have to stay flat: a convolution follows the layout of its input."""
    strides, nets = [], []
    for stage in (0, zero_stage):
        net = build_model(ModelConfig(depth=18, num_classes=3, num_segments=4))
        engine = build_engine(*fp32_engine_arguments(net, stage), alone)
        nets.append(net)
        strides.append(found := [])
        for module in net.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(lambda _, x, y, found=found: found.extend((x[0].stride(), y.stride())))
        engine(torch.randn(2, 4, 3, 64, 64))
    assert strides[0] == strides[1] and len(strides[0]) > 50
    assert strides[0][0][1] == 1  # the stride of channels
    kernels = [net.layer1[0].conv1.weight for net in nets]
    assert [kernel.is_contiguous() for kernel in kernels] == [False, True]
