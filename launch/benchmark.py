"""Measurements, each with its conditions beside it.

    python launch/benchmark.py advise --videos DIR      # which profile to pack these videos under
    python launch/benchmark.py pack   --videos DIR      # packing against ffmpeg and tar
    python launch/benchmark.py loader --data DIR        # the loader stage by stage: what binds it, and what to change
    python launch/benchmark.py scale                    # the plan of millions of samples and a thousand ranks
    python launch/benchmark.py step                     # training steps of the architectures, against plain TSN
    python launch/benchmark.py ranks --data DIR         # training with one and with two ranks
    python launch/benchmark.py cost                     # what training on Kinetics costs, from measured figures

Figures hold for this machine at this moment; compare those of one run.
"""

import math
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from inspect import signature
from pathlib import Path

import torch
from torch import nn

from launch.benchmarks.conv3d_reference import build_conv3d_reference
from launch.benchmarks.cost import cost
from launch.benchmarks.loader import loader
from launch.benchmarks.loader_stages import measure_first_batch
from launch.benchmarks.packing import measure_memory, measure_pack, measure_planning
from launch.benchmarks.packing_profiles import HEADROOM, choose_sample, measure_candidates, recommend
from launch.benchmarks.report import conditions, table
from launch.benchmarks.sampler_scale import measure_plan, measure_randomness, write_large_dataset
from launch.benchmarks.scaling import measure_ranks
from launch.benchmarks.train_step import measure_step_memory, measure_steps
from launch.inference.pack_files import find_videos
from model import ModelConfig, build_model
from model.config import Depth
from pipeline.config import DataConfig
from sharding.cli import CommandLine, run_command
from sharding.errors import UserError


def advise(
    videos: Path,
    sample: int = 24,
    workers: int = os.cpu_count() or 1,
    num_segments: int = 8,
    crop_size: int = 224,
    seconds: float = 10.0,
    batch_size: int = 8,
    num_videos: int | None = None,
    clips_per_second: float | None = None,
) -> None:
    """Packs a sample of your videos under every profile, loads it as training does, and recommends a profile.

    Args:
        videos: Folder that holds the videos, at any depth.
        sample: How many of them to try, chosen at random.
        workers: Processes that pack.
        num_segments: Frames per clip.
        crop_size: Side of the crop in pixels.
        seconds: How long to load each.
        batch_size: Clips per batch.
        num_videos: Videos in the whole dataset; by default as many as are found.
        clips_per_second: What the network takes in training; by default VPSN-50 is measured on this device.
    """
    found = find_videos(videos) if videos.is_dir() else []
    if not found:
        raise UserError(f"--videos {videos}: no video files in it")
    chosen = choose_sample(found, sample)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = (batch_size if device.type == "cuda" else 1, num_segments, 3, crop_size, crop_size)
    if clips_per_second is None:
        config = ModelConfig(num_segments=num_segments)
        clips_per_second = measure_steps({"vpsn": lambda: build_model(config)}, shape, device)["vpsn"].clips_per_second
    data = DataConfig(num_segments=num_segments, crop_size=crop_size, short_side=max(256, crop_size))
    candidates = measure_candidates(chosen, num_videos or len(found), data, workers, seconds, batch_size)
    rows = [
        (
            candidate.profile,
            f"{candidate.bytes_per_video / 1e3:.0f}",
            f"{candidate.total_bytes / 1e9:.2f}",
            f"{candidate.packing_hours:.2f}",
            f"{candidate.clips_per_second:.1f}",
        )
        for candidate in candidates
    ]
    print(f"{len(chosen)} of {len(found)} videos, for {num_videos or len(found):,}; {conditions()}")
    print(table(("profile", "kB/video", "GB in all", f"hours to pack, {workers} workers", "clips/s loaded"), rows))
    best = recommend(candidates, clips_per_second)
    keeps_up = best.clips_per_second >= HEADROOM * clips_per_second
    reason = f"the smallest that loads {HEADROOM} times as fast" if keeps_up else "none keeps up, and it is the fastest"
    print(f"training takes {clips_per_second:.1f} clips/s; recommended: --profile {best.profile} ({reason})")


def pack(
    videos: Path, workers: int = os.cpu_count() or 1, copies: int = 1, rounds: int = 3, records: int = 1_000_000
) -> None:
    """Packs videos, and lets ffmpeg and tar do the same work, in turns; also planning, and memory.

    Args:
        videos: Folder that holds the videos, at any depth.
        workers: Processes, ours and ffmpeg's.
        copies: Take each video so many times.
        rounds: How often to measure each.
        records: Videos in the list whose planning is measured.
    """
    found = find_videos(videos) if videos.is_dir() else []
    if not found:
        raise UserError(f"--videos {videos}: no video files in it")
    rows = [
        (
            f"{speed.profile} / {speed.other}",
            f"{speed.source_frames / speed.ours_seconds:.0f}",
            f"{speed.source_bytes / speed.ours_seconds / 1e6:.1f}",
            f"{speed.ours_seconds:.2f} / {speed.others_seconds:.2f}",
            f"{speed.ratio:.2f}",
            f"{speed.spread:.2f}",
        )
        for speed in measure_pack(found * copies, workers, rounds)
    ]
    print(f"{len(found) * copies} videos, {workers} processes, {rounds} rounds; {conditions()}")
    print(table(("", "source frames/s", "MB/s", "seconds", "ratio", "spread"), rows))
    few, many = measure_memory(found, (1, 5))
    print(
        f"peak memory of a process, one worker: {few.peak_bytes / 1e6:.0f} MB for {len(found)} videos, "
        f"{many.peak_bytes / 1e6:.0f} MB for {5 * len(found)}"
    )
    cost = measure_planning(records)
    print(f"planning {records:,} records: {cost.seconds:.1f} s, {cost.peak_bytes / 1e9:.2f} GB")


def scale(
    samples: int = 10_000_000,
    ranks: int = 1024,
    batch_per_rank: int = 8,
    data: Path | None = None,
    first_batch_samples: int = 1_000_000,
) -> None:
    """Plans an epoch for more samples and ranks than are at hand, and says what a block shuffle costs in randomness.

    Args:
        samples: Samples of the dataset.
        ranks: Ranks that share it.
        batch_per_rank: Clips of a rank in a step.
        data: A small packed split. With it, also how long a dataset of its shards over and over takes to its first
            batch.
        first_batch_samples: Samples of that dataset.
    """
    print(f"{samples:,} samples, {ranks:,} ranks x {batch_per_rank}; {conditions()}")
    orders = {"global": DataConfig()}
    for shards in (4, 16):
        config = DataConfig(shuffle="block", shuffle_block_shards=shards, shuffle_streams=64)
        orders[f"block, {shards} shards, 64 streams"] = config
    rows = []
    for name, config in orders.items():
        cost = measure_plan(samples, ranks, batch_per_rank, config)
        mixed = measure_randomness(samples, ranks, batch_per_rank, config)
        rows.append(
            (
                name,
                f"{cost.order_seconds:.2f}",
                f"{cost.step_seconds * 1e3:.2f}",
                f"{cost.order_bytes / 1e6:.0f}",
                f"{mixed.spread:.2f}",
                f"{mixed.pair_recurrence:.2f}",
                mixed.shards_read,
            )
        )
    head = ("shuffle", "s/epoch", "ms/step", "MB", "spread", "pair_recurrence", "shards in 100 steps of a rank")
    print(table(head, rows))
    if data is not None:
        with tempfile.TemporaryDirectory(prefix="vpsn-benchmark-") as folder:
            large = write_large_dataset(data, Path(folder) / "large", first_batch_samples)
            first = measure_first_batch(large, DataConfig(), 8)
        total = first.open_seconds + first.batch_seconds
        print(
            f"first batch of {first_batch_samples:,} samples: {total:.2f} s "
            f"({first.open_seconds:.2f} to open, {first.batch_seconds:.2f} to the batch)"
        )


def step(
    archs: tuple[str, ...] = ("tsn", "vpsn"),
    depth: Depth = 50,
    num_segments: int = 8,
    size: int = 224,
    batch_size: int = 2,
    precision: str = "bf16",
    rounds: int = 5,
    usual: bool = False,
) -> None:
    """Training steps on random clips, of several architectures in turns; the first is the measure of the others.

    Args:
        archs: Architectures.
        depth: Layers of the ResNet.
        num_segments: Frames per clip.
        size: Side of the frames in pixels.
        batch_size: Clips per step.
        precision: bf16, fp16 or fp32.
        rounds: Measured steps of each.
        usual: Also tsn and vpsn as they are usually written, on volumes with channels first.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    configs = {arch: ModelConfig(arch=arch, depth=depth, num_segments=num_segments) for arch in archs}
    nets: dict[str, Callable[[], nn.Module]] = {arch: partial(build_model, config) for arch, config in configs.items()}
    if usual:
        nets |= {
            f"{arch}_usual": partial(build_conv3d_reference, configs[arch])
            for arch in ("tsn", "vpsn")
            if arch in configs
        }
    shape = (batch_size, num_segments, 3, size, size)
    peaks = [measure_step_memory(make, shape, device, precision) for make in nets.values()]
    first_peak = peaks[0]
    speeds = measure_steps(nets, shape, device, precision, rounds)
    first = speeds[archs[0]]
    rows = [
        (
            f"{arch}-{depth}",
            f"{speed.seconds * 1e3:.0f}",
            f"{speed.spread:.0%}",
            f"{speed.clips_per_second:.2f}",
            f"{speed.seconds / first.seconds:.3f}",
            *(("-", "-") if not peak or not first_peak else (f"{peak / 1e6:.0f}", f"{peak / first_peak:.3f}")),
        )
        for (arch, speed), peak in zip(speeds.items(), peaks)
    ]
    print(f"{batch_size} x {num_segments} x {size} x {size}, {precision}, {rounds} steps each; {conditions()}")
    head = ("", "ms/step", "spread", "clips/s", f"time / {archs[0]}", "MB at most", f"memory / {archs[0]}")
    print(table(head, rows))


def ranks(
    data: Path, config: Path = Path("launch/configs/demo.yaml"), numbers: tuple[int, ...] = (1, 2), rounds: int = 1
) -> None:
    """Trains an epoch with each number of ranks on this machine, and says how much faster more of them are.

    Args:
        data: A packed training split.
        config: Recipe to train.
        numbers: Numbers of ranks. On a CPU each rank gets the share of the cores that it has with the largest.
        rounds: How often to train with each.
    """
    speeds = measure_ranks(config, data, numbers, rounds)
    rows = [
        (
            speed.ranks,
            f"{speed.clips_per_second:.1f}",
            f"{speed.clips_per_second / speeds[0].clips_per_second:.2f}",
            f"{speed.loading_share:.1%}",
        )
        for speed in speeds
    ]
    print(f"{config}, {rounds} epoch(s) each; {conditions()}")
    print(table(("ranks", "clips/s", f"/ {numbers[0]} rank(s)", "waiting for data"), rows))


COMMANDS = {command.__name__: command for command in (advise, pack, loader, scale, step, ranks, cost)}


def main(arguments: list[str] | None = None) -> None:
    parser = CommandLine(prog="launch/benchmark.py", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subcommands(required=True, dest="command")
    for name, function in COMMANDS.items():
        summary = (function.__doc__ or "").splitlines()[0]
        subparser = CommandLine(description=summary)
        subparser.add_function_arguments(function, as_group=False)
        commands.add_subcommand(name, subparser, help=summary)
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(arguments)
    values = options[options.command].as_dict()
    _check_numbers(options.command, values)
    COMMANDS[options.command](**values)


def _check_numbers(command: str, values: dict[str, object]) -> None:
    """Raises UserError for a number that is endless, below 0, or 0 where that is not the default.

    Some would be measured forever.
    """
    defaults = {name: parameter.default for name, parameter in signature(COMMANDS[command]).parameters.items()}
    for name, value in values.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        if not 0 <= value < math.inf or (value == 0 and defaults[name] != 0):
            allowed = "0 or more" if defaults[name] == 0 else "more than 0"
            raise UserError(f"--{name} {value:g}: use {allowed}" + ("" if math.isfinite(value) else ", and finite"))


if __name__ == "__main__":
    run_command(main, "launch/benchmark.py")
