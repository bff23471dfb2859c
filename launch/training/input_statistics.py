"""Mean and standard deviation of the pixels of a run: those given, else those of the weights that it starts from."""

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from launch.training.config import Config
from model.weights.files import WeightFileError
from model.weights.source import Statistics, read_weights_file
from pipeline.config import IMAGENET_MEAN, IMAGENET_STD, DataConfig
from sharding.errors import UserError

log = logging.getLogger("launch.training.input_statistics")

Kind = TypeVar("Kind", bound=Config)
_IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)


def with_statistics(config: Kind) -> Kind:
    """Return the configuration with numbers for `data.mean` and `data.std`; warn of those that do not suit the weights.

    Of the file of `model.pretrained` only names are read, without torch.

    Raises:
        UserError: that file is missing, holds no weights, or those of a network that cannot be had here.
    """
    title, found = _of_weights(config)
    if found and os.environ.get("RANK", "0") == "0":  # once for all ranks
        _warn_of_others(config, title, found)
    mean, std = found or _IMAGENET
    data = replace(config.data, mean=config.data.mean or mean, std=config.data.std or std)
    return replace(config, data=data)


def _warn_of_others(config: Config, title: str, found: Statistics) -> None:
    for name, theirs in zip(("mean", "std"), found):
        given = getattr(config.data, name)
        if any(abs(one - other) > 1e-3 for one, other in zip(given, theirs)):
            log.warning(
                "data.%s=%s: the weights of model.pretrained=%s (%s) were trained with %s; leave it out to use that",
                *(name, list(given), config.model.pretrained, title, list(theirs)),
            )


def _of_weights(config: Config) -> tuple[str, Statistics | None]:
    """Return whose weights the run starts from, and their statistics if they are known."""
    source = config.model.pretrained
    if source is None:
        return "", None
    if source == "imagenet":
        return "ResNet (torchvision, ImageNet)", _IMAGENET
    if not Path(source).suffix and not Path(source).exists():
        return "", None  # a run that is trained before this one, perhaps; whoever builds the network wants it there
    if Path(source).is_dir():
        data = _data_of_run(Path(source))
        return "a run of this program", (data.mean or IMAGENET_MEAN, data.std or IMAGENET_STD)
    try:
        weights = read_weights_file(Path(source), refuses=not config.model.is_custom)
    except WeightFileError as error:
        raise UserError(f"model.pretrained={source!r}: {error}") from error
    return weights.title, weights.statistics


def _data_of_run(folder: Path) -> DataConfig:
    from launch.training.checkpoint import find_checkpoint  # brings torch
    from launch.training.config_parser import load_config

    return load_config(find_checkpoint(folder) / "config.yaml").data
