"""The GPU's decode nodes against the CPU's: the same plan, the same frames."""

import pytest
import torch

from pipeline.config import DataConfig
from pipeline.loader import VideoLoader
from sharding.manifest import load_dataset

# In units of the normalised clips: four grey levels of 255 on average, and 24 anywhere, for other roundings of the
# colour conversion and of the inverse DCT.
MEAN_BOUND, MAX_BOUND = 4 / 58, 24 / 57


@pytest.mark.parametrize(
    ("fixture", "on_gpu", "on_cpu"),
    [("numbered", "nvdec", "pyav"), ("numbered_jpeg", "jpeg", "jpeg"), ("numbered", "pyav", "pyav")],
)
@pytest.mark.parametrize("training", [True, False])
def test_same_clips_as_on_the_cpu(request, gpu, fixture, on_gpu, on_cpu, training):
    dataset = load_dataset(request.getfixturevalue(fixture))

    def batches(decoder: str, device: torch.device | str) -> list:
        config = DataConfig(num_segments=8, short_side=64, crop_size=56, decoder=decoder)
        loader = VideoLoader(dataset, config, training=training, micro_batch_size=4, seed=3, device=device)
        return list(loader)

    found, expected = batches(on_gpu, gpu), batches(on_cpu, "cpu")
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert one.clips.is_cuda
        assert one.sample_ids.tolist() == other.sample_ids.tolist()
        difference = (one.clips.cpu() - other.clips).abs()
        assert difference.mean() < MEAN_BOUND
        assert difference.max() < MAX_BOUND
