"""The plan of a dataset and a cluster that are not at hand: pure functions, so they can be run for any size."""

import json
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from launch.benchmarks.loader_stages import measure_first_batch
from launch.benchmarks.options import ScaleOptions
from launch.benchmarks.report import conditions, table
from pipeline.config import DataConfig
from pipeline.plan import plan_clip, plan_order, plan_rank_batches
from sharding.dataset import PackedDataset, load_dataset
from sharding.errors import UserError
from sharding.files import file_sha256
from sharding.manifest import FRAMES, MANIFEST, TABLE, Manifest, fingerprint_of


@dataclass(frozen=True)
class PlanCost:
    """What planning costs one rank."""

    order_seconds: float
    """Of the order of an epoch, once an epoch."""
    step_seconds: float
    """Of the clips of one of this rank's batches."""
    order_bytes: int
    """Memory that the order takes while the epoch lasts."""


@dataclass(frozen=True)
class Randomness:
    """How well an order mixes what is in the shards, and what a rank reads for it."""

    spread: float
    """Standard deviation, over batches, of the fraction of samples from one half of the shards, over what batches drawn
    at random have: 1 is a perfect mixture even of shards packed class by class (ours are shuffled when packed)."""
    pair_recurrence: float
    """Fraction of the pairs of samples in one batch that meet again in the next epoch, over what chance would have."""
    shards_read: int
    """By a rank in 100 steps: what its cache must hold."""


def measure_plan(
    num_samples: int, world_size: int, batch_per_rank: int, config: DataConfig, samples_per_shard: int = 1024
) -> PlanCost:
    """Plans an epoch of so many samples for one of so many ranks."""
    shards = np.arange(num_samples, dtype=np.int32) // samples_per_shard
    batch_size = world_size * batch_per_rank
    if num_samples < batch_size:
        raise UserError(f"--samples {num_samples}: a batch is {batch_size} samples; give at least so many")
    began = time.perf_counter()
    order = plan_order(shards, config, batch_size, 0, 0)
    batches = plan_rank_batches(order, batch_size, batch_per_rank, world_size // 2, world_size)
    ordered = time.perf_counter()
    dataset = _table_of(num_samples)
    times = []
    for step in range(min(50, len(batches))):
        start = time.perf_counter()
        for sample_id in batches[step].ravel().tolist():
            plan_clip(dataset, config, sample_id, training=True)
        times.append(time.perf_counter() - start)
    return PlanCost(ordered - began, statistics.median(times), order.nbytes)


def measure_randomness(
    num_samples: int, world_size: int, batch_per_rank: int, config: DataConfig, samples_per_shard: int = 1024
) -> Randomness:
    """Measure the mixture of the batches of an epoch."""
    shards = np.arange(num_samples, dtype=np.int32) // samples_per_shard
    batch_size = world_size * batch_per_rank
    steps = num_samples // batch_size
    first, second = (plan_order(shards, config, batch_size, 0, epoch)[: steps * batch_size] for epoch in (0, 1))
    share = (shards[first] < shards[-1] / 2).reshape(steps, batch_size).mean(1)
    chance = 0.5 / np.sqrt(batch_size) * np.sqrt(1 - batch_size / num_samples)
    read = shards[plan_rank_batches(first, batch_size, batch_per_rank, 0, world_size)[:100].ravel()]
    return Randomness(float(share.std() / chance), _pair_recurrence(first, second, batch_size), len(np.unique(read)))


def _pair_recurrence(first: np.ndarray, second: np.ndarray, batch_size: int, pairs: int = 2_000_000) -> float:
    """Return the fraction of pairs in one batch of `first` that `second` brings together again, over that of any
    pair."""
    batch_of = np.full(max(first.max(), second.max()) + 1, -1, np.int64)
    batch_of[second] = np.arange(len(second)) // batch_size
    generator = np.random.default_rng(0)
    steps = len(first) // batch_size
    batch, one, other = (generator.integers(n, size=pairs) for n in (steps, batch_size, batch_size))
    one, other = first[batch * batch_size + one], first[batch * batch_size + other]
    apart = (one != other) & (batch_of[one] >= 0) & (batch_of[other] >= 0)
    again = (batch_of[one] == batch_of[other])[apart].mean()
    return float(again * steps)


def write_large_dataset(small: Path, out: Path, num_samples: int) -> Path:
    """Return a packed split of so many samples: the shards of a small one over and over, as links, under new keys."""
    source = load_dataset(small)
    out.mkdir(parents=True)
    table = pq.read_table(small / TABLE)
    copies = -(-num_samples // len(source))
    per_copy = len(source.manifest.shards)
    shards, columns = [], {}
    for _ in range(copies):
        for shard in source.manifest.shards:
            name = f"shard-{len(shards):06d}.tar"
            (out / name).symlink_to((small / shard.name).resolve())
            shards.append(replace(shard, name=name))
    for name in table.column_names:
        values = table[name].combine_chunks()
        if name == "shard":
            tiled = np.tile(values.to_numpy(), copies) + np.repeat(np.arange(copies) * per_copy, len(source))
            columns[name] = pa.array(tiled, pa.int32())
        elif name == "key":
            columns[name] = pa.array([f"{key}-{copy}" for copy in range(copies) for key in values.to_pylist()])
        else:
            columns[name] = pa.concat_arrays([values] * copies)
    pq.write_table(pa.table(columns, schema=table.schema), out / TABLE)
    hashes = {"table_sha256": "", "frames_sha256": ""}
    if source.frame_starts is not None:
        np.save(out / FRAMES, np.tile(np.load(small / FRAMES), copies))
        hashes["frames_sha256"] = file_sha256(out / FRAMES)
    totals = {"samples": copies * len(source), "bytes": sum(shard.bytes for shard in shards)} | hashes
    manifest = replace(source.manifest, shards=tuple(shards), **totals)
    values = {name: getattr(manifest, name) for name in Manifest.__dataclass_fields__}
    manifest = replace(manifest, fingerprint=fingerprint_of(values))
    (out / MANIFEST).write_text(json.dumps(asdict(manifest)))
    return out


def _table_of(num_samples: int) -> PackedDataset:
    """Return a table of so many videos of 64 frames of 256 x 340 pixels, of which nothing is stored."""
    zeros = ("labels", "fps", "shards", "media_offsets", "media_bytes", "index_offsets", "index_bytes")
    columns = dict.fromkeys(zeros, 0) | {"num_frames": 64, "widths": 340, "heights": 256}
    same: dict[str, Any] = {name: np.broadcast_to(np.int32(value), num_samples) for name, value in columns.items()}
    manifest = Manifest("", "", "h264", ("",), (), (), num_samples, 0, {}, "", "")
    return PackedDataset(directory=Path(), manifest=manifest, **same)


def scale(options: ScaleOptions) -> None:
    """Print what the plan of a large dataset costs, and how random each order is."""
    print(f"{options.samples:,} samples, {options.ranks:,} ranks x {options.batch_per_rank}; {conditions()}")
    orders = {"global": DataConfig()}
    for shards in (4, 16):
        config = DataConfig(shuffle="block", shuffle_block_shards=shards, shuffle_streams=64)
        orders[f"block, {shards} shards, 64 streams"] = config
    rows = []
    for name, config in orders.items():
        cost = measure_plan(options.samples, options.ranks, options.batch_per_rank, config)
        mixed = measure_randomness(options.samples, options.ranks, options.batch_per_rank, config)
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
    if options.data is not None:
        with tempfile.TemporaryDirectory(prefix="vpsn-benchmark-") as folder:
            large = write_large_dataset(options.data, Path(folder) / "large", options.first_batch_samples)
            first = measure_first_batch(large, DataConfig(), 8)
        total = first.open_seconds + first.batch_seconds
        print(
            f"first batch of {options.first_batch_samples:,} samples: {total:.2f} s "
            f"({first.open_seconds:.2f} to open, {first.batch_seconds:.2f} to the batch)"
        )
