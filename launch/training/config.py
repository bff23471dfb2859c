"""The configuration of a run: the components' own dataclasses, composed; defaults < YAML < command line.

Checked here is what concerns several sections at once; each section checks itself. DeepSpeed's dictionary is derived
from this configuration (`launch.training.engine`), so that every setting is said once.
"""

import argparse
import operator
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from launch.training.clip_schedule import ClipConfig, PhaseConfig
from launch.training.option_names import HINTS, RENAMED, SYNONYMS, with_current_names
from launch.training.plain_yaml import parse_yaml
from model import ModelConfig
from pipeline.config import DataConfig, is_remote
from sharding.cli import CommandLine
from sharding.errors import UserError, check_minimum, redacted
from sharding.manifest import MANIFEST, Manifest, load_manifest

NEED_LEVELS = ("pathways", "integration", "cross_encoder")  # heads that are made of levels of labels


@dataclass(frozen=True)
class TrainConfig:
    """Length, batches, precision, checkpoints."""

    epochs: int = 80
    """Epochs of training in all; of a run of phases it is their sum."""
    batch_size: int = 64
    """Clips per optimizer step, over all ranks and accumulation steps."""
    micro_batch_size: int | None = None
    """Clips per forward pass on one rank; by default a rank takes its complete part of the batch at once."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Arithmetic of the network: autocast to bf16 or fp16 over float32 parameters and BatchNorm, or fp32 throughout."""
    zero_stage: Literal[0, 1, 2] = 0
    """DeepSpeed ZeRO: 0 shards nothing, 1 the optimizer's state, 2 the gradients too, over the ranks."""
    seed: int = 0
    """Seed of initial weights, order, frames, crops and dropout."""
    log_every_steps: int = 10
    """Optimizer steps between two lines of the log, besides one at the end of each epoch; only then the device is
    waited for."""
    save_every_steps: int = 0
    """Optimizer steps between checkpoints within an epoch; 0 saves only at the end of each epoch."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints to keep, besides the best."""
    ema_decay: float = 0.0
    """Decay per step of an exponential moving average of weights and BatchNorm statistics, which is then what is
    evaluated and what model.safetensors holds; 0 keeps none."""
    mixup: float = 0.0
    """Alpha of mixup, which blends each clip and its label with another's; 0 does not."""
    cutmix: float = 0.0
    """Alpha of CutMix, which replaces a box of each clip by another's; 0 does not. With mixup each batch draws one."""
    batch_norm: Literal["train", "partial", "frozen"] = "train"
    """partial: every BatchNorm but the first keeps its statistics, scale and shift; frozen: every one."""
    sync_batch_norm: bool = False
    """Statistics of BatchNorm over the clips of all ranks; needs GPUs."""
    compile: bool = False
    """Compile the network with torch.compile; the first steps then take minutes."""
    require_gpu: bool = False
    """Refuse to train on a CPU."""
    timeout_seconds: float = 600.0
    """Limit on waiting for the other ranks in one collective operation."""
    heartbeat_timeout_seconds: float = 60.0
    """A rank that gives no sign of life for this long is taken for dead, and all others end, naming it."""
    wandb: bool = False
    """Record figures in Weights & Biases too (pip install 'vpsn[wandb]'); WANDB_MODE, WANDB_PROJECT and the like say
    how."""

    def __post_init__(self) -> None:
        check_minimum(self, 1, "epochs", "batch_size", "log_every_steps", "keep_checkpoints", prefix="train.")
        if self.micro_batch_size is not None and not 1 <= self.micro_batch_size <= self.batch_size:
            raise ValueError(f"train.micro_batch_size={self.micro_batch_size}: use 1 to train.batch_size")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"train.seed={self.seed}: use 0 <= seed < 2**63")
        check_minimum(self, 0, "save_every_steps", "mixup", "cutmix", prefix="train.")
        check_minimum(self, 1, "timeout_seconds", "heartbeat_timeout_seconds", prefix="train.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"train.ema_decay={self.ema_decay}: use 0 <= ema_decay < 1")
        if self.sync_batch_norm and self.batch_norm == "frozen":
            raise ValueError("train.sync_batch_norm=true: nothing to synchronise with train.batch_norm=frozen")


@dataclass(frozen=True)
class LcamConfig:
    """Momentum by the loss."""

    momentum_low: float = 0.9
    """Momentum after a step whose loss is below the mean of its epoch so far (the paper: CIFAR-10 0.9, CIFAR-100
    0.93)."""
    momentum_high: float = 0.95
    """Momentum after every other step (the paper: CIFAR-10 0.95, CIFAR-100 0.9)."""

    def __post_init__(self) -> None:
        for name in ("momentum_low", "momentum_high"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer.lcam.{name}={getattr(self, name)}: use 0 <= {name} < 1")


@dataclass(frozen=True)
class SecondMomentConfig:
    """Gradients scaled by a power of their second moment."""

    exponent: float = 0.25
    """Power of the second moment that the first is divided by: 0 is momentum alone, 0.5 is Adam."""
    decay: float = 0.999
    """Decay per step of the second moment."""
    epsilon: float = 1e-8
    """Added to the divisor; above 0."""

    def __post_init__(self) -> None:
        if not 0 <= self.exponent <= 1:
            raise ValueError(f"optimizer.second_moment.exponent={self.exponent}: use 0 <= exponent <= 1")
        if not 0 <= self.decay < 1:
            raise ValueError(f"optimizer.second_moment.decay={self.decay}: use 0 <= decay < 1")
        if not self.epsilon > 0:  # a gradient that was always zero would be divided by zero
            raise ValueError(f"optimizer.second_moment.epsilon={self.epsilon}: use more than 0")


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer, its learning rate and its weight decay."""

    name: Literal["sgd", "lcam", "second_moment"] = "sgd"
    """sgd: stochastic gradient descent with momentum; lcam: the same, its momentum chosen by the loss; second_moment:
    gradients scaled by a power of their second moment, between momentum and Adam."""
    learning_rate: float = 0.01
    """Learning rate at the reference batch size."""
    reference_batch_size: int = 64
    """The learning rate is scaled by train.batch_size over this; 0 leaves it as it is."""
    momentum: float = 0.9
    """Momentum of sgd; of second_moment the decay of the first moment; lcam has its own two."""
    nesterov: bool = False
    """Nesterov's form of momentum, for sgd and lcam."""
    lcam: LcamConfig = field(default_factory=LcamConfig)
    """What lcam chooses from."""
    second_moment: SecondMomentConfig = field(default_factory=SecondMomentConfig)
    """How second_moment scales."""
    weight_decay: float = 5e-4
    """Weight decay of convolution and linear weights; biases, normalisation, embeddings and the like have none."""
    bias_learning_rate_factor: float = 2.0
    """Factor on the learning rate of biases (not of BatchNorm's)."""
    clip_norm: float = 20.0
    """Gradients are scaled down to this total 2-norm; 0 leaves them alone."""

    def __post_init__(self) -> None:
        names = ("learning_rate", "reference_batch_size", "momentum", "weight_decay", "clip_norm")
        check_minimum(self, 0, *names, prefix="optimizer.")
        if not self.momentum < 1:
            raise ValueError(f"optimizer.momentum={self.momentum}: use 0 <= momentum < 1")
        if self.nesterov and self.name == "second_moment":
            raise ValueError("optimizer.nesterov=true: optimizer.name=second_moment has no such form; use false")

    def scaled_learning_rate(self, batch_size: int) -> float:
        """Return the learning rate for batches of `batch_size` clips."""
        scale = batch_size / self.reference_batch_size if self.reference_batch_size else 1.0
        return self.learning_rate * scale


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over time."""

    name: Literal["step", "cosine"] = "step"
    """step: times `factor` at each milestone; cosine: down to zero over all epochs."""
    milestones: tuple[int, ...] = (50, 60, 70)
    """Epochs at which the step schedule lowers the learning rate."""
    factor: float = 0.1
    """Factor of the step schedule."""
    warmup_epochs: float = 0.0
    """Epochs over which the learning rate first rises linearly from nearly zero."""

    def __post_init__(self) -> None:
        if list(self.milestones) != sorted(set(self.milestones)) or min(self.milestones, default=1) < 1:
            raise ValueError(f"schedule.milestones={list(self.milestones)}: use rising epochs from 1 on")
        check_minimum(self, 0, "warmup_epochs", prefix="schedule.")


@dataclass(frozen=True)
class LossConfig:
    """Cross-entropy, and the weights of the synthesizers' losses next to it."""

    label_smoothing: float = 0.0
    """Fraction of each label that is spread evenly over all classes, 0 <= fraction < 1."""
    interaction: float = 0.01
    """Weight of the interaction loss (Eq. 2)."""
    capacity: float = 0.001
    """Weight of the network capacity loss (Eq. 3)."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"loss.label_smoothing={self.label_smoothing}: use 0 <= label_smoothing < 1")


@dataclass(frozen=True)
class Config:
    """A run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    phases: tuple[PhaseConfig, ...] = ()
    """Phases of the run, one after the other; by default the other sections describe the complete run."""
    deepspeed: dict[str, Any] = field(default_factory=dict)
    """Raw options for DeepSpeed, next to those derived from the sections above; they may not contradict these."""
    run_dir: str = "runs/run"
    """Folder of the run: checkpoints, logs, metrics, pictures."""
    resume: Literal["never", "auto"] = "never"
    """auto, or plain --resume: continue from the newest checkpoint in the run folder, if there is one."""

    def __post_init__(self) -> None:
        if self.phases:
            self._check_phases()
        if self.train.epochs < self.schedule.warmup_epochs:
            raise ValueError(
                f"schedule.warmup_epochs={self.schedule.warmup_epochs} is longer than train.epochs={self.train.epochs}"
            )
        head = self.model.head
        if head == "integration" and self.model.pretrained is None:
            raise ValueError(
                "model.head=integration trains nothing of its pathways; give model.pretrained, such as the run folder "
                "of a training with model.head=pathways"
            )
        if head in NEED_LEVELS and (self.train.mixup or self.train.cutmix):
            raise ValueError(
                f"train.mixup and train.cutmix blend only the labels of one level; use 0 with model.head={head}"
            )

    def split_phases(self) -> tuple["Config", ...]:
        """Return a configuration of each phase; its train.epochs is the epoch of the run that ends it."""
        if not self.phases:
            return (self,)
        ends = accumulate(phase.epochs for phase in self.phases)
        return tuple(self.with_clips(phase, end) for phase, end in zip(self.phases, ends))

    def with_clips(self, clips: ClipConfig, epochs: int) -> "Config":
        """Return the same with other clips, without phases."""
        changes = clips.changes()
        changes["train"]["epochs"] = epochs
        if {"num_segments", "frames_per_segment"} & changes["data"].keys():
            changes["model"] = {"num_segments": replace(self.data, **changes["data"]).frames_per_clip}
        sections = {name: replace(getattr(self, name), **values) for name, values in changes.items()}
        return replace(self, **sections, phases=())

    def _check_phases(self) -> None:
        if self.schedule.name != "step" or self.schedule.milestones:
            raise ValueError("phases have their own learning rates; use schedule.name=step, schedule.milestones=[]")
        epochs = sum(phase.epochs for phase in self.phases)
        if self.train.epochs not in (TrainConfig.epochs, epochs):
            raise ValueError(f"train.epochs={self.train.epochs}: the phases have {epochs} epochs; leave it out")
        object.__setattr__(self, "train", replace(self.train, epochs=epochs))
        self.split_phases()

    def to_yaml(self) -> str:
        """Return the complete configuration as YAML that `load_config` reads."""
        return yaml.safe_dump(self.without_secrets(), sort_keys=False)

    def without_secrets(self) -> dict[str, Any]:
        """Return all values by section, for files: passwords and tokens of the data's URLs stay in memory."""
        values = asdict(self)
        for name in ("train", "val"):
            location = values["data"][name]
            values["data"][name] = redacted(location) if location else location
        return values


Kind = TypeVar("Kind", bound=Config)


def parse_config(
    prog: str,
    arguments: list[str] | None = None,
    kind: type[Kind] = Config,
    description: str = "Train a network on packed shards.",
) -> Kind:
    """Read --config FILE and --section.key=value options of a `kind` of configuration.

    `model.num_segments` is the number of frames of a clip of `data`, `model.num_classes` the number of classes of
    `data.train`, and `model.levels` its further levels of labels; none of them can be given.

    Raises:
        UserError: something is wrong with them, said in one line.
    """
    parser = CommandLine(
        prog=prog,
        description=description,
        exit_on_error=False,
        has_keys=True,
        renamed=RENAMED,
        synonyms=SYNONYMS,
        hints=HINTS,
    )
    parser.add_argument("--config", action="config", metavar="FILE", help=_CONFIG_HELP)
    # The DeepSpeed launcher gives every process its number; the environment says the same.
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_class_arguments(kind)
    resume = next(action for action in parser._actions if action.dest == "resume")
    resume.nargs, resume.const = "?", "auto"
    parser.link_arguments(("data.num_segments", "data.frames_per_segment"), "model.num_segments", operator.mul)
    parser.link_arguments("data.train", "model.num_classes", compute_fn=_count_classes)
    parser.link_arguments("data.train", "model.levels", compute_fn=_read_levels)
    return _instantiate(parser, parser.parse_args(arguments), kind)


_CONFIG_HELP = "YAML file; what it leaves out keeps its default, and the command line overrides it."


def load_config(path: Path, kind: type[Config] = Config) -> Config:
    """Read a resolved configuration that `Config.to_yaml` wrote.

    Raises:
        UserError: the file is missing or not such a configuration.
    """
    parser = CommandLine(prog=str(path), exit_on_error=False)
    parser.add_class_arguments(kind)
    try:
        values = parse_yaml(path.read_text())
        if not isinstance(values, dict):
            raise ValueError("no sections in it")
        return _instantiate(parser, parser.parse_object(with_current_names(values)), kind)
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}: not a resolved configuration: {' '.join(str(error).split())}") from error


def _instantiate(parser: CommandLine, namespace, kind: type[Kind]) -> Kind:
    try:
        values = parser.instantiate(namespace)
        return kind(**{name: getattr(values, name) for name in kind.__dataclass_fields__})
    except ValueError as error:
        parser.error(str(error))
    except (TypeError, AttributeError, OverflowError) as error:  # of null where the parser lets it pass
        parser.error(f"a value is of the wrong kind ({error})")


def _count_classes(train: str | None) -> int:
    """Return the classes of the dataset at `train`; the default where there is none yet, as for a config printed."""
    manifest = _read_manifest(train)
    return len(manifest.classes) if manifest else ModelConfig.num_classes


def _read_levels(train: str | None) -> tuple[tuple[str, tuple[str, ...]], ...]:
    manifest = _read_manifest(train)
    return tuple(manifest.levels.items()) if manifest else ModelConfig.levels


def _read_manifest(train: str | None) -> Manifest | None:
    if train and is_remote(train):
        from pipeline.dataset import read_manifest  # brings what remote datasets need

        return read_manifest(train)
    return load_manifest(Path(train)) if train and (Path(train) / MANIFEST).exists() else None
