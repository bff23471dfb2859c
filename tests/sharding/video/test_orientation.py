"""The display matrix of a file, turned and mirrored in all eight ways, is applied wherever frames come out."""

import numpy as np
import pytest
from PIL import Image

from sharding.errors import MediaError
from sharding.packing.profiles import ProfileSettings, encode_sample
from sharding.records import VideoRecord
from sharding.video.decode import decode_frames
from sharding.video.encode import FrameChoice, encode_h264, encode_jpegs
from tests.helpers.odd_videos import MIRRORED, set_display_matrix
from tests.helpers.videos import draw_number, read_number, write_numbered_video

ORIENTATIONS = MIRRORED | {
    "upright": (1, 0, 0, 1),
    "clockwise": (0, 1, -1, 0),
    "half": (-1, 0, 0, -1),
    "anticlockwise": (0, -1, 1, 0),
}
NUMBER = 0x1234  # neither its rows nor its columns read the same from the other side


def displayed(picture: np.ndarray, matrix) -> np.ndarray:
    """The matrix by its definition, pixel for pixel: (x, y) goes to (a x + c y, b x + d y), moved into sight."""
    a, b, c, d = matrix
    height, width = picture.shape[:2]
    y, x = np.mgrid[:height, :width]
    to_x, to_y = a * x + c * y, b * x + d * y
    to_x, to_y = to_x - to_x.min(), to_y - to_y.min()
    shown = np.empty((to_y.max() + 1, to_x.max() + 1, 3), np.uint8)
    shown[to_y, to_x] = picture
    return shown


def test_the_number_has_no_symmetry():
    pictures = [displayed(draw_number(NUMBER, (64, 64)), matrix) for matrix in ORIENTATIONS.values()]
    assert len({read_number(picture) for picture in pictures}) == 8


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_every_way_to_show_a_picture(tmp_path, name):
    path = write_numbered_video(tmp_path / "video.mp4", 3, size=(128, 64), first_number=NUMBER)
    set_display_matrix(path, ORIENTATIONS[name])
    expected = displayed(draw_number(NUMBER, (128, 64)), ORIENTATIONS[name])
    direct = decode_frames(path, np.array([0]))[0]
    video = encode_h264(path, tmp_path / "out.mp4", FrameChoice())
    row, offsets = encode_jpegs(path, tmp_path / "out.jpgs", FrameChoice())
    (tmp_path / "first.jpg").write_bytes((tmp_path / "out.jpgs").read_bytes()[: offsets[1]])
    stored = decode_frames(tmp_path / "out.mp4", np.array([0]))[0]
    for picture in (direct, stored, np.asarray(Image.open(tmp_path / "first.jpg"))):
        assert picture.shape == expected.shape
        assert read_number(picture) == read_number(expected)
    assert (video.height, video.width) == (row.height, row.width) == expected.shape[:2]


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hflip", "to be turned by 0 degrees and mirrored"),
        ("vflip", "to be turned by 180 degrees and mirrored"),
        ("clockwise", "to be turned by 90 degrees"),
        ("anticlockwise", "to be turned by 270 degrees"),
    ],
)
def test_what_is_to_be_turned_is_not_copied(tmp_path, name, reason, check):
    path = write_numbered_video(tmp_path / "video.mp4", 3, size=(128, 64), first_number=NUMBER)
    set_display_matrix(path, ORIENTATIONS[name])
    settings = ProfileSettings("copy", decode_check=check)
    sample = encode_sample(tmp_path, VideoRecord("k", path.name, "a"), settings, tmp_path / "out.mp4")
    assert sample.details["reencoded"] == reason
    expected = displayed(draw_number(NUMBER, (128, 64)), ORIENTATIONS[name])
    assert (sample.height, sample.width) == expected.shape[:2]
    assert read_number(decode_frames(sample.media, np.array([0]))[0]) == read_number(expected)


def test_other_angles_are_refused(tmp_path):
    path = set_display_matrix(write_numbered_video(tmp_path / "video.mp4", 3), (0.866, 0.5, -0.5, 0.866))
    for read in (lambda: decode_frames(path, np.array([0])), lambda: encode_h264(path, tmp_path / "o", FrameChoice())):
        with pytest.raises(MediaError, match="turned by 30 degrees; only multiples of 90"):
            read()


def test_a_matrix_of_nothing_is_passed_over(tmp_path):
    path = set_display_matrix(write_numbered_video(tmp_path / "video.mp4", 3), (0, 0, 0, 0))
    assert read_number(decode_frames(path, np.array([2]))[0]) == 2
