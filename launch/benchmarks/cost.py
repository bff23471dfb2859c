"""What training on a dataset costs: storage, packing, device-hours, cores of the loader; for `benchmark.py plan`.

Everything is reckoned from rates that were measured or given; nothing here knows one of its own. A rate that is neither
is assumed, and is called so wherever it is used.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from launch.benchmarks.measurements import Measurements, Profile
from launch.training.config import Config
from sharding.errors import UserError

ASSUMED = "assumed, not measured"


@dataclass(frozen=True)
class Recipe:
    """What of a configuration decides the cost."""

    training: str
    """What decides how fast a device trains."""
    loading: str
    """What of a clip decides how fast it is loaded."""
    epochs: int
    batch_size: int


def describe_recipe(config: Config) -> Recipe:
    """The cost's side of a configuration.

    Raises:
        UserError: it has phases, whose clips are of several lengths, while a rate holds for one.
    """
    if config.phases:
        raise UserError("--config: a run of phases has clips of several lengths; give the configuration of one phase")
    data, model, train = config.data, config.model, config.train
    network = f"{model.arch}-{model.depth}" + ("" if model.head == "mean" else f", {model.head}")
    training = f"{network}, clips of {data.frames_per_clip} x {data.crop_size} x {data.crop_size}, {train.precision}"
    frames = "segments" if data.sampling == "segments" else f"frames, stride {data.frame_stride}"
    loading = f"{data.num_segments} {frames}, short side {data.short_side}, {data.crop} crop {data.crop_size}"
    loading += ", changed colours" if data.changes_color else ""
    return Recipe(training, loading, train.epochs, train.batch_size)


def choose_figures(measurements: Measurements, recipe: Recipe, where: str) -> Measurements:
    """The last of each profile and device that are of the recipe; there may be no device.

    Raises:
        UserError: nothing was packed and loaded, or opened; `where` is the file, for the message.
    """
    profiles = {record.profile: record for record in measurements.profiles if record.recipe == recipe.loading}
    training = {record.device: record for record in measurements.training if record.recipe == recipe.training}
    for what, found in ((f"loading {recipe.loading}", profiles), ("a first batch", measurements.first_batch)):
        if not found:
            raise UserError(f"{where}: no figures of {what}; measure them with --measure --videos DIR")
    return Measurements(tuple(profiles.values()), tuple(training.values()), measurements.first_batch[-1:])


@dataclass(frozen=True)
class Rate:
    """Clips that one device trains on in a second."""

    kind: Literal["cpu", "gpu"]
    device: str
    clips_per_second: float
    basis: Literal["measured", "given", "assumed, not measured"]


def choose_rates(
    figures: Measurements, gpu: float | None, cpu: float | None, assumed: Sequence[float]
) -> tuple[Rate, ...]:
    """The rates of devices: given ones, else measured ones; for GPUs, where there is neither, `assumed` ones."""
    rates = []
    for kind, given, otherwise in (("gpu", gpu, assumed), ("cpu", cpu, ())):
        measured = [Rate(kind, r.device, r.clips_per_second, "measured") for r in figures.training if r.kind == kind]
        if given is not None:
            measured = [Rate(kind, f"a {kind.upper()}", given, "given")]
        rates += measured or [Rate(kind, f"a {kind.upper()}", value, ASSUMED) for value in otherwise]
    return tuple(rates)


@dataclass(frozen=True)
class Means:
    """All that a cost is reckoned from, besides the dataset."""

    recipe: Recipe
    figures: Measurements
    """Those that `choose_figures` chose."""
    rates: tuple[Rate, ...]
    workers: int
    """Processes that pack."""
    gpus: tuple[int, ...]
    """Numbers of devices to train on."""
    max_stall: float
    """Share of the time that training may wait for the loader."""

    def __post_init__(self) -> None:
        for count in self.gpus:
            if self.recipe.batch_size % count:
                raise UserError(f"--gpus {count}: use divisors of the recipe's batch of {self.recipe.batch_size}")


@dataclass(frozen=True)
class Cost:
    """What a recipe costs on a dataset."""

    means: Means
    name: str
    train_videos: int
    val_videos: int

    def __post_init__(self) -> None:
        if not self.clips:
            lack = f"{self.train_videos} training videos do not make a batch of {self.means.recipe.batch_size}"
            raise UserError(f"--datasets: {self.name}: {lack}; use more, or a --config of smaller batches")

    @property
    def clips(self) -> int:
        """That training sees: an incomplete last batch of an epoch is left out."""
        recipe = self.means.recipe
        return recipe.epochs * (self.train_videos // recipe.batch_size) * recipe.batch_size

    def gigabytes(self, profile: Profile) -> float:
        """Of both splits, packed."""
        return profile.kilobytes_per_video * (self.train_videos + self.val_videos) / 1e6

    def packing_core_hours(self, profile: Profile) -> float:
        return profile.core_seconds_per_video * (self.train_videos + self.val_videos) / 3600

    def packing_hours(self, profile: Profile) -> float:
        """With all workers."""
        return self.packing_core_hours(profile) / self.means.workers

    def first_step_hours(self, profile: Profile) -> float:
        """From the first video packed to the first training step."""
        return self.packing_hours(profile) + self.means.figures.first_batch[0].seconds / 3600

    def loading_core_hours(self, profile: Profile) -> float:
        """Of all epochs."""
        return self.clips / profile.clips_per_core_second / 3600

    def training_hours(self, rate: Rate, devices: int = 1) -> float:
        return self.clips / rate.clips_per_second / devices / 3600


def loader_cores(clips_per_core_second: float, clips_per_second: float, max_stall: float) -> int:
    """Cores whose loader lets devices that train on so many clips a second wait at most this share of the time.

    A loader of L clips a second makes a network of N > L wait 1 - L / N of the time.

    >>> loader_cores(50.0, 800, max_stall=0.02)
    16
    """
    # The quotient of floats may lie a hair above the whole number that it is.
    return math.ceil((1 - max_stall) * clips_per_second / clips_per_core_second * (1 - 1e-12))
