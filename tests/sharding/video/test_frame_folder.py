"""Folders of pictures: the right files, in the order of their numbers."""

import numpy as np
import pytest
from PIL import Image

from sharding.errors import MediaError, UserError
from sharding.packing.profiles import ProfileSettings, encode_sample
from sharding.records import VideoRecord
from sharding.video.decode import decode_frames
from sharding.video.encode import FrameChoice, encode_h264
from sharding.video.frame_folder import FrameFolder, check_template
from tests.helpers.videos import draw_number, read_number


def write_frames(folder, names, size=(96, 64), **options):
    """Pictures that show 0, 1, 2, ... under the names given."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(draw_number(number, size)).save(folder / name, **options)
    return folder


def numbers(folder, tmp_path, template=None) -> list[int]:
    video = encode_h264(folder, tmp_path / "out.mp4", FrameChoice(None, None, frame_template=template))
    return [read_number(frame) for frame in decode_frames(tmp_path / "out.mp4", np.arange(video.num_frames))]


@pytest.mark.parametrize(
    "pattern",
    [
        "{}.jpg", "frame{}.jpg", "img_{:05d}.jpg", "v_g01_c01_frame{}.jpeg", "{:02d}.JPG", "clip-7_{}_small.jpg",
        "{}.png", "frame {}.PNG", "2020-01-02 {}.jpg",
    ],
)  # fmt: skip
def test_frames_are_in_the_order_of_the_last_number_in_their_names(tmp_path, pattern):
    if pattern.startswith("2020"):
        pattern = pattern.replace("{}", "{:03d}")
    folder = write_frames(tmp_path / "frames", [pattern.format(number) for number in range(1, 121)], size=(32, 32))
    assert numbers(folder, tmp_path) == list(range(120))
    settings = ProfileSettings("jpeg")
    sample = encode_sample(tmp_path, VideoRecord("k", "frames", "a"), settings, tmp_path / "out.jpgs")
    assert sample.num_frames == 64
    first = (tmp_path / "out.jpgs").read_bytes()[: sample.offsets[1]]
    is_jpeg = pattern.lower().endswith(("jpg", "jpeg"))
    assert (first == sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns)[0].read_bytes()) <= is_jpeg


def test_several_kinds_of_pictures_are_named(tmp_path):
    folder = tmp_path / "frames"
    for prefix in ("flow_x_", "flow_y_", "img_"):
        write_frames(folder, [f"{prefix}{number:05d}.jpg" for number in range(1, 4)])
    with pytest.raises(MediaError, match=r"flow_x_\{:05d\}\.jpg, flow_y_\{:05d\}\.jpg, img_\{:05d\}\.jpg.*template"):
        FrameFolder(folder)
    assert numbers(folder, tmp_path, "img_{:05d}.jpg") == [0, 1, 2]
    assert FrameFolder(folder, "flow_y_{:05}.jpg").files[0].name == "flow_y_00001.jpg"
    with pytest.raises(MediaError, match=r"without files named like image_\{:05d\}\.jpg"):
        FrameFolder(folder, "image_{:05d}.jpg")


@pytest.mark.parametrize("other", ["00001.png", "cover.jpg", "thumb_00001.jpg", "00001_depth.jpg"])
def test_another_kind_of_picture_among_the_frames(tmp_path, other):
    folder = write_frames(tmp_path / "frames", ["00001.jpg", "00002.jpg", "00003.jpg"])
    Image.fromarray(draw_number(99, (96, 64))).save(folder / other)
    (folder / "Thumbs.db").write_text("x")
    (folder / ".hidden.jpg").write_text("x")
    with pytest.raises(MediaError, match="several kinds of pictures"):
        FrameFolder(folder)
    assert numbers(folder, tmp_path, "{:05d}.jpg") == [0, 1, 2]


def test_one_number_twice(tmp_path):
    folder = write_frames(tmp_path / "frames", ["img_1.jpg", "img_01.jpg", "img_2.jpg"])
    with pytest.raises(MediaError, match=r"two pictures of number 1: img_01\.jpg, img_1\.jpg"):
        FrameFolder(folder)


def test_numbers_beyond_the_width_of_a_template(tmp_path):
    names = [f"img_{number:05d}.jpg" for number in (99_998, 99_999, 100_000, 100_001)]
    assert numbers(write_frames(tmp_path / "frames", names), tmp_path, "img_{:05d}.jpg") == [0, 1, 2, 3]


def test_parts_of_folders_whose_first_pictures_are_lacking(tmp_path):
    for first in (0, 1):
        folder = FrameFolder(write_frames(tmp_path / str(first), [f"{number:05d}.jpg" for number in range(first, 9)]))
        assert [file.name for file in folder.chosen_files(0, 0.15)] == [f"{first + n:05d}.jpg" for n in range(2)]
    folder = FrameFolder(write_frames(tmp_path / "5", [f"{number:05d}.jpg" for number in range(5, 12)]))
    with pytest.raises(
        MediaError, match="a part of it is wanted, and frames count from 0 or 1, but its first one there"
    ):
        folder.chosen_files(0, 0.25)
    assert len(folder.chosen_files()) == 7


@pytest.mark.parametrize("template", ["img.jpg", "{}{}.jpg", "../{}.jpg", "{:05d}.mp4", "{name}.jpg", "{:x}.jpg"])
def test_what_is_no_template(template):
    with pytest.raises(UserError, match="a file name with one place for the number"):
        check_template(template)


@pytest.mark.parametrize("template", ["img_{:05d}.jpg", "{:05}.png", "{}.jpeg", "frame{:d}.jpg"])
def test_templates(template):
    assert check_template(template) == template


def test_pictures_that_say_how_they_are_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise
    folder = write_frames(tmp_path / "frames", ["1.jpg", "2.jpg"], exif=exif)
    video = encode_h264(folder, tmp_path / "out.mp4", FrameChoice(None, None))
    frames = decode_frames(tmp_path / "out.mp4", np.arange(2))
    assert (video.width, video.height) == (64, 96)
    assert [read_number(np.rot90(frame)) for frame in frames] == [0, 1]


def test_pictures_of_16_bits_are_refused(tmp_path):
    (tmp_path / "frames").mkdir()
    Image.fromarray(np.full((64, 96), 30_000, np.uint16)).save(tmp_path / "frames" / "1.png")
    with pytest.raises(MediaError, match=r"1\.png: a picture of mode I;16"):
        encode_h264(tmp_path / "frames", tmp_path / "out.mp4", FrameChoice())
