"""What keeps the loader from being faster: every stage by itself, what the network takes, and what to change."""

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from launch.benchmarks.loader_stages import Stage, measure_loader, measure_stages
from launch.benchmarks.other_loaders import measure_other_loader, prepare, stored_bytes
from launch.benchmarks.report import conditions, table
from launch.benchmarks.train_step import measure_steps
from model import ModelConfig, build_model
from pipeline.config import DataConfig
from pipeline.dataset import open_dataset
from pipeline.decode_speeds import write_speeds
from pipeline.decoders import working_decoders
from pipeline.loader import VideoLoader
from sharding.dataset import PackedDataset
from sharding.errors import UserError
from sharding.memory import used_memory

_STALL = 1.2
"""A loader that gives so many times what the network takes is fast enough; machines have busy moments."""

_REMEDIES = {
    "plan": "it is one process of Python; use more data.num_workers",
    "read": "put the shards on a faster disk, use more data.num_workers, or shuffle in blocks (data.shuffle=block)",
    "workers": "pack under a profile that decodes faster (`benchmark.py advise` measures them), or use more cores",
    "graph": "store frames at data.short_side, so that none need be scaled, or use more cores",
    "copy": "it is the bus between host and GPU: let the GPU decode (data.decoder=nvjpeg)",
}


def loader(
    data: str,
    num_segments: int = 8,
    crop_size: int = 224,
    short_side: int | None = None,
    batch_size: int = 8,
    seconds: float = 5.0,
    threads: int = 0,
    clips_per_second: float | None = None,
    against: tuple[str, ...] = (),
    videos: Path | None = None,
    rounds: int = 3,
    epochs: int = 0,
) -> None:
    """Loads a packed split as training does, stage by stage and together, and says which stage binds.

    Args:
        data: Folder or URL of the packed split.
        num_segments: Frames per clip.
        crop_size: Side of the crop in pixels.
        short_side: Short side before cropping; default 256, or crop_size if that is larger.
        batch_size: Clips per batch.
        seconds: How long to measure each stage.
        threads: Reading threads; 0 takes one per core.
        clips_per_second: What the network takes in training; by default VPSN-50 is measured on this device.
        against: Other loaders to compare with, in turns: decord, torchcodec, pyav on the original files; frames, on all
            frames of them extracted as JPEGs.
        videos: Folder of the original files, as when packing; for --against.
        rounds: How often to measure ours and the others.
        epochs: Load so many epochs more, and say by how much memory grew from the second to the last.
    """
    dataset = open_dataset(data)
    config = DataConfig(
        num_segments=num_segments,
        crop_size=crop_size,
        short_side=short_side or max(256, crop_size),
        num_workers=threads,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{dataset}; {conditions()}")
    if against:
        _compare(dataset, config, batch_size, seconds, against, videos, rounds, device)
        return
    if epochs:
        _watch_memory(dataset, config, batch_size, epochs)
        return
    if clips_per_second is None:
        shape = (batch_size if device.type == "cuda" else 1, num_segments, 3, crop_size, crop_size)
        net = ModelConfig(num_segments=num_segments)
        clips_per_second = measure_steps({"vpsn": lambda: build_model(net)}, shape, device)["vpsn"].clips_per_second
    speeds = {}
    decoders, reasons = working_decoders(dataset, device)
    for decoder, reason in reasons.items():
        print(f"\ndecode node {decoder} is left out: {reason}")
    for decoder in decoders:
        chosen = replace(config, decoder=decoder)
        speeds[decoder] = _examine(dataset, chosen, batch_size, seconds, device, clips_per_second)
    if len(speeds) > 1:
        fastest = max(speeds, key=speeds.__getitem__)
        print(f"data.decoder=auto takes {fastest} from now on: {_record(dataset, device, speeds)}")


def _examine(
    dataset: PackedDataset, config: DataConfig, batch_size: int, seconds: float, device: torch.device, network: float
) -> float:
    """Prints the stages of one decode node; returns the clips per second of them together."""
    stages = measure_stages(dataset, config, config.decoder, batch_size, seconds, device)
    speed = measure_loader(dataset, config, batch_size, seconds, device)
    together = Stage("together", speed.clips_per_second, speed.megabytes_per_second)
    rows = [
        (stage.name, f"{stage.clips_per_second:.1f}", "" if size is None else f"{size:.1f}")
        for stage in (*stages, together, Stage("network", network))
        for size in [stage.megabytes_per_second]
    ]
    side = config.crop_size
    print(f"\ndecode node {config.decoder}, {batch_size} x {config.frames_per_clip} x {side} x {side}")
    print(table(("stage", "clips/s", "MB/s"), rows))
    print(diagnosis(stages, speed.clips_per_second, network))
    return speed.clips_per_second


def diagnosis(stages: Sequence[Stage], together: float, network: float) -> str:
    """Which stage binds, and what to change."""
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
    seconds: float,
    against: Sequence[str],
    videos: Path | None,
    rounds: int,
    device: torch.device,
) -> None:
    """Prints clips per second of our loader and of others, measured in turns."""
    if videos is None:
        raise UserError("--against needs --videos: the folder of the original files, as when packing")
    originals = [videos / source for source in dataset.column("source")]
    threads = config.num_workers or torch.get_num_threads()
    config = replace(config, num_workers=threads)
    rates: dict[str, list[float]] = {name: [] for name in ("ours", *against)}
    with tempfile.TemporaryDirectory(prefix="vpsn-benchmark-") as scratch:
        files = {name: prepare(name, originals, Path(scratch), config.short_side) for name in against}
        sizes = {name: sum(map(stored_bytes, paths)) / len(paths) for name, paths in files.items()}
        for _ in range(rounds):
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
    print(f"{threads} threads, {rounds} rounds of {seconds:.0f} s in turns")
    print(table(("", "kB/video", "clips/s", "ours / this", "spread"), rows))


def _watch_memory(dataset: PackedDataset, config: DataConfig, batch_size: int, epochs: int) -> None:
    sizes = [memory for _, memory in zip(range(epochs), memory_by_epoch(dataset, config, batch_size))]
    print(f"resident memory after epochs 1 to {epochs}: {', '.join(f'{size / 1e6:.0f}' for size in sizes)} MB")
    print(f"growth from the second to the last: {(sizes[-1] - sizes[min(1, epochs - 1)]) / 1e6:.1f} MB")


def memory_by_epoch(dataset: PackedDataset, config: DataConfig, batch_size: int) -> Iterator[int]:
    """Bytes of memory that this process holds, after each further epoch of one loader."""
    loader = VideoLoader(dataset, config, training=True, micro_batch_size=min(batch_size, len(dataset)))
    while True:
        for _ in loader:
            pass
        yield used_memory("VmRSS")
