"""A few videos in a bucket of a real S3-compatible server, and what packing them in a folder gives."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sharding.objects import folder as object_folder
from sharding.objects.transport import RetryPolicy
from sharding.pack import PackConfig, pack
from tests.helpers.servers import FaultyServer
from tests.helpers.videos import write_numbered_video

QUICK = RetryPolicy(attempts=3, first_wait_seconds=0.01, connect_seconds=5, stall_seconds=2)
NUM_SHARDS = 4  # 11 samples and one failure, 3 in a shard


@pytest.fixture(scope="session")
def class_folders(tmp_path_factory) -> Path:
    """Twelve videos in two class folders, one of them cut off, with names that a URL would not hold as they are."""
    folder = tmp_path_factory.mktemp("objects") / "videos"
    for number in range(12):
        name = f"v{number}.mp4" if number != 5 else "v 5 ü+%41.mp4"
        write_numbered_video(folder / "ab"[number % 2] / name, 5 + number, size=(32, 32), first_number=number)
    cut = folder / "b" / "v7.mp4"
    cut.write_bytes(cut.read_bytes()[:-300])
    return folder


@pytest.fixture(scope="session")
def packed_here(class_folders, tmp_path_factory) -> dict[str, str]:
    """The hashes of the files of the split, packed from folder to folder."""
    out = tmp_path_factory.mktemp("packed_here")
    pack(config(class_folders, out))
    return {path.name: sha256(path.read_bytes()) for path in (out / "train").iterdir()}


@dataclass
class Bucket:
    """A bucket of the test's own, looked at behind the back of the server that misbehaves."""

    server: FaultyServer
    direct: Any
    name: str

    @property
    def url(self) -> str:
        return f"s3://{self.name}"

    def hashes(self, prefix: str) -> dict[str, str]:
        found = self.direct.find(f"{self.name}/{prefix}")
        return {path.removeprefix(f"{self.name}/{prefix}/"): sha256(self.direct.cat_file(path)) for path in found}


@pytest.fixture
def bucket(class_folders, moto_url, monkeypatch, request, tmp_path) -> Iterator[Bucket]:
    """With the videos below s3://NAME/videos, reached through a server that misbehaves as told."""
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "SECRETSECRET")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(object_folder, "RETRY", QUICK)
    object_folder.open_folder.cache_clear()
    name = "b" + sha256(request.node.nodeid.encode())[:20]
    direct = s3fs.S3FileSystem(endpoint_url=moto_url, skip_instance_cache=True, use_listings_cache=False)
    direct.mkdir(name)
    for path in class_folders.rglob("*.mp4"):
        direct.pipe_file(f"{name}/videos/{path.relative_to(class_folders)}", path.read_bytes())
    with FaultyServer(upstream=moto_url) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield Bucket(server, direct, name)
    object_folder.open_folder.cache_clear()


def config(videos: str | Path, out: str | Path, **options) -> PackConfig:
    defaults = {"workers": 1, "samples_per_shard": 3, "max_failures": 0.3, "short_side": 32}
    return PackConfig(options.pop("dataset", "folder"), videos, out, **(defaults | options))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
