"""What training on a dataset costs: storage, packing, GPU-hours, cores of the loader; for `launch/benchmark.py plan`.

Everything is reckoned from figures that were measured, which a file holds (docs/measurements.json), or that the user
gives; nothing here knows a rate of its own. A rate that is neither is assumed, and is called so wherever it is used.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

from launch.config import Config
from launch.outputs import replacing
from launch.plots import plt, save
from launch.report import table
from sharding.commandline import CommandLine, UserError
from sharding.profiles import PROFILES

ASSUMED = "assumed, not measured"


@dataclass(frozen=True)
class Dataset:
    """How many videos there are."""

    name: str
    train_videos: int
    val_videos: int

    def __post_init__(self) -> None:
        if self.train_videos < 1 or self.val_videos < 0:
            counts = f"{self.train_videos} training and {self.val_videos} validation videos"
            raise UserError(f"--datasets: {self.name}: {counts}: use at least 1 and 0")

    @property
    def videos(self) -> int:
        return self.train_videos + self.val_videos


@dataclass(frozen=True)
class Recipe:
    """What of a configuration decides the cost."""

    network: str
    precision: str
    loading_clip: str
    """What of a clip decides how fast it is loaded."""
    training_clip: str
    """What of it decides how fast it is trained on."""
    epochs: int
    batch_size: int

    def clips(self, dataset: Dataset) -> int:
        """Clips that training sees: an incomplete last batch of an epoch is left out.

        >>> Recipe("vpsn-50", "bf16", "", "", epochs=80, batch_size=64).clips(Dataset("k400", 240_063, 20_000))
        19200000
        """
        steps = dataset.train_videos // self.batch_size
        if not steps:
            raise UserError(
                f"--datasets: {dataset.name}: {dataset.train_videos} training videos do not make a batch of "
                f"{self.batch_size}; use more, or a --config of smaller batches"
            )
        return self.epochs * steps * self.batch_size


def describe_recipe(config: Config) -> Recipe:
    """The cost's side of a configuration.

    Raises:
        UserError: it has stages, whose clips are of several lengths, while a rate holds for one.
    """
    if config.stages:
        raise UserError("--config: a run of stages has clips of several lengths; give the configuration of one stage")
    data, model = config.data, config.model
    frames = "segments" if data.sampling == "segments" else f"frames, stride {data.frame_stride}"
    colors = ", changed colours" if data.changes_color else ""
    return Recipe(
        network=f"{model.arch}-{model.depth}" + ("" if model.head == "mean" else f", {model.head}"),
        precision=config.train.precision,
        loading_clip=f"{data.num_segments} {frames}, short side {data.short_side}, {data.crop} crop {data.crop_size}"
        + colors,
        training_clip=f"{data.num_segments} x {data.crop_size} x {data.crop_size}",
        epochs=config.train.epochs,
        batch_size=config.train.batch_size,
    )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One measurement, and how to take it again."""

    KEY: ClassVar[tuple[str, ...]] = ()
    """Fields that say what was measured: of two records that agree in them the newer one holds."""

    command: str
    machine: str
    date: str
    """Year-month-day."""
    note: str = ""
    """What else must be known to read the figures."""

    def __post_init__(self) -> None:
        _check_numbers(self)
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", self.date):
            raise UserError(f"date {self.date!r}: use year-month-day, such as 2026-01-31")

    @property
    def key(self) -> tuple:
        return tuple(getattr(self, name) for name in self.KEY)


@dataclass(frozen=True, kw_only=True)
class Packing(Measured):
    """Packing under one profile."""

    KEY = ("profile",)
    profile: str
    kilobytes_per_video: float
    seconds_per_video: float
    """Of all workers together: elapsed time over videos."""
    workers: int


@dataclass(frozen=True, kw_only=True)
class Loading(Measured):
    """The training loader on shards of one profile, decoding, scaling and cropping on the CPU."""

    KEY = ("profile", "clip")
    profile: str
    clip: str
    """`Recipe.loading_clip`."""
    clips_per_second: float
    """Of all cores together."""
    cores: int


@dataclass(frozen=True, kw_only=True)
class Training(Measured):
    """Training steps of one network on one device: a GPU, or all cores of a CPU."""

    KEY = ("device", "network", "clip", "precision")
    kind: Literal["cpu", "gpu"]
    device: str
    network: str
    clip: str
    """`Recipe.training_clip`."""
    precision: str
    clips_per_second: float


@dataclass(frozen=True, kw_only=True)
class FirstBatch(Measured):
    """Opening a packed dataset of so many videos and loading the first batch of it."""

    videos: int
    seconds: float


@dataclass(frozen=True)
class Measurements:
    """What a file of measurements holds."""

    packing: tuple[Packing, ...] = ()
    loading: tuple[Loading, ...] = ()
    training: tuple[Training, ...] = ()
    first_batch: tuple[FirstBatch, ...] = ()

    def updated(self, newer: "Measurements") -> "Measurements":
        """With the records of `newer` in place of those that measured the same, else behind them."""
        sections = {}
        for name in _RECORDS:
            records = {record.key: record for record in (*getattr(self, name), *getattr(newer, name))}
            sections[name] = tuple(records.values())
        return Measurements(**sections)

    def of(self, recipe: Recipe) -> "Measurements":
        """Those that say something about `recipe`: its clips, its network, its precision."""
        wanted = (recipe.network, recipe.training_clip, recipe.precision)
        return Measurements(
            self.packing,
            tuple(record for record in self.loading if record.clip == recipe.loading_clip),
            tuple(record for record in self.training if (record.network, record.clip, record.precision) == wanted),
            self.first_batch,
        )


_RECORDS = {"packing": Packing, "loading": Loading, "training": Training, "first_batch": FirstBatch}


def load_measurements(path: Path) -> Measurements:
    """Reads what `write_measurements` wrote.

    Raises:
        UserError: there is no such file, or a record of it lacks a field or has one that is wrong.
    """
    try:
        sections = json.loads(path.read_text())
        if not isinstance(sections, dict) or not all(isinstance(records, list) for records in sections.values()):
            raise ValueError("use lists of records by section")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; --measure writes it") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a file of measurements: {error}") from error
    if unknown := sections.keys() - _RECORDS.keys():
        raise UserError(f"{path}: section {min(unknown)!r}: use {', '.join(_RECORDS)}")
    read = {}
    for name, records in sections.items():
        read[name] = tuple(_read_record(values, name, f"{path}: {name}[{n}]") for n, values in enumerate(records))
    return Measurements(**read)


def _read_record(values: object, section: str, where: str) -> Measured:
    kind = _RECORDS[section]
    parser = _parser_of(kind)
    try:
        if not isinstance(values, dict):
            raise ValueError(f"{values!r} is no record")
        return kind(**vars(parser.instantiate(parser.parse_object(values))))
    except ValueError as error:
        reason = str(error).split("; see ")[0]  # what follows is a hint for the command line
        known = ", ".join(field.name for field in fields(kind))
        raise UserError(f"{where}: {reason} (fields: {known})") from error


@cache
def _parser_of(kind: type[Measured]) -> CommandLine:
    parser = CommandLine(exit_on_error=False)
    parser.add_class_arguments(kind)
    return parser


def write_measurements(path: Path, measurements: Measurements) -> None:
    """Writes the file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(asdict(measurements), indent=1) + "\n")


@dataclass(frozen=True)
class ProfileRates:
    """What a video and a clip cost under one profile."""

    profile: str
    kilobytes_per_video: float
    core_seconds_per_video: float
    """Of packing: elapsed time times workers."""
    clips_per_core_second: float
    """Of the training loader, a core."""

    def __post_init__(self) -> None:
        _check_numbers(self, f"profile {self.profile}: ")


@dataclass(frozen=True)
class TrainingRate:
    """Clips that one device trains on in a second."""

    device: str
    clips_per_second: float
    basis: Literal["measured", "given", "assumed, not measured"]
    kind: Literal["cpu", "gpu"] = "gpu"

    def __post_init__(self) -> None:
        _check_numbers(self, f"{self.device}, {self.basis}: ")


def choose_profiles(
    figures: Measurements, given: Mapping[str, Mapping[str, float]], where: str
) -> tuple[ProfileRates, ...]:
    """The rates of every profile that was measured or given; given ones hold before measured ones.

    Args:
        figures: those of the recipe.
        given: values by profile, for each rate of ProfileRates.
        where: the file, for errors.

    Raises:
        UserError: there is no such profile, or one lacks a rate.
    """
    packing, loading = figures.packing, figures.loading
    rates = {
        "kilobytes_per_video": {record.profile: record.kilobytes_per_video for record in packing},
        "core_seconds_per_video": {record.profile: record.seconds_per_video * record.workers for record in packing},
        "clips_per_core_second": {record.profile: record.clips_per_second / record.cores for record in loading},
    }
    rates = {name: measured | dict(given.get(name, {})) for name, measured in rates.items()}
    profiles = list(dict.fromkeys(profile for values in rates.values() for profile in values))
    if not profiles:
        raise UserError(f"{where}: no figures of packing and loading; measure them with --measure --videos DIR")
    for profile in profiles:
        if profile not in PROFILES:
            raise UserError(f"profile {profile!r} is not known; use {', '.join(PROFILES)}")
        for name, values in rates.items():
            if profile not in values:
                raise UserError(
                    f"{where}: profile {profile} has no {name} for this recipe; measure it with --measure --videos "
                    f"DIR, or give --{name}.{profile}"
                )
    return tuple(ProfileRates(profile, *(values[profile] for values in rates.values())) for profile in profiles)


def choose_rates(
    figures: Measurements, gpu: float | None, cpu: float | None, assumed: Sequence[float]
) -> tuple[TrainingRate, ...]:
    """The rates of devices: given ones, else measured ones; for GPUs, where there is neither, `assumed` ones."""
    rates = []
    for kind, value in (("gpu", gpu), ("cpu", cpu)):
        name = f"a {kind.upper()}"
        measured = [record for record in figures.training if record.kind == kind]
        if value is not None:
            rates.append(TrainingRate(name, value, "given", kind))
        elif measured:
            rates += [TrainingRate(record.device, record.clips_per_second, "measured", kind) for record in measured]
        elif kind == "gpu":
            rates += [TrainingRate(name, rate, ASSUMED) for rate in assumed]
    return tuple(rates)


@dataclass(frozen=True)
class ProfileCost:
    """A dataset, both of its splits, under one profile."""

    rates: ProfileRates
    gigabytes: float
    packing_core_hours: float
    packing_hours: float
    """With all workers."""
    first_step_hours: float
    """From the first video packed to the first training step."""
    loading_core_hours: float
    """Of all epochs of training."""


@dataclass(frozen=True)
class TrainingCost:
    """Training on one kind of device."""

    rate: TrainingRate
    device_hours: float
    hours: tuple[float, ...]
    """On each number of devices."""


@dataclass(frozen=True)
class Cost:
    """What a recipe costs on a dataset."""

    dataset: Dataset
    clips: int
    """That training sees."""
    profiles: tuple[ProfileCost, ...]
    training: tuple[TrainingCost, ...]


@dataclass(frozen=True)
class Means:
    """What there is to work with, besides rates."""

    workers: int
    """Processes that pack."""
    gpus: tuple[int, ...]
    """Numbers of devices to train on."""
    max_stall: float
    """Share of the time that training may wait for the loader."""
    first_batch_seconds: float

    def __post_init__(self) -> None:
        for name, value in (
            ("workers", self.workers),
            ("first_batch_seconds", self.first_batch_seconds),
            *(("gpus", count) for count in self.gpus),
        ):
            if not 0 < value < math.inf:
                raise UserError(f"--{name} {value:g}: use a number above 0")
        if not 0 < self.max_stall < 1:
            raise UserError(f"--max_stall {self.max_stall:g}: use more than 0 and less than 1")


def plan_cost(
    dataset: Dataset, recipe: Recipe, profiles: Sequence[ProfileRates], rates: Sequence[TrainingRate], means: Means
) -> Cost:
    """Multiplies videos and clips by what each takes, and shares the work evenly among workers and among devices.

    Raises:
        UserError: training has no batch, or a batch cannot be shared among so many GPUs.
    """
    for count in means.gpus:
        if recipe.batch_size % count:
            raise UserError(f"--gpus {count}: use divisors of the recipe's batch of {recipe.batch_size}")
    clips = recipe.clips(dataset)
    stored = []
    for profile in profiles:
        core_hours = profile.core_seconds_per_video * dataset.videos / 3600
        stored.append(
            ProfileCost(
                rates=profile,
                gigabytes=profile.kilobytes_per_video * dataset.videos / 1e6,
                packing_core_hours=core_hours,
                packing_hours=core_hours / means.workers,
                first_step_hours=core_hours / means.workers + means.first_batch_seconds / 3600,
                loading_core_hours=clips / profile.clips_per_core_second / 3600,
            )
        )
    trained = []
    for rate in rates:
        hours = clips / rate.clips_per_second / 3600
        trained.append(TrainingCost(rate, hours, tuple(hours / count for count in means.gpus)))
    return Cost(dataset, clips, tuple(stored), tuple(trained))


def loader_cores(profile: ProfileRates, clips_per_second: float, max_stall: float) -> int:
    """Cores whose loader lets devices that train on so many clips a second wait at most this share of the time.

    A loader of L clips a second makes a network of N > L wait 1 - L / N of the time.

    >>> loader_cores(ProfileRates("h264", 500, 0.2, clips_per_core_second=50.0), 800, max_stall=0.02)
    16
    """
    # The quotient of floats may lie a hair above the whole number that it is.
    return math.ceil((1 - max_stall) * clips_per_second / profile.clips_per_core_second * (1 - 1e-12))


def describe_costs(costs: Sequence[Cost], recipe: Recipe, means: Means) -> str:
    """Two tables for each dataset, and one of the loader's cores, which are the same for all."""
    lines = [f"{recipe.network}, clips of {recipe.training_clip}, {recipe.precision}, {recipe.epochs} epochs"]
    rates = [trained.rate for trained in costs[0].training if trained.rate.kind == "gpu"]
    known = any(rate.basis != ASSUMED for rate in rates)
    if not known:
        lines.append("No GPU's rate of training was measured or given: what is said of GPUs is said of assumed rates.")
    for cost in costs:
        dataset = cost.dataset
        lines += ["", f"{dataset.name}: {dataset.train_videos:,} training and {dataset.val_videos:,} validation videos"]
        lines += [_storage_table(cost, recipe, means), "", _training_table(cost, means)]
        if not known:
            lines.append(f"GPU-hours = {_show(cost.clips / 3600)} / (clips/s of one GPU)")
    if rates:
        counts = " / ".join(map(str, means.gpus))
        lines += ["", f"CPU cores for a loader that lets {counts} GPUs wait at most {means.max_stall:.0%} of the time"]
        lines.append(_loader_table([profile.rates for profile in costs[0].profiles], rates, means))
    return "\n".join(lines)


def _storage_table(cost: Cost, recipe: Recipe, means: Means) -> str:
    head = (
        *("profile", "kB/video", "GB", "core-hours to pack", f"hours, {means.workers} workers", "hours to first step"),
        *("clips/s loaded a core", f"core-hours to load {recipe.epochs} epochs"),
    )
    rows = [
        (
            *(profile.rates.profile, f"{profile.rates.kilobytes_per_video:,.0f}", _show(profile.gigabytes)),
            *(_show(profile.packing_core_hours), _show(profile.packing_hours), _show(profile.first_step_hours)),
            *(_show(profile.rates.clips_per_core_second), _show(profile.loading_core_hours)),
        )
        for profile in cost.profiles
    ]
    return table(head, rows)


def _training_table(cost: Cost, means: Means) -> str:
    head = ("device", "its rate is", "clips/s", "device-hours", *(f"hours on {count}" for count in means.gpus))
    rows = [
        (
            *(trained.rate.device, trained.rate.basis, f"{trained.rate.clips_per_second:.4g}"),
            *(_show(trained.device_hours), *map(_show, trained.hours)),
        )
        for trained in cost.training
    ]
    return table(head, rows)


def _loader_table(profiles: Sequence[ProfileRates], rates: Sequence[TrainingRate], means: Means) -> str:
    rows = []
    for rate in rates:
        needed = [rate.clips_per_second * count for count in means.gpus]
        cores = [[loader_cores(profile, clips, means.max_stall) for clips in needed] for profile in profiles]
        shown = [" / ".join(f"{count:,}" for count in counts) for counts in cores]
        rows.append((rate.device, rate.basis, f"{rate.clips_per_second:.4g}", *shown))
    return table(("device", "its rate is", "clips/s", *(profile.profile for profile in profiles)), rows)


def _show(value: float) -> str:
    """Two digits of what is below 10, whole numbers above: no more than a measurement is worth.

    >>> [_show(value) for value in (0.1234, 7.87, 15.4, 5333.3)]
    ['0.12', '7.9', '15', '5,333']
    """
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2g}"


def describe_basis(figures: Measurements, recipe: Recipe, means: Means) -> str:
    """What a plan rests on: assumptions, and the commands that measured its `figures`."""
    counts = ", ".join(map(str, means.gpus))
    shares = ", ".join(str(recipe.batch_size // count) for count in means.gpus)
    samples = "; ".join(dict.fromkeys(record.note for record in figures.packing if record.note))
    assumptions = [
        f"the recipe's {recipe.epochs} epochs in batches of {recipe.batch_size}; validation is not in the hours",
        "videos as long and as large as those of the measured sample" + (f" ({samples})" if samples else ""),
        "GB, packing and first step: training and validation videos; the originals and fetching them come on top",
        "packing and loading: linear over cores, each as fast as one of those that were measured",
        f"training: linear over devices, though the batch leaves each of {counts} GPUs {shares} clips a step",
        f"hours: of GPUs that never wait; cores: of a loader that lets them wait {means.max_stall:.0%} of the time on "
        "average, with no reserve for busy moments",
        "the loader decodes, scales and crops on the CPU; what a GPU that decodes would save was not measured",
        f"first step: {means.first_batch_seconds:g} s after packing, with the first batch; the start of Python and of "
        "DeepSpeed comes on top",
    ]
    subjects = [
        *(("packing", record) for record in figures.packing),
        *(("loading", record) for record in figures.loading),
        *((f"training on {record.device}", record) for record in figures.training),
        *((f"first batch of {record.videos:,} videos", record) for record in figures.first_batch),
    ]
    sources: dict[str, dict[str, None]] = {}
    for subject, record in subjects:
        sources.setdefault(f"{record.command} ({record.machine}; {record.date})", {})[subject] = None
    measured = [f"{', '.join(names)}: {source}" for source, names in sources.items()]
    sections = {"Assumed": assumptions, "Measured, and used where nothing is given": measured}
    return "\n".join("\n- ".join([title, *lines]) for title, lines in sections.items())


def draw_costs(costs: Sequence[Cost], gpus: Sequence[int], path: Path) -> Path:
    """Draws the hours of training over the number of GPUs, a plot a dataset, and the GB of each profile."""
    size = (4.6 * (len(costs) + 1), 4.2)
    picture, plots = plt.subplots(1, len(costs) + 1, figsize=size, constrained_layout=True)
    *hours, storage = plots
    for axes, cost in zip(hours, costs):
        for trained in cost.training:
            rate = trained.rate
            label = f"{rate.device}, {rate.clips_per_second:.4g} clips/s, {rate.basis}"
            if rate.kind == "cpu":  # to compare with; nobody asks for 64 of them
                axes.plot(1, trained.device_hours, "k*", markersize=9, label=label)
            else:
                axes.plot(gpus, trained.hours, "--" if rate.basis == ASSUMED else "-", marker=".", label=label)
        axes.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="hours of training")
        axes.set_title(f"{cost.dataset.name}, {cost.clips / 1e6:,.1f} million clips", fontsize=11)
        axes.set_xticks(gpus, [str(count) for count in gpus])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    width = 0.8 / len(costs)
    for place, cost in enumerate(costs):
        left = (place - (len(costs) - 1) / 2) * width
        places = [index + left for index in range(len(cost.profiles))]
        bars = storage.bar(places, [profile.gigabytes for profile in cost.profiles], width, label=cost.dataset.name)
        storage.bar_label(bars, fmt="{:,.0f}", fontsize=8)
    names = [profile.rates.profile for profile in costs[0].profiles]
    storage.set_xticks(range(len(names)), names)
    storage.set(ylabel="GB")
    storage.set_title("both splits packed", fontsize=11)
    storage.legend(fontsize=8)
    storage.grid(alpha=0.3, axis="y")
    return save(picture, path)


def _check_numbers(values: object, subject: str = "") -> None:
    """Raises UserError for a number of a dataclass that is not above 0 and finite."""
    for field in fields(values):
        value = getattr(values, field.name)
        if isinstance(value, int | float) and not 0 < value < math.inf:
            raise UserError(f"{subject}{field.name} {value:g}: use a number above 0")
