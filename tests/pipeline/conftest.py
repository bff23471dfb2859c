"""A small dataset in several shards, on real servers on loopback: a web server and an S3-compatible one."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.reading import read_media
from pipeline.remote.transport import RetryPolicy
from sharding.dataset import PackedDataset
from tests.conftest import ROOT, pack
from tests.helpers.clips import jpegs_of
from tests.helpers.servers import Fault, FaultyServer

QUICK = RetryPolicy(attempts=4, first_wait_seconds=0.01, connect_seconds=5, stall_seconds=20)
NUM_SHARDS = 5  # 13 samples, 3 in a shard


@pytest.fixture(scope="session")
def in_shards(numbered_videos, tmp_path_factory) -> Path:
    """The numbered videos in five shards."""
    return pack(numbered_videos, tmp_path_factory.mktemp("in_shards"), samples_per_shard=3)


@pytest.fixture(scope="session")
def in_shards_jpeg(numbered_videos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("in_shards_jpeg")
    return pack(numbered_videos, out, samples_per_shard=3, profile="jpeg")


@pytest.fixture
def web(in_shards) -> Iterator[FaultyServer]:
    """A web server of the folder that holds the split `train`."""
    with FaultyServer(in_shards.parent) as server:
        yield server


@pytest.fixture
def store(in_shards, moto_url, monkeypatch) -> Iterator[FaultyServer]:
    """An S3 server, reached through one that misbehaves as told, with the split in s3://videos/train."""
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    direct = s3fs.S3FileSystem(endpoint_url=moto_url, skip_instance_cache=True)
    if not direct.exists("videos"):
        direct.mkdir("videos")
        for file in in_shards.iterdir():
            direct.put_file(str(file), f"videos/train/{file.name}")
    with FaultyServer(upstream=moto_url) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        s3fs.S3FileSystem.clear_instance_cache()  # of tests before, whose server has gone
        yield server


@pytest.fixture(params=["http", "s3"])
def remote(request) -> tuple[FaultyServer, str]:
    """A server, and the URL of the split there."""
    if request.param == "http":
        server = request.getfixturevalue("web")
        return server, f"{server.url}/train"
    return request.getfixturevalue("store"), "s3://videos/train"


def content_of(dataset: PackedDataset) -> list[bytes]:
    if dataset.manifest.profile == "jpeg":
        return [b"".join(jpegs_of(dataset, i)) for i in range(len(dataset))]
    return [read_media(dataset, i) for i in range(len(dataset))]


def first_time(fault: Fault, only: str = "") -> Callable[[str, int], Fault | None]:
    """That fault at the first request for each file, or for those whose name ends in `only`."""
    return lambda path, n: fault if n == 0 and path.endswith(only) else None


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.01)


def run_python(code: str, wait: bool = True, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    start = subprocess.run if wait else subprocess.Popen
    return start(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def reader(url: str, cache: Path, policy: str = "") -> str:
    """A program that reads all samples and prints their hash."""
    return (
        "import hashlib\n"
        "from pipeline.reading import read_media\n"
        "from pipeline.dataset import open_dataset\n"
        "from pipeline.remote.transport import RetryPolicy\n"
        f"dataset = open_dataset({url!r}, {str(cache)!r}, retry=RetryPolicy({policy}))\n"
        "print(hashlib.sha256(b''.join(read_media(dataset, i) for i in range(len(dataset)))).hexdigest())\n"
    )


def digest_of(dataset: PackedDataset) -> str:
    return hashlib.sha256(b"".join(content_of(dataset))).hexdigest()
