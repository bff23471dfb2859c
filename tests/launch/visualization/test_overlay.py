"""Predictions drawn on videos."""

from pathlib import Path

import av
import numpy as np
import pytest

from launch.visualization.overlay import SMALLEST_SIDE, draw_panel, overlay_predictions, plan_overlays
from sharding.errors import MediaError, UserError
from tests.helpers.videos import draw_number, write_numbered_video

PREDICTIONS = [("left", 0.9), ("right", 0.1)]


def read_frames(path: Path) -> tuple[np.ndarray, list[str], float]:
    """The frames (N, H, W, 3), the kinds of streams, and the seconds from the first frame to the last."""
    with av.open(str(path)) as container:
        kinds = [stream.type for stream in container.streams]
        frames = list(container.decode(video=0))
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
        return pictures, kinds, frames[-1].time - frames[0].time


def test_every_frame_comes_again_with_the_panel_and_without_sound(tmp_path):
    source = write_numbered_video(tmp_path / "in.mp4", 30, fps=25, size=(320, 256), b_frames=2, audio=True)
    target = tmp_path / "out.mp4"
    overlay_predictions(source, target, PREDICTIONS)
    frames, kinds, seconds = read_frames(target)
    assert frames.shape == (30, 256, 320, 3)
    assert kinds == ["video"]
    assert seconds == pytest.approx(29 / 25)
    panel, (left, top) = draw_panel((320, 256), PREDICTIONS)
    window = np.s_[top : top + panel.height, left : left + panel.width]
    for number, frame in enumerate(frames):
        difference = np.abs(frame.astype(int) - draw_number(number, (320, 256)))
        assert difference[window].mean() > 20
        difference[window] = 0
        assert difference.mean() < 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_small_videos_are_enlarged(tmp_path):
    source = write_numbered_video(tmp_path / "in.mp4", 3, size=(64, 48))
    overlay_predictions(source, tmp_path / "out.mkv", PREDICTIONS)
    frames, _, _ = read_frames(tmp_path / "out.mkv")
    assert frames.shape == (3, SMALLEST_SIDE, SMALLEST_SIDE // 3 * 4, 3)


def test_a_damaged_video_leaves_no_file(tmp_path):
    source = write_numbered_video(tmp_path / "in.mp4", 60)
    source.write_bytes(source.read_bytes()[:-2000])
    with pytest.raises(MediaError):
        overlay_predictions(source, tmp_path / "out.mp4", PREDICTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.parametrize("size", [(240, 240), (240, 426), (1920, 1080), (2000, 240)])
def test_the_panel_fits_into_the_frame(size):
    many = [("a class with a name that is longer than any row could ever be " * 3, 1 / (k + 1)) for k in range(50)]
    panel, (left, top) = draw_panel(size, many)
    assert left >= 0 and left + panel.width <= size[0]
    assert top >= 0 and top + panel.height <= size[1]
    assert panel.height <= size[1] * 2 / 5


def test_bars_are_as_long_as_probabilities():
    panel, _ = draw_panel((640, 480), [("left", 0.75), ("right", 0.25)])
    lines = np.asarray(panel)[:, :, :3].astype(int)
    blue_or_green = lines[..., 1:].max(2) - lines[..., 0] > 40  # neither text, nor background, nor track
    longest = blue_or_green.sum(1)
    rows = [int(half.max()) for half in np.array_split(longest, 2)]
    margin = 480 // 23 // 2
    assert np.array(rows) / (panel.width - 2 * margin) == pytest.approx([0.75, 0.25], abs=0.02)


def test_places_of_overlays(tmp_path):
    a, b = Path("x/clip.mp4"), Path("y/clip.avi")
    assert plan_overlays([a], Path("out.mp4")) == [Path("out.mp4")]
    assert plan_overlays([a], tmp_path) == [tmp_path / "clip.mp4"]
    assert plan_overlays([a, b], Path("new")) == [Path("new/clip.mp4"), Path("new/clip-2.mp4")]
    for videos, overlay, message in (
        ([a, b], "out.mp4", "one file cannot hold 2 videos"),
        ([a], "out.gif", "ends in .mp4"),
        ([a], "x/clip.mp4", "would overwrite x/clip.mp4"),
        ([a, b], "x", "would overwrite x/clip.mp4"),
    ):
        with pytest.raises(UserError, match=message):
            plan_overlays(videos, Path(overlay))
