"""Rows of a table that point outside of a shard, and indexes that divide nothing: an error, and no memory."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from pipeline.clip_reader import media_bound
from pipeline.loader import VideoLoader
from pipeline.reading import SampleError, read_media, read_packets
from sharding.dataset import load_dataset
from tests.helpers.clips import thread_config


def with_first(values: np.ndarray, value: int) -> np.ndarray:
    values = values.copy()
    values[0] = value
    return values


@pytest.mark.parametrize(
    "columns",
    [{"media_offsets": -1}, {"media_offsets": 2**62}, {"media_bytes": 2**62}, {"media_bytes": -5}],
)
def test_bytes_outside_of_the_shard(numbered, columns):
    dataset = load_dataset(numbered)
    wrong = replace(dataset, **{name: with_first(getattr(dataset, name), value) for name, value in columns.items()})
    with pytest.raises(OSError, match=r"the table says|the file ends"):
        read_media(wrong, 0)
    bound = media_bound(wrong, thread_config(), "nvdec", 8, training=True)
    assert bound <= media_bound(dataset, thread_config(), "nvdec", 8, training=True)


def test_a_number_of_frames_that_no_file_holds_takes_no_memory(numbered):
    dataset = load_dataset(numbered)
    wrong = replace(dataset, num_frames=with_first(dataset.num_frames, 2**31 - 1))
    assert media_bound(wrong, thread_config(), "nvdec", 8, training=True) < 20 * dataset.media_bytes.max()


@pytest.mark.parametrize("offset", [-1, 2**31 - 1])
def test_an_index_that_divides_nothing(numbered, tmp_path, offset):
    split = shutil.copytree(numbered, tmp_path / "split")
    numbers = np.load(split / "frames.npy")
    dataset = load_dataset(split)
    numbers[int(dataset.frame_starts[1]) + 1] = offset
    np.save(split / "frames.npy", numbers)
    with pytest.raises(OSError, match="the index of frames does not fit the table"):
        read_packets(dataset, 1, np.array([0]))


@pytest.mark.parametrize("column", ["widths", "heights"])
def test_a_sample_of_nothing_is_a_bad_one(numbered, column):
    dataset = load_dataset(numbered)
    wrong = replace(dataset, **{column: with_first(getattr(dataset, column), 0)})
    with (
        VideoLoader(wrong, thread_config(num_segments=2), training=True, micro_batch_size=13) as loader,
        pytest.raises(SampleError, match="no frames, or frames without pixels, as the table says"),
    ):
        list(loader)
