"""The configuration sections `optimizer` and `schedule`."""

from dataclasses import dataclass, field
from typing import Literal

from sharding.errors import check_minimum


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
class AdamWConfig:
    """Adam with decoupled weight decay."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Decay per step of the first and of the second moment."""
    epsilon: float = 1e-8
    """Added to the divisor; above 0."""

    def __post_init__(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimizer.adamw.betas={list(self.betas)}: use two numbers, 0 <= beta < 1")
        if not self.epsilon > 0:
            raise ValueError(f"optimizer.adamw.epsilon={self.epsilon}: use more than 0")


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer, its learning rate and its weight decay."""

    name: Literal["sgd", "adamw", "lcam", "second_moment"] = "sgd"
    """sgd: stochastic gradient descent with momentum; adamw: Adam with decoupled weight decay; lcam: SGD whose momentum
    is chosen by the loss; second_moment: gradients scaled by a power of their second moment, between momentum and
    Adam."""
    learning_rate: float = 0.01
    """Learning rate at the reference batch size."""
    reference_batch_size: int = 64
    """The learning rate is scaled by train.batch_size over this; 0 leaves it as it is."""
    momentum: float = 0.9
    """Momentum of sgd; of second_moment the decay of the first moment; lcam and adamw have their own two."""
    nesterov: bool = False
    """Nesterov's form of momentum, for sgd and lcam."""
    adamw: AdamWConfig = field(default_factory=AdamWConfig)
    """Constants of adamw."""
    lcam: LcamConfig = field(default_factory=LcamConfig)
    """What lcam chooses from."""
    second_moment: SecondMomentConfig = field(default_factory=SecondMomentConfig)
    """How second_moment scales."""
    weight_decay: float = 5e-4
    """Weight decay of convolution and linear weights; biases, normalisation, embeddings and the like have none."""
    bias_learning_rate_factor: float = 2.0
    """Factor on the learning rate of biases (not of BatchNorm's)."""
    head_learning_rate_factor: float = 1.0
    """Factor on the learning rate of all that follows the last residual block: the classifier, or a transformer."""
    layer_decay: float = 1.0
    """Factor on the learning rate from each residual block to the one before it, 0 < factor <= 1: the head has the
    full rate, the last block this times as much, the stem the least. What model.pretrained had not got has it too."""
    clip_norm: float = 20.0
    """Gradients are scaled down to this total 2-norm; 0 leaves them alone."""

    def __post_init__(self) -> None:
        names = ("learning_rate", "reference_batch_size", "momentum", "weight_decay", "bias_learning_rate_factor")
        check_minimum(self, 0, *names, "clip_norm", prefix="optimizer.")
        if not self.momentum < 1:
            raise ValueError(f"optimizer.momentum={self.momentum}: use 0 <= momentum < 1")
        if self.nesterov and self.name in ("adamw", "second_moment"):
            raise ValueError(f"optimizer.nesterov=true: optimizer.name={self.name} has no such form; use false")
        if self.nesterov and self.name == "sgd" and not self.momentum:
            raise ValueError("optimizer.nesterov=true: a form of momentum, and optimizer.momentum=0; use false")
        instead = {"adamw": "optimizer.adamw.betas", "lcam": "optimizer.lcam"}.get(self.name)
        if instead and self.momentum != OptimizerConfig.momentum:
            raise ValueError(
                f"optimizer.momentum={self.momentum}: optimizer.name={self.name} takes {instead}; leave it out"
            )
        if not self.head_learning_rate_factor > 0:
            raise ValueError(f"optimizer.head_learning_rate_factor={self.head_learning_rate_factor}: use more than 0")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"optimizer.layer_decay={self.layer_decay}: use 0 < layer_decay <= 1")

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
        check_minimum(self, 0, "warmup_epochs", "factor", prefix="schedule.")
