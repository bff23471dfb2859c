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

from launch.benchmarks.cost import Cost, Means, choose_figures, choose_rates, describe_recipe
from launch.benchmarks.cost_report import describe_basis, describe_costs, draw_costs
from launch.benchmarks.loader_stages import measure_first_batch
from launch.benchmarks.measurements import (
    FirstBatch,
    Measurements,
    Profile,
    Training,
    load_measurements,
    write_measurements,
)
from launch.benchmarks.options import PlanOptions
from launch.benchmarks.packing_profiles import choose_sample, measure_candidates
from launch.benchmarks.report import conditions, processor
from launch.benchmarks.sampler_scale import write_large_dataset
from launch.benchmarks.train_step import measure_steps
from launch.inference.pack_files import collect_videos, pack_files
from launch.training.config import Config, parse_config
from model import build_model
from sharding.errors import UserError
from sharding.files import check_writable


def plan(options: PlanOptions) -> None:
    """Print what training costs, from measured figures that are measured first if the options say so."""
    recipe_config = parse_config("launch/benchmark.py plan", [f"--config={options.config}"])
    recipe = describe_recipe(recipe_config)
    if not options.datasets:
        raise UserError("--datasets: none; give training and validation videos by name, as {mine: [5000, 500]}")
    if options.videos is not None and not options.measure:
        raise UserError(f"--videos {options.videos}: it is for --measure; give that too")
    if options.out is not None:
        check_writable(options.out)
    if options.measure:
        check_writable(options.measurements)
        known = load_measurements(options.measurements) if options.measurements.exists() else Measurements()
        found = [] if options.videos is None else choose_sample(collect_videos([str(options.videos)]), options.sample)
        training = (*known.training, _measure_training(recipe_config, options.step_batch_size, options.rounds))
        profiles, first_batch = known.profiles, known.first_batch
        if found:
            profiles += _measure_profiles(recipe_config, found, options.workers, options.seconds, options.batch_size)
            most = max(train_videos for train_videos, _ in options.datasets.values())
            first_batch += (_measure_first_batch(recipe_config, found, most, options.batch_size),)
        write_measurements(options.measurements, Measurements(profiles, training, first_batch))
        print(f"measured into {options.measurements}\n")
    figures = choose_figures(load_measurements(options.measurements), recipe, str(options.measurements))
    rates = choose_rates(
        figures, options.gpu_clips_per_second, options.cpu_clips_per_second, options.assumed_clips_per_second
    )
    means = Means(recipe, figures, rates, options.workers, options.gpus, options.max_stall)
    costs = [Cost(means, name, *counts) for name, counts in options.datasets.items()]
    print(f"{describe_costs(means, costs)}\n\n{describe_basis(means)}")
    if options.out is not None:
        print(f"picture: {draw_costs(means, costs, options.out)}")


def _measure_training(config: Config, batch_size: int, rounds: int) -> Training:
    """Times training steps of the recipe's network on this device."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net, side = replace(config.model, pretrained=None), config.data.crop_size
    shape = (batch_size, config.data.num_segments, 3, side, side)
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
