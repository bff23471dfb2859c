"""Configuration: defaults < YAML < command line, and one clear line for what is wrong."""

from pathlib import Path

import pytest
import yaml

from launch.training.config import Config, TrainConfig
from launch.training.config_parser import load_config, parse_config
from launch.training.devices import check_device
from launch.training.engine import deepspeed_options
from launch.training.lr_schedule import learning_rate_factor
from launch.training.optimizer_config import OptimizerConfig, ScheduleConfig
from sharding.errors import UserError
from sharding.manifest import Manifest, load_manifest


def parse(*arguments: str) -> Config:
    return parse_config("train", list(arguments))


def error_of(*arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_command_line_over_yaml_over_defaults(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("model: {depth: 34}\ntrain: {batch_size: 8, epochs: 3}\n")
    config = parse(f"--config={path}", "--train.epochs=5", "--local_rank=1")
    assert (config.model.depth, config.train.batch_size, config.train.epochs) == (34, 8, 5)
    assert config.train.precision == Config().train.precision


def test_a_file_may_have_aliases(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("data: {color_jitter: &strength 0.2}\nloss: {label_smoothing: *strength}\n")
    assert parse(f"--config={path}").loss.label_smoothing == 0.2


def test_segments_are_said_once():
    assert parse("--data.num_segments=16").model.num_segments == 16
    assert parse("--data.num_segments=4", "--data.frames_per_segment=4").model.num_segments == 16


def test_resume_needs_no_value():
    assert parse().resume == "never"
    assert parse("--resume").resume == parse("--resume=auto").resume == "auto"


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--model.dept=18", "did you mean --model.depth?"),
        ("--trian.epochs=3", "did you mean --train.epochs?"),
        ("--model.depth=19", "model.depth"),
        ("--train.epochs=many", "train.epochs"),
        ("--train.epochs=0", "train.epochs=0: use 1 or more"),
        ("--data.crop_size=300", "larger than data.short_side"),
        ("--schedule.milestones=[5,3]", "rising epochs"),
        ("--schedule.warmup_epochs=90", "longer than train.epochs"),
        ("--train.ema_decay=1", "train.ema_decay=1.0: use 0 <= ema_decay < 1"),
        ("--train.mixup=-1", "train.mixup=-1.0: use 0 or more"),
        ("--train.heartbeat_timeout_seconds=0", "train.heartbeat_timeout_seconds=0.0: use 1 or more"),
        ("--train={sync_batch_norm: true, batch_norm: frozen}", "nothing to synchronise with train.batch_norm=frozen"),
        ("--loss.label_smoothing=1", "use 0 <= label_smoothing < 1"),
        ("--train.batch_norm=partly", "train.batch_norm"),
        ("--config=absent.yaml", "absent.yaml"),
        ("--model.num_segments=4", "data.num_segments"),
        ("--optimizer.bias_learning_rate_factor=-1", "use 0 or more"),
        ("--optimizer.bias_learning_rate_factor=.nan", "use 0 or more"),
        ("--schedule.factor=.nan", "use 0 or more"),
        ("--loss.interaction=-1", "use 0 or more"),
        ("--loss.capacity=.nan", "use 0 or more"),
    ],
)
def test_mistakes_are_one_line(argument, expected):
    assert expected in error_of(argument)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--optimizer.name=lcam", "--optimizer.momentum=0.3"], "takes optimizer.lcam; leave it out"),
        (["--optimizer.nesterov=true", "--optimizer.momentum=0"], "a form of momentum, and optimizer.momentum=0"),
    ],
)
def test_optimizers_refuse_what_they_would_pass_over(arguments, expected):
    assert expected in error_of(*arguments)


def test_unknown_key_in_a_file_names_the_nearest(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"optimizer": {"learning_rat": 0.1}}))
    assert "did you mean optimizer.learning_rate?" in error_of(f"--config={path}")


def test_help_is_written_from_the_fields(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "Clips per optimizer step, over all ranks and accumulation steps." in text


def test_deepspeed_is_told_what_the_sections_say():
    config = parse("--train.batch_size=48", "--train.micro_batch_size=4", "--train.zero_stage=1")
    options = deepspeed_options(config, world_size=3)
    assert options["train_batch_size"] == 48
    assert options["train_micro_batch_size_per_gpu"] * options["gradient_accumulation_steps"] * 3 == 48
    assert options["zero_optimization"] == {"stage": 1}
    assert options["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}
    assert "torch_autocast" not in deepspeed_options(parse("--train.precision=fp32"), 1)


def test_the_manifest_of_the_training_split_is_read_once(numbered, monkeypatch):
    """Of a split at a URL it has to be fetched."""
    read = []

    def load(path: Path) -> Manifest:
        read.append(path)
        return load_manifest(path)

    monkeypatch.setattr("launch.training.config_parser.load_manifest", load)
    assert parse(f"--data.train={numbered}").model.num_classes == 2
    assert read == [numbered]


def test_deepspeed_section_adds_but_does_not_contradict():
    added = Config(deepspeed={"zero_optimization": {"overlap_comm": True}, "wall_clock_breakdown": True})
    options = deepspeed_options(added, 1)
    assert options["zero_optimization"] == {"stage": 0, "overlap_comm": True}
    assert options["wall_clock_breakdown"] is True
    assert deepspeed_options(Config(deepspeed={"gradient_clipping": 20.0}), 1)["gradient_clipping"] == 20.0


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"zero_optimization": {"stage": 2}}, "zero_optimization.stage=2: not to be given here; use train.zero_stage"),
        ({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}, "use train.zero_stage=1 or 2"),
        ({"zero_optimization": {"stage3_max_live_parameters": 9}}, "ZeRO 3 and offloading are not supported"),
        ({"zero_optimization": 2}, "zero_optimization=2: it is a section"),
        (
            {"optimizer": {"type": "Adam"}},
            "not to be given here; use the section optimizer",
        ),
        ({"scheduler": {"type": "WarmupLR"}}, "use the section schedule"),
        ({"bf16": {"enabled": True}}, "use train.precision"),
        ({"fp16": {"enabled": False}}, "use train.precision"),
        ({"train_batch_size": 3}, "use train.batch_size"),
        ({"gradient_clipping": 3.0}, "use optimizer.clip_norm, which says 20.0"),
        (
            {"wall_clock_brakdown": True},
            "knows no such option; did you mean deepspeed.wall_clock_breakdown?",
        ),
        ({"zero_optimization": {"overlap_com": True}}, "did you mean deepspeed.zero_optimization.overlap_comm?"),
        ({"timers": {"throughput": {"enable": True}}}, "did you mean deepspeed.timers.throughput.enabled?"),
        ({"flops_profiler": {"enabld": True}}, "did you mean deepspeed.flops_profiler.enabled?"),
        (
            {"zero_optimization": {"reduce_bucket_size": "much"}},
            "bucket_size='much': Input should be a valid int",
        ),
    ],
)
def test_what_the_deepspeed_section_may_not_say(raw, message):
    with pytest.raises(UserError) as caught:
        deepspeed_options(Config(deepspeed=raw), 2)
    assert str(caught.value).startswith("deepspeed") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ranks_must_share_the_batch():
    with pytest.raises(UserError, match=r"train\.batch_size=64 is not a multiple of 3"):
        deepspeed_options(Config(), world_size=3)
    with pytest.raises(UserError, match=r"train\.batch_size=64 is not a multiple of 65"):
        deepspeed_options(Config(), world_size=65)


def test_paper_schedule():
    """0.01 until epoch 50, then divided by ten at 50, 60 and 70."""
    factors = [learning_rate_factor(ScheduleConfig(), 100 * epoch, 100, 80) for epoch in (0, 49, 50, 60, 70, 79)]
    assert factors == pytest.approx([1, 1, 0.1, 0.01, 0.001, 0.001])


def test_cosine_with_warmup():
    schedule = ScheduleConfig(name="cosine", warmup_epochs=1)
    factors = [learning_rate_factor(schedule, step, 10, 5) for step in range(50)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[30] == pytest.approx(0.5)
    assert factors[49] < 0.01
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_learning_rate_follows_the_batch_size():
    assert OptimizerConfig(learning_rate=0.01).scaled_learning_rate(128) == pytest.approx(0.02)
    assert OptimizerConfig(learning_rate=0.01, reference_batch_size=0).scaled_learning_rate(128) == 0.01


@pytest.mark.parametrize("text", ["train: {epochz: 3}", "train: [1", "[1, 2]", "train: {epochs: 0}"])
def test_a_damaged_resolved_configuration_is_one_line(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="not a resolved configuration") as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_a_configuration_that_is_no_text_is_one_line(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"PK\x03\x04\xe8\x00\xff")
    with pytest.raises(UserError, match="--config: not a text file"):
        parse_config("train.py", [f"--config={path}"])


def test_what_is_wrong_with_the_data_is_said_without_the_parser():
    with pytest.raises(UserError, match=r"^foo://bucket/train: Protocol not known"):
        parse_config("train.py", ["--data.train=foo://bucket/train"])


def test_a_gpu_without_bf16_is_told_before_anything_is_begun(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "Tesla V100")
    with pytest.raises(UserError, match=r"train.precision=bf16: Tesla V100 has no bf16; use fp16 or fp32"):
        check_device(Config())
    check_device(Config(train=TrainConfig(precision="fp16")))


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--train.lr=0.1", "did you mean --optimizer.learning_rate?"),
        ("--optimizer.lr=0.1", "did you mean --optimizer.learning_rate?"),
        ("--lr=0.1", "did you mean --optimizer.learning_rate?"),
        ("--batch-size=4", "did you mean --train.batch_size?"),
        ("--epochs=4", "did you mean --train.epochs?"),
        ("--model.num_frames=4", "did you mean --data.num_segments?"),
        ("--gpus=2", "deepspeed --num_gpus N launch/train.py"),
        ("--train.precision=fp8", "train.precision=fp8: use fp32, bf16 or fp16"),
        ("--train.epochs=many", "train.epochs=many: use an integer"),
        ("--schedule.milestones=soon", "schedule.milestones=soon: use a list of integers"),
        ("--schedule.milestones=25,45", "schedule.milestones=25,45: use a list of integers: 25 45"),
        ("--train.auto_resume=true", "did you mean --resume?"),
        ("--train.checkpoint_file_path=x", "did you mean --model.pretrained?"),
        ("--data.train_jitter_scales=[256,320]", "there is no such crop; data.crop says which there are"),
        ("--data.target_fps=30", "frames are not converted to one rate"),
        ("--test.num_ensemble_views=10", "launch/evaluate.py --clips N"),
        ("--solver.max_epoch=3", "did you mean --train.epochs?"),
        ("--lr_steps=3", "did you mean --schedule.milestones?"),
        ("--optimizer.type=SGD", "did you mean --optimizer.name?"),
        ("--gd=20", "did you mean --optimizer.clip_norm?"),
        ("-b=4", "did you mean --train.batch_size?"),
        ("--launcher=pytorch", "deepspeed launch/train.py starts a process for each GPU"),
        ("--cfg-options=a", "any key is an option itself"),
        ("--auto-scale-lr", "it always is"),
        ("--resume=runs/a/last.pth", "use never, auto or extend; a run goes on with --run_dir RUN --resume"),
        ("--model.num_classes=10", "model.num_classes follows from data.train; leave it out"),
        ("--model.num_segments=4", "follows from data.num_segments and data.frames_per_segment; leave it out"),
        ("--model.backbone.depth=50", "did you mean --model.depth?"),
        ("--model.arch=slow", "for Net in mine.py); did you mean slowonly?"),
    ],
)
def test_what_others_call_it_is_understood(argument, expected):
    assert expected in error_of(argument)


OFF_BY_DEFAULT = [
    ["--optimizer.name=adamw", "--train.gradient_checkpointing=true", "--model.drop_path=0.2"],
    ["--optimizer.name=adamw", "--train.zero_stage=1"],
    ["--data.rand_augment=2", "--data.random_erasing=0.5", "--train.precision=fp16"],
    *([f"--model.head={head}"] for head in ("lstm", "ts_lstm", "temporal_inception", "encoder")),
    ["--model.head=lstm", "--train.precision=fp16"],
    ["--model.arch=tsn", "--model.backbone=resnet_rs", "--model.depth=50", "--train.ema_decay=0.9"],
    ["--train.mixup=0.2", "--train.cutmix=1.0", "--loss.label_smoothing=0.1"],
    ["--train.compile=true"],
]
"""What tests/gpu trains; here where there is no GPU it is seen that these are options."""


@pytest.mark.parametrize("options", OFF_BY_DEFAULT)
def test_what_is_off_by_default_can_be_asked_for(numbered, options):
    parse("--model.depth=18", f"--data.train={numbered}", *options)


@pytest.mark.parametrize(
    ("model", "data", "expected"),
    [
        ("num_segments: 16", "", "model.num_segments=16, but data.num_segments=8 x data.frames_per_segment=1 frames"),
        (
            "num_segments: 4",
            "num_segments: 4, frames_per_segment: 2",
            "model.num_segments=4, but data.num_segments=4",
        ),
        ("num_classes: 3", "train: TRAIN", "model.num_classes=3, but data.train=.* has 2; leave it out"),
        ("multi_label: true", "", "model.multi_label=True, but data.train=.* has False; leave it out"),
        ("num_segments: 8, num_classes: 2, levels: []", "num_segments: 8, train: TRAIN", ""),
        ("num_classes: 5", "train: of/another/run", ""),  # whose resolved configuration starts one on other data
    ],
)
def test_what_follows_from_other_values_is_not_ignored_in_a_file(tmp_path, numbered, model, data, expected):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"model: {{{model}}}\ndata: {{{data.replace('TRAIN', str(numbered))}}}\n")
    arguments = [f"--config={path}", f"--data.train={numbered}"]
    if expected:
        with pytest.raises(UserError, match=expected):
            parse_config("train.py", arguments)
    else:
        assert parse_config("train.py", arguments).model.num_classes == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr: 0.1", "Option 'lr' is not accepted; did you mean optimizer.learning_rate?"),
        ("optimizer: {lr: 0.1}", "did you mean optimizer.learning_rate?"),
        ("train: {epochs: many}", "train.epochs=many: use an integer"),
        ("train: [3", "line 1"),
        ("", "nothing in it; give a file with sections, or leave it out"),
        ("# all of it\n", "nothing in it"),
        (
            "run_dir: a\ntrain:\n  # epochs: 3\n",
            "line 2: train: a section without keys; give one",
        ),
        ("train: 5", "line 1: train: a section without keys"),
        ("train: {epochs: 3}\nmodel: {depth: 18}\ntrain: {batch_size: 2}", "line 3: train is there twice; keep one"),
        ("train:\n  epochs: 3\n  epochs: 4", "line 3: epochs is there twice; keep one"),
    ],
)
def test_an_error_in_a_file_names_the_file(tmp_path, text, expected):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    message = error_of(f"--config={path}")
    assert message.startswith(f"{path}: ") and expected in message


def test_old_names_are_accepted_with_a_line_that_names_the_new_one(tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text("data: {read_ahead: 7}\ntrain: {silence_seconds: 9}\n")
    config = parse(f"--config={path}", "--data.reading_threads=3")
    assert (config.data.prefetch_batches, config.data.num_workers) == (7, 3)
    assert config.train.heartbeat_timeout_seconds == 9
    assert sorted(capsys.readouterr().err.splitlines()) == [
        "train: --data.reading_threads is now called --data.num_workers",
        "train: data.read_ahead is now called data.prefetch_batches",
        "train: train.silence_seconds is now called train.heartbeat_timeout_seconds",
    ]


def test_keys_may_be_typed_with_hyphens_and_lists_as_items():
    config = parse("--train.batch-size=8", "--run-dir=x", "--schedule.milestones", "3", "5", "--resume")
    assert (config.train.batch_size, config.run_dir, config.schedule.milestones) == (8, "x", (3, 5))
    assert config.resume == "auto"
    assert parse("--schedule.milestones=[3,5]").schedule.milestones == (3, 5)
