"""From the configuration to the parts of a run."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from launch.training.batch_norm import prepare_batch_norm
from launch.training.checkpoint import find_checkpoint
from launch.training.class_weights import find_class_weights
from launch.training.config import NEED_LEVELS, Config
from launch.training.distributed import Ranks, gather_over_ranks
from launch.training.optimizers import learning_rate_scales
from model import ModelConfig, Network, VideoNet, build_model
from model.freeze import checkpoint_blocks
from pipeline.dataset import open_dataset
from pipeline.loader import Agree, VideoLoader
from sharding.dataset import PackedDataset
from sharding.errors import UserError
from sharding.label_sets import LabelSets
from sharding.manifest import describe_class_difference

log = logging.getLogger("launch.training.builders")


def load_splits(config: Config) -> tuple[PackedDataset, PackedDataset | None]:
    """Return the training split and, if the configuration names one, the validation split, of the same classes."""
    data = config.data
    if data.train is None:
        raise UserError("data.train is not set: give the folder of a packed training split")
    train_set = open_dataset(data.train, data.cache_dir, data.cache_bytes)
    val_set = open_dataset(data.val, data.cache_dir, data.cache_bytes) if data.val else None
    for split in (train_set, val_set):
        if split is not None and not split.has_labels:
            raise UserError(
                f"{split.location}: its videos have no labels, so nothing can be trained or measured on them; "
                "launch/evaluate.py --submission predicts them"
            )
    if config.model.head in NEED_LEVELS and not train_set.manifest.levels:
        raise UserError(
            f"model.head={config.model.head} needs further levels of labels, and {train_set.location} has none; pack a "
            "dataset that has them, such as finegym"
        )
    if val_set and val_set.manifest.multi_label != train_set.manifest.multi_label:
        several, one = (train_set, val_set) if train_set.manifest.multi_label else (val_set, train_set)
        raise UserError(
            f"{several.location}: its videos have several labels each, those of {one.location} one; pack both alike"
        )
    for dataset in (train_set, val_set):
        if dataset and dataset.label_sets and not len(dataset.label_sets.ids):
            raise UserError(
                f"{dataset.location}: not one of its {len(dataset)} videos has a label; pack it with labels"
            )
    find_class_weights(config, train_set)
    if val_set and _classes(val_set) != _classes(train_set):
        difference = describe_class_difference(val_set.manifest.classes, train_set.manifest.classes)
        raise UserError(
            f"{val_set.location}: its classes are not those of {train_set.location}: {difference}; pack both with one "
            "list of classes (--classes FILE)"
        )
    return train_set, val_set


def _classes(dataset: PackedDataset) -> tuple[object, object]:
    return dataset.manifest.classes, dataset.manifest.levels


def warn_of_short_videos(config: Config, train_set: PackedDataset) -> None:
    """Warn if a clip has more frames than any stored video, so that frames repeat."""
    stored = int(train_set.num_frames.max(initial=0))
    most = max(phase.data.frames_per_clip for phase in config.split_phases())
    if len(train_set) and most > stored:
        log.warning(
            "a clip has %d frames, but no video of %s has more than %d stored ones: frames repeat; lower "
            "data.num_segments, or pack with a larger --max-frames",
            *(most, train_set.location, stored),
        )


def build_loaders(
    config: Config,
    ranks: Ranks,
    micro_batch_size: int,
    train_set: PackedDataset,
    val_set: PackedDataset | None,
    agree: Agree,
) -> tuple[VideoLoader, VideoLoader | None]:
    """Return the loader of the training split, and of the validation split if there is one; `agree` joins what the
    ranks find bad."""
    shared: dict[str, Any] = {"rank": ranks.rank, "world_size": ranks.world_size, "device": ranks.device}
    shared |= {"micro_batch_size": micro_batch_size, "gather": gather_over_ranks}
    loader = VideoLoader(
        train_set,
        config.data,
        training=True,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        agree=agree,
        **shared,
    )
    return loader, VideoLoader(val_set, config.data, training=False, **shared) if val_set is not None else None


def build_network(config: Config) -> Network:
    """Return the network in its initial state."""
    torch.manual_seed(config.train.seed)
    try:
        net = build_model(_with_weights_of_run(config.model))
        if config.train.gradient_checkpointing:
            checkpoint_blocks(net)
        learning_rate_scales(net, config.optimizer)  # here its errors are those of the configuration
    except ValueError as error:
        raise UserError(str(error)) from error
    on_cpu = not torch.cuda.is_available()
    if on_cpu and config.train.precision == "bf16" and any(isinstance(module, nn.Conv3d) for module in net.modules()):
        raise UserError(
            "train.precision=bf16: on a CPU, PyTorch's gradients of a 3D convolution are wrong where its kernel is "
            "longer than its input; use fp32"
        )
    return prepare_batch_norm(net, config.train)


def _with_weights_of_run(model: ModelConfig) -> ModelConfig:
    """Return `model`, where `pretrained` is the folder of a run or checkpoint with the file of its weights."""
    if model.pretrained is None or not Path(model.pretrained).is_dir():
        return model
    return replace(model, pretrained=str(find_checkpoint(Path(model.pretrained)) / "model.safetensors"))


def check_phases(config: Config) -> None:
    """Raise UserError if the network of a phase cannot take the weights of the phase before."""
    phases = config.split_phases()
    if len(phases) == 1:
        return
    shapes = []
    for number, phase in enumerate(phases, 1):
        with torch.device("meta"):
            net = build_model(phase.model.without_files())
        shapes.append({name: tuple(value.shape) for name, value in net.state_dict().items()})
        for name in shapes[0] | shapes[-1]:
            first, now = shapes[0].get(name, "none"), shapes[-1].get(name, "none")
            if first != now:
                model = phase.model
                raise UserError(
                    f"phase {number}: {name} has shape {now} with num_segments={model.num_segments}, {first} in phase "
                    f"1: model.arch={model.arch} with model.head={model.head} cannot change it; use the same "
                    "num_segments in all phases, or another network"
                )


def describe_run(config: Config, ranks: Ranks, net: nn.Module, loader: VideoLoader) -> str:
    """Return what is about to be trained; all of it is in config.yaml."""
    model, train = config.model, config.train
    parameters = sum(parameter.numel() for parameter in net.parameters())
    trained = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    of_these = "" if trained == parameters else f" ({trained:,} of them trained)"
    learning_rate = config.optimizer.scaled_learning_rate(train.batch_size)
    name = model.arch if isinstance(net, VideoNet) else f"{model.arch}-{model.depth}"
    name += "" if model.backbone == "resnet" else f" on {model.backbone}"
    return (
        f"{name}, {parameters / 1e6:.2f} M parameters{of_these}, {model.num_classes} classes; "
        f"{len(loader.dataset)} samples, {loader.steps_per_epoch} steps of {train.batch_size} clips an epoch; "
        f"{ranks.world_size} rank(s), {ranks.device.type}, {train.precision}; learning rate {learning_rate:g}"
    )


def describe_labels(sets: LabelSets) -> str:
    """Return which loss is taken, and why."""
    mean = len(sets.ids) / max(1, len(sets))
    return (
        f"several labels a video, {mean:.3g} on average: binary cross-entropy of each class, and mAP to find the best"
    )


def describe_length(config: Config, steps_per_epoch: int) -> str:
    """Return how many steps the training has, and which milestones of the learning rate it does not reach."""
    epochs, milestones = config.train.epochs, config.schedule.milestones
    text = f"{steps_per_epoch * epochs} steps in all"
    beyond = [milestone for milestone in milestones if milestone >= epochs]
    if config.schedule.name != "step" or not beyond:
        return text
    one, those = len(beyond) == 1, ", ".join(map(str, beyond))
    text += f"; milestone{'' if one else 's'} ({those}) {'is' if one else 'are'} beyond {epochs} epochs"
    return text + (", so the learning rate never falls" if len(beyond) == len(milestones) else "")
