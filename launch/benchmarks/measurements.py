"""Measured figures, each with how it was measured, and the file that holds them: what plans of costs rest on."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from jsonargparse.typing import PositiveInt, restricted_string_type

from launch.benchmarks.options import Positive
from sharding.cli import CommandLine
from sharding.errors import UserError
from sharding.files import replacing

Date = restricted_string_type("Date", r"^\d{4}-\d\d-\d\d$")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How a figure was measured."""

    command: str
    machine: str
    date: Date
    """Year-month-day."""
    note: str = ""
    """What else must be known to read the figures."""


@dataclass(frozen=True, kw_only=True)
class Profile(Measured):
    """Packing under one profile, and the training loader, which decodes, scales and crops on the CPU, on its shards."""

    profile: str
    recipe: str
    """`Recipe.loading`."""
    kilobytes_per_video: Positive
    core_seconds_per_video: Positive
    """Of packing: elapsed time times workers."""
    clips_per_core_second: Positive
    """Of the loader: clips a second over cores."""


@dataclass(frozen=True, kw_only=True)
class Training(Measured):
    """Training steps of one network on one device: a GPU, or all cores of a CPU."""

    kind: Literal["cpu", "gpu"]
    device: str
    recipe: str
    """`Recipe.training`."""
    clips_per_second: Positive


@dataclass(frozen=True, kw_only=True)
class FirstBatch(Measured):
    """Opening a packed dataset of so many videos and loading the first batch of it."""

    videos: PositiveInt
    seconds: Positive


@dataclass(frozen=True)
class Measurements:
    """What a file of measurements holds. Of those that measured the same the last one holds."""

    profiles: tuple[Profile, ...] = ()
    training: tuple[Training, ...] = ()
    first_batch: tuple[FirstBatch, ...] = ()


def load_measurements(path: Path) -> Measurements:
    """Reads what `write_measurements` wrote.

    Raises:
        UserError: there is no such file, or a record of it lacks a field or has one that is wrong.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; plan --measure writes it")
    parser = CommandLine(exit_on_error=False)
    parser.add_class_arguments(Measurements)
    try:
        return Measurements(**vars(parser.instantiate(parser.parse_path(path))))
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).removeprefix(f"{path}: ").split("; see ")[0]  # what follows is a hint for the command line
        raise UserError(f"{path}: not a file of measurements: {reason}") from error


def write_measurements(path: Path, measurements: Measurements) -> None:
    """Writes the file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(asdict(measurements), indent=1) + "\n")
