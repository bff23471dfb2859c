"""The local cache of remote shards: shared, bounded, kept over restarts and kill -9; and the fetching ahead into it."""

import hashlib
import json
import os
import pickle
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dataset import default_cache_dir, open_dataset, read_manifest
from pipeline.loader import VideoLoader
from pipeline.reading import read_media
from pipeline.remote.eviction import find_entries
from pipeline.remote.prefetch import PrefetchWindow, peak_bytes
from pipeline.remote.transport import MissingError, RemoteError
from sharding.dataset import PackedDataset, load_dataset
from sharding.errors import UserError
from sharding.files import locked
from sharding.manifest import Manifest, fingerprint_of
from tests.helpers.clips import thread_config
from tests.helpers.servers import Fault, FaultyServer
from tests.pipeline.conftest import NUM_SHARDS, QUICK, content_of, digest_of, first_time, reader, run_python, wait_until


def cached_bytes(cache: Path) -> int:
    return sum(entry.num_bytes for entry in find_entries(cache))


def in_order(dataset: PackedDataset, shards: list[int]) -> list[int]:
    """The first sample of each shard."""
    return [int(np.flatnonzero(dataset.shards == shard)[0]) for shard in shards]


def held(dataset: PackedDataset) -> set[int]:
    return {int(path.name[6:12]) for path in dataset.directory.glob("*.tar")}


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
        wait_until(lambda: any(path.stat().st_size > 1_000_000 for path in cache.glob("*/*.tar.*.partial")))
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
    os.close(dataset.open_shard(1))
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
            "from pipeline.dataset import open_dataset\n"
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
        try:
            processes = [run_python(code, wait=False) for _ in range(2)]
            for process in processes:
                _, err = process.communicate(timeout=120)
                assert process.returncode == 0, err
        finally:
            stop.set()
            watcher.join()
    assert bound / 2 < max(most) <= bound
    # A smaller bound holds from the moment the dataset is opened with it.
    open_dataset(f"{web.url}/train", cache, bound // 2)
    assert cached_bytes(cache) <= bound // 2


def test_a_cache_that_is_too_small(web, tmp_path):
    with pytest.raises(UserError, match=r"a cache of 1,000 bytes cannot hold a shard of \d+,\d+"):
        open_dataset(f"{web.url}/train", tmp_path, 1000)


def test_a_disk_that_is_too_small(web, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=10, f_frsize=4096))
    with pytest.raises(UserError, match="room for 40,960 bytes of shards, but the cache may take 9,000,000"):
        open_dataset(f"{web.url}/train", tmp_path, 9_000_000)


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
    window = PrefetchWindow(np.array(order, np.int32), sizes, max_bytes)
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


def test_one_loader_closed_leaves_the_dataset_to_the_next(web, in_shards, tmp_path):
    """As the phases of a run have it, with a cache that holds less than the split."""
    largest = max(shard.bytes for shard in read_manifest(f"{web.url}/train").shards)
    dataset = open_dataset(f"{web.url}/train", tmp_path, largest)
    config = thread_config(num_segments=2, short_side=32, crop_size=32)
    seen = []
    for _ in range(2):
        with VideoLoader(dataset, config, training=False, micro_batch_size=2) as loader:
            seen.append([batch.sample_ids.tolist() for batch in loader])
    assert seen[0] == seen[1] and sum(map(len, seen[0])) == len(dataset)


def test_ranks_of_a_machine_do_not_drive_out_what_the_others_fetched(web, tmp_path, monkeypatch):
    """Each fills its share of a cache that holds less than all."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    sizes = [shard.bytes for shard in read_manifest(f"{web.url}/train").shards]
    datasets = [open_dataset(f"{web.url}/train", tmp_path, 2 * max(sizes)) for _ in range(2)]
    for rank, shards in enumerate(([0, 2, 4], [1, 3])):
        order = np.concatenate([np.flatnonzero(datasets[rank].shards == shard) for shard in shards])
        datasets[rank].prefetch(order)
        wait_until(lambda: not datasets[rank].shard_source._num_workers)  # noqa: B023
    assert held(datasets[0]) == {0, 1}
    datasets[0].close()
    assert open_dataset(f"{web.url}/train", tmp_path, sum(sizes)).shard_source._room_of_rank() == sum(sizes)
