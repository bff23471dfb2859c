"""The configuration of a run: the components' own dataclasses, composed.

Checked here is what concerns several sections at once; each section checks itself. DeepSpeed's dictionary is derived
from this configuration (`launch.training.engine`), so that every setting is said once.
"""

import math
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from typing import Any, Literal

import yaml

from launch.training.clip_schedule import ClipConfig, PhaseConfig
from launch.training.optimizer_config import OptimizerConfig, ScheduleConfig
from model import ModelConfig
from pipeline.config import DataConfig
from sharding.errors import check_minimum, redacted

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
    waited for, unless DeepSpeed does so itself in each step: with zero_stage 1 or 2, or fp16."""
    save_every_steps: int = 0
    """Optimizer steps between checkpoints within an epoch; 0 saves only at the end of each epoch."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints to keep, besides the best."""
    monitor: Literal["top1", "top5", "mean_class"] = "top1"
    """Figure of the validation split by which a checkpoint is the best: top-1, top-5 or the mean of the classes'
    accuracies."""
    patience_epochs: int = 0
    """End training after this many epochs in which the monitored figure was not higher than ever before; 0 trains all
    epochs."""
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
    gradient_checkpointing: bool = False
    """Keep only the input of each residual block for the backward pass, which computes the block again: less memory,
    more time, the same results."""
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
        check_minimum(self, 0, "save_every_steps", "patience_epochs", "mixup", "cutmix", prefix="train.")
        check_minimum(self, 1, "timeout_seconds", "heartbeat_timeout_seconds", prefix="train.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"train.ema_decay={self.ema_decay}: use 0 <= ema_decay < 1")
        if self.sync_batch_norm and self.batch_norm == "frozen":
            raise ValueError("train.sync_batch_norm=true: nothing to synchronise with train.batch_norm=frozen")
        if self.compile and self.gradient_checkpointing:
            raise ValueError(
                "train.gradient_checkpointing=true: it does not work with train.compile=true; use one of them"
            )


@dataclass(frozen=True)
class LossConfig:
    """Cross-entropy, binary where videos have several labels, and next to it the synthesizers' losses with weights."""

    label_smoothing: float = 0.0
    """Fraction of each label that is spread evenly over all classes, 0 <= fraction < 1; of several labels a video, the
    fraction by which each class's one or zero is drawn towards a half."""
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None
    """Weight of each class in the cross-entropy, in the order of the classes; balanced: the inverse of how often the
    class comes in training, so that all weigh alike and a clip weighs 1 in the mean."""
    interaction: float = 0.01
    """Weight of the interaction loss (Eq. 2)."""
    capacity: float = 0.001
    """Weight of the network capacity loss (Eq. 3)."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"loss.label_smoothing={self.label_smoothing}: use 0 <= label_smoothing < 1")
        weights = self.class_weights
        if isinstance(weights, tuple) and not (all(0 <= weight < math.inf for weight in weights) and any(weights)):
            raise ValueError(f"loss.class_weights={list(weights)}: use numbers from 0 on, not all of them 0")
        check_minimum(self, 0, "interaction", "capacity", prefix="loss.")


@dataclass(frozen=True)
class DistillationConfig:
    """A frozen teacher, from which the network learns besides the labels (docs/distillation.md)."""

    teacher: str | None = None
    """Folder of a run or checkpoint, a file of weights of this or of another project (docs/weights.md), or a network of
    your own as MODULE:CLASS; null: none."""
    features: float = 2.0
    """Weight of 1 - the cosine between the network's and the teacher's features of a frame; 0 leaves it out."""
    residual: bool = True
    """Compare the network's features not as they are but with a small network added to them, which starts as nothing
    and is thrown away after training: so the network may leave the teacher (FROSTER)."""
    logits: float = 0.0
    """Weight of the divergence of the network's probabilities from the teacher's, who must know the same classes; 0
    leaves it out."""
    temperature: float = 4.0
    """What logits are divided by before that, above 0; the divergence is multiplied by its square (Hinton)."""

    def __post_init__(self) -> None:
        check_minimum(self, 0, "features", "logits", prefix="distillation.")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"distillation.temperature={self.temperature}: use more than 0")
        if self.teacher == "":
            raise ValueError("distillation.teacher='': use null, a run folder, a file of weights, or MODULE:CLASS")
        if self.teacher is not None and not self.features and not self.logits:
            raise ValueError(
                f"distillation.teacher={self.teacher}: with features=0 and logits=0 nothing is learned from it; give "
                "one of them a weight"
            )
        if self.teacher is None:
            for name in ("features", "residual", "logits", "temperature"):
                if (value := getattr(self, name)) != getattr(DistillationConfig, name):
                    raise ValueError(f"distillation.{name}={value}: there is no teacher; give distillation.teacher too")


@dataclass(frozen=True)
class Config:
    """A run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    phases: tuple[PhaseConfig, ...] = ()
    """Phases of the run, one after the other; by default the other sections describe the complete run."""
    deepspeed: dict[str, Any] = field(default_factory=dict)
    """Raw options for DeepSpeed, next to those derived from the sections above; they may not contradict these."""
    run_dir: str = "runs/run"
    """Folder of the run: checkpoints, logs, metrics, pictures."""
    resume: Literal["never", "auto", "extend"] = "never"
    """auto, or plain --resume: continue from the newest checkpoint in the run folder, if there is one; extend: the
    same, with more epochs, another schedule or learning rate, which count from there on."""

    def __post_init__(self) -> None:
        if self.phases:
            self._check_phases()
        if self.train.epochs < self.schedule.warmup_epochs:
            raise ValueError(
                f"schedule.warmup_epochs={self.schedule.warmup_epochs} is longer than train.epochs={self.train.epochs}"
            )
        if self.train.patience_epochs and (self.phases or self.data.val is None):
            where = "a run of phases trains each to its end" if self.phases else "there is no data.val to monitor"
            raise ValueError(f"train.patience_epochs={self.train.patience_epochs}: {where}; use 0")
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
        if self.model.multi_label:
            self._check_multi_label()
        if self.phases and self.distillation.teacher is not None:
            raise ValueError(
                f"distillation.teacher={self.distillation.teacher}: phases begin with other clips and nothing but the "
                "network's weights; leave phases out, or train each as a run of its own"
            )
        if head in NEED_LEVELS and self.model.multi_label:
            raise ValueError(
                f"model.head={head} needs one label on each level, and the videos of data.train={self.data.train} have "
                "several labels each; use mean or encoder"
            )

    @property
    def monitored_figure(self) -> str:
        """Name of the figure of an evaluation that says which checkpoint is the best."""
        return "map" if self.model.multi_label else self.train.monitor

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

    def _check_multi_label(self) -> None:
        """Raise ValueError for what makes no sense where videos have several labels."""
        given = (
            ("loss.class_weights", self.loss.class_weights, None, "null"),
            ("data.class_sampling_exponent", self.data.class_sampling_exponent, 1, "1"),
            ("train.monitor", self.train.monitor, "top1", "top1, and mAP is monitored"),
            ("distillation.logits", self.distillation.logits, 0, "0, and distillation.features"),
        )
        for name, value, default, word in given:
            if value != default:
                raise ValueError(f"{name}={value}: the videos of data.train have several labels each; use {word}")

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
