"""What is uncommon about a video is stored as it should be, and said in KEY.json, the table and the statistics."""

from fractions import Fraction

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sharding.errors import UserError
from sharding.pack import PackConfig, pack
from sharding.packing.profiles import EncodedSample, ProfileSettings, encode_sample
from sharding.records import VideoRecord
from sharding.stats import measure, to_text
from sharding.video.decode import decode_frames
from tests.helpers.odd_videos import remux
from tests.helpers.videos import draw_number, read_number, write_numbered_video


def sample_of(path, target, profile="h264", **settings) -> EncodedSample:
    record = VideoRecord("k", path.name, "a")
    return encode_sample(path.parent, record, ProfileSettings(profile, **settings), target)


def numbers(sample: EncodedSample) -> list[int]:
    return [read_number(frame) for frame in decode_frames(sample.media, np.arange(sample.num_frames))]


@pytest.mark.parametrize("check", [True, False])
def test_pixels_that_are_not_square_are_not_copied(tmp_path, check):
    path = write_numbered_video(tmp_path / "source.mp4", 5, size=(160, 128), pixel_aspect=Fraction(64, 45))
    sample = sample_of(path, tmp_path / "out", "copy", decode_check=check)
    assert sample.details["reencoded"] == "pixels that are not square but 64/45"
    assert (sample.width, sample.height, sample.notes) == (228, 128, "reencoded")
    assert numbers(sample) == list(range(5))


def test_av1_is_copied(tmp_path):
    if "libsvtav1" not in av.codecs_available:
        pytest.skip("this PyAV cannot write AV1")
    for suffix, name in (("mp4", "mp4"), ("mkv", "webm")):
        path = write_numbered_video(tmp_path / f"source.{suffix}", 20, codec="libsvtav1", size=(128, 96))
        sample = sample_of(path, tmp_path / "out", "copy")
        assert (sample.media, sample.suffix, sample.details["source_codec"]) == (path, name, "av1")
        assert "reencoded" not in sample.details
        assert numbers(sample) == list(range(20))


def test_packets_that_are_not_to_be_shown_are_not_copied(tmp_path):
    """An edit list begins in the middle of a group of pictures; not every decoder of training obeys it."""
    plain = write_numbered_video(tmp_path / "plain.mp4", 40, gop=40)
    path = remux(plain, tmp_path / "edited.mp4", shift=-0.4, avoid_negative_ts="disabled")
    for check in (True, False):
        sample = sample_of(path, tmp_path / "out", "copy", decode_check=check)
        assert sample.details["reencoded"] == "40 packets gave 30 frames"
        assert numbers(sample) == list(range(10, 40))


@pytest.mark.parametrize(("transfer", "name"), [("smpte2084", "PQ"), ("arib-std-b67", "HLG"), ("bt709", None)])
def test_hdr_is_said(tmp_path, transfer, name):
    options = {"x264-params": f"transfer={transfer}"}
    path = write_numbered_video(tmp_path / "source.mp4", 5, options=options)
    for profile in ("h264", "copy"):
        sample = sample_of(path, tmp_path / "out", profile)
        assert sample.details.get("source_hdr") == name
        assert sample.notes == ("hdr" if name else "")


def test_interlaced_frames_are_said(tmp_path):
    options = {"x264-params": "interlaced=1", "flags": "+ildct+ilme"}
    path = write_numbered_video(tmp_path / "source.mp4", 5, size=(160, 128), options=options)
    for profile in ("h264", "copy", "jpeg"):
        sample = sample_of(path, tmp_path / "out", profile)
        assert (sample.details.get("source_interlaced"), sample.notes) == (True, "interlaced")


@pytest.mark.parametrize(
    "pts",
    [
        [*range(0, 3960, 40), 600_000],  # the last frame ten minutes later
        [0, *range(600_000, 603_960, 40)],  # the first one ten minutes earlier
        [*range(0, 2000, 40), *range(3_600_000, 3_602_000, 40)],  # an hour in the middle
        [*range(0, 1320, 40), *range(100_000, 101_320, 40), *range(900_000, 901_360, 40)],
    ],
)
def test_a_far_time_does_not_take_the_frames(tmp_path, pts):
    path = write_numbered_video(tmp_path / "source.mp4", 100, pts=pts)
    sample = sample_of(path, tmp_path / "out")
    assert (sample.num_frames, sample.notes) == (64, "")
    assert len(set(numbers(sample))) == 64
    assert sample.fps == pytest.approx(16, rel=0.05)


def test_a_still_of_some_seconds_keeps_its_time_and_is_said(tmp_path):
    pts = [*range(0, 2000, 40), *range(8000, 10_000, 40)]
    path = write_numbered_video(tmp_path / "source.mp4", 100, pts=pts)
    sample = sample_of(path, tmp_path / "out")
    num_distinct = len(set(numbers(sample)))
    assert 20 < num_distinct < 40
    assert sample.notes == f"distinct_frames={num_distinct}"


def test_notes_reach_table_and_statistics(tmp_path):
    videos = tmp_path / "videos"
    write_numbered_video(videos / "a" / "plain.mp4", 70)
    write_numbered_video(videos / "a" / "still.mp4", 100, pts=[*range(0, 2000, 40), *range(8000, 10_000, 40)])
    options = {"x264-params": "interlaced=1:transfer=smpte2084", "flags": "+ildct+ilme"}
    write_numbered_video(videos / "b" / "both.mp4", 5, size=(160, 128), options=options)
    (videos / "b" / "both.nfo").write_text("x")
    assert pack(PackConfig("folder", videos, tmp_path / "out", workers=1)).failures == 0
    split = tmp_path / "out" / "train"
    rows = {row["key"]: row["notes"] for row in pq.read_table(split / "samples.parquet").to_pylist()}
    assert rows["a-plain"] == ""
    assert rows["a-still"].startswith("distinct_frames=")
    assert rows["b-both"] == "interlaced,hdr"
    stats, _ = measure(split)
    assert stats.notes == {"distinct_frames": 1, "interlaced": 1, "hdr": 1}
    assert stats.failures == {}
    text = to_text(stats)
    assert "interlaced, stored as they are (1)" in text
    assert "HDR, stored without tone mapping (1)" in text


def test_a_split_packed_before_there_were_notes(tmp_path):
    write_numbered_video(tmp_path / "videos" / "a" / "plain.mp4", 5)
    assert pack(PackConfig("folder", tmp_path / "videos", tmp_path / "out", workers=1)).failures == 0
    split = tmp_path / "out" / "train"
    table = pq.read_table(split / "samples.parquet").drop_columns(["notes"])
    pq.write_table(table, split / "samples.parquet")
    manifest = (split / "manifest.json").read_text()
    recorded = manifest.partition('"table_sha256": "')[2][:64]
    (split / "manifest.json").write_text(manifest.replace(recorded, ""))
    assert measure(split)[0].notes == {}


@pytest.mark.parametrize("out", ["videos", "videos/packed", "videos/../videos/a"])
def test_the_output_is_not_among_the_videos(tmp_path, out):
    write_numbered_video(tmp_path / "videos" / "a" / "plain.mp4", 5)
    with pytest.raises(UserError, match=r"--out .*: inside --videos .*; give a folder outside of it"):
        pack(PackConfig("folder", tmp_path / "videos", tmp_path / out, workers=1))
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["a"]


def test_the_template_of_frames_is_an_option(tmp_path):
    folder = tmp_path / "videos" / "a" / "clip"
    folder.mkdir(parents=True)
    for number in range(12):
        Image.fromarray(draw_number(number, (96, 64))).save(folder / f"img_{number + 1:05d}.jpg")
        Image.fromarray(draw_number(99, (96, 64))).save(folder / f"flow_x_{number + 1:05d}.jpg")
    pack(PackConfig("folder", tmp_path / "videos", tmp_path / "without", workers=1))
    assert measure(tmp_path / "without" / "train")[0].failures == {"open": 1}
    options = {"frame_template": "img_{:05d}.jpg", "profile": "jpeg"}
    assert pack(PackConfig("folder", tmp_path / "videos", tmp_path / "out", workers=1, **options)).failures == 0
    assert measure(tmp_path / "out" / "train")[0].num_frames.maximum == 12
    with pytest.raises(UserError, match="--frame-template img: a file name with one place"):
        PackConfig("folder", tmp_path / "videos", tmp_path / "out", frame_template="img")
