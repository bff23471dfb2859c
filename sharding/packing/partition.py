"""Which video goes into which shard: a pure function of the number of videos, the shard size and the seed."""

import numpy as np


def default_samples_per_shard(num_records: int) -> int:
    """Return 16 to 1,024: some 64 shards of a small dataset, so that all workers have work; 300 MB shards of a big one.

    It depends on the dataset alone, so the bytes do not depend on the number of workers.

    >>> [default_samples_per_shard(n) for n in (14, 9_537, 240_000)]
    [16, 150, 1024]
    """
    return int(np.clip(-(-num_records // 64), 16, 1024))


def plan_shards(num_records: int, samples_per_shard: int, seed: int) -> list[np.ndarray]:
    """Return the numbers of the records of each shard, in the order in which they are in it.

    A seeded shuffle of all records cut into pieces of `samples_per_shard` (the last may be shorter), so that reading a
    shard from its beginning already mixes classes. Every record is in exactly one shard.

    >>> [len(shard) for shard in plan_shards(10, 4, seed=0)]
    [4, 4, 2]
    """
    if num_records < 0 or samples_per_shard < 1:
        raise ValueError(f"{num_records} records, {samples_per_shard} a shard: 0 or more, and 1 or more")
    # Philox gives the same numbers on every platform and in every version of NumPy; so does argsort of them.
    draws = np.random.Generator(np.random.Philox(key=seed)).integers(0, 1 << 63, num_records, dtype=np.int64)
    order = np.argsort(draws, kind="stable")
    return [order[start : start + samples_per_shard] for start in range(0, num_records, samples_per_shard)]
