"""Planning: every record in one shard, whatever the numbers; the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.packing.partition import default_samples_per_shard, plan_shards


@given(st.integers(0, 2000), st.integers(1, 300), st.integers(0, (1 << 63) - 1))
def test_every_record_is_in_one_shard(num_records, samples_per_shard, seed):
    shards = plan_shards(num_records, samples_per_shard, seed)
    assert [len(shard) for shard in shards[:-1]] == [samples_per_shard] * (len(shards) - 1)
    assert all(1 <= len(shard) <= samples_per_shard for shard in shards)
    together = np.concatenate([*shards, np.empty(0, int)])
    np.testing.assert_array_equal(np.sort(together), np.arange(num_records))
    again = plan_shards(num_records, samples_per_shard, seed)
    assert all(np.array_equal(a, b) for a, b in zip(shards, again))


def test_the_order_is_a_fixed_one():
    """These numbers must never change, or a rerun in a later version would mix two orders in one folder."""
    assert [shard.tolist() for shard in plan_shards(8, 3, seed=0)] == [[0, 2, 1], [5, 4, 3], [6, 7]]


def test_seeds_give_different_orders():
    orders = {tuple(plan_shards(50, 50, seed)[0].tolist()) for seed in range(20)}
    assert len(orders) == 20


def test_classes_are_mixed():
    """A dataset listed class by class: every shard holds most of its classes."""
    labels = np.repeat(np.arange(10), 100)
    for shard in plan_shards(1000, 100, seed=3):
        assert len(set(labels[shard])) >= 9


@pytest.mark.parametrize(("num_records", "expected"), [(1, 16), (14, 16), (1024, 16), (1025, 17), (240_000, 1024)])
def test_default_shard_size(num_records, expected):
    assert default_samples_per_shard(num_records) == expected


def test_impossible_numbers():
    with pytest.raises(ValueError, match="0 records, 0 a shard"):
        plan_shards(0, 0, seed=0)
