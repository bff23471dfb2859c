"""Read a run's configuration: defaults < YAML < command line."""

import argparse
import math
import operator
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

import yaml

from launch.training.config import Config
from launch.training.input_statistics import with_statistics
from launch.training.option_names import HINTS, RENAMED, SYNONYMS, with_current_names
from launch.training.plain_yaml import parse_yaml
from model import ModelConfig
from pipeline.config import is_remote
from sharding.cli import CommandLine
from sharding.errors import UserError
from sharding.manifest import MANIFEST, Manifest, load_manifest

Kind = TypeVar("Kind", bound=Config)


def parse_config(
    prog: str,
    arguments: list[str] | None = None,
    kind: type[Kind] = Config,
    description: str = "Train a network on packed shards.",
) -> Kind:
    """Read --config FILE and --section.key=value options of a `kind` of configuration.

    `model.num_segments` is the number of frames of a clip of `data`, `model.num_classes` the number of classes of
    `data.train`, `model.levels` its further levels of labels, and `model.multi_label` whether its samples have several
    labels; none of them can be given. `data.mean` and `data.std` are numbers afterwards: those given, else those of the
    weights of `model.pretrained`. While a file is read the working folder of the process is another, so let no other
    thread use relative paths or start commands.

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
    manifest_of = cache(_read_manifest)  # which may have to be fetched
    for name, value_of in _FROM_MANIFEST.items():
        parser.link_arguments(
            "data.train", f"model.{name}", compute_fn=lambda train, value_of=value_of: value_of(manifest_of(train))
        )
    values = parser.parse_args(arguments)
    config = _instantiate(parser, values, kind)
    for path in values.config or ():
        _check_what_follows(str(path), Path(path), config, manifest_of(config.data.train))
    return with_statistics(config)


def _check_what_follows(name: str, path: Path, config: Config, manifest: Manifest | None) -> None:
    """Refuse what a file says of a value that follows from others, if those say something else."""
    sections = with_current_names(yaml.safe_load(path.read_text()) or {})  # as the parser has read it
    given, data = sections.get("model") or {}, sections.get("data") or {}
    frames = [data.get(key, getattr(config.data, key)) for key in ("num_segments", "frames_per_segment")]
    if given.get("num_segments", math.prod(frames)) != math.prod(frames):
        raise UserError(
            f"{name}: model.num_segments={given['num_segments']}, but data.num_segments={frames[0]} x "
            f"data.frames_per_segment={frames[1]} frames; leave it out, and set those of data"
        )
    if manifest is None or data.get("train", config.data.train) != config.data.train:  # of a run with other data
        return
    for key, value_of in _FROM_MANIFEST.items():
        value = value_of(manifest)
        if key in given and _as_list(given[key]) != _as_list(value):
            has = f"data.train={config.data.train} has {value}"
            raise UserError(f"{name}: model.{key}={given[key]}, but {has}; leave it out")


def _as_list(value):
    """Return what YAML makes of a value: tuples are lists there."""
    return [_as_list(item) for item in value] if isinstance(value, (tuple, list)) else value


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


# What follows from the dataset for training; the default where there is none yet, as for a config printed.
_FROM_MANIFEST: dict[str, Callable[[Manifest | None], object]] = {
    "num_classes": lambda manifest: len(manifest.classes) if manifest else ModelConfig.num_classes,
    "levels": lambda manifest: tuple(manifest.levels.items()) if manifest else ModelConfig.levels,
    "multi_label": lambda manifest: manifest.multi_label if manifest else ModelConfig.multi_label,
}


def _read_manifest(train: str | None) -> Manifest | None:
    if train and is_remote(train):
        from pipeline.dataset import read_manifest  # brings what remote datasets need

        return read_manifest(train)
    return load_manifest(Path(train)) if train and (Path(train) / MANIFEST).exists() else None
