"""One picture, whatever way it takes: every matrix and range of colours, every profile, every decode node.

BOUND is in grey levels of 255, on plain patches away from their edges, against the picture that was filmed: it covers
two encodings and the change from one matrix to another in 8 bits, and none of the mistakes: BT.601 read as BT.709 is
off by up to 29 levels in these colours, a limited range read as full by up to 17. So any two ways differ by less than
twice that bound.
"""

from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from pipeline.loader import VideoLoader
from sharding.dataset import load_dataset
from tests.conftest import pack
from tests.helpers.clips import thread_config
from tests.pipeline.test_loader import pixels

BOUND = 8.0
SIDE, NUM_FRAMES = 64, 12
COLORS = np.array(
    [
        [[200, 40, 40], [40, 200, 40], [40, 40, 200]],
        [[220, 220, 30], [30, 220, 220], [220, 30, 220]],
        [[16, 16, 16], [128, 128, 128], [236, 236, 236]],
    ],
    np.uint8,
)
KINDS = {
    f"{matrix.name}_{range_.name}": (matrix, range_)
    for matrix in (Colorspace.ITU601, Colorspace.ITU709)
    for range_ in (ColorRange.MPEG, ColorRange.JPEG)
}


def picture(number: int) -> np.ndarray:
    """A grid of colours (64, 64, 3) whose rows go round with the number."""
    rows = np.repeat(np.roll(COLORS, number, 0), [21, 21, 22], 0)
    return np.repeat(rows, [21, 21, 22], 1)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """One video for each matrix and range, and says so in its header; its name says it too."""
    folder = tmp_path_factory.mktemp("colours")
    for name, (matrix, range_) in KINDS.items():
        path = folder / "class" / f"{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"crf": "8"})
            stream.width = stream.height = SIDE
            stream.pix_fmt = "yuv420p"
            stream.codec_context.colorspace, stream.codec_context.color_range = int(matrix), int(range_)
            for number in range(NUM_FRAMES):
                frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
                frame = frame.reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range=range_)
                frame.colorspace, frame.color_range = matrix, range_
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return folder


def patches(clip: np.ndarray) -> np.ndarray:
    """The means (T, 3, 3, 3) of the middles of the nine patches of frames (T, 64, 64, 3)."""
    return np.stack(
        [[clip[:, y - 5 : y + 5, x - 5 : x + 5].mean((1, 2)) for x in (10, 31, 53)] for y in (10, 31, 53)]
    ).transpose(2, 0, 1, 3)


@pytest.mark.parametrize("profile", ["h264", "jpeg", "dense", "copy"])
def test_every_way_shows_the_same_colours(videos, tmp_path, profile):
    quality = {} if profile == "copy" else {"quality": {"jpeg": 95}.get(profile, 8)}
    packed = pack(videos, tmp_path, profile=profile, **quality)
    dataset = load_dataset(packed)
    assert len(dataset) == len(KINDS)
    config = thread_config(num_segments=NUM_FRAMES, short_side=SIDE, crop_size=SIDE)
    for batch in VideoLoader(dataset, config, training=False, micro_batch_size=1):
        found = patches(pixels(batch.clips[0]))
        expected = patches(np.stack([picture(number) for number in range(NUM_FRAMES)]).astype(float))
        difference = np.abs(found - expected).max()
        assert difference < BOUND, (dataset.key(int(batch.sample_ids)), profile, difference)
