"""Fetching videos ahead: several at the same time, never more on the disk than said, and within bounds."""

import threading

import pytest
from PIL import Image

from sharding.errors import MediaError, UserError
from sharding.objects import videos as object_videos
from sharding.objects.transport import RemoteError
from sharding.objects.videos import open_object_videos
from sharding.pack import pack
from sharding.packing.fetching import fetch_all
from sharding.records import VideoRecord
from tests.helpers.servers import Fault, FaultyServer
from tests.sharding.objects.conftest import config, sha256


def test_ahead_but_not_farther(bucket, class_folders, tmp_path):
    """Four downloads run at the same time, and no more than two videos and those four are ever on the disk."""
    together = threading.Barrier(4)

    def wait(path: str, n: int) -> None:
        if not met.is_set():
            together.wait(30)  # fails if fewer come
            met.set()

    met = threading.Event()
    bucket.server.fault = lambda path, n: wait(path, n) if path.endswith(".mp4") else None
    store = open_object_videos(f"{bucket.url}/videos")
    names = sorted(path.relative_to(class_folders).as_posix() for path in class_folders.rglob("*.mp4"))
    seen = []
    for record, path in fetch_all(store, [VideoRecord(name, name, "a") for name in names], tmp_path):
        seen.append(record.source)
        assert path.read_bytes() == (class_folders / record.source).read_bytes()
        assert len(list(tmp_path.glob("source-*"))) <= store.num_ahead + 2
    assert seen == names
    assert met.is_set()


def test_pictures_and_shards_of_a_size(bucket, tmp_path):
    """Folders of numbered pictures are videos there too; --shard-bytes measures the first videos."""
    for number in range(3):
        folder = tmp_path / "pictures" / "a" / f"clip{number}"
        folder.mkdir(parents=True)
        for frame in range(4 + number):
            Image.new("RGB", (32, 32), (number, 20 * frame, 0)).save(folder / f"{frame:05d}.jpg")
    for path in (tmp_path / "pictures").rglob("*.*"):
        bucket.direct.put_file(str(path), f"{bucket.name}/pictures/{path.relative_to(tmp_path / 'pictures')}")
    options = {"samples_per_shard": None, "shard_bytes": 10_000, "profile": "jpeg"}
    here = pack(config(tmp_path / "pictures", tmp_path / "out", **options))
    pack(config(f"{bucket.url}/pictures", f"{bucket.url}/out", **options))
    assert bucket.hashes("out/train") == {path.name: sha256(path.read_bytes()) for path in here.directory.iterdir()}
    assert here.samples == 3


def test_bounds(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(object_videos, "MAX_VIDEO_BYTES", 1000)
    store = open_object_videos(f"{bucket.url}/videos")
    with pytest.raises(MediaError, match=r"bytes, and a video may have 1,000"):
        store.fetch("a/v0.mp4", tmp_path)
    with pytest.raises(MediaError, match="missing: no such file"):
        store.fetch("a/none.mp4", tmp_path)
    assert not (tmp_path / "video.mp4").exists()
    monkeypatch.setattr(object_videos, "MAX_VIDEO_BYTES", 1 << 20)
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "endless.mp4").write_bytes(b"x")
    with FaultyServer(tmp_path / "web", fault=lambda path, n: Fault("endless")) as web:
        with pytest.raises(RemoteError, match=r"endless\.mp4: more than the 1,048,576 bytes"):
            open_object_videos(web.url).fetch("endless.mp4", tmp_path)
        with pytest.raises(MediaError, match="leads out of the folder"):
            open_object_videos(web.url).fetch("../etc/passwd", tmp_path)
    bucket.direct.pipe_file(f"{bucket.name}/odd/../x.mp4", b"x")
    with pytest.raises(UserError, match="is no name of a file"):
        open_object_videos(f"{bucket.url}/odd")
    monkeypatch.setattr(object_videos, "_SPARE_BYTES", 1 << 60)
    with pytest.raises(OSError, match="No space left"):
        store.fetch("a/v0.mp4", tmp_path)


def test_a_video_that_was_removed_since_fails_alone(bucket, tmp_path):
    bucket.server.fault = lambda path, n: Fault("status", status=404) if path.endswith("v3.mp4") else None
    result = pack(config(f"{bucket.url}/videos", tmp_path / "out"))
    assert (result.samples, result.failures) == (10, 2)
    assert '"kind": "missing"' in (result.directory / "failures.jsonl").read_text()
