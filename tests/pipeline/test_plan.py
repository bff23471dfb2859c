"""The plan as mathematics: sampling, crops, shares of ranks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import DataConfig
from pipeline.crops import crop_box
from pipeline.frames import middle_frames, random_frames
from pipeline.plan import plan_order, plan_rank_batches, plan_rank_evaluation

videos = st.tuples(st.integers(1, 500), st.integers(1, 64))


@given(videos)
def test_middle_frames_are_the_middles_of_segments(video):
    num_frames, segments = video
    frames = middle_frames(num_frames, segments)
    tick = num_frames / segments
    assert frames.tolist() == [int(tick / 2 + tick * i + 1e-9) for i in range(segments)]
    assert 0 <= frames[0] <= frames[-1] < num_frames


@given(videos, st.randoms(use_true_random=False))
def test_random_frames_lie_in_their_segments(video, random):
    num_frames, segments = video
    frames = random_frames(num_frames, np.array([random.random() for _ in range(segments)]))
    assert np.all(np.diff(frames) >= 0)
    for index, frame in enumerate(frames):
        assert index * num_frames // segments <= frame <= ((index + 1) * num_frames - 1) // segments


def test_random_frames_reach_every_frame_but_never_the_end():
    almost_one = np.nextafter(1.0, 0.0)
    assert random_frames(30, np.full(3, almost_one)).tolist() == [9, 19, 29]
    assert random_frames(30, np.zeros(3)).tolist() == [0, 10, 20]


@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.integers(0, 200), st.integers(0, 5), st.integers(0, 9)
)
def test_ranks_share_each_global_batch(world_size, accumulation, micro, num_samples, epoch, seed):
    batch_size = world_size * accumulation * micro
    order = plan_order(np.zeros(num_samples, int), DataConfig(), batch_size, seed, epoch)
    shares = [plan_rank_batches(order, batch_size, micro, rank, world_size) for rank in range(world_size)]
    steps = num_samples // batch_size
    assert [share.shape for share in shares] == [(steps, accumulation, micro)] * world_size
    for step in range(steps):
        joined = np.concatenate([share[step].ravel() for share in shares])
        # Whatever the number of ranks, an optimizer step sees the same slice of the epoch.
        assert joined.tolist() == order[step * batch_size : (step + 1) * batch_size].tolist()


@given(st.integers(1, 9), st.integers(1, 7), st.integers(0, 60))
def test_evaluation_sees_every_sample_once(world_size, batch_size, num_samples):
    ids = np.arange(num_samples) * 3
    batches = [plan_rank_evaluation(ids, batch_size, rank, world_size) for rank in range(world_size)]
    assert [int(i) for rank in batches for batch in rank for i in batch] == ids.tolist()
    assert all(1 <= len(batch) <= batch_size for rank in batches for batch in rank)


def test_order_is_a_new_permutation_each_epoch():
    ids = np.arange(1000)
    shards = np.zeros(1000, int)
    orders = [plan_order(shards, DataConfig(), 10, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == ids.tolist() for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert np.array_equal(orders[0], plan_order(shards, DataConfig(), 10, 0, 0))


@settings(deadline=None)
@given(
    st.integers(16, 600),
    st.integers(16, 600),
    st.integers(1, 300),
    st.integers(1, 300),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1, exclude_max=True),
)
def test_crop_lies_in_the_frame(height, width, one, other, vertical, horizontal):
    config = DataConfig(short_side=max(one, other), crop_size=min(one, other))
    top, left, bottom, right = crop_box(height, width, config, vertical, horizontal)
    assert top >= 0 and left >= 0
    assert bottom <= height + 1e-3 and right <= width + 1e-3
    side = config.crop_size * min(height, width) / config.short_side
    assert bottom - top == pytest.approx(side, abs=1e-3)
    assert right - left == pytest.approx(side, abs=1e-3)


def test_crop_of_frames_at_the_target_size_is_on_whole_pixels():
    config = DataConfig(short_side=64, crop_size=56)
    boxes = [crop_box(64, 85, config, v, h) for v in np.linspace(0, 0.999, 50) for h in np.linspace(0, 0.999, 50)]
    assert all(np.array_equal(box, np.round(box)) for box in boxes)
    assert {box[0] for box in boxes} == set(range(9))
    assert {box[1] for box in boxes} == set(range(30))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_segments": 0}, "data.num_segments=0: use 1 or more"),
        ({"crop_size": 300}, "data.crop_size=300 is larger than data.short_side=256"),
        ({"reading_threads": -1}, "data.reading_threads=-1"),
    ],
)
def test_impossible_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**values)
