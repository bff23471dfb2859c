"""How fast packed shards are planned, read, decoded and cropped: the real loader, and its stages one by one."""

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from pipeline.batching import Feed
from pipeline.config import DataConfig
from pipeline.dali_graph import ClipGraph
from pipeline.loader import VideoLoader
from pipeline.plan import ClipPlan, plan_clip
from pipeline.reading import read_jpegs, read_media
from sharding.dataset import PackedDataset, load_dataset

_HELD_BATCHES = 4  # that a stage is given over and over, so that none before it costs anything


@dataclass(frozen=True)
class LoaderSpeed:
    """Of one dataset under one configuration."""

    clips_per_second: float
    megabytes_per_second: float
    """Of media read from the shards; under jpeg estimated by the share of frames that is read."""
    clips: int
    seconds: float


def measure_loader(
    dataset: PackedDataset,
    config: DataConfig,
    batch_size: int,
    seconds: float,
    device: torch.device | str = "cpu",
    min_epochs: int = 0,
) -> LoaderSpeed:
    """Runs the training loader for some `seconds` and whole `min_epochs`, after a first batch that is not counted."""
    loader = VideoLoader(dataset, config, training=True, micro_batch_size=min(batch_size, len(dataset)), device=device)
    clips = read = 0
    began: float | None = None
    while began is None or time.perf_counter() - began < seconds or loader.epoch < min_epochs:
        for batch in loader:
            if began is None:
                began = time.perf_counter()
                continue
            ids = batch.sample_ids.cpu().numpy()
            clips += len(ids)
            shares = config.frames_per_clip / dataset.num_frames[ids] if loader.decoder == "jpeg" else 1.0
            read += float((dataset.media_bytes[ids] * shares).sum())
            if time.perf_counter() - began >= seconds and loader.epoch >= min_epochs:
                break
    elapsed = time.perf_counter() - began
    loader.close()
    return LoaderSpeed(clips / elapsed, read / elapsed / 1e6, clips, elapsed)


@dataclass(frozen=True)
class Stage:
    """A stage of the loader by itself, with as many threads as it has in the loader."""

    name: str
    clips_per_second: float
    megabytes_per_second: float | None = None
    """Of media, where it moves them."""


def measure_stages(
    dataset: PackedDataset, config: DataConfig, decoder: str, batch_size: int, seconds: float, device: torch.device
) -> list[Stage]:
    """Each stage alone: plan, read, decode, augment, and on a GPU copy.

    Under jpeg and nvdec the graph decodes, so `decode` there is the whole graph, fed with bytes from memory; `augment`
    is the graph fed with frames.
    """
    config = replace(config, decoder=decoder)
    threads = config.num_workers or os.cpu_count() or 1
    batches = list(_plan_batches(dataset, config, batch_size))
    frames, encoded = Feed(dataset, config, "pyav"), Feed(dataset, config, decoder)
    with ThreadPoolExecutor(threads) as pool:
        plans = itertools.cycle(range(len(dataset)))
        stages = [
            Stage("plan", _rate(lambda: _plan(dataset, config, plans, batch_size), seconds)),
            _measure_read(dataset, decoder, batches, pool, seconds),
        ]
        held = [[encoded.read(plan) for plan in batch] for batch in batches]
        if decoder == "pyav":
            bytes_held = [[read_media(dataset, plan.sample_id) for plan in batch] for batch in batches]
            jobs = itertools.cycle(list(zip(batches, bytes_held)))
            decode = _rate(lambda: _all(pool, frames.decode, *next(jobs)), seconds)
        else:
            decode = _graph_rate(encoded, batches, held, seconds, device, threads)
        stages.append(Stage("decode", decode))
    pixels = held if decoder == "pyav" else _random_frames(frames, batches)
    stages.append(Stage("augment", _graph_rate(frames, batches, pixels, seconds, device, threads)))
    if device.type == "cuda":
        stages.append(Stage("copy", _copy_rate(config, batch_size, device, seconds)))
    return stages


def _plan_batches(dataset: PackedDataset, config: DataConfig, batch_size: int) -> Iterator[list[ClipPlan]]:
    ids = np.random.default_rng(0).permutation(len(dataset))
    for batch in range(_HELD_BATCHES):
        chosen = np.take(ids, range(batch * batch_size, (batch + 1) * batch_size), mode="wrap")
        yield [plan_clip(dataset, config, int(sample_id), training=True) for sample_id in chosen]


def _plan(dataset: PackedDataset, config: DataConfig, sample_ids: Iterator[int], count: int) -> int:
    for sample_id in itertools.islice(sample_ids, count):
        plan_clip(dataset, config, sample_id, training=True)
    return count


def _measure_read(
    dataset: PackedDataset, decoder: str, batches: list[list[ClipPlan]], pool: ThreadPoolExecutor, seconds: float
) -> Stage:
    def read(plan: ClipPlan) -> int:
        if decoder == "jpeg":
            return sum(len(jpeg) for jpeg in read_jpegs(dataset, plan.sample_id, np.unique(plan.frames)))
        return len(read_media(dataset, plan.sample_id))

    turns, size = itertools.cycle(batches), 0

    def work() -> int:
        nonlocal size
        batch = next(turns)
        size += sum(pool.map(read, batch))
        return len(batch)

    began = time.perf_counter()
    rate = _rate(work, seconds)
    return Stage("read", rate, size / (time.perf_counter() - began) / 1e6)


def _all(pool: ThreadPoolExecutor, work: Callable, *lists: Sequence) -> int:
    return len(list(pool.map(work, *lists)))


def _random_frames(feed: Feed, batches: list[list[ClipPlan]]) -> list[list[np.ndarray]]:
    """Frames such as decoding would give for each plan."""
    generator = np.random.default_rng(0)
    shapes = [[(len(plan.frames), *feed.window_size(plan), 3) for plan in batch] for batch in batches]
    return [[generator.integers(0, 256, shape, dtype=np.uint8) for shape in batch] for batch in shapes]


def _graph_rate(feed: Feed, batches: list, media: list, seconds: float, device: torch.device, threads: int) -> float:
    inputs = itertools.cycle([feed.inputs(plans, read) for plans, read in zip(batches, media)])
    largest = max(len(read) if feed.decoder != "jpeg" else sum(map(len, read)) for read in media)
    graph = ClipGraph(lambda: next(inputs), feed.decoder, largest, feed.config.crop_size, device, threads)
    clips = len(batches[0])

    def work() -> int:
        graph.run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clips

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
    """What `work` counts, per second, over at least so many seconds."""
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
    """Opens a dataset and loads one batch."""
    began = time.perf_counter()
    dataset = load_dataset(directory)
    opened = time.perf_counter()
    loader = VideoLoader(dataset, config, training=True, micro_batch_size=batch_size)
    next(iter(loader))
    done = time.perf_counter()
    loader.close()
    return FirstBatch(opened - began, done - opened)
