"""Optimizers in real training under DeepSpeed, alone and over two ranks, whole and killed within an epoch."""

import pytest
import torch
from torch import nn

from launch.training.config_parser import parse_config
from launch.training.optimizer_config import LcamConfig, OptimizerConfig, SecondMomentConfig
from launch.training.optimizers import Lcam, SecondMomentExponent, build_optimizer, parameter_groups
from model import ModelConfig, build_model
from model.config import EncoderConfig
from sharding.errors import UserError
from tests.launch.conftest import kill_and_resume, losses, same_weights, train, train_alone

OPTIONS = {
    "adamw": ["--optimizer.name=adamw", "--optimizer.learning_rate=0.001", "--optimizer.layer_decay=0.8"],
    "lcam": ["--optimizer.name=lcam", "--optimizer.lcam.momentum_low=0.3", "--optimizer.lcam.momentum_high=0.95"],
    "second_moment": ["--optimizer.name=second_moment", "--optimizer.second_moment.exponent=0.25"],
}


def build(config):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    return build_optimizer(config, parameter_groups(net, config), 0.5)


def test_the_configuration_names_the_optimizer():
    assert type(build(OptimizerConfig(momentum=0.8))) is torch.optim.SGD
    lcam = build(OptimizerConfig("lcam", nesterov=True, lcam=LcamConfig(0.3, 0.6)))
    assert type(lcam) is Lcam
    assert [group["weight_decay"] for group in lcam.param_groups] == [5e-4, 0.0, 0.0]
    for group in lcam.param_groups:
        assert (group["lr"], group["momentum_low"], group["momentum_high"]) == (0.5, 0.3, 0.6)
        assert group["nesterov"]
    second = build(OptimizerConfig("second_moment", momentum=0.8, second_moment=SecondMomentConfig(0.125, 0.99, 1e-6)))
    assert type(second) is SecondMomentExponent
    for group in second.param_groups:
        assert (group["betas"], group["exponent"], group["eps"]) == ((0.8, 0.99), 0.125, 1e-6)


def test_norms_embeddings_and_biases_do_not_decay():
    encoder = EncoderConfig(width=32, layers=1)
    net = build_model(ModelConfig("tsn", 18, 5, 4, head="cross_encoder", encoder=encoder))
    names = {parameter: name for name, parameter in net.named_parameters()}
    groups = {group["name"]: group for group in parameter_groups(net, OptimizerConfig(weight_decay=0.1))}
    found = {kind: {names[parameter] for parameter in group["params"]} for kind, group in groups.items()}
    assert sum(map(len, found.values())) == len(names) == len(set().union(*found.values()))
    assert {kind: (group["weight_decay"], group["learning_rate_factor"]) for kind, group in groups.items()} == {
        "weights": (0.1, 1.0),
        "biases": (0.0, 2.0),
        "others": (0.0, 1.0),
    }
    layer = "encoder.transformer.layers.0"
    linear = [f"{layer}.self_attn.out_proj", f"{layer}.linear1", f"{layer}.linear2", "encoder.project"]
    linear += ["encoder.text.project", "fc", "coarse"]
    convolutions = {name for name, parameter in net.named_parameters() if parameter.ndim == 4}
    assert found["weights"] == convolutions | {f"{name}.weight" for name in linear} | {
        f"{layer}.self_attn.in_proj_weight"
    }
    assert found["biases"] == {f"{name}.bias" for name in linear} | {f"{layer}.self_attn.in_proj_bias"}


def test_weights_of_an_lstm_decay_as_those_of_other_maps():
    net = nn.LSTM(3, 4, num_layers=2)
    groups = {group["name"]: group["params"] for group in parameter_groups(net, OptimizerConfig())}
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    found = {kind: {names[id(parameter)] for parameter in parameters} for kind, parameters in groups.items()}
    kinds = [f"{kind}_{side}_l{layer}" for kind in ("weight", "bias") for side in ("ih", "hh") for layer in (0, 1)]
    assert found == {"weights": set(kinds[:4]), "biases": set(kinds[4:])}


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.LayerNorm, nn.RMSNorm, lambda channels: nn.GroupNorm(2, channels)])
def test_no_kind_of_norm_decays(norm):
    net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), norm(4))
    weights, others = parameter_groups(net, OptimizerConfig())
    assert (weights["name"], others["name"], others["weight_decay"]) == ("weights", "others", 0.0)
    assert list(map(id, others["params"])) == list(map(id, net[1].parameters()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--optimizer.name=adam"], "optimizer.name"),
        (["--optimizer.name=second_moment", "--optimizer.nesterov=true"], "second_moment has no such form; use false"),
        (["--optimizer.lcam.momentum_low=1"], "optimizer.lcam.momentum_low=1.0: use 0 <= momentum_low < 1"),
        (["--optimizer.lcam.momentum=0.9"], "did you mean --optimizer.lcam.momentum_"),
    ],
)
def test_mistakes_are_one_line(options, message):
    with pytest.raises(UserError) as caught:
        parse_config("train", options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_lcam_of_equal_momenta_trains_as_sgd(small_config, tmp_path):
    shared = ["--train.epochs=1", "--data.val=null", "--train.precision=fp32"]
    same = ["--optimizer.name=lcam", "--optimizer.lcam.momentum_low=0.9", "--optimizer.lcam.momentum_high=0.9"]
    for name, options in (("sgd", []), ("same", same), ("lcam", OPTIONS["lcam"])):
        done = train_alone(small_config, tmp_path / name, *shared, *options)
        assert done.returncode == 0, done.stdout + done.stderr
    sgd = list(losses(tmp_path / "sgd").values())
    assert list(losses(tmp_path / "same").values()) == pytest.approx(sgd, rel=1e-4)
    assert list(losses(tmp_path / "lcam").values()) != pytest.approx(sgd, rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_killed_within_an_epoch_it_goes_on_bit_for_bit(small_config, tmp_path, name, zero_stage):
    """Two ranks of two micro-batches each; killed in the second epoch, behind a checkpoint within it."""
    options = [*OPTIONS[name], f"--train.zero_stage={zero_stage}", "--train.epochs=3", "--train.save_every_steps=2"]
    options += ["--train.micro_batch_size=1", "--data.val=null"]
    done = train(small_config, tmp_path / "whole", *options, num_ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr
    killed = tmp_path / "killed"
    kill_and_resume(small_config, killed, 9, *options)
    assert losses(killed) == losses(tmp_path / "whole")
    assert same_weights(killed, tmp_path / "whole")


@pytest.mark.slow
def test_ranks_and_zero_stages_train_alike(small_config, tmp_path):
    """To rounding: one rank and two, ZeRO 0, 1 and 2, choose the same momenta and so see the same losses."""
    options = [*OPTIONS["lcam"], "--data.val=null", "--train.precision=fp32"]
    runs = (("one", 1, 0), ("two", 2, 0), ("zero_1", 2, 1), ("zero_2", 2, 2))
    for name, ranks, zero_stage in runs:
        done = train(
            small_config,
            tmp_path / name,
            *options,
            "--train.batch_norm=frozen",
            "--model.dropout=0",
            f"--train.zero_stage={zero_stage}",
            num_ranks=ranks,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    one = list(losses(tmp_path / "one").values())
    for name, *_ in runs[1:]:
        assert list(losses(tmp_path / name).values()) == pytest.approx(one, rel=1e-3)
