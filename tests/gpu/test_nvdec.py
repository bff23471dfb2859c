"""NVDEC: tried, it works or the reason is given; handed wanted frames, it returns those."""

import numpy as np
import pytest

from pipeline.dali_graph import decode_by_nvdec
from pipeline.decoders import choose_decoder
from pipeline.nvdec import check_delivered
from pipeline.nvdec_probe import probe_nvdec
from sharding.dataset import load_dataset
from sharding.errors import UserError
from sharding.video.decode import decode_frames
from tests.pipeline.test_nvdec import WANTED, Video, packed

# Grey levels: other roundings of the colour conversion; at edges, where colours change, other interpolation of chroma.
MEAN_BOUND = 4

pytestmark = pytest.mark.gpu


def test_the_trial_works_or_gives_the_reason(gpu):
    found = probe_nvdec(0)
    if found.works:
        assert found.num_engines >= 1
        assert found.min_size[0] <= 64 <= found.max_size[0]
    else:
        assert found.reason
        assert "\n" not in found.reason + found.remedy


def test_asked_for_it_is_taken_or_refused_for_that_reason(gpu, numbered):
    found, dataset = probe_nvdec(0), load_dataset(numbered)
    if found.works:
        assert choose_decoder("nvdec", dataset, gpu) == "nvdec"
        return
    with pytest.raises(UserError) as caught:
        choose_decoder("nvdec", dataset, gpu)
    assert found.reason in str(caught.value)


@pytest.mark.parametrize("keyframe_every", [1, 8])
@pytest.mark.parametrize(
    "size", [(48, 48), (64, 64), (90, 70), (70, 90), (340, 256), (426, 256), (456, 256), (256, 340)]
)
def test_wanted_streams_give_the_wanted_frames(nvdec, tmp_path, size, keyframe_every):
    path = packed(tmp_path, size, keyframe_every)
    video = Video(path)
    media, places = video.stream_of(WANTED)
    frames = decode_by_nvdec(media, 0)
    check_delivered(len(frames), len(video.positions_of(WANTED)))
    width, height = size
    expected = decode_frames(path, WANTED).astype(int)
    difference = np.abs(frames[places, :height, :width] - expected)
    assert difference.mean((1, 2, 3)).max() < MEAN_BOUND


def test_many_sizes_one_after_the_other(nvdec, tmp_path):
    """Decoders are used again for videos of the size they were made for, and must not be for others."""
    videos = {}
    for number, size in enumerate([(90, 70), (70, 90), (96, 80), (80, 96)]):
        (tmp_path / str(number)).mkdir()
        path = packed(tmp_path / str(number), size, 1)
        videos[size] = Video(path).stream_of(WANTED), decode_frames(path, WANTED).astype(int)
    for _ in range(3):
        for (width, height), ((media, places), expected) in videos.items():
            difference = np.abs(decode_by_nvdec(media, 0)[places, :height, :width] - expected)
            assert difference.mean((1, 2, 3)).max() < MEAN_BOUND
