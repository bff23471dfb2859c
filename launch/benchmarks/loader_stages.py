"""How fast packed shards are planned, read, decoded and cropped: the real loader, and its stages one by one."""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from pipeline.clip_stream import ClipStream
from pipeline.config import DataConfig
from pipeline.loader import VideoLoader
from pipeline.plan import ClipPlan, plan_clip
from pipeline.reading import read_media, read_packets
from sharding.dataset import PackedDataset, load_dataset

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class LoaderSpeed:
    """Of one dataset under one configuration."""

    clips_per_second: float
    megabytes_per_second: float
    """Of media read from the shards; where only some frames are read, estimated by their fraction."""
    clips: int
    seconds: float


def measure_loader(
    dataset: PackedDataset,
    config: DataConfig,
    batch_size: int,
    seconds: float,
    device: torch.device | str = "cpu",
) -> LoaderSpeed:
    """Run the training loader for some `seconds`, after a first batch that is not counted."""
    size = min(batch_size, len(dataset.kept))
    loader = VideoLoader(dataset, config, training=True, micro_batch_size=size, device=device)
    clips = read = 0
    began: float | None = None
    while began is None or time.perf_counter() - began < seconds:
        for batch in loader:
            if began is None:
                began = time.perf_counter()
                continue
            ids = batch.sample_ids.cpu().numpy()
            clips += len(ids)
            indexed = dataset.frame_starts is not None
            shares = np.minimum(1, config.frames_per_clip / dataset.num_frames[ids]) if indexed else 1.0
            read += float((dataset.media_bytes[ids] * shares).sum())
            if time.perf_counter() - began >= seconds:
                break
    elapsed = time.perf_counter() - began
    loader.close()
    return LoaderSpeed(clips / elapsed, read / elapsed / 1e6, clips, elapsed)


@dataclass(frozen=True)
class LoaderStep:
    """A step of the loader by itself."""

    name: str
    clips_per_second: float
    megabytes_per_second: float | None = None
    """Of media, where it moves them."""


def measure_stages(
    dataset: PackedDataset, config: DataConfig, decoder: str, batch_size: int, seconds: float, device: torch.device
) -> list[LoaderStep]:
    """Measure each step alone: plan and read in one process, all that the workers do, the graph, and on a GPU the copy.

    The workers decode under pyav; else the graph does, fed with bytes from memory.
    """
    config = replace(config, decoder=decoder)
    ids = np.random.default_rng(0).permutation(dataset.kept)
    plans = itertools.cycle([plan_clip(dataset, config, int(sample_id), training=True) for sample_id in ids])
    sample_ids = itertools.cycle(ids.tolist())
    stages = [
        LoaderStep("plan", _rate(lambda: _plan(dataset, config, sample_ids, batch_size), seconds)),
        _measure_read(dataset, plans, batch_size, seconds),
        LoaderStep("workers", measure_workers(dataset, config, decoder, batch_size, seconds)),
        LoaderStep("graph", _graph_rate(dataset, config, decoder, batch_size, seconds, device)),
    ]
    if device.type == "cuda":
        stages.append(LoaderStep("copy", _copy_rate(config, batch_size, device, seconds)))
    return stages


def measure_workers(
    dataset: PackedDataset,
    config: DataConfig,
    decoder: str,
    batch_size: int,
    seconds: float,
    num_workers: int = 0,
    pinned: bool = False,
) -> float:
    """Return the clips/s of the workers alone, with nothing done to what they give; `pinned`, each on a core."""
    stream = _stream(dataset, replace(config, num_workers=num_workers or config.num_workers), decoder, batch_size)
    with closing(stream):
        reader = stream.open_reader()
        reader.start((0, batch) for batch in _batches(dataset, batch_size))
        for _ in range(config.prefetch_batches + 2):  # until all workers have started
            reader.release(reader.next())
        if pinned:
            cores = sorted(os.sched_getaffinity(0))
            for number, pid in enumerate(reader.process_ids):
                os.sched_setaffinity(pid, {cores[number % len(cores)]})

        def work() -> int:
            reader.release(reader.next())
            return batch_size

        return _rate(work, seconds)


def _stream(
    dataset: PackedDataset, config: DataConfig, decoder: str, batch_size: int, device: torch.device = _CPU
) -> ClipStream:
    return ClipStream(
        dataset,
        config,
        decoder,
        training=True,
        seed=0,
        micro_batch_size=batch_size,
        device=device,
        num_batches=1 << 20,
    )


def _batches(dataset: PackedDataset, batch_size: int) -> Iterator[np.ndarray]:
    ids = np.random.default_rng(0).permutation(dataset.kept)
    return (np.resize(np.roll(ids, -start), batch_size) for start in itertools.count(0, batch_size))


def _plan(dataset: PackedDataset, config: DataConfig, sample_ids: Iterator[int], count: int) -> int:
    for sample_id in itertools.islice(sample_ids, count):
        plan_clip(dataset, config, sample_id, training=True)
    return count


def _measure_read(dataset: PackedDataset, plans: Iterator[ClipPlan], count: int, seconds: float) -> LoaderStep:
    size = 0

    def work() -> int:
        nonlocal size
        for plan in itertools.islice(plans, count):
            if dataset.frame_offsets(plan.sample_id) is None and not dataset.index_bytes[plan.sample_id]:
                size += len(read_media(dataset, plan.sample_id))
            else:
                packets = read_packets(dataset, plan.sample_id, np.unique(plan.frames))
                size += sum(len(data) for _, data in packets)
        return count

    began = time.perf_counter()
    rate = _rate(work, seconds)
    return LoaderStep("read", rate, size / (time.perf_counter() - began) / 1e6)


def _graph_rate(
    dataset: PackedDataset, config: DataConfig, decoder: str, batch_size: int, seconds: float, device: torch.device
) -> float:
    """Return the clips/s of the graph, given the same few batches again and again."""
    with closing(_stream(dataset, config, decoder, batch_size, device)) as stream:
        reader = stream.open_reader()
        held = itertools.islice(_batches(dataset, batch_size), config.prefetch_batches)
        reader.start((0, batch) for batch in held)
        batches = itertools.cycle([reader.next().arrays for _ in range(config.prefetch_batches)])
        graph = stream.build_graph(lambda: stream.inputs_of(next(batches), batch_size))

        def work() -> int:
            for crop in graph.run():
                torch.from_dlpack(crop)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return batch_size

        work()
        return _rate(work, seconds)


def _copy_rate(config: DataConfig, batch_size: int, device: torch.device, seconds: float) -> float:
    shape = (batch_size, config.frames_per_clip, config.crop_size, config.crop_size, 3)
    clips = torch.empty(shape, pin_memory=True)

    def work() -> int:
        clips.to(device, non_blocking=True)
        torch.cuda.synchronize(device)
        return batch_size

    work()
    return _rate(work, seconds)


def _rate(work: Callable[[], int], seconds: float) -> float:
    """Return what `work` counts, per second, over at least so many seconds."""
    began, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < seconds or not count:
        count += work()
    return count / elapsed


@dataclass(frozen=True)
class FirstBatch:
    """What it takes until a dataset gives its first batch."""

    open_seconds: float
    batch_seconds: float


def measure_first_batch(directory: Path, config: DataConfig, batch_size: int) -> FirstBatch:
    """Open a dataset and load one batch."""
    began = time.perf_counter()
    dataset = load_dataset(directory)
    opened = time.perf_counter()
    loader = VideoLoader(dataset, config, training=True, micro_batch_size=batch_size)
    next(iter(loader))
    done = time.perf_counter()
    loader.close()
    return FirstBatch(opened - began, done - opened)
