"""Distillation: its losses by independent arithmetic, what the teacher sees, and real trainings with one."""

import json
import math
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from launch.training.checkpoint import CheckpointInfo, load_checkpoint, pointed, write_checkpoint, write_info
from launch.training.config import Config, DistillationConfig, LossConfig
from launch.training.distillation import DistilledNet, Projector, logit_loss, teacher_fingerprint, with_teacher
from launch.training.engine import _PLAIN_TYPES
from launch.training.losses import training_losses
from launch.training.optimizers import parameter_groups
from launch.training.run_dir import _check_same_teacher
from launch.training.run_log import read_metrics
from launch.training.safe_load import load_plain
from launch.training.teacher import Teacher, fingerprint, load_teacher
from model import ModelConfig, VideoNet, build_model
from pipeline.config import DataConfig
from sharding.errors import UserError
from tests.launch.conftest import losses, run_command, same_weights, struck_command, train_alone

CPU = torch.device("cpu")
CLASSES = ("a", "b", "c")
SMALL = {"depth": 18, "num_classes": 3, "dropout": 0.0}


def make_net(arch="tsn", num_segments=4, seed=1, **options):
    torch.manual_seed(seed)
    net = build_model(ModelConfig(arch, num_segments=num_segments, **SMALL | options))
    nn.init.normal_(net.fc.weight, std=0.3)
    return net


def make_config(num_segments=4, **wanted) -> Config:
    data = DataConfig(num_segments=num_segments, short_side=32, crop_size=32)
    distillation = DistillationConfig(teacher="given below", **wanted)
    return Config(data=data, model=ModelConfig("tsn", num_segments=num_segments, **SMALL), distillation=distillation)


def make_teacher(net, **values) -> Teacher:
    net.eval().requires_grad_(False)
    known = {"source": "T", "num_frames": net.num_segments, "num_classes": 3, "classes": CLASSES, "statistics": None}
    return Teacher(net, **known | values)


def by_name(outputs) -> dict[str, torch.Tensor]:
    return dict(outputs.teacher_losses)


@pytest.mark.parametrize("depth", [18, 50])  # of as many channels as the teacher, and of four times as many
def test_the_loss_of_features_is_what_the_formula_says(depth):
    student, teacher = make_net(depth=depth).eval(), make_net("tsm", seed=2)
    trained = DistilledNet(student, make_teacher(teacher), make_config(features=0.5))
    nn.init.normal_(trained.projector.residual[2].weight, std=0.3)
    clips = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        found = by_name(trained(clips))
        f, t = (net.forward_features(clips).mean((2, 3)).double().numpy() for net in (student, teacher))
    weights = {name: value.double().numpy() for name, value in trained.projector.state_dict().items()}
    assert ("project.weight" in weights) == (depth == 50)
    if depth == 50:
        f = f @ weights["project.weight"].T
    u = f / np.linalg.norm(f, axis=1, keepdims=True)
    hidden = u @ weights["residual.0.weight"].T
    gelu = 0.5 * hidden * (1 + np.vectorize(math.erf)(hidden / np.sqrt(2)))
    v = u + 0.1 * gelu @ weights["residual.2.weight"].T
    cosine = (v * t).sum(1) / np.linalg.norm(v, axis=1) / np.linalg.norm(t, axis=1)
    assert cosine.shape == (8,)
    assert list(found) == ["distillation/features"]
    assert float(found["distillation/features"]) == pytest.approx(0.5 * (1 - cosine).mean(), rel=1e-4)


def test_at_the_start_the_residual_is_nothing():
    torch.manual_seed(0)
    projector, features = Projector(6, 6, residual=True), torch.randn(5, 6)
    assert torch.equal(projector(features), features / features.norm(dim=1, keepdim=True))
    projector(features).square().sum(1).sub(features[:, 0]).square().sum().backward()
    first, _, last = projector.residual
    assert not first.weight.grad.any() and last.weight.grad.any(), "it can leave nothing"
    without = Projector(6, 6, residual=False)
    assert torch.equal(without(features), projector(features)) and not list(without.parameters())


def test_the_loss_of_logits_is_hintons():
    student, teacher = make_net().eval(), make_net("tsm", seed=2)
    trained = DistilledNet(student, make_teacher(teacher), make_config(features=0.0, logits=0.7, temperature=3.0))
    assert trained.projector is None
    clips = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        outputs = trained(clips)
        own, theirs = (net(clips).double().numpy() / 3 for net in (student, teacher))
    p, q = (np.exp(values) / np.exp(values).sum(1, keepdims=True) for values in (theirs, own))
    expected = 9 * (p * (np.log(p) - np.log(q))).sum(1).mean()
    assert float(by_name(outputs)["distillation/logits"]) == pytest.approx(0.7 * expected, rel=1e-4)
    labels = torch.tensor([0, 2])
    found = training_losses(outputs, labels, LossConfig(), ())
    plain = training_losses(student(clips, with_losses=True), labels, LossConfig(), ())
    assert list(found) == [*plain, "distillation/logits"]
    torch.testing.assert_close(found["loss"], plain["loss"] + found["distillation/logits"])
    torch.testing.assert_close(outputs.logits, student(clips))


def test_a_network_that_is_its_own_teacher_has_nothing_to_learn():
    student = make_net().eval()
    trained = DistilledNet(student, make_teacher(student), make_config(logits=1.0))
    assert [float(loss.detach().abs()) for loss in by_name(trained(torch.randn(2, 4, 3, 32, 32))).values()] == (
        pytest.approx([0, 0], abs=1e-5)
    )


def test_the_teacher_sees_its_frames_in_its_pixels():
    """Of a clip of 4 it takes the middle ones of 2 parts; what it says of them is compared with the same frames."""
    student, teacher = make_net().eval(), make_net(num_segments=2, seed=2)
    statistics = ((0.5, 0.4, 0.3), (0.2, 0.25, 0.5))
    config = make_config(residual=False)
    config = replace(config, data=replace(config.data, mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.2)))
    trained = DistilledNet(student, make_teacher(teacher, statistics=statistics), config)
    pixels, seen = torch.rand(1, 4, 3, 32, 32), []
    teacher.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    own, theirs = (
        torch.tensor(values)[..., None, None] for values in ((config.data.mean, config.data.std), statistics)
    )
    loss = by_name(trained((pixels - own[0]) / own[1]))["distillation/features"]
    expected = ((pixels - theirs[0]) / theirs[1])[0, [1, 3]]
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-5)
    f = student.forward_features((pixels - own[0]) / own[1]).mean((2, 3))[[1, 3]]
    t = teacher.forward_features(expected[None]).mean((2, 3))
    torch.testing.assert_close(loss, 2 * (1 - torch.cosine_similarity(f, t)).mean(), rtol=1e-4, atol=1e-5)


class Alone(VideoNet):
    """A teacher of one's own, with one vector for a clip."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.map = nn.Linear(3, 7)
        self.fc = nn.Linear(7, config.num_classes)

    def forward_features(self, clips):
        return self.map(clips.mean((1, 3, 4)))

    def logits(self, clips):
        return self.fc(self.forward_features(clips))


class Silent(Alone):
    forward_features = None


def test_a_class_of_ones_own_teaches_with_a_vector_for_a_clip():
    config = make_config(residual=False)
    config = replace(config, distillation=replace(config.distillation, teacher=f"{__name__}:Alone"))
    student = make_net().eval()
    trained = with_teacher(student, config, CLASSES, CPU)
    clips = torch.randn(2, 4, 3, 32, 32)
    f = student.forward_features(clips).mean((2, 3)).unflatten(0, (2, 4)).mean(1)
    f, t = trained.projector.project(f), trained._teacher[0].net.forward_features(clips)
    expected = 2 * (1 - torch.cosine_similarity(f, t)).mean()
    torch.testing.assert_close(by_name(trained(clips))["distillation/features"], expected, rtol=1e-4, atol=1e-5)


def test_training_changes_the_network_and_its_projector_and_never_the_teacher():
    student, teacher = make_net(drop_path=0.1), make_net("tsm", seed=2)
    trained = DistilledNet(student, make_teacher(teacher), make_config(logits=1.0)).train()
    before = fingerprint(teacher), fingerprint(student), fingerprint(trained.projector)
    groups = parameter_groups(trained, Config().optimizer)
    trainable = {id(parameter) for group in groups for parameter in group["params"]}
    assert trainable == {id(parameter) for part in (student, trained.projector) for parameter in part.parameters()}
    optimizer = torch.optim.SGD(groups, 0.1)
    for _ in range(2):
        training_losses(trained(torch.randn(2, 4, 3, 32, 32)), torch.tensor([0, 1]), LossConfig(), ())[
            "loss"
        ].backward()
        optimizer.step()
    after = fingerprint(teacher), fingerprint(student), fingerprint(trained.projector)
    assert [one == other for one, other in zip(before, after)] == [True, False, False]
    assert not teacher.training and all(parameter.grad is None for parameter in teacher.parameters())
    assert {name.partition(".")[0] for name in trained.state_dict()} == {"net", "projector"}


def test_it_is_traced_without_a_break():
    student, teacher = make_net(), make_net("tsm", seed=2)
    trained = DistilledNet(student, make_teacher(teacher), make_config(logits=1.0)).eval()
    clips = torch.randn(2, 4, 3, 32, 32)
    torch.compiler.reset()
    compiled = torch.compile(trained, backend="eager", fullgraph=True)
    for one, other in zip(by_name(compiled(clips)).values(), by_name(trained(clips)).values()):
        torch.testing.assert_close(one, other)


def write_run(folder, net_config: ModelConfig, classes=CLASSES):
    folder.mkdir()
    info = CheckpointInfo(1, 1, classes, {}, "f" * 64)
    config = Config(model=net_config, data=DataConfig(mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2)))
    write_checkpoint(folder, build_model(net_config), info, config)
    return folder


def test_a_run_and_a_file_of_another_project_are_teachers(tmp_path):
    student = ModelConfig("tsn", num_segments=4, **SMALL)
    run = load_teacher(str(write_run(tmp_path / "run", replace(student, arch="vpsn", num_segments=2))), student)
    assert (run.num_frames, run.classes, run.statistics) == (2, CLASSES, ((0.4,) * 3, (0.2,) * 3))
    assert run.source == f"vpsn-18 of {tmp_path / 'run'}" and not run.net.training
    state = {f"module.base_model.{name}": value for name, value in make_net().state_dict().items() if "fc." not in name}
    state = {name.replace(".conv1.", ".conv1.net.") if "layer" in name else name: v for name, v in state.items()}
    state |= {"module.new_fc.weight": torch.ones(9, 512), "module.new_fc.bias": torch.ones(9)}
    torch.save({"state_dict": state}, tmp_path / "tsm.pth.tar")
    file = load_teacher(str(tmp_path / "tsm.pth.tar"), student)
    assert file.source == f"tsm-18 of {tmp_path / 'tsm.pth.tar'}"
    assert (file.num_frames, file.num_classes, file.classes) == (4, 9, None)
    assert torch.equal(file.net.fc.weight, torch.ones(9, 512))


@pytest.mark.parametrize(
    ("make", "wanted", "said"),
    [
        (lambda folder: folder / "none", {}, "no such folder or file; give a run, a file of weights, or MODULE:CLASS"),
        (lambda folder: f"{__name__}:Missing", {}, "Missing is not in"),
        (
            lambda folder: f"{__name__}:Silent",
            {},
            "Silent gives no features; give it a method forward_fea",
        ),
        (lambda folder: write_run(folder / "run", ModelConfig("tsn", num_segments=8, **SMALL)), {}, "takes 8 frames"),
        (
            lambda folder: write_run(folder / "run", ModelConfig("tsn", num_segments=4, **SMALL), ("a", "b", "d")),
            {"logits": 1.0},
            "its classes are not those of data.train: .*use distillation.logits=0",
        ),
        (
            lambda folder: save(make_net(num_classes=4), folder / "four.safetensors"),
            {"logits": 1.0},
            "it has 4 classes",
        ),
        (
            lambda folder: save(nn.Linear(2, 2), folder / "linear.safetensors"),
            {},
            "not a ResNet of a depth that is known",
        ),
    ],
)
def test_what_cannot_teach_is_refused_in_a_line(make, wanted, said, tmp_path):
    config = make_config(**wanted)
    config = replace(config, distillation=replace(config.distillation, teacher=str(make(tmp_path))))
    with pytest.raises(UserError, match=f"^distillation.teacher=.*{said}") as caught:
        with_teacher(make_net(), config, CLASSES, CPU)
    assert "\n" not in str(caught.value)


def save(net, path):
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, path)
    return path


def test_networks_that_give_no_features_learn_from_logits_alone():
    config = make_config()
    config = replace(config, distillation=replace(config.distillation, teacher=f"{__name__}:Alone"))
    net = Alone(config.model)
    with pytest.raises(UserError, match="features are learned by a ResNet, which Alone is not"):
        with_teacher(net, config, CLASSES, CPU)
    wanted = replace(config.distillation, features=0.0, logits=1.0)
    outputs = with_teacher(net, replace(config, distillation=wanted), CLASSES, CPU)(torch.randn(2, 4, 3, 32, 32))
    assert list(by_name(outputs)) == ["distillation/logits"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"teacher": "T", "features": 0.0}, "nothing is learned from it"),
        ({"temperature": 2.0}, "there is no teacher; give distillation.teacher too"),
        ({"teacher": "T", "temperature": 0.0}, "use more than 0"),
        ({"teacher": "T", "logits": -1.0}, "distillation.logits"),
        ({"teacher": ""}, "use null"),
    ],
)
def test_the_section_checks_itself(options, said):
    with pytest.raises(ValueError, match=said):
        DistillationConfig(**options)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_a_training_that_is_stopped_learns_what_the_undisturbed_one_does(trained, small_config, tmp_path, zero_stage):
    options = [f"--distillation.teacher={trained}", "--distillation.logits=0.5", "--train.ema_decay=0.5"]
    options += [f"--train.zero_stage={zero_stage}", "--model.arch=tsn", "--train.mixup=0.2", "--train.precision=fp32"]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    done = train_alone(small_config, whole, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert f"teacher: vpsn-18 of {trained}/checkpoints/" in said and "weight 2, with a residual" in said
    done = run_command(struck_command(small_config, resumed, signal.SIGTERM, 3, *options))
    assert done.returncode == 75, done.stdout + done.stderr
    done = train_alone(small_config, resumed, *options, "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert losses(resumed) == losses(whole) and list(losses(whole)) == list(range(1, 11))
    assert same_weights(resumed, whole) and same_weights(resumed, whole, "model_raw")
    lines = [line for line in read_metrics(whole) if line["kind"] == "train"]
    assert all(line["distillation/features"] > 0 and line["distillation/logits"] > 0 for line in lines)
    check_checkpoint(whole, resumed, trained)


def check_checkpoint(whole, resumed, teacher) -> None:
    """The projector is in what training resumes from, and nowhere else; of the teacher there is a fingerprint alone."""
    states = []
    for run in (whole, resumed):
        folder = run / "checkpoints" / pointed(run / "checkpoints", "last")
        state = load_plain(next(folder.glob("mp_rank_*_model_states.pt")), _PLAIN_TYPES)["module"]
        assert {name.partition(".")[0] for name in state} == {"net", "projector"}
        states.append(state)
        names = load_file(folder / "model.safetensors").keys()
        assert {f"net.{name}" for name in names} == {name for name in state if name.startswith("net.")}
        net, info, _ = load_checkpoint(run)
        assert info.teacher_fingerprint == fingerprint(load_checkpoint(teacher)[0])
        assert net.state_dict().keys() == names
        assert json.loads((folder / "checkpoint.json").read_text())["teacher_fingerprint"] == info.teacher_fingerprint
    one, other = states
    assert all(torch.equal(one[name], other[name]) for name in one) and one["projector.residual.2.weight"].any()


@pytest.mark.parametrize(("trained", "now", "said"), [("", "b" * 16, "none, now fingerprint b"), ("a", "", "now none")])
def test_a_run_is_not_resumed_with_another_teacher(trained, now, said, tmp_path):
    info = CheckpointInfo(1, 1, CLASSES, {}, "f" * 64, teacher_fingerprint=trained)
    write_info(tmp_path, info)
    _check_same_teacher(tmp_path, trained, tmp_path)
    with pytest.raises(UserError, match=f"trained with another distillation.teacher: .*{said}"):
        _check_same_teacher(tmp_path, now, tmp_path)


def test_a_network_without_a_teacher_has_no_fingerprint():
    net = make_net()
    assert with_teacher(net, Config(), CLASSES, CPU) is net and teacher_fingerprint(net) == ""


def test_the_teacher_looks_once_for_features_and_logits():
    student, teacher = make_net(), make_net("tsm", seed=2)
    trained = DistilledNet(student, make_teacher(teacher), make_config(logits=1.0))
    seen = []
    teacher.conv1.register_forward_hook(lambda *_: seen.append(1))
    clips = torch.randn(2, 4, 3, 32, 32)
    outputs = by_name(trained(clips))
    assert len(seen) == 1 and len(outputs) == 2
    with torch.no_grad():
        expected = logit_loss(student.eval()(clips), teacher(clips), trained.wanted.temperature)
    torch.testing.assert_close(by_name(trained.eval()(clips))["distillation/logits"], expected)
