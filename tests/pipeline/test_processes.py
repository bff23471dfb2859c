"""Ranks as processes of their own: what they load is, together, what one process loads."""

import subprocess
import sys

import numpy as np
import pytest

from pipeline.config import DataConfig
from pipeline.loader import VideoLoader
from sharding.dataset import load_dataset
from tests.conftest import ROOT

RANK = """
import sys
import numpy as np
from pipeline.config import DataConfig
from pipeline.loader import VideoLoader
from sharding.dataset import load_dataset

folder, rank, world_size, training, out = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
config = DataConfig(num_segments=2, short_side=64, crop_size=48, num_workers=1)
loader = VideoLoader(
    load_dataset(folder), config, training=bool(training), micro_batch_size=4 // world_size if training else 2,
    rank=rank, world_size=world_size, seed=1,
)
if training:
    loader.load_state_dict(loader.state_dict() | {"epoch": 2, "step": 1})  # saved by any number of ranks
steps = [(batch.sample_ids.numpy(), batch.labels.numpy(), batch.clips.numpy()) for batch in loader]
empty = (np.empty(0, int), np.empty(0, int), np.empty((0, 2, 3, 48, 48), np.float32))
ids, labels, clips = (np.concatenate(part) for part in zip(empty, *steps))
np.savez(out, ids=ids, labels=labels, clips=clips, steps=len(steps))
"""


@pytest.mark.parametrize("world_size", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("training", [True, False])
def test_ranks_together_load_what_one_loads(numbered, tmp_path, world_size, training):
    """Sample for sample and pixel for pixel, from the middle of an epoch on."""
    outs = [tmp_path / f"{rank}.npz" for rank in range(world_size)]
    commands = [
        [sys.executable, "-c", RANK, numbered, str(rank), str(world_size), str(int(training)), outs[rank]]
        for rank in range(world_size)
    ]
    processes = [subprocess.Popen(command, cwd=ROOT) for command in commands]
    assert [process.wait(120) for process in processes] == [0] * world_size
    found = [dict(np.load(out)) for out in outs]
    config = DataConfig(num_segments=2, short_side=64, crop_size=48)
    loader = VideoLoader(load_dataset(numbered), config, training=training, micro_batch_size=4, seed=1)
    if training:
        loader.load_state_dict(loader.state_dict() | {"epoch": 2, "step": 1})
        assert len({int(part["steps"]) for part in found}) == 1
    expected = list(loader)
    for name in ("ids", "labels", "clips"):
        parts = [part[name] for part in found]
        if training:  # rank by rank within each step
            parts = [part.reshape(len(expected), -1, *part.shape[1:]) for part in parts]
            together = np.concatenate(parts, 1).reshape(-1, *parts[0].shape[2:])
        else:
            together = np.concatenate(parts)
        attribute = {"ids": "sample_ids"}.get(name, name)
        whole = np.concatenate([getattr(batch, attribute).numpy() for batch in expected])
        assert np.array_equal(together, whole), name
