"""The GPU's decode nodes against the CPU's: the same plan, the same frames."""

import shutil

import pytest
import torch

from pipeline.config import DataConfig
from pipeline.loader import VideoBatch, VideoLoader
from pipeline.reading import SampleError
from sharding.dataset import PackedDataset, load_dataset

# In units of the normalised clips: four grey levels of 255 on average, and 24 anywhere, for other roundings of the
# colour conversion and of the inverse DCT.
MEAN_BOUND, MAX_BOUND = 4 / 58, 24 / 57

pytestmark = pytest.mark.gpu


def load(dataset: PackedDataset, config: DataConfig, **options) -> list[VideoBatch]:
    """Return all batches, with no process left that made them."""
    with VideoLoader(dataset, config, micro_batch_size=4, **options) as loader:
        return list(loader)


@pytest.mark.parametrize(
    ("fixture", "on_gpu", "on_cpu"),
    [
        ("numbered", "nvdec", "pyav"),
        ("numbered", "pyav", "pyav"),
        ("numbered_jpeg", "nvjpeg", "jpeg"),
        ("numbered_jpeg", "jpeg", "jpeg"),
    ],
)
@pytest.mark.parametrize(
    ("training", "settings"),
    [
        (True, {}),
        (True, {"crop": "multi_scale", "color_jitter": 0.3, "hue_jitter": 20, "grayscale": 0.2}),
        (True, {"crop": "random_resized", "sampling": "dense", "frame_stride": 2}),
        (False, {}),
        (False, {"test_clips": 2, "test_crops": 3}),
        (False, {"sampling": "dense", "frame_stride": 3, "test_clips": 2, "test_crops": 10}),
    ],
)
def test_same_clips_as_on_the_cpu(request, gpu, fixture, on_gpu, on_cpu, training, settings):
    skip_without_nvdec(request, on_gpu)
    dataset = load_dataset(request.getfixturevalue(fixture))

    def batches(decoder: str, device: torch.device | str) -> list:
        config = DataConfig(num_segments=8, short_side=64, crop_size=56, decoder=decoder, **settings)
        return load(dataset, config, training=training, seed=3, device=device)

    found, expected = batches(on_gpu, gpu), batches(on_cpu, "cpu")
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert one.clips.is_cuda
        assert one.sample_ids.tolist() == other.sample_ids.tolist()
        difference = (one.clips.cpu() - other.clips).abs()
        assert difference.mean() < MEAN_BOUND
        assert difference.max() < MAX_BOUND


def test_augmented_clips_are_those_of_the_cpu(numbered, gpu):
    """Of the same frames, decoded on the CPU: a threshold such as solarize's would enlarge other differences."""
    settings = {"rand_augment": 3, "rand_augment_magnitude": 12, "rand_augment_std": 4, "random_erasing": 0.5}
    config = DataConfig(num_segments=8, short_side=64, crop_size=56, decoder="pyav", **settings)
    found, expected = (
        load(load_dataset(numbered), config, training=True, seed=3, device=device) for device in (gpu, "cpu")
    )
    for one, other in zip(found, expected, strict=True):
        assert (one.clips.cpu() - other.clips).abs().mean() < MEAN_BOUND


def skip_without_nvdec(request, decoder: str) -> None:
    if decoder == "nvdec":
        request.getfixturevalue("nvdec")


@pytest.mark.parametrize(
    ("fixture", "decoder"),
    [("numbered", "nvdec"), ("numbered", "pyav"), ("numbered_jpeg", "nvjpeg"), ("numbered_jpeg", "jpeg")],
)
def test_a_damaged_sample_is_named(request, gpu, tmp_path, fixture, decoder):
    skip_without_nvdec(request, decoder)
    copy = tmp_path / "copy"
    shutil.copytree(request.getfixturevalue(fixture), copy)
    dataset = load_dataset(copy)
    with dataset.shard_path(dataset.shards[4]).open("r+b") as file:
        file.seek(int(dataset.media_offsets[4]))
        file.write(bytes(int(dataset.media_bytes[4])))
    config = DataConfig(num_segments=4, short_side=64, crop_size=56, decoder=decoder)
    with pytest.raises(SampleError, match=dataset.key(4)):
        load(dataset, config, training=False, device=gpu)
