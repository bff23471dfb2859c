"""Mixup and CutMix: batches whose clips and labels are blends of two."""

from collections.abc import Callable

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from launch.training.config import TrainConfig
from sharding.errors import UserError

Mix = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def check_mixing(config: TrainConfig, micro_batch_size: int) -> None:
    """Raise UserError if there would be a single clip to blend."""
    if micro_batch_size == 1 and (config.mixup or config.cutmix):
        raise UserError(
            "train.micro_batch_size=1: train.mixup and train.cutmix blend the clips of a micro-batch; use 2 or more"
        )


def build_mixing(config: TrainConfig, num_classes: int) -> Mix:
    """Return a function from clips (B, T, 3, H, W) and labels (B,), or (B, num_classes) of several a sample, to what
    the network is to be trained on.

    With neither mixup nor CutMix it returns what it is given; else the blended clips and labels (B, num_classes),
    drawn once a batch from torch's generator, so that seeding that seeds this.
    """
    kinds = [
        kind(alpha=alpha, num_classes=num_classes)
        for kind, alpha in ((v2.MixUp, config.mixup), (v2.CutMix, config.cutmix))
        if alpha
    ]
    if not kinds:
        return lambda clips, labels: (clips, labels)
    choose = v2.RandomChoice(kinds)

    def mix(clips: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        clips, labels = choose(tv_tensors.Video(clips), labels)  # a Video may have a time dimension
        return clips.as_subclass(torch.Tensor), labels

    return mix
