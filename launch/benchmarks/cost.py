"""`launch/benchmark.py cost`: what training on Kinetics costs in disk, hours of packing, GPU-hours and loader cores.

Hours are epochs x clips / (clips a second), and disk is videos x (kB a video). The rates are those of BENCHMARKS.md.
"""

import math
from dataclasses import dataclass, replace

from launch.benchmarks.options import CostOptions, find_recipe
from launch.benchmarks.report import table
from launch.training.config import Config
from launch.training.config_parser import parse_config
from sharding.errors import UserError

MACHINE = "2 cores of an AMD EPYC, 24 GiB, no GPU; torch 2.15.0, DALI 2.4.0, PyAV 18.1.0; 2026-11-20"


@dataclass(frozen=True)
class Profile:
    """Packing under one profile, and the loader on its shards, which decodes, scales and crops on the CPU."""

    name: str
    kilobytes_per_video: float
    core_seconds_per_video: float  # of packing
    clips_per_core_second: float  # of the loader


# python launch/benchmark.py advise --videos DIR --num_videos 260000, on MACHINE: the table under "Packing".
PROFILES = (
    Profile("h264", 502, 0.218, 95.0),
    Profile("jpeg", 1101, 0.119, 107.0),
    Profile("dense", 809, 0.426, 61.0),
    Profile("copy", 727, 0.0776, 13.0),
)
LOADED = "8 segments, short side 256, crop 224"
# Clips a second of training steps by recipe and device; python launch/benchmark.py step --batch_size 2 --rounds 9.
# With a GPU the rate of training on h264 shards; python launch/benchmark.py gpu.
STEPS = {
    ("vpsn-50, clips of 8 x 224 x 224, bf16", device): rate
    for device, rate in (("one H200, 16 cores", 454), ("one H100, 16 cores", 394), ("2 cores of an AMD EPYC", 2.275))
}


@dataclass(frozen=True)
class Rate:
    """Clips that one device trains on in a second."""

    device: str
    basis: str  # measured, given, or assumed
    clips_per_second: float

    @property
    def cells(self) -> tuple[str, str, str]:
        return self.device, self.basis, f"{self.clips_per_second:.4g}"


def cost(options: CostOptions) -> None:
    """Print the tables of `launch/benchmark.py cost`."""
    loading, config = options.loader_clips_per_second, parse_config("cost", [f"--config={find_recipe(options.config)}"])
    if not options.datasets:
        raise UserError("--datasets={}: give training and validation videos by name, as {mine: [5000, 500]}")
    recipe, train = describe_training(config), config.train
    rates = choose_rates(recipe, options.clips_per_second)
    profiles = choose_profiles(describe_loading(config), loading)
    print(f"{recipe}; {train.epochs} epochs in batches of {train.batch_size}")
    for name, (train_videos, val_videos) in options.datasets.items():
        clips = count_clips(config, name, train_videos)
        print(f"\n{name}: {train_videos:,} training and {val_videos:,} validation videos, {clips:,} clips")
        print(disk_table(profiles, train_videos + val_videos, clips))
        print(f"\n{training_table(rates, clips, options.gpus)}")
    print(f"\nCPU cores for each GPU, for a loader as fast as training\n{loader_table(profiles, rates)}")
    print(f"\n{describe_inputs(rates, loading)}")


def describe_training(config: Config) -> str:
    """Return what decides how fast a device trains.

    Raises:
        UserError: the configuration has phases, whose clips are of several lengths, while a rate holds for one.
    """
    if config.phases:
        raise UserError("--config: a run of phases has clips of several lengths; give the configuration of one phase")
    data, model = config.data, config.model
    network = f"{model.arch}-{model.depth}" + ("" if model.head == "mean" else f", {model.head}")
    return f"{network}, clips of {data.frames_per_clip} x {data.crop_size} x {data.crop_size}, {config.train.precision}"


def describe_loading(config: Config) -> str:
    """Return what decides how fast clips are loaded."""
    data = config.data
    frames = "segments" if data.sampling == "segments" else f"frames, stride {data.frame_stride}"
    colors = ", changed colours" if data.changes_color else ""
    return f"{data.frames_per_clip} {frames}, short side {data.short_side}, crop {data.crop_size}{colors}"


def choose_rates(recipe: str, given: tuple[float, ...]) -> list[Rate]:
    """Return the given rates of a GPU, or assumed ones, and those that were measured of the recipe."""
    gpus = [Rate("a GPU", "given" if given else "assumed", rate) for rate in given or (100.0, 200.0, 400.0, 800.0)]
    return gpus + [Rate(device, "measured", rate) for (of, device), rate in STEPS.items() if of == recipe]


def choose_profiles(loading: str, given: dict[str, float]) -> list[Profile]:
    """Return the profiles with their loader's rate, a given one before the measured one.

    Raises:
        UserError: a profile that is unknown, or whose loading was neither measured with such clips nor given.
    """
    names = ", ".join(profile.name for profile in PROFILES)
    if unknown := sorted(set(given) - {profile.name for profile in PROFILES}):
        raise UserError(f"--loader-clips-per-second {', '.join(unknown)}: known profiles are {names}")
    chosen = [profile for profile in PROFILES if profile.name in given or loading == LOADED]
    if not chosen:
        raise UserError(
            f"--config: loading was measured for {LOADED}, not for {loading}; give --loader-clips-per-second "
            "'{h264: RATE}' of one core, as `benchmark.py loader` measures it"
        )
    return [replace(p, clips_per_core_second=given.get(p.name, p.clips_per_core_second)) for p in chosen]


def count_clips(config: Config, name: str, train_videos: int) -> int:
    """Return the clips that training sees: an incomplete last batch of an epoch is left out.

    Raises:
        UserError: the videos do not fill one batch.
    """
    batch_size = config.train.batch_size
    if train_videos < batch_size:
        raise UserError(f"--datasets: {name}: {train_videos} training videos do not fill a batch of {batch_size}")
    return config.train.epochs * (train_videos // batch_size) * batch_size


def disk_table(profiles: list[Profile], videos: int, clips: int) -> str:
    """Return GB and hours of packing all videos, and hours of loading all clips, by profile."""
    head = ("profile", "kB/video", "GB", "core-hours to pack", "clips/s loaded a core", "core-hours to load")
    rows = [
        (
            profile.name,
            f"{profile.kilobytes_per_video:,.0f}",
            _show(profile.kilobytes_per_video * videos / 1e6),
            _show(profile.core_seconds_per_video * videos / 3600),
            _show(profile.clips_per_core_second),
            _show(clips / profile.clips_per_core_second / 3600),
        )
        for profile in profiles
    ]
    return table(head, rows)


def training_table(rates: list[Rate], clips: int, gpus: tuple[int, ...]) -> str:
    """Return device-hours, and hours on so many devices, by rate."""
    hours = [[_show(clips / rate.clips_per_second / number / 3600) for number in (1, *gpus)] for rate in rates]
    rows = [(*rate.cells, *row) for rate, row in zip(rates, hours)]
    return table(("device", "its rate is", "clips/s", "device-hours", *(f"hours on {n}" for n in gpus)), rows)


def loader_table(profiles: list[Profile], rates: list[Rate]) -> str:
    """Return the cores that load as many clips as one device trains on, by rate and profile."""
    cores = [[math.ceil(rate.clips_per_second / p.clips_per_core_second) for p in profiles] for rate in rates]
    rows = [(*rate.cells, *row) for rate, row in zip(rates, cores)]
    return table(("device", "its rate is", "clips/s", *(profile.name for profile in profiles)), rows)


def describe_inputs(rates: list[Rate], loading_given: dict[str, float]) -> str:
    """Return a line for each input: whether it was measured, and on what, or assumed."""
    bases = {rate.basis for rate in rates}
    sources = {
        "assumed": "assumed: clips/s of other GPUs",
        "given": "given: clips/s of a GPU",
        "measured": f"measured: clips/s of {'; '.join(device for _, device in STEPS)} (BENCHMARKS.md)",
    }
    lines = [f"measured: kB, packing{'' if loading_given else ' and loading'} of 4 videos of 716 kB ({MACHINE})"]
    lines += [f"given: loading under {', '.join(loading_given)}"] if loading_given else []
    lines += [line for basis, line in sources.items() if basis in bases]
    lines.append("assumed: videos like those measured; time falls linearly with cores and GPUs; GPUs never wait")
    return "\n".join(lines)


def _show(value: float) -> str:
    """Return two digits of what is below 10, integers above: no more than a measurement is worth.

    >>> [_show(value) for value in (0.1234, 7.87, 15.4, 5333.3)]
    ['0.12', '7.9', '15', '5,333']
    """
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2g}"
