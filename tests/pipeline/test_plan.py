"""The plan as mathematics: sampling, crops, shares of ranks."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import DataConfig
from pipeline.crops import crop_box, multi_scale_box, random_resized_box, view_boxes
from pipeline.plan import plan_clip, plan_order, plan_rank_batches, plan_rank_evaluation
from pipeline.sampling import dense_frames, even_start, middle_frames, random_frames, random_start
from sharding.dataset import load_dataset

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
        ({"num_workers": -1}, "data.num_workers=-1"),
        ({"grayscale": 1.5}, "data.grayscale=1.5: use 0 to 1"),
        ({"frame_stride": 0}, "data.frame_stride=0"),
    ],
)
def test_impossible_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**values)


@given(videos, st.integers(1, 5))
def test_test_clips_interleave(video, clips):
    """Clip k of K takes the (k + 1/2) / K part of every segment; together they are the middles of K times as many."""
    num_frames, segments = video
    together = np.stack([middle_frames(num_frames, segments, clip, clips) for clip in range(clips)], 1).ravel()
    assert together.tolist() == middle_frames(num_frames, segments * clips).tolist()


@given(
    st.integers(1, 300), st.integers(1, 32), st.integers(1, 8), st.floats(0, 1, exclude_max=True), st.integers(1, 10)
)
def test_dense_clips(num_frames, length, stride, draw, clips):
    starts = [random_start(num_frames, length, stride, draw)]
    starts += [even_start(num_frames, length, stride, clip, clips) for clip in range(clips)]
    for start in starts:
        frames = dense_frames(num_frames, length, stride, start)
        assert frames.tolist() == [(start + stride * i) % num_frames for i in range(length)]
        if num_frames >= length * stride:
            assert start + length * stride <= num_frames
        else:
            assert start == 0
    if clips > 1 and num_frames > length * stride:
        assert starts[1] == 0
        assert starts[-1] == num_frames - length * stride


def test_published_dense_protocol():
    """Ten starts of a window of 64 frames: numpy.linspace over the possible ones, cut down to whole frames."""
    starts = [even_start(300, 8, 8, clip, 10) for clip in range(10)]
    assert starts == [int(start) for start in np.linspace(0, 300 - 64, 10)]


@settings(deadline=None)
@given(st.integers(32, 400), st.integers(32, 400), st.lists(st.floats(0, 1, exclude_max=True), min_size=4, max_size=4))
def test_scaled_crops_lie_in_the_frame(height, width, draws):
    draws = np.array(draws)
    multi, free = multi_scale_box(height, width, draws[:2]), random_resized_box(height, width, draws)
    for box in (multi, free):
        assert box.dtype == np.float32
        assert 0 <= box[0] < box[2] <= height
        assert 0 <= box[1] < box[3] <= width
    sides = [(int(min(height, width) * scale)) for scale in (1, 0.875, 0.75, 0.66)]
    steps = [sides.index(side) for side in (multi[2:] - multi[:2]).astype(int)]
    assert abs(steps[0] - steps[1]) <= 1
    area = float(np.prod(free[2:] - free[:2])) / (height * width)
    assert area < 1.0001
    cut = free[2] - free[0] == height or free[3] - free[1] == width
    assert area > 0.06 or cut


def test_multi_scale_keeps_a_pixel():
    """Of a video one pixel high, 0.66 of the short side is none."""
    for draw in np.linspace(0, 1, 50, endpoint=False):
        top, left, bottom, right = multi_scale_box(1, 40, np.array([draw, 0.5]))
        assert 0 <= top < bottom <= 1 and 0 <= left < right <= 40


def test_multi_scale_takes_every_pair_and_place():
    draws = (np.arange(2000) + 0.5) / 2000
    generator = np.random.default_rng(0)
    boxes = {tuple(multi_scale_box(256, 340, np.array([draw, generator.random()]))) for draw in draws}
    assert len({(box[2] - box[0], box[3] - box[1]) for box in boxes}) == 10
    square = {tuple(box[:2]) for box in boxes if box[2] - box[0] == 192 == box[3] - box[1]}
    assert len(square) == 13


@pytest.mark.parametrize(("height", "width"), [(256, 340), (340, 256), (200, 256), (256, 256)])
def test_views(height, width):
    def views(crops):
        config = DataConfig(short_side=256, crop_size=224, test_crops=crops)
        boxes, flips = view_boxes(height, width, config)
        assert boxes.shape == (crops, 4)
        assert np.all(boxes[:, :2] >= 0)
        assert np.all(boxes[:, 2:] <= np.array([height, width]) + 1e-3)
        return boxes, flips

    centre = views(1)[0][0]
    assert np.array_equal(centre, crop_box(height, width, DataConfig(), 0.5, 0.5))
    three, flips = views(3)
    assert np.array_equal(three[1], centre)
    assert not flips.any()
    long_axis = int(width >= height)
    assert three[0][long_axis] == 0
    assert three[2][2 + long_axis] == pytest.approx(max(height, width), abs=1)
    ten, flips = views(10)
    assert np.array_equal(ten[:5], ten[5:])
    assert flips.tolist() == [False] * 5 + [True] * 5
    assert np.array_equal(ten[0], centre)
    assert len({tuple(box) for box in ten[:5]}) == (5 if height != width or height > 224 else 1)


def test_draws_do_not_shift_each_other(numbered):
    """Switching one kind of draw on leaves the others as they were."""
    dataset = load_dataset(numbered)
    plain = DataConfig(short_side=64, crop_size=56)
    for changed in (replace(plain, crop="multi_scale"), replace(plain, color_jitter=0.4, grayscale=0.5)):
        one, other = (plan_clip(dataset, config, 5, training=True, seed=1, epoch=2) for config in (plain, changed))
        assert one.frames.tolist() == other.frames.tolist()
        assert one.flips.tolist() == other.flips.tolist()


def test_colours_stay_in_their_range_and_grey_comes_as_often_as_asked(numbered):
    dataset = load_dataset(numbered)
    config = DataConfig(short_side=64, crop_size=56, color_jitter=0.3, hue_jitter=20, grayscale=0.25)
    colors = np.stack([plan_clip(dataset, config, 0, training=True, epoch=epoch).color for epoch in range(400)])
    grey = colors[:, 2] == 0
    assert 0.15 < grey.mean() < 0.35
    factors = np.concatenate([colors[:, :2].ravel(), colors[~grey, 2]])
    assert 0.7 <= factors.min() < 0.75
    assert 1.25 < factors.max() <= 1.3
    assert np.abs(colors[:, 3]).max() <= 20
    assert plan_clip(dataset, config, 0, training=False).color.tolist() == [1, 1, 1, 0]


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.integers(1, 6),
    st.integers(1, 8),
    st.integers(1, 12),
    st.integers(0, 3),
)
def test_block_shuffle_is_a_permutation_that_reads_blocks(sizes, block_shards, streams, batch_size, epoch):
    shards = np.repeat(np.arange(len(sizes)), sizes)
    config = DataConfig(shuffle="block", shuffle_block_shards=block_shards, shuffle_streams=streams)
    order = plan_order(shards, config, batch_size, 7, epoch)
    assert sorted(order.tolist()) == list(range(len(shards)))
    assert np.array_equal(order, plan_order(shards, config, batch_size, 7, epoch))
    streams = math.gcd(streams, batch_size)
    whole = len(order) // batch_size * batch_size
    for stream in range(streams):
        run = order[:whole].reshape(-1, streams, batch_size // streams)[:, stream].ravel()
        # While a stream is in one block it reads no shard of another, and no shard of an earlier block comes again.
        seen, last = [], None
        for shard in shards[run].tolist():
            if shard != last and shard not in seen:
                seen.append(shard)
            last = shard
        reach = [np.flatnonzero(shards[run] == shard) for shard in seen]
        for index, places in enumerate(reach):
            assert sum(places[0] < other[-1] and other[0] < places[-1] for other in reach) <= block_shards
            assert index == 0 or reach[index - 1][0] < places[0]


def test_block_shuffle_of_one_block_is_as_random_as_a_global_one():
    shards = np.repeat(np.arange(8), 25)
    config = DataConfig(shuffle="block", shuffle_block_shards=8, shuffle_streams=1)
    places = np.stack([np.argsort(plan_order(shards, config, 10, 0, epoch)) for epoch in range(300)])
    assert np.abs(places.mean(0) - 99.5).max() < 5 * 200 / math.sqrt(12 * 300)


def test_block_shuffle_gives_each_rank_few_shards():
    """With as many streams as ranks, a rank reads about its share of the shards, in all its epoch."""
    shards = np.repeat(np.arange(64), 32)
    config = DataConfig(shuffle="block", shuffle_block_shards=2, shuffle_streams=8)
    order = plan_order(shards, config, 64, 0, 0)
    for rank in range(8):
        read = shards[plan_rank_batches(order, 64, 8, rank, 8).ravel()]
        assert len(set(read.tolist())) <= 64 / 8 + 2
