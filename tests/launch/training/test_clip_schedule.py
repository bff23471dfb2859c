"""Runs of phases: clips, learning rate and BatchNorm that change on the way."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import yaml
from safetensors.torch import load_file

from launch.schedule_search.algorithm import plan_edges
from launch.schedule_search.config import PlannedConfig
from launch.train import main
from launch.training.builders import check_phases
from launch.training.checkpoint import load_checkpoint, pointed
from launch.training.clip_schedule import PhaseConfig
from launch.training.config import Config
from launch.training.config_parser import load_config, parse_config
from launch.training.run_log import read_metrics
from model import ModelConfig
from model.config import EncoderConfig
from sharding.errors import UserError
from tests.conftest import ROOT
from tests.launch.conftest import alone_command, losses, same_weights, started, train_alone, wait_for_step

STAGES = [
    {"epochs": 1, "num_segments": 2, "learning_rate": 0.1},
    {"epochs": 2, "num_segments": 4, "learning_rate": 0.02, "batch_norm": "partial"},
    {"epochs": 1, "num_segments": 3, "sampling": "dense", "frame_stride": 1},
]
CONSTANT = ["--schedule.milestones=[]"]


@pytest.fixture(scope="module")
def phased_config(small_config, tmp_path_factory):
    """small_config in three phases of 1, 2 and 1 epochs."""
    values = yaml.safe_load(small_config.read_text())
    del values["train"]["epochs"]
    path = tmp_path_factory.mktemp("phased") / "phased.yaml"
    path.write_text(yaml.safe_dump(values | {"schedule": {"milestones": []}, "phases": STAGES}))
    return path


@pytest.fixture(scope="module")
def phased(phased_config, tmp_path_factory):
    """The run folder of that run, with all its checkpoints."""
    run_dir = tmp_path_factory.mktemp("phased") / "run"
    done = train_alone(phased_config, run_dir, "--train.keep_checkpoints=9")
    assert done.returncode == 0, done.stdout + done.stderr
    return run_dir


def test_each_stage_is_a_configuration(phased_config):
    config = parse_config("train", [f"--config={phased_config}"])
    first, second, third = config.split_phases()
    assert config.train.epochs == 4 and [part.train.epochs for part in (first, second, third)] == [1, 3, 4]
    assert [part.data.num_segments for part in (first, second, third)] == [2, 4, 3]
    assert all(part.model.num_segments == part.data.num_segments for part in (first, second, third))
    assert [part.optimizer.learning_rate for part in (first, second, third)] == [0.1, 0.02, 0.01]
    assert [part.train.batch_norm for part in (first, second, third)] == ["train", "partial", "train"]
    assert (third.data.sampling, third.data.frame_stride) == ("dense", 1)
    assert second.data.sampling == "segments"
    assert all(part.split_phases() == (part,) for part in (first, second, third))


def test_segments_of_several_frames_make_longer_clips(phased_config):
    phases = "[{num_segments: 2}, {frames_per_segment: 3}, {learning_rate: 0.1}]"
    options = ["--data.frames_per_segment=4", "--data.num_segments=5", f"--phases={phases}"]
    phases = parse_config("train", [f"--config={phased_config}", *options]).split_phases()
    assert [phase.data.frames_per_clip for phase in phases] == [8, 15, 20]
    assert [phase.model.num_segments for phase in phases] == [8, 15, 20]


def test_it_comes_back_whole(phased_config, tmp_path):
    config = parse_config("train", [f"--config={phased_config}"])
    (tmp_path / "resolved.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "resolved.yaml") == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--schedule.milestones=[3]"], "use schedule.name=step, schedule.milestones=[]"),
        (["--schedule.name=cosine"], "use schedule.name=step"),
        (["--train.epochs=7"], "train.epochs=7: the phases have 4 epochs; leave it out"),
        (["--phases=[{epochs: 0}]"], "epochs=0: use 1 or more"),
        (["--phases=[{num_segments: 0}]"], "num_segments=0"),
        (["--phases=[{num_segment: 4}]"], "num_segment"),
    ],
)
def test_mistakes_are_one_line(phased_config, options, message):
    with pytest.raises(UserError) as caught:
        parse_config("train", [f"--config={phased_config}", *options])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_network_made_for_one_length_is_refused_in_a_line():
    model = ModelConfig(arch="tsn", depth=18, num_classes=3, head="encoder", encoder=EncoderConfig())
    phases = (PhaseConfig(num_segments=4), PhaseConfig(num_segments=8))
    schedule = parse_config("train", CONSTANT).schedule
    with pytest.raises(UserError, match=r"phase 2: .*num_segments=8.*model.head=encoder cannot change it"):
        check_phases(Config(model=model, schedule=schedule, phases=phases))
    with pytest.raises(ValueError, match=r"model\.num_segments=6"):
        Config(model=ModelConfig(arch="dg_p3d"), schedule=schedule, phases=(PhaseConfig(num_segments=6),))
    growing = ModelConfig(arch="tsn", depth=18, num_classes=3, head="temporal_inception")
    growing = replace(growing, temporal_inception=replace(growing.temporal_inception, kernel_lengths=(5,)))
    phases_of_16 = (PhaseConfig(num_segments=8), PhaseConfig(num_segments=16))
    with pytest.raises(UserError, match=r"phase 2: .* has shape \(.*\) with num_segments=16, none in phase 1"):
        check_phases(Config(model=growing, schedule=schedule, phases=phases_of_16))
    for arch in ("vpsn", "tsn", "tsm", "gst", "stm", "tea", "p3d"):
        check_phases(Config(model=ModelConfig(arch=arch), schedule=schedule, phases=phases))


def test_the_stages_follow_each_other_in_one_folder(phased):
    lines = read_metrics(phased)
    steps = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in steps] == list(range(1, 21))
    rates = [line["learning_rate"] for line in steps]
    assert rates == pytest.approx([0.1 / 16] * 5 + [0.02 / 16] * 10 + [0.01 / 16] * 5)
    assert [line["epoch"] for line in lines if line["kind"] == "evaluation"] == [1, 2, 3, 4]
    folder = phased / "checkpoints"
    segments = {path.name: load_config(path / "config.yaml").data.num_segments for path in folder.glob("step-*")}
    assert [segments[name] for name in sorted(segments)] == [2, 4, 4, 3]
    net, info, config = load_checkpoint(folder / pointed(folder, "last"))
    assert info.epoch == 4 and net(torch.zeros(1, 3, 3, 32, 32)).shape == (1, 2) and not config.phases
    assert load_config(phased / "config.yaml").phases == tuple(PhaseConfig(**phase) for phase in STAGES)


def test_a_stage_goes_on_from_the_weights_of_the_one_before(phased):
    """With partial BatchNorm the second phase leaves every one of them but the first as the first phase left it."""
    first, second = (load_file(phased / "checkpoints" / f"step-{step:08d}" / "model.safetensors") for step in (5, 15))
    held = [name for name in first if ".bn" in name and name.endswith("running_mean") and name.startswith("layer")]
    assert held and all(torch.equal(first[name], second[name]) for name in held)
    assert not torch.equal(first["bn1.running_mean"], second["bn1.running_mean"])
    assert not torch.equal(first["fc.weight"], second["fc.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("step", [7, 11, 17])
def test_killed_in_a_stage_and_resumed_is_as_if_undisturbed(phased_config, phased, tmp_path, step):
    options = ["--train.save_every_steps=2", "--train.keep_checkpoints=9"]
    with started(alone_command(phased_config, tmp_path / "run", *options)) as process:
        wait_for_step(tmp_path / "run", step, process)
        process.kill()
    done = train_alone(phased_config, tmp_path / "run", *options, "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed from" in done.stdout
    assert losses(tmp_path / "run") == losses(phased)
    assert same_weights(tmp_path / "run", phased)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [1, 2])
def test_phases_under_zero(phased_config, tmp_path, zero_stage):
    options = [f"--train.zero_stage={zero_stage}", "--train.ema_decay=0.9"]
    done = train_alone(phased_config, tmp_path / "run", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(losses(tmp_path / "run")) == 20


@pytest.mark.slow
def test_other_stages_are_another_run(phased_config, phased):
    done = train_alone(phased_config, phased, "--resume", "--phases=[{epochs: 4}]")
    assert done.returncode == 2 and "holds a run with phases.1=" in done.stderr, done.stderr


def test_a_loss_that_is_multiplied_by_four_is_other_rates_decay_and_clipping():
    """Weights after steps of the authors' recipe for Kinetics and of ours, with gradients above and below the clip."""
    ours = parse_config("train", [f"--config={ROOT}/launch/configs/kinetics/planned_kinetics400.yaml"])
    rate, optimizer = ours.phases[0].learning_rate, ours.optimizer

    def train(weight: float, rate: float, decay: float, clip_norm: float) -> torch.Tensor:
        net = torch.nn.Linear(5, 1, bias=False).double()
        torch.nn.init.ones_(net.weight)
        sgd = torch.optim.SGD(net.parameters(), rate, optimizer.momentum, nesterov=True, weight_decay=decay)
        generator = torch.Generator().manual_seed(0)
        for step in range(6):
            x = torch.randn(5, generator=generator, dtype=torch.float64) * (100 if step % 2 else 0.1)
            sgd.zero_grad()
            (weight * net(x).square().sum()).backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), clip_norm)
            sgd.step()
        return net.weight.detach()

    theirs = train(4.0, 0.04, 1e-4, 40.0)
    torch.testing.assert_close(train(1.0, rate, optimizer.weight_decay, optimizer.clip_norm), theirs, rtol=1e-6, atol=0)
    assert not torch.allclose(train(1.0, 0.04, 1e-4, 40.0), theirs, rtol=0.01)


@pytest.mark.parametrize(
    ("name", "frames", "loss_weight", "rates", "epochs"),
    [
        ("kinetics400", [16, 32, 32, 64, 64], 4, [0.04, 0.04, 0.004, 4e-4, 4e-5], [58, 108, 26, 10, 18]),
        ("something_v1", [32, 32, 16, 32], 1, [0.04, 0.004, 4e-4, 4e-4], [25, 6, 57, 35]),
    ],
)
def test_the_published_paths(name, frames, loss_weight, rates, epochs):
    """The authors' records: batches of 256, weight decay 1e-4, clip norm 40, and the weight of the loss, here 1."""
    [path] = (ROOT / "launch" / "configs").glob(f"*/planned_{name}.yaml")
    config = parse_config("train", [f"--config={path}"])
    check_phases(config)
    phases = config.split_phases()
    assert [phase.data.frames_per_clip for phase in phases] == frames
    assert all(phase.model.arch == "dg_p3d" and phase.model.num_segments % 4 == 0 for phase in phases)
    assert [phase.train.epochs for phase in phases] == [sum(epochs[: number + 1]) for number in range(len(epochs))]
    assert config.train.batch_size == 256
    optimizers = [phase.optimizer for phase in phases]
    ours = [round(optimizer.scaled_learning_rate(256), 9) for optimizer in optimizers]
    assert ours == pytest.approx([loss_weight * rate for rate in rates])
    assert {optimizer.weight_decay for optimizer in optimizers} == {1e-4 / loss_weight}
    assert {optimizer.clip_norm for optimizer in optimizers} == {40 / loss_weight}
    # They are paths of the graph that launch/search_schedule.py searches, in the same states.
    plan = parse_config("plan", [f"--config={ROOT}/launch/configs/plans/{name}.yaml"], PlannedConfig)
    states = {
        (phase.data.frames_per_clip, round(phase.optimizer.scaled_learning_rate(256), 9)): state
        for state, phase in enumerate(plan.schedule_of_all().split_phases(), 1)
    }
    path = [0, *(states[state] for state in zip(frames, ours))]
    edges = set(plan_edges(3, 3, extended=True))
    assert all(edge in edges for edge in pairwise(path))


def test_the_batches_of_each_stage_are_checked_before_anything_is_begun(small_config, tmp_path):
    """BatchNorm over the clips of a micro-batch of one: told of the second stage, too; not of what no stage does."""
    options = [f"--config={small_config}", f"--run_dir={tmp_path / 'run'}", "--model.head=ts_lstm", *CONSTANT]
    options += ["--train.micro_batch_size=1", "--train.batch_norm=partial"]
    phases = "[{epochs: 1, num_segments: 4}, {epochs: 1, num_segments: 4, batch_norm: train}]"
    values = yaml.safe_load(small_config.read_text())
    del values["train"]["epochs"]
    (tmp_path / "phases.yaml").write_text(yaml.safe_dump(values))
    options[0] = f"--config={tmp_path / 'phases.yaml'}"
    with pytest.raises(UserError, match=r"^train\.micro_batch_size=1: model\.head=ts_lstm has BatchNorm"):
        main([*options, f"--phases={phases}"])
    assert not (tmp_path / "run").exists()
