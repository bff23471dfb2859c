"""What keeps the loader from being faster: every stage by itself, what the network takes, and what to change."""

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from launch.benchmarks.loader_cost import (
    LoaderCost,
    extrapolate,
    measure_cost,
    measure_scaling,
    proportional_memory,
)
from launch.benchmarks.loader_stages import LoaderStep, measure_loader, measure_stages
from launch.benchmarks.options import LoaderOptions
from launch.benchmarks.other_loaders import measure_other_loader, prepare, stored_bytes
from launch.benchmarks.report import conditions, table
from launch.benchmarks.train_step import measure_steps
from launch.training.config import Config
from launch.training.config_parser import parse_config
from model import build_model
from pipeline.config import DataConfig
from pipeline.dataset import open_dataset
from pipeline.decode_speeds import write_speeds
from pipeline.decoders import working_decoders
from pipeline.loader import VideoLoader
from sharding.dataset import PackedDataset
from sharding.errors import UserError
from sharding.memory import used_memory

BATCH_SIZE = 8
"""Clips per batch where no recipe is given."""

_STALL = 1.2
"""A loader that gives so many times what the network takes is fast enough; machines have busy moments."""

_REMEDIES = {
    "plan": "it is one process of Python; use more data.num_workers",
    "read": "put the shards on a faster disk, use more data.num_workers, or shuffle in blocks (data.shuffle=block)",
    "workers": "pack under a profile that decodes faster (`benchmark.py advise` measures them), or use more cores",
    "graph": "store frames at data.short_side, so that none need be scaled, or use more cores",
    "copy": "it is the bus between host and GPU: let the GPU decode (data.decoder=nvjpeg)",
}


def loader(options: LoaderOptions) -> None:
    """Print the speed of each stage of the loader, of all together and of the network, and which one binds."""
    recipe = Config()
    if options.config is not None:
        recipe = parse_config("launch/benchmark.py loader", [f"--config={options.config}"])
    location = options.data or recipe.data.train
    if location is None:
        raise UserError("--data is required: the folder of a packed split, or a --config that names one as data.train")
    dataset = open_dataset(location, recipe.data.cache_dir, recipe.data.cache_bytes)
    config = _data_config(options, recipe.data)
    batch_size = options.batch_size or (recipe.train.micro_batch_size or recipe.train.batch_size)
    if options.config is None:
        batch_size = options.batch_size or BATCH_SIZE
    batch_size = min(batch_size, len(dataset.kept))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{dataset}; {conditions()}")
    if options.compare_with:
        _compare(dataset, config, batch_size, options, device)
        return
    if options.epochs:
        _watch_memory(dataset, config, batch_size, options.epochs)
        return
    network = options.clips_per_second
    if network is None:
        size, frames = config.crop_size, config.frames_per_clip
        shape = (batch_size if device.type == "cuda" else 1, frames, 3, size, size)
        net = replace(recipe.model.without_files(), num_segments=frames)
        network = measure_steps({"net": lambda: build_model(net)}, shape, device)["net"].clips_per_second
    speeds = {}
    decoders, reasons = working_decoders(dataset, device)
    for decoder, reason in reasons.items():
        print(f"\ndecode node {decoder} is left out: {reason}")
    for decoder in decoders:
        chosen = replace(config, decoder=decoder)
        speeds[decoder] = _examine(dataset, chosen, batch_size, options.seconds, device, network)
        if options.scaling:
            rates = measure_scaling(dataset, chosen, decoder, batch_size, options.seconds, options.rounds)
            print(describe_scaling(rates))
    if len(speeds) > 1:
        fastest = max(speeds, key=speeds.__getitem__)
        print(f"data.decoder=auto takes {fastest} from now on: {_record(dataset, device, speeds)}")


def _data_config(options: LoaderOptions, recipe: DataConfig) -> DataConfig:
    """Return the recipe's clips, with the options that were given."""
    given = {"num_segments": options.num_segments, "crop_size": options.crop_size, "short_side": options.short_side}
    given["num_workers"] = options.threads or None
    if options.short_side is None and (options.crop_size or 0) > recipe.short_side:
        given["short_side"] = options.crop_size
    try:
        return replace(recipe, **{name: value for name, value in given.items() if value is not None})
    except ValueError as error:
        raise UserError(str(error)) from error


def _examine(
    dataset: PackedDataset, config: DataConfig, batch_size: int, seconds: float, device: torch.device, network: float
) -> float:
    """Print the stages of one decode node; return the clips per second of them together."""
    stages = measure_stages(dataset, config, config.decoder, batch_size, seconds, device)
    speed = measure_loader(dataset, config, batch_size, seconds, device)
    together = LoaderStep("together", speed.clips_per_second, speed.megabytes_per_second)
    rows = [
        (stage.name, f"{stage.clips_per_second:.1f}", "" if size is None else f"{size:.1f}")
        for stage in (*stages, together, LoaderStep("network", network))
        for size in [stage.megabytes_per_second]
    ]
    side = config.crop_size
    print(f"\ndecode node {config.decoder}, {batch_size} x {config.frames_per_clip} x {side} x {side}")
    print(table(("stage", "clips/s", "MB/s"), rows))
    print(diagnosis(stages, speed.clips_per_second, network))
    print(describe_cost(measure_cost(dataset, config, batch_size, seconds, device)))
    return speed.clips_per_second


def describe_cost(cost: LoaderCost) -> str:
    """Return what a clip costs, in lines."""
    lock = "unknown: install py-spy" if cost.lock is None else f"{cost.lock:.3f} ms"
    rows = [
        ("processor time, all of it", f"{cost.cpu:.2f} ms"),
        ("processor time of the workers", f"{cost.cpu_workers:.2f} ms"),
        ("the training thread, taking batches", f"{cost.training_thread:.3f} ms"),
        ("this process's threads that run Python", f"{cost.python_threads:.3f} ms"),
        ("interpreter lock held in this process", lock),
        ("bytes read", f"{cost.bytes_read / 1e3:.1f} kB"),
    ]
    memory = f"memory of the workers: {cost.workers_bytes / 1e6:.0f} MB" if cost.workers_bytes else ""
    return f"\n{table(('a clip costs', f'at {cost.clips_per_second:.0f} clips/s'), rows)}\n{memory}".rstrip()


def describe_scaling(rates: dict[int, float]) -> str:
    """Return the workers' rates, and what they mean for the cores of a GPU machine."""
    first = next(iter(rates.values()))
    rows = [(number, f"{rate:.1f}", f"{rate / first:.2f}") for number, rate in rates.items()]
    further = ", ".join(f"{rate:,.0f} with {cores}" for cores, rate in extrapolate(rates).items())
    return f"\n{table(('workers', 'clips/s', '/ 1 worker'), rows)}\nextrapolated to more cores for a GPU: {further}"


def diagnosis(stages: Sequence[LoaderStep], together: float, network: float) -> str:
    """Return which stage binds, and what to change."""
    slowest = min(stages, key=lambda stage: stage.clips_per_second)
    if together >= _STALL * network:
        return (
            f"the network binds: the loader gives {together / network:.1f} times what training takes; "
            "change nothing here"
        )
    return (
        f"{slowest.name} binds, at {slowest.clips_per_second / network:.1f} times what training takes: "
        + (_REMEDIES[slowest.name])
    )


def _record(dataset: PackedDataset, device: torch.device, speeds: dict[str, float]) -> str:
    try:
        return f"recorded in {write_speeds(dataset, device, speeds)}"
    except OSError as error:
        return f"not recorded ({error.strerror}: {dataset.directory}), so give it as data.decoder"


def _compare(
    dataset: PackedDataset,
    config: DataConfig,
    batch_size: int,
    options: LoaderOptions,
    device: torch.device,
) -> None:
    """Print clips per second of our loader and of others, measured interleaved."""
    names, seconds, videos = options.compare_with, options.seconds, options.videos
    if videos is None:
        raise UserError("--compare-with needs --videos: the folder of the original files, as when packing")
    originals = [videos / source for source in dataset.column("source")]
    threads = config.num_workers or torch.get_num_threads()
    config = replace(config, num_workers=threads)
    rates: dict[str, list[float]] = {name: [] for name in ("ours", *names)}
    with tempfile.TemporaryDirectory(prefix="vpsn-benchmark-") as scratch:
        files = {name: prepare(name, originals, Path(scratch), config.short_side) for name in names}
        sizes = {name: sum(map(stored_bytes, paths)) / len(paths) for name, paths in files.items()}
        for _ in range(options.rounds):
            rates["ours"].append(measure_loader(dataset, config, batch_size, seconds, device).clips_per_second)
            for name, paths in files.items():
                rates[name].append(measure_other_loader(name, paths, config, batch_size, threads, seconds))
    sizes["ours"] = dataset.manifest.bytes / len(dataset)
    kinds = {"ours": dataset.manifest.profile, "frames": "extracted as JPEGs"}
    rows = []
    for name, values in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(rates["ours"], values)]
        rows.append(
            (
                f"{name} ({kinds.get(name, 'originals')})",
                f"{sizes[name] / 1e3:.0f}",
                f"{statistics.median(values):.1f}",
                f"{statistics.median(ratios):.1f}",
                f"{min(ratios):.1f} to {max(ratios):.1f}",
            )
        )
    print(f"{threads} threads, {options.rounds} rounds of {seconds:.0f} s, interleaved")
    print(table(("", "kB/video", "clips/s", "ours / this", "spread"), rows))


def _watch_memory(dataset: PackedDataset, config: DataConfig, batch_size: int, epochs: int) -> None:
    sizes = [memory for _, memory in zip(range(epochs), memory_by_epoch(dataset, config, batch_size))]
    print(f"resident memory after epochs 1 to {epochs}: {', '.join(f'{size / 1e6:.0f}' for size in sizes)} MB")
    print(f"growth from the second to the last: {(sizes[-1] - sizes[min(1, epochs - 1)]) / 1e6:.1f} MB")


def memory_by_epoch(dataset: PackedDataset, config: DataConfig, batch_size: int) -> Iterator[int]:
    """Yield the bytes of memory that this process and its workers hold, after each further epoch of one loader."""
    loader = VideoLoader(dataset, config, training=True, micro_batch_size=min(batch_size, len(dataset.kept)))
    while True:
        for _ in loader:
            pass
        yield used_memory("VmRSS") + sum(map(proportional_memory, loader.worker_process_ids))
