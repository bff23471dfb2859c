"""`launch/benchmark.py plan`: what training on Kinetics costs, and the measurements that it is reckoned from."""

import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch
from jsonargparse.typing import NonNegativeInt, OpenUnitInterval, PositiveInt

from launch.benchmarks.cost import Cost, Means, choose_figures, choose_rates, describe_recipe
from launch.benchmarks.cost_report import describe_basis, describe_costs, draw_costs
from launch.benchmarks.loader_stages import measure_first_batch
from launch.benchmarks.measurements import (
    FirstBatch,
    Measurements,
    Positive,
    Profile,
    Training,
    load_measurements,
    write_measurements,
)
from launch.benchmarks.packing_profiles import choose_sample, measure_candidates
from launch.benchmarks.report import conditions, processor
from launch.benchmarks.sampler_scale import write_large_dataset
from launch.benchmarks.train_step import measure_steps
from launch.inference.pack_files import collect_videos, pack_files
from launch.training.config import Config, parse_config
from model import build_model
from sharding.errors import UserError
from sharding.files import check_writable

KINETICS = {"Kinetics-400": (240_000, 20_000), "Kinetics-700": (545_000, 35_000)}


def plan(
    measurements: Path = Path("docs/measurements.json"),
    config: Path = Path("launch/configs/kinetics400_8f.yaml"),
    datasets: dict[str, tuple[PositiveInt, NonNegativeInt]] = KINETICS,
    gpus: tuple[PositiveInt, ...] = (1, 8, 64),
    workers: int = os.cpu_count() or 1,
    max_stall: OpenUnitInterval = 0.02,
    gpu_clips_per_second: float | None = None,
    cpu_clips_per_second: float | None = None,
    assumed_clips_per_second: tuple[Positive, ...] = (100.0, 200.0, 400.0, 800.0),
    out: Path | None = None,
    measure: bool = False,
    videos: Path | None = None,
    sample: int = 24,
    seconds: float = 10.0,
    batch_size: int = 8,
    step_batch_size: int = 2,
    rounds: int = 9,
) -> None:
    """Reckons from measured figures what training on Kinetics costs: GB, hours of packing, GPU-hours, loader cores.

    Args:
        measurements: File of measurements.
        config: Recipe: epochs, batch size, network, clips, precision.
        datasets: Training and validation videos by name. Kinetics-700 without its 70,000 test videos.
        gpus: Numbers of GPUs to train on.
        workers: Processes that pack.
        max_stall: Share of the time that training may wait for the loader.
        gpu_clips_per_second: Clips that one GPU trains on, in place of what was measured.
        cpu_clips_per_second: Clips that all cores of one machine train on, in place of what was measured.
        assumed_clips_per_second: Rates to assume of a GPU where none was measured or given.
        out: Picture to draw, NAME.png.
        measure: First measure what this machine can, and put it into the file of measurements.
        videos: With --measure, folder of videos to pack and load; without it only training steps are measured.
        sample: With --measure, how many of them, chosen at random.
        seconds: With --measure, how long to load each profile.
        batch_size: With --measure, clips per loaded batch.
        step_batch_size: With --measure, clips per training step; on a GPU as many as it holds.
        rounds: With --measure, training steps to time.
    """
    options = parse_config("launch/benchmark.py plan", [f"--config={config}"])
    recipe = describe_recipe(options)
    if not datasets:
        raise UserError("--datasets: none; give training and validation videos by name, as {mine: [5000, 500]}")
    if videos is not None and not measure:
        raise UserError(f"--videos {videos}: it is for --measure; give that too")
    if out is not None:
        check_writable(out)
    if measure:
        check_writable(measurements)
        known = load_measurements(measurements) if measurements.exists() else Measurements()
        found = [] if videos is None else choose_sample(collect_videos([str(videos)]), sample)
        training = (*known.training, _measure_training(options, step_batch_size, rounds))
        profiles, first_batch = known.profiles, known.first_batch
        if found:
            profiles += _measure_profiles(options, found, workers, seconds, batch_size)
            most = max(train_videos for train_videos, _ in datasets.values())
            first_batch += (_measure_first_batch(options, found, most, batch_size),)
        write_measurements(measurements, Measurements(profiles, training, first_batch))
        print(f"measured into {measurements}\n")
    figures = choose_figures(load_measurements(measurements), recipe, str(measurements))
    rates = choose_rates(figures, gpu_clips_per_second, cpu_clips_per_second, assumed_clips_per_second)
    means = Means(recipe, figures, rates, workers, gpus, max_stall)
    costs = [Cost(means, name, *counts) for name, counts in datasets.items()]
    print(f"{describe_costs(means, costs)}\n\n{describe_basis(means)}")
    if out is not None:
        print(f"picture: {draw_costs(means, costs, out)}")


def _measure_training(config: Config, batch_size: int, rounds: int) -> Training:
    """Times training steps of the recipe's network on this device."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net, side = replace(config.model, pretrained=None), config.data.crop_size
    shape = (batch_size, config.data.frames_per_clip, 3, side, side)
    speed = measure_steps({"net": lambda: build_model(net)}, shape, device, config.train.precision, rounds)["net"]
    on_gpu = device.type == "cuda"
    return Training(
        kind="gpu" if on_gpu else "cpu",
        device=torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} cores of {processor()}",
        recipe=describe_recipe(config).training,
        clips_per_second=round(speed.clips_per_second, 3),
        note=f"median of {rounds} steps of {batch_size} clips, spread {speed.spread:.0%}",
        **_circumstances(),
    )


def _measure_profiles(
    config: Config, videos: Sequence[Path], workers: int, seconds: float, batch_size: int
) -> tuple[Profile, ...]:
    """Packs and loads a sample under each profile."""
    cores = config.data.num_workers or os.cpu_count() or 1
    size = sum(path.stat().st_size for path in videos) / len(videos) / 1e3
    profiles = []
    for candidate in measure_candidates(videos, 1, config.data, workers, seconds, batch_size):
        core_seconds = round(candidate.packing_hours * 3600 * workers, 4)
        if not core_seconds:
            reason = "packing the sample took no longer than its start"
            raise UserError(f"{candidate.profile}: {reason}; use more or longer --videos, and a larger --sample")
        profiles.append(
            Profile(
                profile=candidate.profile,
                recipe=describe_recipe(config).loading,
                kilobytes_per_video=round(candidate.bytes_per_video / 1e3, 1),
                core_seconds_per_video=core_seconds,
                clips_per_core_second=round(candidate.clips_per_second / cores, 3),
                note=f"{len(videos)} videos of {size:,.0f} kB on average, {workers} workers, batches of {batch_size}",
                **_circumstances(),
            )
        )
    return tuple(profiles)


def _measure_first_batch(config: Config, videos: Sequence[Path], num_videos: int, batch_size: int) -> FirstBatch:
    """Opens a split of `num_videos`, the same few over and over, and loads its first batch."""
    with tempfile.TemporaryDirectory(prefix="vpsn-benchmark-") as folder:
        packed, _ = pack_files(videos, Path(folder))
        large = write_large_dataset(packed, Path(folder) / "large", num_videos)
        first = measure_first_batch(large, config.data, batch_size)
    seconds = round(first.open_seconds + first.batch_seconds, 3)
    return FirstBatch(videos=num_videos, seconds=seconds, **_circumstances())


def _circumstances() -> dict[str, str]:
    """The fields that every measurement has."""
    command = shlex.join(["python", *sys.argv])
    return {"command": command, "machine": conditions(), "date": date.today().isoformat()}
