"""What the measurements of large plans say, where the right answer is known."""

import numpy as np
import pytest

from launch.benchmarks.loader_stages import measure_first_batch
from launch.benchmarks.sampler_scale import measure_plan, measure_randomness, write_large_dataset
from pipeline.config import DataConfig
from pipeline.reading import read_media
from sharding.dataset import load_dataset
from tests.launch.test_benchmark import benchmark

SMALL = {"num_samples": 20_000, "world_size": 8, "batch_per_rank": 4, "samples_per_shard": 100}


def test_a_global_shuffle_is_a_perfect_mixture():
    found = measure_randomness(**SMALL, config=DataConfig())
    assert found.spread == pytest.approx(1, abs=0.15)
    assert found.pair_recurrence == pytest.approx(1, abs=0.15)


def test_a_block_shuffle_trades_mixture_for_fewer_shards():
    def measure(shards: int, streams: int):
        config = DataConfig(shuffle="block", shuffle_block_shards=shards, shuffle_streams=streams)
        return measure_randomness(**SMALL, config=config)

    everything, few, many = measure(200, 1), measure(2, 2), measure(2, 8)
    assert everything.spread == pytest.approx(1, abs=0.15)
    # A batch of one block of two shards is of either half, or of both: never mixed.
    assert measure(2, 1).spread > 4
    assert everything.spread < many.spread < few.spread
    # 100 steps of 16 samples of a stream that four ranks share, and of 4 samples of a stream for each rank.
    assert few.shards_read <= 16 + 2
    assert many.shards_read <= 4 + 2
    assert measure_randomness(**SMALL, config=DataConfig()).shards_read > 150


def test_planning_tells_what_it_measures():
    cost = measure_plan(10_000, 16, 4, DataConfig())
    assert cost.order_bytes == 40_000
    assert 0 < cost.step_seconds < 1
    assert 0 < cost.order_seconds < 10


def test_a_large_dataset_of_a_small_one(numbered, tmp_path):
    small = load_dataset(numbered)
    large = load_dataset(write_large_dataset(numbered, tmp_path / "large", 100))
    assert len(large) == 104
    assert len(set(large.keys)) == 104
    for sample_id in (0, 40, 103):
        assert read_media(large, sample_id) == read_media(small, sample_id % 13)
    assert np.array_equal(np.bincount(large.shards), [shard.samples for shard in large.manifest.shards])
    assert measure_first_batch(tmp_path / "large", DataConfig(short_side=64, crop_size=64), 4).batch_seconds > 0


def test_command(numbered):
    output = benchmark(
        "scale", "--samples=20000", "--ranks=4", "--batch_per_rank=16", f"--data={numbered}",
        "--first_batch_samples=50",
    )  # fmt: skip
    assert "block, 4 shards, 64 streams" in output
    assert "first batch of 50 samples" in output
