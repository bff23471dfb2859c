"""Segments of several frames: where they are, and that one frame a segment is what it always was."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import sampling
from pipeline.config import DataConfig
from pipeline.loader import VideoLoader
from pipeline.plan import plan_clip
from pipeline.sampling import middle_frames, random_frames
from sharding.dataset import load_dataset
from sharding.errors import UserError

segmented = st.tuples(st.integers(1, 500), st.integers(1, 20), st.integers(1, 8))


def test_the_examples_of_the_docstrings():
    assert doctest.testmod(sampling).attempted > 8 and doctest.testmod(sampling).failed == 0


def check_segments(frames: np.ndarray, num_frames: int, segments: int, length: int) -> None:
    """Segments in order; in each, frames that follow each other, the last one of the video repeated beyond its end."""
    assert frames.dtype == np.int32 and frames.shape == (segments * length,)
    assert frames.min() >= 0 and frames.max() < num_frames
    parts = frames.reshape(segments, length)
    assert np.array_equal(parts, np.minimum(parts[:, :1] + np.arange(length), num_frames - 1))
    assert np.all(np.diff(parts[:, 0]) >= 0)
    num_begins = max(1, num_frames - length + 1)
    assert parts[-1, 0] < num_begins  # beyond the end lie only videos that are too short
    for index, begin in enumerate(parts[:, 0]):
        assert index * num_begins // segments <= begin <= ((index + 1) * num_begins - 1) // segments


@given(segmented, st.randoms(use_true_random=False))
def test_random_segments(video, random):
    num_frames, segments, length = video
    draws = np.array([random.random() for _ in range(segments)])
    check_segments(random_frames(num_frames, draws, length), num_frames, segments, length)


def test_random_segments_reach_every_begin():
    almost_one = np.nextafter(1.0, 0.0)
    assert random_frames(33, np.full(3, almost_one), 4).reshape(3, 4)[:, 0].tolist() == [9, 19, 29]
    begins = {int(random_frames(12, np.array([draw]), 4)[0]) for draw in np.linspace(0, 1, 90, endpoint=False)}
    assert begins == set(range(9))


@given(segmented, st.integers(1, 5))
def test_middle_segments_and_those_of_several_clips(video, clips):
    num_frames, segments, length = video
    together = [middle_frames(num_frames, segments, k, clips, length).reshape(segments, length) for k in range(clips)]
    for frames in together:
        check_segments(frames.ravel(), num_frames, segments, length)
    begins = np.stack(together, 1)[:, :, 0].ravel()
    finer = middle_frames(num_frames, segments * clips, frames_per_segment=length)
    assert begins.tolist() == finer.reshape(-1, length)[:, 0].tolist()


@given(st.integers(1, 500), st.integers(1, 64), st.integers(0, 2**32))
def test_with_one_frame_a_segment_nothing_has_changed(num_frames, segments, seed):
    """The formulas of TSN, written out."""
    draws = np.random.default_rng(seed).random(segments)
    numbers = np.arange(segments)
    drawn = np.floor((numbers + draws) * num_frames / segments).astype(np.int64)
    expected = np.minimum(drawn, ((numbers + 1) * num_frames - 1) // segments)
    assert random_frames(num_frames, draws).tolist() == expected.tolist()
    assert middle_frames(num_frames, segments).tolist() == ((2 * numbers + 1) * num_frames // (2 * segments)).tolist()


SETTINGS = {"short_side": 64, "crop_size": 56, "flip": False}


def test_a_published_clip_of_four_segments_of_four(numbered):
    dataset = load_dataset(numbered)
    config = DataConfig(num_segments=4, frames_per_segment=4, test_clips=2, **SETTINGS)
    assert config.frames_per_clip == 16
    num_frames = int(dataset.num_frames[0])
    training = plan_clip(dataset, config, 0, training=True, seed=1).frames
    check_segments(training, num_frames, 4, 4)
    begins = plan_clip(dataset, DataConfig(num_segments=4, **SETTINGS), 0, training=True, seed=1).frames
    assert np.abs(training.reshape(4, 4)[:, 0] - begins).max() <= 3  # the same draws, over three places fewer
    tested = plan_clip(dataset, config, 0, training=False).frames
    assert tested.tolist() == np.concatenate([middle_frames(num_frames, 4, k, 2, 4) for k in (0, 1)]).tolist()


@pytest.mark.parametrize("training", [True, False])
def test_the_loader_gives_such_clips(numbered, training):
    config = DataConfig(num_segments=2, frames_per_segment=3, test_clips=2, **SETTINGS)
    loader = VideoLoader(load_dataset(numbered), config, training=training, micro_batch_size=2)
    batch = next(iter(loader))
    loader.close()
    assert batch.clips.shape[1:] == (6, 3, 56, 56)


def test_a_state_from_before_the_setting_is_one_of_its_default(numbered):
    def loader(**settings):
        config = DataConfig(num_segments=2, **settings, **SETTINGS)
        return VideoLoader(load_dataset(numbered), config, training=True, micro_batch_size=2)

    state = loader().state_dict() | {"step": 1}
    del state["data.frames_per_segment"]
    resumed = loader()
    resumed.load_state_dict(state)
    assert resumed.step == 1
    with pytest.raises(UserError, match=r"made with data\.frames_per_segment 1, this run has 4"):
        loader(frames_per_segment=4).load_state_dict(state)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frames_per_segment": 0}, "data.frames_per_segment=0: use 1 or more"),
        ({"frames_per_segment": 4, "sampling": "dense"}, "data.frames_per_segment=4: data.sampling=dense has no seg"),
    ],
)
def test_impossible_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**values)
