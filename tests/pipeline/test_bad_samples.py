"""A sample that cannot be decoded: named, or left out by all ranks alike."""

import io
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.dali_graph import ClipGraph
from pipeline.loader import VideoBatch, VideoLoader
from pipeline.plan import plan_order
from pipeline.reading import SampleError, jpeg_size
from sharding.dataset import PackedDataset, load_dataset
from sharding.errors import UserError
from tests.helpers.clips import thread_config

CONFIG = thread_config(num_segments=4, short_side=64, crop_size=56, on_bad_sample="quarantine", prefetch_batches=2)


@pytest.fixture(params=["pyav", "jpeg"])
def folder(request, tmp_path) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(request.getfixturevalue({"pyav": "numbered", "jpeg": "numbered_jpeg"}[request.param]), copy)
    return copy


def damage(dataset: PackedDataset, sample_id: int) -> None:
    with dataset.shard_path(dataset.shards[sample_id]).open("r+b") as file:
        file.seek(int(dataset.media_offsets[sample_id]))
        file.write(bytes(int(dataset.media_bytes[sample_id])))


def ids(batches: list[VideoBatch]) -> list[int]:
    return [int(i) for batch in batches for i in batch.sample_ids]


def expected_order(dataset: PackedDataset, epoch: int, bad: set[int], batch_size: int) -> list[int]:
    order = plan_order(dataset.shards, CONFIG, batch_size, 0, epoch)
    good = [int(i) for i in order if int(i) not in bad]
    return good[: len(good) // batch_size * batch_size]


@pytest.mark.parametrize("places", [(0,), (5,), (3, 4), (1, 8, 12)])
def test_left_out_and_the_rest_goes_on(folder, places, caplog):
    dataset = load_dataset(folder)
    order = plan_order(dataset.shards, CONFIG, 3, 0, 0)
    bad = {int(order[place]) for place in places}
    for sample_id in bad:
        damage(dataset, sample_id)
    loader = VideoLoader(dataset, CONFIG, training=True, micro_batch_size=3)
    first, second = list(loader), list(loader)
    # The 13th sample waits outside of the full batches until others drop out before it.
    assert ids(first) == expected_order(dataset, 0, bad, 3)
    assert ids(second) == expected_order(dataset, 1, bad, 3)
    found = set(loader.excluded)
    assert found <= bad
    assert bad & set(ids(first + second)) == set()
    assert all(f"sample {dataset.key(sample_id)}" in caplog.text for sample_id in found)
    # A resume from any step leaves out what was left out before it, and what comes is what came.
    resumed = VideoLoader(dataset, CONFIG, training=True, micro_batch_size=3)
    resumed.load_state_dict({**loader.state_dict(), "epoch": 1, "step": 2})
    assert ids(list(resumed)) == ids(second)[6:]


@pytest.mark.parametrize(("world_size", "micro"), [(2, 1), (2, 2), (4, 1), (1, 2)])
def test_ranks_agree(folder, world_size, micro):
    """Over all ranks and micro-batches the steps are those of one rank that knew the bad samples beforehand."""
    dataset = load_dataset(folder)
    order = plan_order(dataset.shards, CONFIG, 4, 0, 0)
    bad = {int(order[place]) for place in (2, 7)}
    for sample_id in bad:
        damage(dataset, sample_id)
    told: list[list[int]] = [[] for _ in range(world_size)]
    barrier = threading.Barrier(world_size, timeout=60)
    steps: list[list[list[int]]] = [[] for _ in range(world_size)]

    def run(rank: int) -> None:
        def agree(mine: list[int]) -> list[int]:
            told[rank] = mine
            barrier.wait()
            union = sorted({i for theirs in told for i in theirs})
            barrier.wait()
            return union

        loader = VideoLoader(
            dataset, CONFIG, training=True, micro_batch_size=micro, batch_size=4, rank=rank, world_size=world_size,
            agree=agree,
        )  # fmt: skip
        for _ in range(2):
            step: list[int] = []
            for batch in loader:
                step += batch.sample_ids.tolist()
                if batch.is_last_micro_batch:
                    steps[rank].append(step)
                    step = []

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = [i for parts in zip(*steps) for part in parts for i in part]
    assert len({len(part) for part in steps}) == 1
    assert together == expected_order(dataset, 0, bad, 4) + expected_order(dataset, 1, bad, 4)


def test_an_epoch_may_become_shorter(folder):
    """Of 13 samples two are bad: three steps of four become two, and never is a sample shown in place of another."""
    dataset = load_dataset(folder)
    order = plan_order(dataset.shards, CONFIG, 4, 0, 0)
    bad = {int(order[place]) for place in (9, 11)}
    for sample_id in bad:
        damage(dataset, sample_id)
    loader = VideoLoader(dataset, CONFIG, training=True, micro_batch_size=4)
    assert loader.steps_per_epoch == 3
    batches = list(loader)
    assert (loader.epoch, loader.step) == (1, 0)
    assert len(batches) == 2
    assert ids(batches) == expected_order(dataset, 0, bad, 4)


def test_too_many_bad_samples_end_it(folder):
    dataset = load_dataset(folder)
    for sample_id in range(3):
        damage(dataset, sample_id)
    config = thread_config(**{**vars(CONFIG), "max_bad_samples": 2})
    loader = VideoLoader(dataset, config, training=True, micro_batch_size=13)
    with pytest.raises(UserError, match=r"3 bad samples, more than data.max_bad_samples=2; .*verify .* --decode"):
        list(loader)


def test_a_frame_that_only_the_graph_finds_damaged_is_named(numbered_jpeg, tmp_path):
    """The Huffman tables of one sample's frames are overwritten: its headers read well, and DALI tells no names."""
    copy = tmp_path / "copy"
    shutil.copytree(numbered_jpeg, copy)
    dataset = load_dataset(copy)
    sample_id = int(np.argmax(dataset.num_frames))
    path, begin = dataset.shard_path(dataset.shards[sample_id]), int(dataset.media_offsets[sample_id])
    data = bytearray(path.read_bytes())
    end = begin + int(dataset.media_bytes[sample_id])
    place = data.find(b"\xff\xc4", begin, end)
    while place >= 0:
        data[place + 5 : place + 21] = b"\xff" * 16  # more codes of each length than there can be
        place = data.find(b"\xff\xc4", place + 2, end)
    path.write_bytes(data)
    config = thread_config(num_segments=4, short_side=64, crop_size=56)
    with pytest.raises(SampleError, match=f"{dataset.key(sample_id)}: jpeg cannot decode it") as caught:
        list(VideoLoader(dataset, config, training=False, micro_batch_size=5))
    assert caught.value.sample_id == sample_id


@pytest.mark.parametrize("folder", ["pyav", "jpeg"], indirect=True)
def test_no_sample_is_to_blame_for_what_the_device_does(folder, monkeypatch):
    """As when a GPU has no memory left: every sample fails then."""
    words = "CUDA runtime API error cudaErrorMemoryAllocation (2): out of memory"

    def run(graph: ClipGraph) -> list:
        raise RuntimeError(f"Error in GPU operator: {words}")

    monkeypatch.setattr(ClipGraph, "run", run)
    loader = VideoLoader(load_dataset(folder), CONFIG, training=True, micro_batch_size=3)
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        list(loader)
    assert not isinstance(caught.value, SampleError)
    assert loader.excluded == ()


def test_headers_of_jpegs():
    whole = io.BytesIO()
    Image.new("RGB", (96, 64), "red").save(whole, "JPEG")
    data = whole.getvalue()
    assert jpeg_size(data) == (64, 96)
    assert jpeg_size(data[:2] + b"\xff" + data[2:]) == (64, 96)
    begin = data.index(b"\xff\xda")
    for end in range(begin + 2):
        assert jpeg_size(data[:end]) is None
    assert jpeg_size(bytes(len(data))) is None
    assert jpeg_size(data[:2] + bytes(len(data) - 2)) is None
    for kind in ({"progressive": True}, {"quality": 95, "subsampling": 0}):
        other = io.BytesIO()
        Image.effect_noise((33, 17), 50).save(other, "JPEG", **kind)
        assert jpeg_size(other.getvalue()) == (17, 33)


@pytest.mark.parametrize("place", [4, 8, 11])
def test_draws_go_on_where_they_were(folder, place, tmp_path):
    """Of draws, in which samples come several times, those before the bad sample was found stay as they were; also
    when the loader is set up again from its state."""
    config = replace(CONFIG, class_sampling_exponent=0.0)
    dataset = load_dataset(folder)
    whole = ids(list(VideoLoader(dataset, config, training=True, micro_batch_size=3)))
    bad = whole[place]
    damage(dataset, bad)
    loader = VideoLoader(dataset, config, training=True, micro_batch_size=3)
    batches = iter(loader)
    step = whole.index(bad) // 3  # in which it is met first
    seen = ids([next(batches) for _ in range(step + 1)])
    if loader.epoch == 0:
        again = VideoLoader(dataset, config, training=True, micro_batch_size=3)
        again.load_state_dict(loader.state_dict())
        rest = ids(list(again))
        assert rest == ids(list(batches))
        seen += rest
    expected = whole[: 3 * step] + [sample_id for sample_id in whole[3 * step :] if sample_id != bad]
    assert seen[: len(expected)] == expected[: len(seen)]  # a draw from behind the last batch may have moved up
    assert len(seen) >= len(expected) // 3 * 3
