"""The loader end to end: real shards, real decoding, the real graph."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config import DataConfig
from pipeline.dali_graph import ClipGraph
from pipeline.loader import VideoBatch, VideoLoader
from pipeline.plan import plan_clip
from pipeline.reading import SampleError, read_media
from sharding.dataset import PackedDataset, load_dataset
from sharding.errors import UserError
from sharding.video.decode import decode_frames
from tests.helpers.clips import jpegs_of, thread_config
from tests.helpers.videos import draw_number

WHOLE_FRAME = thread_config(num_segments=8, short_side=64, crop_size=64, flip=False)


def load(dataset: PackedDataset, config: DataConfig = WHOLE_FRAME, **options) -> VideoLoader:
    return VideoLoader(dataset, config, **({"training": True, "micro_batch_size": 3} | options))


def pixels(clip: torch.Tensor) -> np.ndarray:
    """The frames (T, H, W, 3) of a normalised clip (T, 3, H, W), in units of 0 to 255."""
    return clip.permute(0, 2, 3, 1).numpy() * np.array(WHOLE_FRAME.pixel_std) + np.array(WHOLE_FRAME.pixel_mean)


def same(one: list[VideoBatch], other: list[VideoBatch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.clips, b.clips) and torch.equal(a.labels, b.labels) and torch.equal(a.sample_ids, b.sample_ids)
        for a, b in zip(one, other)
    )


@pytest.fixture(params=["pyav", "jpeg"])
def dataset(request) -> PackedDataset:
    """The numbered videos, once for each decode node of the CPU."""
    return load_dataset(request.getfixturevalue({"pyav": "numbered", "jpeg": "numbered_jpeg"}[request.param]))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("segments", [1, 3, 8])
def test_frames_are_those_the_plan_names(dataset, training, segments):
    """For videos of 1 frame, of fewer frames than segments, and of many."""
    # Videos are 96 x 64: a crop of 64 shows two thirds of the 4 x 4 blocks that make the number, so crops are 2 x 2.
    config = thread_config(num_segments=segments, short_side=64, crop_size=64, flip=False)
    loader = load(dataset, config, training=training, micro_batch_size=1, seed=5)
    seen = 0
    for epoch in range(2):
        for batch in loader:
            sample_id = int(batch.sample_ids)
            plan = plan_clip(dataset, config, sample_id, training=training, seed=5, epoch=epoch)
            for shown, number in zip(pixels(batch.clips[0]), plan.frames.tolist()):
                expected = draw_number(number, (96, 64))[:, int(plan.boxes[0, 1]) : int(plan.boxes[0, 3])]
                assert np.abs(shown - expected).mean() < 6, (dataset.key(sample_id), number)
            seen += 1
    assert seen == 2 * len(dataset)


def test_batches_and_length(dataset):
    loader = load(dataset)
    assert len(loader) == len(dataset) // 3
    batches = list(loader)
    assert len(batches) == len(loader)
    ids = torch.cat([batch.sample_ids for batch in batches])
    assert len(set(ids.tolist())) == len(ids)
    for batch in batches:
        assert batch.clips.shape == (3, 8, 3, 64, 64)
        assert batch.clips.permute(0, 1, 3, 4, 2).is_contiguous()
        assert batch.labels.tolist() == dataset.labels[batch.sample_ids.numpy()].tolist()
        assert repr(batch).startswith("VideoBatch(clips=(3, 8, 3, 64, 64)")


@pytest.mark.parametrize("exponent", [1, 0.5])
def test_excluded_samples_come_in_no_epoch(dataset, exponent):
    """Samples that whoever reads the split leaves out, as a fold's test: of 13 two steps of 4 are left."""
    held_out = replace(dataset, excluded=np.array([0, 5, 12]))
    loader = load(held_out, replace(WHOLE_FRAME, class_sampling_exponent=exponent), micro_batch_size=4)
    assert loader.steps_per_epoch == 2
    seen = [batch.sample_ids for _ in range(6) for batch in loader]
    assert len(seen) == 12
    assert set(torch.cat(seen).tolist()) == set(range(13)) - {0, 5, 12}


def test_epochs_differ_and_repeat(dataset):
    loader, again = load(dataset, seed=1), load(dataset, seed=1)
    first, second = list(loader), list(loader)
    assert not same(first, second)
    assert same(first, list(again))
    assert same(second, list(again))
    assert not same(first, list(load(dataset, seed=2)))


@pytest.mark.parametrize("stop", [0, 1, 3, 4])
def test_resumes_to_the_bit(dataset, stop):
    config = thread_config(num_segments=8, short_side=72, crop_size=64)
    loader = load(dataset, config)
    whole = list(loader) + list(loader)
    stopped = load(dataset, config)
    iterator = iter(stopped)
    for _ in range(stop):
        next(iterator)
    state = stopped.state_dict()
    assert (state["epoch"], state["step"]) == divmod(stop, 4)
    resumed = load(dataset, config)
    resumed.load_state_dict(state)
    rest = list(resumed)
    assert same(whole[stop : stop + len(rest)], rest)
    assert (resumed.epoch, resumed.step) == (1 + stop // 4, 0)
    # The loader that was left in the middle of an epoch takes up where it stopped, too.
    assert same(rest, list(stopped))


def test_ranks_and_accumulation_see_the_same_global_batches(dataset):
    config = thread_config(num_segments=8, short_side=72, crop_size=48)  # frames, crops and flips are drawn

    def epoch(world_size: int, micro: int) -> list[list[tuple[int, bytes]]]:
        """Sample ids and pixels of each optimizer step, over all ranks."""
        loaders = [
            load(dataset, config, rank=rank, world_size=world_size, micro_batch_size=micro, batch_size=4)
            for rank in range(world_size)
        ]
        steps = [[] for _ in range(loaders[0].steps_per_epoch)]
        for loader in loaders:
            step = 0
            for batch in loader:
                steps[step] += zip(batch.sample_ids.tolist(), (clip.numpy().tobytes() for clip in batch.clips))
                step += batch.is_last_micro_batch
        return steps

    expected = epoch(1, 4)
    assert len(expected) == 3
    assert epoch(1, 1) == expected
    assert epoch(2, 2) == expected
    assert epoch(2, 1) == expected
    assert epoch(4, 1) == expected


@pytest.mark.parametrize("world_size", [1, 2, 5, 16])
def test_evaluation_sees_each_sample_once(dataset, world_size):
    ids = []
    for rank in range(world_size):
        loader = load(dataset, training=False, micro_batch_size=2, rank=rank, world_size=world_size)
        batches = list(loader)
        assert len(batches) == len(loader)
        ids += [int(i) for batch in batches for i in batch.sample_ids]
    assert ids == list(range(len(dataset)))


def test_flip_mirrors_half_of_the_clips_whole(dataset):
    config = thread_config(num_segments=4, short_side=64, crop_size=64, flip=True)
    plain = thread_config(num_segments=4, short_side=64, crop_size=64, flip=False)
    flipped = 0
    loader, reference = load(dataset, config, seed=3), load(dataset, plain, seed=3)
    for epoch in range(4):
        for batch, still in zip(loader, reference):
            for clip, other, sample_id in zip(batch.clips, still.clips, batch.sample_ids.tolist()):
                plan = plan_clip(dataset, config, sample_id, training=True, seed=3, epoch=epoch)
                assert torch.equal(clip, other.flip(-1) if plan.flips[0] else other)
                flipped += int(plan.flips[0])
    assert 12 <= flipped <= 36  # of 48


def test_crops_without_scaling_are_the_stored_pixels(numbered):
    """Frames stored at the target size are cropped, not resampled."""
    dataset = load_dataset(numbered)
    config = thread_config(num_segments=4, short_side=64, crop_size=48, flip=False)
    batch = next(iter(load(dataset, config, seed=9)))
    for clip, sample_id in zip(batch.clips, batch.sample_ids.tolist()):
        plan = plan_clip(dataset, config, sample_id, training=True, seed=9)
        top, left, bottom, right = plan.boxes[0].astype(int)
        frames = decode_frames(read_media(dataset, sample_id), plan.frames)[:, top:bottom, left:right]
        assert np.abs(pixels(clip) - frames).max() < 1e-3


@pytest.mark.parametrize(("short_side", "crop_size"), [(64, 48), (50, 40), (36, 32), (100, 90)])
def test_decoding_only_the_crop_changes_nothing(numbered_jpeg, short_side, crop_size):
    """JPEGs decoded where the crop lies, against the same JPEGs decoded whole by another library."""
    dataset = load_dataset(numbered_jpeg)
    config = thread_config(num_segments=4, short_side=short_side, crop_size=crop_size)
    batch = next(iter(load(dataset, config, seed=9, micro_batch_size=8)))
    plans = [plan_clip(dataset, config, i, training=True, seed=9) for i in batch.sample_ids.tolist()]
    jpegs = [np.array(jpegs_of(dataset, plan.sample_id), object)[plan.frames] for plan in plans]
    whole = [np.stack([np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in clip]) for clip in jpegs]
    inputs = {
        "media": whole,
        "scaled": np.ones(8, bool),
        "start_0": np.stack([plan.boxes[0, :2] for plan in plans]),
        "end_0": np.stack([plan.boxes[0, 2:] for plan in plans]),
        "place_0": np.zeros((8, 2), np.float32),
        "flip_0": np.array([plan.flips[0] for plan in plans], np.int32),
    }
    statistics = config.pixel_mean, config.pixel_std
    graph = ClipGraph(lambda: inputs, "pyav", 8, crop_size, *statistics, torch.device("cpu"), 2)
    expected = torch.from_dlpack(graph.run()[0]).permute(0, 1, 4, 2, 3)
    difference = np.concatenate([np.abs(pixels(a) - pixels(b)) for a, b in zip(batch.clips, expected)])
    assert difference.max() <= 2.0, difference.max()
    assert difference.mean() < 0.1


def test_a_state_of_another_dataset_or_seed_is_refused(dataset):
    state = load(dataset).state_dict()
    with pytest.raises(UserError, match="seed 0, this run has 1"):
        load(dataset, seed=1).load_state_dict(state)
    with pytest.raises(UserError, match="dataset"):
        load(dataset).load_state_dict(state | {"dataset": "another"})


def test_impossible_batches_are_refused(dataset):
    with pytest.raises(UserError, match="13 samples do not fill one batch of 14"):
        load(dataset, micro_batch_size=14)
    with pytest.raises(UserError, match="batch size 4 cannot be shared"):
        load(dataset, micro_batch_size=3, batch_size=4)


def test_decode_nodes_that_do_not_fit_are_refused(numbered, numbered_jpeg):
    with pytest.raises(UserError, match="needs a GPU"):
        load(load_dataset(numbered), thread_config(decoder="nvdec"))
    with pytest.raises(UserError, match=r"data\.decoder=jpeg: .* stores videos"):
        load(load_dataset(numbered), thread_config(decoder="jpeg"))
    with pytest.raises(UserError, match=r"data\.decoder=pyav: .* stores JPEGs"):
        load(load_dataset(numbered_jpeg), thread_config(decoder="pyav"))


def test_a_damaged_shard_names_sample_and_remedy(numbered, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(numbered, copy)
    dataset = load_dataset(copy)
    sample_id = 4
    path: Path = dataset.shard_path(dataset.shards[sample_id])
    with path.open("r+b") as file:
        file.seek(int(dataset.media_offsets[sample_id]))
        file.write(bytes(int(dataset.media_bytes[sample_id])))
    with pytest.raises(SampleError) as caught:
        list(load(dataset, training=False))
    message = str(caught.value)
    assert path.name in message
    assert dataset.key(sample_id) in message
    assert f"python -m sharding verify {copy} --decode" in message


@pytest.mark.parametrize("training", [True, False])
def test_a_split_of_which_nothing_is_left_is_refused(dataset, training):
    empty = replace(dataset, excluded=np.arange(len(dataset)))
    with pytest.raises(UserError, match=rf"none of its {len(dataset)} samples is left: all are quarantined$"):
        load(empty, training=training)


def test_of_two_decode_nodes_the_faster_one_is_measured_and_taken(dataset, monkeypatch):
    """With the loader's own batches. The one node that a CPU has plays both."""
    node = "jpeg" if "jpgs" in dataset.suffixes else "pyav"
    monkeypatch.setattr("pipeline.decoders.fitting_decoders", lambda *_: ["slow", "fast"])
    monkeypatch.setattr("pipeline.decoders.read_speeds", lambda *_: {})
    monkeypatch.setattr("pipeline.decoders._record", lambda *_: None)
    monkeypatch.setattr("pipeline.loader._MEASURED_SECONDS", 0.05)
    build, measure, speeds = VideoLoader._build_stream, VideoLoader._measure, {"slow": 10.0, "fast": 20.0}
    monkeypatch.setattr(VideoLoader, "_build_stream", lambda loader, _: build(loader, node))
    measured = []

    def measure_too(loader: VideoLoader, decoder: str) -> float:
        measured.append(measure(loader, decoder))
        return speeds[decoder]

    monkeypatch.setattr(VideoLoader, "_measure", measure_too)
    assert load(dataset).decoder == "fast"
    assert len(measured) == 2 and min(measured) > 0
