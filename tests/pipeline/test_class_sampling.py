"""Class-balanced sampling: expectations that are exact, and the same draws on all ranks and after a resume."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.class_sampling import draw_samples, sample_and_epoch, sample_ids_of
from pipeline.loader import VideoBatch, VideoLoader
from pipeline.plan import plan_balanced_order, plan_clip
from pipeline.reading import SampleError
from sharding.dataset import PackedDataset, load_dataset
from tests.helpers.clips import thread_config

CONFIG = thread_config(num_segments=8, short_side=72, crop_size=48, class_sampling_exponent=0.0)


def expected_draws(labels: np.ndarray, exponent: float) -> np.ndarray:
    """N n_c^q / sum_k n_k^q / n_c for each sample, one by one."""
    sizes = {label: labels.tolist().count(label) for label in labels.tolist()}
    total = sum(size**exponent for size in sizes.values())
    return np.array([len(labels) * sizes[label] ** (exponent - 1) / total for label in labels.tolist()])


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
    st.sampled_from([0.0, 0.5, 0.9]),
    st.integers(0, 99),
    st.integers(0, 3),
)
def test_no_draw_wanders_from_its_expectation(labels, exponent, seed, begin):
    labels = np.array([9] * begin + labels)  # the first ones may not be drawn
    ids = np.arange(begin, len(labels))
    draws = draw_samples(labels, ids, exponent, np.random.default_rng(seed))
    drawn = sample_ids_of(draws)
    assert len(draws) == len(ids) == len(set(draws.tolist()))
    assert np.all(np.diff(drawn) >= 0) and set(drawn.tolist()) <= set(ids.tolist())
    for label in np.unique(labels[ids]):
        members = ids[labels[ids] == label]
        expected = expected_draws(labels[ids], exponent)[members - begin]
        times = np.array([np.sum(drawn == member) for member in members])
        assert abs(times.sum() - expected.sum()) < 1 + 1e-9
        assert times.max() - times.min() <= 1


@pytest.mark.parametrize("exponent", [0.0, 0.5])
def test_draws_are_expected_as_defined(exponent):
    labels = np.array([0] * 1 + [1] * 4 + [2] * 8)
    generator, epochs = np.random.default_rng(0), 4000
    times = np.zeros(len(labels))
    for _ in range(epochs):
        draws = draw_samples(labels, np.arange(13), exponent, generator)
        times += np.bincount(sample_ids_of(draws), minlength=13)
    # Counts of a sample vary by less than 1 around their mean: its error is below 0.5 / sqrt(4000) = 0.008.
    assert times / epochs == pytest.approx(expected_draws(labels, exponent), abs=4 * 0.008)


def test_the_power_1_draws_each_sample_once():
    draws = draw_samples(np.array([3, 3, 0, 1, 3]), np.arange(5), 1.0, np.random.default_rng(0))
    assert draws.tolist() == [0, 1, 2, 3, 4]


@pytest.fixture(scope="module")
def dataset(numbered) -> PackedDataset:
    """13 videos, of which two are of class 0."""
    labels = np.ones(13, np.int64)
    labels[[3, 8]] = 0
    return replace(load_dataset(numbered), labels=labels)


def described(batches: list[VideoBatch]) -> list[tuple[int, bytes]]:
    """Sample ids and pixels, in order."""
    return [
        (int(sample_id), clip.numpy().tobytes())
        for batch in batches
        for sample_id, clip in zip(batch.sample_ids, batch.clips)
    ]


def load(dataset, config=CONFIG, **options) -> VideoLoader:
    return VideoLoader(dataset, config, training=True, **({"micro_batch_size": 3, "seed": 4} | options))


def test_a_sample_that_comes_again_has_other_frames_and_crops(dataset):
    order = plan_balanced_order(dataset, np.arange(13), CONFIG, 3, 4, 0)
    first = [draw for draw in order.tolist() if sample_ids_of(draw) == 8]
    assert len(first) >= 3  # 13 draws, half of them of two samples
    plans = [
        plan_clip(dataset, CONFIG, sample_id, training=True, seed=4, epoch=epoch)
        for sample_id, epoch in (sample_and_epoch(draw, 0) for draw in first)
    ]
    assert len({(tuple(plan.frames), tuple(plan.boxes.ravel()), bool(plan.flips[0])) for plan in plans}) == len(plans)
    seen = described(list(load(dataset)))
    assert [sample_id for sample_id, _ in seen] == sample_ids_of(order[:12]).tolist()
    assert len(set(seen)) == len(seen)


def test_the_same_draws_at_any_number_of_ranks(dataset):
    def epoch(world_size: int, micro: int) -> list[list[tuple[int, bytes]]]:
        loaders = [
            load(dataset, rank=rank, world_size=world_size, micro_batch_size=micro, batch_size=4)
            for rank in range(world_size)
        ]
        batches = [described(list(loader)) for loader in loaders]
        part = 4 // world_size
        return [[clip for of_rank in batches for clip in of_rank[part * step :][:part]] for step in range(3)]

    assert epoch(1, 4) == epoch(1, 2) == epoch(2, 2) == epoch(2, 1)


@pytest.mark.parametrize("shuffle", ["global", "block"])
def test_it_resumes_to_the_bit(dataset, shuffle):
    config = thread_config(
        num_segments=4, short_side=64, crop_size=48, class_sampling_exponent=0.5, shuffle=shuffle, flip=True
    )
    loader = load(dataset, config)
    whole = described(list(loader)) + described(list(loader))
    stopped = load(dataset, config)
    iterator = iter(stopped)
    for _ in range(3):
        next(iterator)
    resumed = load(dataset, config)
    resumed.load_state_dict(stopped.state_dict())
    assert described(list(resumed)) + described(list(resumed)) == whole[9:24]


def test_worker_processes_and_labels_of_draws(dataset):
    """The encoded draws cross the processes' borders, and ids, labels and errors come back as those of samples."""
    with load(dataset, replace(CONFIG, worker_type="process", num_workers=1)) as loader:
        batches = list(loader)
    assert described(batches) == described(list(load(dataset)))
    for batch in batches:
        assert batch.sample_ids.max() < 13
        assert batch.labels.tolist() == dataset.labels[batch.sample_ids.numpy()].tolist()


def test_a_bad_sample_is_named(dataset):
    order = sample_ids_of(plan_balanced_order(dataset, np.arange(13), CONFIG, 3, 4, 0)).tolist()
    bad = next(sample_id for place, sample_id in enumerate(order) if sample_id in order[:place])
    media_offsets = dataset.media_offsets.copy()
    media_offsets[bad] = 1 << 40
    with pytest.raises(SampleError) as caught:
        list(load(replace(dataset, media_offsets=media_offsets)))
    assert caught.value.sample_id == bad
