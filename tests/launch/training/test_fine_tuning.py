"""Fine-tuning: what is frozen stays as it was, the rest learns at its own rate, and all of it resumes bit for bit."""

import copy
import json
import math
import shutil
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from launch.training.batch_norm import set_training_mode
from launch.training.builders import build_network
from launch.training.checkpoint import find_checkpoint, read_info, write_info
from launch.training.config import Config, TrainConfig
from launch.training.config_parser import load_config, parse_config
from launch.training.early_stopping import read_monitored
from launch.training.optimizer_config import AdamWConfig, OptimizerConfig
from launch.training.optimizers import build_optimizer, parameter_groups
from launch.training.run_dir import last_checkpoint
from launch.training.run_log import read_metrics
from model import ModelConfig, build_model
from model.freeze import checkpoint_blocks
from sharding.errors import UserError
from tests.helpers.commands import run_command
from tests.launch.conftest import losses, same_weights, struck_command, train, train_alone, weights

ALONE = ["--data.val=null", "--train.log_every_steps=1"]


def save_weights(net, path) -> str:
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, path)
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights of VPSN-18, and of a plain ResNet-18, which have no synthesizers."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for arch in ("vpsn", "tsn"):
        net = build_model(ModelConfig(arch, 18, 7, 2))
        save_weights(net, folder / f"{arch}.safetensors")
    return folder


def names_of(net, *starts: str) -> set[str]:
    return {name for name, _ in net.named_parameters() if name.startswith(starts)}


def learning(net) -> set[str]:
    return {name for name, parameter in net.named_parameters() if parameter.requires_grad}


STEM = ("conv1.", "bn1.")


@pytest.mark.parametrize(
    ("stages", "starts"),
    [(-1, ()), (0, STEM), (2, (*STEM, "layer1.", "layer2.")), (4, (*STEM, *(f"layer{n}." for n in range(1, 5))))],
)
def test_the_stem_and_the_stages_up_to_n_are_frozen(files, stages, starts):
    """With a plain ResNet's weights the synthesizers are new, and learn; with a run's they freeze with their stage."""
    net = build_model(ModelConfig("vpsn", 18, 5, 2, pretrained=str(files / "tsn.safetensors"), frozen_stages=stages))
    everything = {name for name, _ in net.named_parameters()}
    frozen = names_of(net, *starts) if starts else set()
    assert learning(net) == everything - frozen
    net = build_model(ModelConfig("vpsn", 18, 5, 2, pretrained=str(files / "vpsn.safetensors"), frozen_stages=stages))
    places = ("stem", "layer1", "layer2", "layer3")[: stages + 1]
    frozen |= names_of(net, *(f"synthesizers.{place}." for place in places)) if places else set()
    assert learning(net) == everything - frozen


def test_frozen_stages_keep_their_statistics_and_the_others_do_not(files):
    config = ModelConfig("vpsn", 18, 5, 2, pretrained=str(files / "vpsn.safetensors"), frozen_stages=2)
    net = build_model(config)
    set_training_mode(net, TrainConfig())
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    net(torch.randn(2, 2, 3, 32, 32)).sum().backward()
    changed = {name for name, buffer in net.named_buffers() if not torch.equal(before[name], buffer)}
    assert changed == {name for name in before if name.startswith(("layer3.", "layer4.", "synthesizers.layer3."))}
    assert net.dropout.training and not net.layer2.training and net.layer3.training


def test_a_linear_probe_trains_the_classifier_alone(files):
    for arch in ("vpsn", "tsn"):
        source = str(files / f"{arch}.safetensors")
        net = build_model(ModelConfig("vpsn", 18, 5, 2, pretrained=source, linear_probe=True))
        assert learning(net) == {"fc.weight", "fc.bias"}
    set_training_mode(net, TrainConfig())
    assert net.dropout.training
    assert not any(module.training for module in net.modules() if hasattr(module, "running_var"))
    with pytest.raises(ValueError, match=r"has no encoder.* stay random"):
        build_model(ModelConfig("tsn", 18, 5, 2, pretrained=source, linear_probe=True, head="encoder"))


def test_two_heads_and_pathways_are_no_special_case(files):
    for config in (
        ModelConfig("dg_p3d", 50, 5, 4),
        ModelConfig("tsn", 18, 5, 4, head="pathways", pathway_frames=(2, 4), levels=(("set", ("a", "b")),)),
    ):
        torch.manual_seed(1)
        whole = build_model(config)
        path = save_weights(whole, files / f"{config.arch}-{config.head}.safetensors")
        net = build_model(replace(config, pretrained=path, frozen_stages=4))
        heads = ("fc.", "dual.fc.", "pathways.0.fc.", "pathways.1.fc.")
        assert learning(net) == names_of(net, *heads) != set()


def factors(net, **options) -> dict[str, float]:
    """The factor on the learning rate of each parameter."""
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    groups = parameter_groups(net, OptimizerConfig(bias_learning_rate_factor=1.0, **options))
    found = {names[id(p)]: group["learning_rate_factor"] for group in groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups)
    assert all((group["weight_decay"] == 0) == (not group["name"].startswith("weights")) for group in groups)
    return found


def test_learning_rates_fall_with_the_distance_from_the_head(files):
    net = build_model(ModelConfig("vpsn", 18, 7, 2, pretrained=str(files / "vpsn.safetensors")))
    found = factors(net, layer_decay=0.5, head_learning_rate_factor=3.0)
    assert found.keys() == {name for name, _ in net.named_parameters()}
    for name, blocks_before_the_head in (
        *(("layer4.1.conv2.weight", 1), ("layer4.0.bn1.bias", 2), ("layer3.1.conv1.weight", 3)),
        *(("synthesizers.layer3.compress.weight", 3), ("layer1.0.conv1.weight", 8), ("conv1.weight", 9)),
        ("synthesizers.stem.spatial.bn.bias", 9),
    ):
        assert found[name] == 0.5**blocks_before_the_head, name
    assert found["fc.weight"] == found["fc.bias"] == 3.0
    assert set(factors(net).values()) == {1.0}


def test_what_the_weights_had_not_got_learns_at_the_full_rate(files):
    net = build_model(ModelConfig("vpsn", 18, 5, 2, pretrained=str(files / "tsn.safetensors")))
    found = factors(net, layer_decay=0.5)
    assert {found[name] for name in names_of(net, "synthesizers.", "fc.")} == {1.0}
    assert found["layer4.1.conv2.weight"] == 0.5


CUSTOM = """
import torch
from model import VideoNet

class Tiny(VideoNet):
    def __init__(self, config):
        super().__init__()
        self.stem = torch.nn.Linear(3, 4)
        self.fc = torch.nn.Linear(4, config.num_classes)

    def logits(self, clips):
        return self.fc(self.stem(clips.mean((1, 3, 4))))
"""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.frozen_stages=5"], "model.frozen_stages=5: allowed are -1 (none), 0 (the stem), 1 to 4"),
        (["--model.frozen_stages=1"], "model.frozen_stages=1: without model.pretrained what is frozen would stay"),
        (["--model.linear_probe=true", "--model.frozen_stages=1", "--model.pretrained=x.pth"], "every stage; leave"),
        (["--optimizer.layer_decay=0"], "optimizer.layer_decay=0.0: use 0 < layer_decay <= 1"),
        (["--optimizer.head_learning_rate_factor=0"], "optimizer.head_learning_rate_factor=0.0: use more than 0"),
        (["--optimizer.name=adamw", "--optimizer.adamw.betas=[0.9,1]"], "optimizer.adamw.betas=[0.9, 1.0]"),
        (["--optimizer.name=adamw", "--optimizer.momentum=0.8"], "optimizer.name=adamw takes optimizer.adamw.betas"),
        (["--optimizer.name=adamw", "--optimizer.nesterov=true"], "optimizer.name=adamw has no such form; use false"),
        (["--train.compile=true", "--train.gradient_checkpointing=true"], "does not work with train.compile=true"),
        (["--loss.class_weights=[1,-1]"], "loss.class_weights=[1.0, -1.0]: use numbers from 0 on"),
        (["--loss.class_weights=even"], "loss.class_weights=even: use balanced, a list of numbers or null"),
        (["--patience=3"], "did you mean --train.patience_epochs?"),
        (["--train.frozen_stages=3"], "did you mean --model.frozen_stages?"),
        (["--data.class_sampling_exponent=2"], "data.class_sampling_exponent=2.0: use 0 to 1"),
        (["--train.patience_epochs=2"], "train.patience_epochs=2: there is no data.val to monitor; use 0"),
    ],
)
def test_mistakes_are_one_line(options, message):
    with pytest.raises(UserError) as caught:
        parse_config("train", options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "options", "message"),
    [
        ("model", {"frozen_stages": 1}, "model.frozen_stages=1: Tiny is no ResNet with a stem and layer1 to layer4"),
        ("optimizer", {"layer_decay": 0.9}, "optimizer.layer_decay=0.9: Tiny is no ResNet"),
        ("train", {"gradient_checkpointing": True}, "train.gradient_checkpointing=true: Tiny is no ResNet"),
    ],
)
def test_a_network_without_stages_is_refused(tmp_path, monkeypatch, section, options, message):
    (tmp_path / "tiny_net.py").write_text(CUSTOM)
    monkeypatch.syspath_prepend(tmp_path)
    plain = ModelConfig("tiny_net:Tiny", num_classes=5, num_segments=2)
    model = replace(plain, pretrained=save_weights(build_model(plain), tmp_path / "tiny.safetensors"))
    config = Config(model=model)
    config = replace(config, **{section: replace(getattr(config, section), **options)})
    with pytest.raises(UserError) as caught:
        build_network(config)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    probe = build_model(replace(model, linear_probe=True))
    assert learning(probe) == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(("arch", "depth"), [("vpsn", 18), ("dg_p3d", 50)])
def test_checkpointed_blocks_give_the_same_to_the_bit(arch, depth):
    """Gradients and BatchNorm's statistics, which count each batch once, over two micro-batches."""
    torch.manual_seed(0)
    config = ModelConfig(arch, depth, 5, 4)
    plain = build_model(config)
    checkpointed = copy.deepcopy(plain)
    checkpoint_blocks(checkpointed)
    calls = [0, 0]
    for number, net in enumerate((plain, checkpointed)):
        net.layer2[0].bn2.register_forward_hook(lambda *_, number=number: calls.__setitem__(number, calls[number] + 1))
        for micro_batch in range(2):
            torch.manual_seed(micro_batch)
            with torch.autocast("cpu", torch.bfloat16):
                outputs = net(torch.randn(2, config.num_segments, 3, 32, 32), with_losses=True)
            (outputs.logits.float().square().sum() + outputs.interaction_loss + outputs.capacity_loss).backward()
    assert calls == [2, 4], "a block is computed again"
    ours, theirs = dict(plain.named_parameters()), dict(checkpointed.named_parameters())
    assert all(torch.equal(ours[name].grad, theirs[name].grad) for name in ours)
    ours, theirs = plain.state_dict(), checkpointed.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert int(theirs["layer2.0.bn2.num_batches_tracked"]) == 2


@pytest.mark.slow
def test_frozen_stages_and_balanced_draws_resume_bit_for_bit(small_config, trained, tmp_path):
    """From a run's weights, with AdamW, layer decay, checkpointed blocks, class weights; struck within an epoch."""
    options = [*ALONE, f"--model.pretrained={trained}", "--model.frozen_stages=2", "--data.class_sampling_exponent=0"]
    options += ["--optimizer.name=adamw", "--optimizer.learning_rate=0.001", "--optimizer.layer_decay=0.8"]
    options += ["--loss.class_weights=balanced", "--train.gradient_checkpointing=true"]
    done = train_alone(small_config, tmp_path / "whole", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of them trained" in " ".join(done.stdout.split())
    killed = tmp_path / "killed"
    done = run_command(struck_command(small_config, killed, 15, 7, *options))
    assert done.returncode == 75, done.stdout + done.stderr
    done = train_alone(small_config, killed, *options, "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert losses(killed) == losses(tmp_path / "whole") and len(losses(killed)) == 10
    assert same_weights(killed, tmp_path / "whole")
    begun, ended = load_file(find_checkpoint(trained) / "model.safetensors"), weights(killed)
    changed = {name for name in begun if not torch.equal(begun[name], ended[name])}
    frozen = (*STEM, "layer1.", "layer2.", "synthesizers.stem.", "synthesizers.layer1.", "synthesizers.layer2.")
    assert changed == {name for name in begun if not name.startswith(frozen)}
    epochs = [line for line in read_metrics(tmp_path / "whole") if line["kind"] == "epoch"]
    assert all(0 <= line["top1"] <= 1 and line["top1"] * 20 % 1 == pytest.approx(0) for line in epochs)


@pytest.mark.slow
def test_adamw_trains_alike_under_every_zero_stage(small_config, tmp_path):
    """Over two ranks, to rounding; test_optimizers_in_training.py kills and resumes it under each."""
    options = [*ALONE, "--optimizer.name=adamw", "--optimizer.learning_rate=0.001", "--optimizer.weight_decay=0.05"]
    options += ["--optimizer.layer_decay=0.7", "--train.precision=fp32", "--train.batch_norm=frozen"]
    found = []
    for stage in (0, 1, 2):
        done = train(small_config, tmp_path / f"{stage}", *options, f"--train.zero_stage={stage}", num_ranks=2)
        assert done.returncode == 0, done.stdout + done.stderr
        found.append(list(losses(tmp_path / f"{stage}").values()))
    for losses_of_stage in found[1:]:
        assert losses_of_stage == pytest.approx(found[0], rel=1e-3)
    assert len(set(found[0])) == 10


def test_adamw_is_that_of_the_paper():
    """Two steps of Algorithm 2 of Loshchilov and Hutter, 2019, written out in float64; biases do not decay."""
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2)
    adamw = AdamWConfig(betas=(0.8, 0.9), epsilon=1e-3)
    config = OptimizerConfig("adamw", weight_decay=0.1, bias_learning_rate_factor=1.0, adamw=adamw)
    optimizer = build_optimizer(config, parameter_groups(net, config), 0.5)
    expected = {name: value.detach().double() for name, value in net.named_parameters()}
    first, second = ({name: torch.zeros_like(value) for name, value in expected.items()} for _ in range(2))
    for step in (1, 2):
        optimizer.zero_grad()
        (net(torch.randn(5, 3)) ** 2).sum().backward()
        for name, parameter in net.named_parameters():
            gradient, decay = parameter.grad.double(), 0.1 if name == "weight" else 0.0
            first[name] = 0.8 * first[name] + 0.2 * gradient
            second[name] = 0.9 * second[name] + 0.1 * gradient**2
            update = first[name] / (1 - 0.8**step) / ((second[name] / (1 - 0.9**step)).sqrt() + 1e-3)
            expected[name] = expected[name] - 0.5 * (update + decay * expected[name])
        optimizer.step()
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=1e-5, atol=1e-6)
    assert all(group["fused"] for group in optimizer.param_groups)


@pytest.mark.slow
def test_a_finished_run_is_extended(small_config, trained, tmp_path):
    """With more epochs and another schedule; what was trained stays."""
    run_dir = tmp_path / "run"
    shutil.copytree(trained, run_dir)
    command = [sys.executable, "launch/train.py", f"--run_dir={run_dir}"]
    more = ["--train.epochs=3", "--schedule.name=cosine", "--schedule.warmup_epochs=0"]
    done = run_command([*command, "--resume", *more])
    assert done.returncode == 2 and "not 3; use the same, extend the run with --resume=extend, or" in done.stderr
    done = run_command([*command, "--resume=extend", "--train.epochs=2"])
    assert done.returncode == 2 and "train.epochs=2: 2 epochs of" in done.stderr, done.stderr
    done = run_command([*command, "--resume=extend", *more])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "extended after 2 epochs" in done.stdout
    lines = [line for line in read_metrics(run_dir) if line["kind"] == "train"]
    before = [line for line in read_metrics(trained) if line["kind"] == "train"]
    assert lines[:10] == before and [line["step"] for line in lines[10:]] == [11, 12, 13, 14, 15]
    expected = [0.01 * 4 / 64 * (1 + math.cos(math.pi * step / 15)) / 2 for step in range(10, 15)]
    assert [line["learning_rate"] for line in lines[10:]] == pytest.approx(expected)
    assert load_config(run_dir / "config.yaml").train.epochs == 3, "plain --resume continues to the new end"


@pytest.mark.slow
def test_training_stops_when_the_figure_does_not_rise(small_config, trained, tmp_path):
    """At a learning rate of nothing accuracy cannot rise; resumed, it stays stopped, and with more patience goes on."""
    run_dir = tmp_path / "run"
    options = ["--train.epochs=9", "--optimizer.learning_rate=0", "--train.batch_norm=frozen"]
    options += [f"--model.pretrained={trained}", "--train.monitor=mean_class", "--train.patience_epochs=1"]
    done = train_alone(small_config, run_dir, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mean_class has not risen for train.patience_epochs=1: stopping" in " ".join(done.stdout.split())
    assert "finished 2 epochs" in done.stdout and "best mean class accuracy" in done.stdout
    done = train_alone(small_config, run_dir, *options, "--resume", "--train.patience_epochs=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "finished 3 epochs" in done.stdout
    assert [line["epoch"] for line in read_metrics(run_dir) if line["kind"] == "evaluation"] == [1, 2, 3]


def test_an_evaluation_counts_as_done_when_all_of_it_is_written(small_config, trained, tmp_path, monkeypatch):
    """Killed between the log and the checkpoint, an epoch is evaluated again, and has its figure once."""
    values = read_monitored(trained, "top1")
    assert list(values) == [1, 2]
    killed = tmp_path / "killed"
    shutil.copytree(trained, killed)
    last = last_checkpoint(killed)
    write_info(last, replace(read_info(last), metrics={}))
    done = train_alone(small_config, killed, "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_info(last).metrics["top1"] == values[2]
    assert read_monitored(killed, "top1") == values


def test_an_extension_that_patience_would_end_at_once_is_refused(trained, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(trained, run_dir)
    path = run_dir / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "evaluation":
            line["top1"] = 0.5
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = ["--resume=extend", "--train.epochs=4", "--train.patience_epochs=1"]
    done = train_alone(run_dir / "config.yaml", run_dir, *options)
    assert done.returncode == 2
    assert f"train.patience_epochs=1: in run_dir={run_dir} top1 has not risen for so many epochs" in done.stderr
