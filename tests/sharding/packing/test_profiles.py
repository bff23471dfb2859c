"""What each profile stores, decoded again by the means that training has."""

import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sharding.dataset import load_dataset
from sharding.errors import UserError
from sharding.pack import PackConfig, pack
from sharding.verify import verify
from sharding.video.decode import decode_frames
from tests.helpers.videos import draw_number, read_number, write_numbered_video


def packed(tmp_path: Path, **options) -> Path:
    """Packs tmp_path/videos and checks the result."""
    out = tmp_path / f"packed-{len(list(tmp_path.iterdir()))}"
    pack(PackConfig("folder", tmp_path / "videos", out, workers=1, **options))
    assert verify(out / "train", decode=True).ok
    return out / "train"


def component(split: Path, sample_id: int, name: str) -> bytes:
    row = pq.read_table(split / "samples.parquet").to_pylist()[sample_id]
    data = (split / f"shard-{row['shard']:06d}.tar").read_bytes()
    return data[row[f"{name}_offset"] :][: row[f"{name}_bytes"]]


def jpeg_frames(split: Path, sample_id: int) -> list[np.ndarray]:
    media = component(split, sample_id, "media")
    offsets = np.frombuffer(component(split, sample_id, "index"), "<i4")
    return [np.asarray(Image.open(io.BytesIO(media[a:b])).convert("RGB")) for a, b in pairwise(offsets)]


def write_jpegs(folder: Path, num_frames: int, size=(96, 64), names="{:05d}.jpg") -> list[bytes]:
    folder.mkdir(parents=True)
    for index in range(num_frames):
        Image.fromarray(draw_number(index, size)).save(folder / names.format(index + 1), quality=90)
    return [(folder / names.format(index + 1)).read_bytes() for index in range(num_frames)]


def test_jpeg_rows_hold_the_frames_of_h264(tmp_path):
    write_numbered_video(tmp_path / "videos" / "a" / "v.mp4", 100, size=(400, 300))
    split = packed(tmp_path, profile="jpeg")
    dataset = load_dataset(split)
    assert (dataset.num_frames[0], dataset.widths[0], dataset.heights[0], dataset.suffixes[0]) == (64, 342, 256, "jpgs")
    frames = jpeg_frames(split, 0)
    assert [read_number(frame) for frame in frames] == [int((i + 0.5) * 100 / 64) for i in range(64)]
    h264 = packed(tmp_path, profile="h264")
    stored = decode_frames(component(h264, 0, "media"), np.arange(64)).astype(int)
    assert np.abs(stored - np.stack(frames)).mean() < 3


def test_jpeg_quality_is_an_option(tmp_path):
    write_numbered_video(tmp_path / "videos" / "a" / "v.mp4", 4, size=(400, 300))
    sizes = [load_dataset(packed(tmp_path, profile="jpeg", quality=q)).media_bytes[0] for q in (30, 85, 95)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3


@pytest.mark.parametrize("profile", ["jpeg", "copy"])
def test_small_jpeg_files_go_in_as_they_are(tmp_path, profile):
    files = write_jpegs(tmp_path / "videos" / "a" / "17", 12, names="{}.jpg")  # 10.jpg comes after 9.jpg
    split = packed(tmp_path, profile=profile)
    assert component(split, 0, "media") == b"".join(files)
    offsets = np.frombuffer(component(split, 0, "index"), "<i4")
    assert offsets.tolist() == [0, *np.cumsum([len(file) for file in files])]
    assert [read_number(frame) for frame in jpeg_frames(split, 0)] == list(range(12))
    assert load_dataset(split).fps[0] == 12.0


def test_some_of_many_jpeg_files(tmp_path):
    files = write_jpegs(tmp_path / "videos" / "a" / "17", 20)
    split = packed(tmp_path, profile="jpeg", max_frames=5)
    assert component(split, 0, "media") == b"".join(files[i] for i in (2, 6, 10, 14, 18))
    assert load_dataset(split).fps[0] == 3.0


@pytest.mark.parametrize("profile", ["h264", "dense"])
def test_jpeg_files_become_a_video(tmp_path, profile):
    write_jpegs(tmp_path / "videos" / "a" / "17", 9)
    split = packed(tmp_path, profile=profile)
    frames = decode_frames(component(split, 0, "media"), np.arange(9))
    assert [read_number(frame) for frame in frames] == list(range(9))


def test_large_or_unlike_jpeg_files_are_encoded_anew(tmp_path):
    write_jpegs(tmp_path / "videos" / "a" / "large", 3, size=(400, 300))
    write_jpegs(tmp_path / "videos" / "a" / "grey", 3)
    grey = tmp_path / "videos" / "a" / "grey" / "00002.jpg"
    Image.open(grey).convert("L").save(grey)
    split = packed(tmp_path, profile="jpeg")
    dataset = load_dataset(split)
    sizes = {key: (int(w), int(h)) for key, w, h in zip(dataset.keys, dataset.widths, dataset.heights)}
    assert sizes == {"a-large": (342, 256), "a-grey": (96, 64)}
    for sample_id in range(2):
        assert [read_number(frame) for frame in jpeg_frames(split, sample_id)] == [0, 1, 2]


@pytest.mark.parametrize("profile", ["h264", "jpeg", "copy"])
def test_a_damaged_jpeg_file_fails_its_sample(tmp_path, profile):
    write_jpegs(tmp_path / "videos" / "a" / "good", 4)
    write_jpegs(tmp_path / "videos" / "a" / "bad", 4)
    bad = tmp_path / "videos" / "a" / "bad" / "00003.jpg"
    bad.write_bytes(bad.read_bytes()[:-500])
    (tmp_path / "videos" / "a" / "none").mkdir()
    split = packed(tmp_path, profile=profile, max_failures=1)
    failed = {line["key"]: line for line in map(json.loads, (split / "failures.jsonl").read_text().splitlines())}
    assert {key: line["kind"] for key, line in failed.items()} == {"a-bad": "decode", "a-none": "open"}
    assert "00003.jpg" in failed["a-bad"]["error"]


def test_dense_keeps_every_frame_and_few_keyframes(tmp_path):
    import av

    write_numbered_video(tmp_path / "videos" / "a" / "v.mp4", 100, size=(400, 300))
    split = packed(tmp_path, profile="dense")
    media = component(split, 0, "media")
    assert [read_number(frame) for frame in decode_frames(media, np.arange(100))] == list(range(100))
    with av.open(io.BytesIO(media)) as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    assert np.flatnonzero(keys).tolist() == list(range(0, 100, 8))


@pytest.mark.parametrize(("profile", "quality"), [("h264", 52), ("jpeg", 96), ("jpeg", 0), ("dense", -1), ("copy", 20)])
def test_quality_out_of_range(tmp_path, profile, quality):
    with pytest.raises(UserError, match=f"--quality {quality}"):
        PackConfig("folder", tmp_path, tmp_path, profile=profile, quality=quality)


def test_shard_bytes(tmp_path):
    for number in range(40):
        write_numbered_video(tmp_path / "videos" / "a" / f"v{number}.mp4", 20, size=(200, 150))
    split = packed(tmp_path, shard_bytes=100_000)
    manifest = load_dataset(split).manifest
    assert 0.5 < np.median([shard.bytes for shard in manifest.shards]) / 100_000 < 1.5
    assert len(manifest.shards) > 2
    again = PackConfig("folder", tmp_path / "videos", split.parent, workers=1, shard_bytes=100_000)
    pack(again)
    with pytest.raises(UserError, match="only one of them"):
        PackConfig("folder", tmp_path, tmp_path, shard_bytes=200_000, samples_per_shard=3)
