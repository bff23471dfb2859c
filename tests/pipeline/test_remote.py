"""Remote datasets, from real servers on loopback: a web server and an S3-compatible one, well-behaved and not."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import transport
from pipeline.cache_room import find_entries, locked
from pipeline.config import DataConfig
from pipeline.loader import VideoLoader
from pipeline.look_ahead import Window, peak_bytes
from pipeline.reading import read_jpegs, read_media
from pipeline.remote import default_cache_dir, open_dataset, read_manifest
from pipeline.transport import MissingError, RemoteError, RemoteFolder, RetryPolicy
from sharding.commandline import UserError
from sharding.manifest import Manifest, PackedDataset, fingerprint_of, load_dataset
from tests.conftest import ROOT, pack
from tests.servers import Fault, FaultyServer

QUICK = RetryPolicy(attempts=4, first_wait_seconds=0.01, connect_seconds=5, stall_seconds=0.5)
NUM_SHARDS = 5  # 13 samples, 3 in a shard


def with_table_hash(split: Path) -> Path:
    """Makes the manifest of a packed split record the hash of its table."""
    manifest = Manifest.from_json((split / "manifest.json").read_text())
    table_sha256 = hashlib.sha256((split / "samples.parquet").read_bytes()).hexdigest()
    (split / "manifest.json").write_text(replace(manifest, table_sha256=table_sha256).to_json())
    return split


@pytest.fixture(scope="session")
def in_shards(numbered_videos, tmp_path_factory) -> Path:
    """The numbered videos in five shards."""
    return with_table_hash(pack(numbered_videos, tmp_path_factory.mktemp("in_shards"), samples_per_shard=3))


@pytest.fixture(scope="session")
def in_shards_jpeg(numbered_videos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("in_shards_jpeg")
    return with_table_hash(pack(numbered_videos, out, samples_per_shard=3, profile="jpeg"))


@pytest.fixture
def web(in_shards) -> Iterator[FaultyServer]:
    """A web server of the folder that holds the split `train`."""
    with FaultyServer(in_shards.parent) as server:
        yield server


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


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
        return [
            b"".join(jpeg.tobytes() for jpeg in read_jpegs(dataset, i, np.arange(dataset.num_frames[i])))
            for i in range(len(dataset))
        ]
    return [read_media(dataset, i) for i in range(len(dataset))]


def cached_bytes(cache: Path) -> int:
    return sum(entry.num_bytes for entry in find_entries(cache))


def first_time(fault: Fault, only: str = "") -> callable:
    """That fault at the first request for each file, or for those whose name ends in `only`."""
    return lambda path, n: fault if n == 0 and path.endswith(only) else None


def wait_until(condition) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("what was waited for did not happen")


# -- the same bytes, whatever the server does ------------------------------------------------------------------------


def test_reads_what_the_folder_holds(remote, in_shards, tmp_path):
    server, url = remote
    dataset = open_dataset(url, tmp_path)
    assert dataset.location == url
    assert dataset.fingerprint == load_dataset(in_shards).fingerprint
    assert content_of(dataset) == content_of(load_dataset(in_shards))
    assert list(dataset.keys) == list(load_dataset(in_shards).keys)
    for shard in range(NUM_SHARDS):
        assert len(server.requests_of(f"shard-00000{shard}.tar")) == 1


def test_jpegs_of_single_frames(in_shards_jpeg, tmp_path):
    with FaultyServer(in_shards_jpeg.parent) as server:
        dataset = open_dataset(f"{server.url}/train/", tmp_path)
        assert content_of(dataset) == content_of(load_dataset(in_shards_jpeg))


FAULTS = {
    "500": Fault("status", status=500),
    "503": Fault("status", status=503),
    "429": Fault("status", status=429),
    "drop": Fault("drop", after=500),
    "drop at once": Fault("drop", after=0),
    "stall": Fault("stall", after=300),
    "cut": Fault("cut", after=600),
    "flip": Fault("flip", after=700),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_faults_change_nothing(remote, in_shards, tmp_path, fault):
    """Each file, the manifest and the table among them, goes wrong the first time it is asked for."""
    server, url = remote
    server.fault = first_time(fault)
    dataset = open_dataset(url, tmp_path, retry=QUICK)
    assert content_of(dataset) == content_of(load_dataset(in_shards))
    for name in ("manifest.json", "samples.parquet", "shard-000000.tar", "shard-000004.tar"):
        assert len(server.requests_of(name)) >= 2, name


def test_faults_within_blocks(remote, in_shards, tmp_path, monkeypatch):
    """A file comes in many pieces, and each third answer of the server breaks off."""
    server, url = remote
    monkeypatch.setattr(transport, "_BLOCK_BYTES", 4096)
    server.fault = lambda path, n: Fault("drop", after=2000) if n % 3 == 0 else None
    dataset = open_dataset(url, tmp_path, retry=QUICK)
    assert content_of(dataset) == content_of(load_dataset(in_shards))


def test_a_broken_download_goes_on_by_range(tmp_path):
    content = np.random.default_rng(0).bytes(12_000_000)
    (tmp_path / "file").write_bytes(content)
    with FaultyServer(tmp_path, fault=lambda path, n: Fault("drop", after=5_000_000) if n < 2 else None) as server:
        with (tmp_path / "copy").open("w+b") as copy:
            digest = hashlib.sha256(content).hexdigest()
            RemoteFolder(server.url, QUICK).download("file", copy, num_bytes=len(content), digest=digest)
        assert (tmp_path / "copy").read_bytes() == content
        first, second, third = server.requests
    assert first.range is None
    assert 0 < int(second.range[6:-1]) < int(third.range[6:-1])
    assert third.sent_bytes < len(content)


def test_a_server_without_ranges_begins_anew(in_shards, tmp_path):
    with FaultyServer(in_shards.parent, ranges=False) as server:
        server.fault = lambda path, n: Fault("drop", after=9000) if n < 2 else None
        dataset = open_dataset(f"{server.url}/train", tmp_path, retry=QUICK)
        assert content_of(dataset) == content_of(load_dataset(in_shards))
        assert {request.sent_bytes for request in server.requests_of("shard-000001.tar")[:2]} == {9000}


def test_a_server_that_answers_anew_again_and_again_is_given_up(in_shards, tmp_path):
    """Without ranges nothing is gained by an attempt that gets no farther than those before."""
    with FaultyServer(in_shards.parent, ranges=False) as server:
        dataset = open_dataset(f"{server.url}/train", tmp_path, retry=QUICK)
        server.fault = lambda path, n: Fault("drop", after=9000)
        with pytest.raises(RemoteError, match=r"shard-00000\d.tar: .*given up after 4 in a row"):
            content_of(dataset)
        assert len(server.requests_of(".tar")) <= 6


def test_batches_are_those_of_the_folder_bit_for_bit(remote, in_shards, tmp_path):
    server, url = remote
    server.fault = lambda path, n: [Fault("status"), Fault("drop", after=900), Fault("flip", after=800), None][
        min(n, 3)
    ]
    config = DataConfig(num_segments=2, short_side=64, crop_size=32)
    local, fetched = (
        VideoLoader(dataset, config, training=True, micro_batch_size=3, seed=2)
        for dataset in (load_dataset(in_shards), open_dataset(url, tmp_path, retry=replace(QUICK, attempts=9)))
    )
    for _ in range(2):
        for expected, batch in zip(local, fetched, strict=True):
            assert torch.equal(expected.sample_ids, batch.sample_ids)
            assert torch.equal(expected.clips, batch.clips)


# -- servers that cannot be helped -----------------------------------------------------------------------------------


def test_flipped_bytes_are_never_served(remote, tmp_path):
    server, url = remote
    server.fault = lambda path, n: Fault("flip", after=777) if path.endswith("shard-000001.tar") else None
    dataset = open_dataset(url, tmp_path, retry=QUICK)
    bad = int(np.flatnonzero(dataset.shards == 1)[0])
    for _ in range(2):
        with pytest.raises(RemoteError, match=r"shard-000001.tar: .*(not those of the manifest; upload|checksum)"):
            read_media(dataset, bad)
    assert not (dataset.directory / "shard-000001.tar").exists()
    assert 4 < len(server.requests_of("shard-000001.tar")) < 9  # fetched again, but not for ever


def test_a_table_with_a_flipped_byte_is_never_served(remote, tmp_path):
    server, url = remote
    server.fault = lambda path, n: Fault("flip", after=1000) if path.endswith(".parquet") else None
    with pytest.raises(RemoteError, match=r"samples.parquet: .*(not those of the manifest|checksum)"):
        open_dataset(url, tmp_path, retry=QUICK)
    server.fault = lambda path, n: None
    assert len(open_dataset(url, tmp_path)) == 13


def test_an_edited_manifest(in_shards, tmp_path):
    split = shutil.copytree(in_shards, tmp_path / "train")
    values = json.loads((split / "manifest.json").read_text())
    (split / "manifest.json").write_text(json.dumps(values | {"classes": ["odd", "even"]}))
    with (
        FaultyServer(tmp_path) as server,
        pytest.raises(UserError, match=r"manifest.json: does not fit its own finger"),
    ):
        open_dataset(f"{server.url}/train", tmp_path / "cache")


@pytest.mark.parametrize(
    "name", ["../../evil.tar", "/tmp/evil.tar", ".hidden.tar", "sub/shard.tar", "shard.txt", "a\n.tar"]
)
def test_shards_cannot_lead_out_of_the_cache(in_shards, tmp_path, name):
    split = shutil.copytree(in_shards, tmp_path / "train")
    manifest = Manifest.from_json((split / "manifest.json").read_text())
    evil = replace(manifest, shards=(replace(manifest.shards[0], name=name), *manifest.shards[1:]))
    evil = replace(evil, fingerprint=fingerprint_of(vars(evil)))
    (split / "manifest.json").write_text(evil.to_json())
    with FaultyServer(tmp_path) as server, pytest.raises(UserError, match="is no name of a shard"):
        open_dataset(f"{server.url}/train", tmp_path / "cache")


def test_nothing_there(remote, tmp_path):
    server, url = remote
    with pytest.raises(MissingError, match=r"train/sub/manifest.json: not found; check the URL"):
        open_dataset(f"{url}/sub", tmp_path)
    assert sum(request.path.endswith("sub/manifest.json") for request in server.requests) == 1  # not tried again


def test_a_shard_that_is_not_there(in_shards, tmp_path):
    split = shutil.copytree(in_shards, tmp_path / "train")
    (split / "shard-000002.tar").unlink()
    with FaultyServer(tmp_path) as server:
        dataset = open_dataset(f"{server.url}/train", tmp_path / "cache")
        with pytest.raises(MissingError, match=r"shard-000002.tar: not found"):
            content_of(dataset)


def test_access_refused(remote, tmp_path):
    server, url = remote
    server.fault = lambda path, n: Fault("status", status=403)
    with pytest.raises(RemoteError, match=r"manifest.json: access refused .*; check the URL and the credentials"):
        open_dataset(url, tmp_path)


def test_no_server(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(
        RemoteError, match=rf"http://127.0.0.1:{port}/train/manifest.json: .*\(given up after 4 in a row"
    ):
        open_dataset(f"http://127.0.0.1:{port}/train", tmp_path, retry=QUICK)


def test_a_dataset_that_was_cached_still_needs_its_server(in_shards, tmp_path):
    with FaultyServer(in_shards.parent) as server:
        content_of(open_dataset(f"{server.url}/train", tmp_path))
    with pytest.raises(RemoteError, match="given up after"):
        open_dataset(f"{server.url}/train", tmp_path, retry=QUICK)


def test_a_server_that_answers_500_for_good(remote, tmp_path):
    server, url = remote
    dataset = open_dataset(url, tmp_path, retry=QUICK)
    server.fault = lambda path, n: Fault("status")
    with pytest.raises(RemoteError, match=r"shard-000000.tar: .*after 4 in a row.*what has been fetched is kept"):
        read_media(dataset, 0)
    assert len(server.requests_of("shard-000000.tar")) == 4  # the libraries below do not try on their own
    last = len(dataset) - 1
    with pytest.raises(RemoteError, match=r"shard-000004.tar: .*after 1 in a row"):
        read_media(dataset, last)  # not as long again
    server.fault = lambda path, n: None
    assert read_media(dataset, last)
    server.fault = lambda path, n: Fault("status") if n < 7 else None  # 4 were asked for already
    assert read_media(dataset, 0)


def test_secrets_are_not_shown(in_shards, tmp_path, caplog):
    with FaultyServer(in_shards.parent) as server:
        url = server.url.replace("//", "//me:hidden@") + "/train?token=secret"
        dataset = open_dataset(url, tmp_path)
        assert read_media(dataset, 0)
        assert all(request.path.endswith("?token=secret") for request in server.requests)
        server.fault = lambda path, n: Fault("status", status=500 if n < 2 else 418)
        with pytest.raises(RemoteError, match="the server answered 418") as refused:
            open_dataset(url, tmp_path, retry=QUICK)
    with pytest.raises(RemoteError, match="given up") as gone:
        open_dataset(url, tmp_path, retry=QUICK)
    with pytest.raises(UserError, match="nosuch://host/train: ") as unknown:
        open_dataset("nosuch://me:hidden@host/train?token=secret", tmp_path)
    for shown in (caplog.text, str(refused.value), str(gone.value), str(unknown.value)):
        assert "hidden" not in shown and "secret" not in shown
    assert dataset.location == f"{server.url}/train"


@pytest.mark.parametrize(
    ("url", "message"),
    [("nosuch://host/train", "nosuch://host/train: .*nosuch.*; use s3://"), ("https:///train", "check the URL")],
)
def test_urls_that_are_none(tmp_path, url, message):
    with pytest.raises(UserError, match=message):
        open_dataset(url, tmp_path, retry=QUICK)


def test_without_the_libraries(tmp_path):
    """The message names the extra to install."""
    done = run_python(
        "import sys; sys.modules['s3fs'] = None\n"
        "from pipeline.remote import open_dataset\n"
        f"open_dataset('s3://videos/train', {str(tmp_path)!r})"
    )
    assert "UserError: s3://videos/train: " in done.stderr and "run pip install 'vpsn[remote]'" in done.stderr


# -- the cache -------------------------------------------------------------------------------------------------------


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
        "from pipeline.remote import open_dataset\n"
        "from pipeline.transport import RetryPolicy\n"
        f"dataset = open_dataset({url!r}, {str(cache)!r}, retry=RetryPolicy({policy}))\n"
        "print(hashlib.sha256(b''.join(read_media(dataset, i) for i in range(len(dataset)))).hexdigest())\n"
    )


def digest_of(dataset: PackedDataset) -> str:
    return hashlib.sha256(b"".join(content_of(dataset))).hexdigest()


def test_a_restart_fetches_no_shard_again(remote, in_shards, tmp_path):
    server, url = remote
    content_of(open_dataset(url, tmp_path))
    server.fault = lambda path, n: Fault("status") if path.endswith((".tar", ".parquet")) else None
    again = open_dataset(url, tmp_path, retry=QUICK)
    assert content_of(again) == content_of(load_dataset(in_shards))


def test_processes_share_the_cache(web, in_shards, tmp_path):
    """Two processes that want the same shards at the same time fetch each of them, and the table, once."""
    both = threading.Event()

    def wait_for_both(path: str, n: int) -> None:
        if path.endswith("manifest.json") and n == 1:
            both.set()
        if path.endswith(".tar"):
            both.wait(60)

    web.fault = wait_for_both
    processes = [run_python(reader(f"{web.url}/train", tmp_path), wait=False) for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert out.strip() == digest_of(load_dataset(in_shards)), err
    for name in ("samples.parquet", *(f"shard-00000{shard}.tar" for shard in range(NUM_SHARDS))):
        assert len(web.requests_of(name)) == 1, name


def test_threads_share_the_cache(remote, in_shards, tmp_path):
    server, url = remote
    dataset = open_dataset(url, tmp_path)
    found = []
    threads = [threading.Thread(target=lambda: found.append(content_of(dataset))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == 4 * [content_of(load_dataset(in_shards))]
    assert len(server.requests_of(".tar")) == NUM_SHARDS


def test_killed_in_mid_download(tmp_path, in_shards):
    """What was fetched before kill -9 is gone on from; the lock of the dead is no hindrance."""
    split = shutil.copytree(in_shards, tmp_path / "train")
    shard = bytearray((split / "shard-000000.tar").read_bytes() + bytes(3_000_000))  # a tar may end in zeros
    (split / "shard-000000.tar").write_bytes(shard)
    manifest = Manifest.from_json((split / "manifest.json").read_text())
    longer = replace(manifest.shards[0], bytes=len(shard), sha256=hashlib.sha256(shard).hexdigest())
    manifest = replace(manifest, shards=(longer, *manifest.shards[1:]))
    (split / "manifest.json").write_text(replace(manifest, fingerprint=fingerprint_of(vars(manifest))).to_json())

    with FaultyServer(tmp_path, fault=first_time(Fault("stall", after=2_000_000), "shard-000000.tar")) as server:
        url, cache = f"{server.url}/train", tmp_path / "cache"
        process = run_python(reader(url, cache, "stall_seconds=300"), wait=False)
        wait_until(lambda: any(path.stat().st_size > 1_000_000 for path in cache.glob("*/*.partial")))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert content_of(open_dataset(url, cache)) == content_of(load_dataset(in_shards))
        _, resumed = server.requests_of("shard-000000.tar")
    assert int(resumed.range[6:-1]) > 1_000_000
    assert resumed.sent_bytes < 2_100_000
    assert not list(cache.glob("*/*.tar.*.partial"))


def test_a_partial_file_with_other_bytes_is_begun_anew(web, in_shards, tmp_path):
    dataset = open_dataset(f"{web.url}/train", tmp_path, retry=QUICK)
    size = dataset.manifest.shards[0].bytes
    for num_bytes in (5000, size, size + 10):
        (dataset.directory / f"shard-000000.tar.{size}.partial").write_bytes(b"x" * num_bytes)
        assert content_of(dataset) == content_of(load_dataset(in_shards))
        (dataset.directory / "shard-000000.tar").unlink()


def test_shards_changed_or_copied_by_others(remote, in_shards, tmp_path):
    """A shard that changed in the cache is fetched again; one that was copied there is hashed and taken."""
    server, url = remote
    content_of(open_dataset(url, tmp_path))
    first = open_dataset(url, tmp_path).directory
    with (first / "shard-000000.tar").open("r+b") as file:
        file.write(b"changed")
    (first / "shard-000001.tar.checked").unlink()
    (first / "shard-000002.tar.checked").write_text("{")
    (first / "shard-000003.tar").write_bytes(b"short")
    dataset = open_dataset(url, tmp_path)
    assert content_of(dataset) == content_of(load_dataset(in_shards))
    assert [len(server.requests_of(f"shard-00000{shard}.tar")) for shard in range(NUM_SHARDS)] == [2, 1, 1, 2, 1]


def in_order(dataset: PackedDataset, shards: list[int]) -> list[int]:
    """The first sample of each shard."""
    return [int(np.flatnonzero(dataset.shards == shard)[0]) for shard in shards]


def held(dataset: PackedDataset) -> set[int]:
    return {int(path.name[6:12]) for path in dataset.directory.glob("*.tar")}


def test_the_bound_holds_and_the_least_recently_used_goes(web, in_shards, tmp_path):
    sizes = [shard.bytes for shard in read_manifest(f"{web.url}/train").shards]
    bound = sum(sorted(sizes)[-3:])
    dataset = open_dataset(f"{web.url}/train", tmp_path, bound)
    local = load_dataset(in_shards)
    rng = np.random.default_rng(0)
    for sample in rng.integers(0, len(dataset), 60).tolist():
        assert read_media(dataset, sample) == read_media(local, sample)
        assert cached_bytes(tmp_path) <= bound
    for sample in in_order(dataset, [0, 1, 2, 0]):
        read_media(dataset, sample)
    assert held(dataset) == {0, 1, 2}
    read_media(dataset, in_order(dataset, [3])[0])
    assert 1 not in held(dataset) and {0, 3} <= held(dataset)


def test_an_open_shard_outlives_its_removal(web, in_shards, tmp_path):
    largest = max(shard.bytes for shard in read_manifest(f"{web.url}/train").shards)
    dataset = open_dataset(f"{web.url}/train", tmp_path, largest)
    file = dataset.open_shard(0)
    dataset.shard_source.path(1)
    assert held(dataset) == {1}
    try:
        assert os.pread(file, largest, 0) == (in_shards / "shard-000000.tar").read_bytes()
    finally:
        os.close(file)


def test_the_bound_holds_across_processes_and_datasets(web, in_shards, in_shards_jpeg, tmp_path):
    shards = [*load_dataset(in_shards).manifest.shards, *load_dataset(in_shards_jpeg).manifest.shards]
    bound = 2 * max(shard.bytes for shard in shards)
    most, stop = [], threading.Event()

    def watch() -> None:
        while not stop.wait(0.002):
            with locked(cache / ".lock"):
                most.append(cached_bytes(cache))

    cache = tmp_path / "cache"
    cache.mkdir()
    with FaultyServer(in_shards_jpeg.parent) as other:
        code = (
            "from pipeline.remote import open_dataset\n"
            "import os\n"
            "for _ in range(4):\n"
            f"    for url in ({web.url + '/train'!r}, {other.url + '/train'!r}):\n"
            f"        dataset = open_dataset(url, {str(cache)!r}, {bound})\n"
            "        for shard in range(5):\n"
            "            file = dataset.open_shard(shard)\n"
            "            assert os.fstat(file).st_size == dataset.manifest.shards[shard].bytes\n"
            "            os.close(file)\n"
        )
        watcher = threading.Thread(target=watch)
        watcher.start()
        processes = [run_python(code, wait=False) for _ in range(2)]
        for process in processes:
            _, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
        stop.set()
        watcher.join()
    assert bound / 2 < max(most) <= bound
    # A smaller bound holds from the moment the dataset is opened with it.
    open_dataset(f"{web.url}/train", cache, bound // 2)
    assert cached_bytes(cache) <= bound // 2


def test_a_cache_that_is_too_small(web, tmp_path):
    with pytest.raises(UserError, match=r"a cache of 1,000 bytes cannot hold a shard of \d+,\d+"):
        open_dataset(f"{web.url}/train", tmp_path, 1000)


def test_other_files_in_the_cache_folder_are_left_alone(web, tmp_path):
    for place in (tmp_path / "mine.tar", tmp_path / "train" / "shard-000000.tar"):
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(bytes(10**6))
    largest = max(shard.bytes for shard in read_manifest(f"{web.url}/train").shards)
    content_of(open_dataset(f"{web.url}/train", tmp_path, largest))
    assert (tmp_path / "mine.tar").exists() and (tmp_path / "train" / "shard-000000.tar").exists()


def test_a_disk_that_cannot_be_written(web, tmp_path):
    """No sample is to blame for it: files may have 10,000 bytes, shards have more."""
    done = run_python(
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))\n"
        + reader(f"{web.url}/train", tmp_path)
    )
    assert "UserError" in done.stderr and "File too large; the cache must be on a disk" in done.stderr


def test_changes_at_the_source(in_shards, tmp_path):
    """Another content makes another folder; a new quarantine is seen, and one that was taken away is not."""
    split, cache = shutil.copytree(in_shards, tmp_path / "train"), tmp_path / "cache"
    with FaultyServer(tmp_path) as server:
        before = open_dataset(f"{server.url}/train", cache)
        assert before.quarantined.size == 0
        (split / "quarantine.jsonl").write_text(json.dumps({"key": before.key(4), "reason": "test"}) + "\n")
        assert open_dataset(f"{server.url}/train", cache).quarantined.tolist() == [4]
        (split / "quarantine.jsonl").unlink()
        assert open_dataset(f"{server.url}/train", cache).quarantined.size == 0
        manifest = Manifest.from_json((split / "manifest.json").read_text())
        manifest = replace(manifest, dataset="renamed")
        (split / "manifest.json").write_text(replace(manifest, fingerprint=fingerprint_of(vars(manifest))).to_json())
        after = open_dataset(f"{server.url}/train", cache)
    assert after.directory != before.directory and after.manifest.dataset == "renamed"


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("VPSN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "vpsn"
    monkeypatch.setenv("VPSN_CACHE", str(tmp_path / "here"))
    assert default_cache_dir() == tmp_path / "here"


def test_local_folders_are_opened_as_ever(in_shards):
    assert open_dataset(in_shards).shard_source is None
    assert open_dataset(str(in_shards)).location == str(in_shards)
    assert read_manifest(in_shards) == load_dataset(in_shards).manifest


def test_a_dataset_can_be_sent_to_another_process(web, in_shards, tmp_path):
    import pickle

    dataset = pickle.loads(pickle.dumps(open_dataset(f"{web.url}/train", tmp_path)))  # noqa: S301
    assert content_of(dataset) == content_of(load_dataset(in_shards))


# -- fetching ahead --------------------------------------------------------------------------------------------------


def test_shards_are_fetched_ahead_in_the_order_of_reading(remote, in_shards, tmp_path):
    server, url = remote
    dataset = open_dataset(url, tmp_path)
    dataset.shard_source.threads = 1
    order = np.concatenate([np.flatnonzero(dataset.shards == shard) for shard in (3, 0, 4, 1, 2)])
    dataset.prefetch(order)
    wait_until(lambda: held(dataset) == set(range(NUM_SHARDS)))
    assert [request.path[-5] for request in server.requests_of(".tar")] == ["3", "0", "4", "1", "2"]
    assert content_of(dataset) == content_of(load_dataset(in_shards))
    assert len(server.requests_of(".tar")) == NUM_SHARDS


def test_fetching_ahead_keeps_what_is_needed_sooner(web, in_shards, tmp_path):
    sizes = [shard.bytes for shard in read_manifest(f"{web.url}/train").shards]
    dataset = open_dataset(f"{web.url}/train", tmp_path, sum(sorted(sizes)[-2:]))
    samples = np.arange(len(dataset))  # shards 0, 0, 0, 1, 1, 1, ...
    dataset.prefetch(samples, then=samples)
    for position, sample in enumerate([*samples.tolist(), *samples.tolist()]):
        now = int(dataset.shards[sample])
        ahead = {now, (now + 1) % NUM_SHARDS} if position < 2 * len(samples) - 1 else {now}
        wait_until(lambda: ahead <= held(dataset))  # noqa: B023
        assert cached_bytes(tmp_path) <= dataset.shard_source.cache_bytes
        read_media(dataset, sample)
    wait_until(lambda: not dataset.shard_source._num_workers)
    fetched = [int(request.path[-5]) for request in web.requests_of(".tar")]
    assert sorted(fetched) == sorted([*range(NUM_SHARDS)] * 2)  # each once in an epoch


def test_a_shard_that_is_needed_now_does_not_wait(web, in_shards, tmp_path):
    """While all the threads that fetch ahead hang, the reader gets its shard itself."""
    dataset = open_dataset(f"{web.url}/train", tmp_path)
    web.fault = lambda path, n: Fault("stall", after=10) if not path.endswith("shard-000004.tar") else None
    dataset.prefetch(np.arange(len(dataset)))
    wait_until(lambda: len(web.requests_of(".tar")) == dataset.shard_source.threads)
    last = len(dataset) - 1
    assert read_media(dataset, last) == read_media(load_dataset(in_shards), last)
    dataset.close()


def test_an_order_that_the_cache_cannot_hold_is_told(web, tmp_path, caplog):
    sizes = [shard.bytes for shard in read_manifest(f"{web.url}/train").shards]
    dataset = open_dataset(f"{web.url}/train", tmp_path, max(sizes))
    dataset.prefetch(np.arange(len(dataset)))
    assert "again and again" not in caplog.text
    dataset.prefetch(np.arange(len(dataset)).reshape(1, -1).repeat(2, 0).ravel())
    assert "fetched again and again; shuffle in blocks" in caplog.text
    dataset.close()


def test_closing_ends_what_is_being_fetched(web, tmp_path):
    dataset = open_dataset(f"{web.url}/train", tmp_path, retry=replace(QUICK, first_wait_seconds=999))
    web.fault = lambda path, n: Fault("status")
    found = []

    def read() -> None:
        try:
            read_media(dataset, 0)
        except RemoteError as error:
            found.append(str(error))

    thread = threading.Thread(target=read)
    thread.start()
    wait_until(lambda: web.requests_of(".tar"))
    dataset.close()
    thread.join()
    assert "this run ends" in found[0]


def test_what_cannot_be_fetched_ahead_is_told_by_the_reading(web, tmp_path):
    dataset = open_dataset(f"{web.url}/train", tmp_path, retry=QUICK)
    web.fault = lambda path, n: Fault("status", status=404)
    dataset.prefetch(np.arange(len(dataset)))
    wait_until(lambda: not dataset.shard_source._num_workers)
    with pytest.raises(MissingError, match=r"shard-000000.tar"):
        read_media(dataset, 0)


@given(
    order=st.lists(st.integers(0, 7), max_size=40),
    sizes=st.lists(st.integers(1, 10), min_size=8, max_size=8),
    room=st.integers(0, 30),
)
@settings(max_examples=200, deadline=None)
def test_window(order, sizes, room):
    """It holds what is read next, in order, and as much of it as there is room for."""
    sizes = np.array(sizes)
    max_bytes = int(sizes.max()) + room
    window = Window(np.array(order, np.int32), sizes, max_bytes)
    came = window.extend()
    for position, shard in enumerate(order):
        needed = set(window.needed())
        assert shard in needed
        assert sizes[list(needed)].sum() <= max_bytes
        rest = list(dict.fromkeys(order[position:]))
        assert needed == set(rest[: len(needed)])  # those that are needed first
        if len(needed) < len(rest):
            assert sizes[rest[: len(needed) + 1]].sum() > max_bytes
        came += window.advance()
    assert not window.needed() and window.advance() == []
    assert list(dict.fromkeys(came)) == list(dict.fromkeys(order))


@given(order=st.lists(st.integers(0, 4), max_size=20))
def test_peak(order):
    sizes = np.array([1, 10, 100, 1000, 10000])
    in_use = [
        sum(int(sizes[shard]) for shard in set(order) if shard in order[: i + 1] and shard in order[i:])
        for i in range(len(order))
    ]
    assert peak_bytes(np.array(order, np.int32), sizes) == max(in_use, default=0)


def test_waits_grow_and_differ():
    policy = RetryPolicy()
    for failures, bound in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 40), (20, 40)]:
        waits = [policy.wait_seconds(failures) for _ in range(50)]
        assert bound / 2 <= min(waits) < max(waits) <= bound
