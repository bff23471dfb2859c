"""Servers that send without end, numbers that ask for memory, links in a cache: nothing grows or is written there."""

import shutil
from pathlib import Path

import pytest

import pipeline.dataset
from pipeline.dataset import open_dataset
from pipeline.reading import read_media
from pipeline.remote.transport import RemoteError
from sharding.dataset import load_dataset
from sharding.errors import UserError
from tests.helpers.manifests import edit_manifest
from tests.helpers.servers import Fault, FaultyServer
from tests.pipeline.remote.test_remote import QUICK

BUFFERS = 16 << 20  # of the sockets and of what is read at a time


def held_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["manifest.json", "quarantine.jsonl", "samples.parquet", "frames.npy"])
def test_a_file_without_end_is_given_up(in_shards, tmp_path, monkeypatch, name):
    monkeypatch.setattr(pipeline.dataset, "MAX_MANIFEST_BYTES", 1 << 20)
    monkeypatch.setattr(pipeline.dataset, "MAX_QUARANTINE_BYTES", 1 << 20)
    split, cache = shutil.copytree(in_shards, tmp_path / "train"), tmp_path / "cache"
    (split / "quarantine.jsonl").touch()

    def fault(path: str, n: int) -> Fault | None:
        return Fault("endless") if path.endswith(name) else None

    with FaultyServer(tmp_path, fault=fault) as server:
        with pytest.raises(RemoteError, match=f"{name}: more than the [0-9,]+ bytes that it may have; upload it again"):
            open_dataset(f"{server.url}/train", cache, retry=QUICK)
        assert sum(request.sent_bytes for request in server.requests) < BUFFERS + (8 << 20)
    assert not cache.exists() or held_in(cache) < 1 << 20


def test_of_a_shard_without_end_its_bytes_are_read(in_shards, tmp_path):
    with FaultyServer(in_shards.parent, fault=lambda path, n: Fault("endless") if ".tar" in path else None) as server:
        dataset = open_dataset(f"{server.url}/{in_shards.name}", tmp_path, retry=QUICK)
        assert read_media(dataset, 0) == read_media(load_dataset(in_shards), 0)
        assert sum(request.sent_bytes for request in server.requests) < BUFFERS + sum(
            s.bytes for s in dataset.manifest.shards
        )


def test_the_cache_bounds_the_table_that_a_manifest_asks_for(in_shards, tmp_path):
    split = shutil.copytree(in_shards, tmp_path / "train")
    edit_manifest(split, samples=(1 << 31) - 1, table_sha256="")
    with (
        FaultyServer(tmp_path, fault=lambda path, n: Fault("endless") if ".parquet" in path else None) as server,
        pytest.raises(RemoteError, match="more than the 5,000,000 bytes that it may have"),
    ):
        open_dataset(f"{server.url}/train", tmp_path / "cache", cache_bytes=5_000_000, retry=QUICK)


@pytest.mark.parametrize("place", ["partial", "lock", "folder"])
def test_nothing_is_written_through_a_link_in_the_cache(in_shards, tmp_path, place):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    with FaultyServer(in_shards.parent) as server:
        url, cache = f"{server.url}/{in_shards.name}", tmp_path / "cache"
        dataset = open_dataset(url, cache)
        shard = dataset.manifest.shards[0]
        if place == "folder":
            shutil.move(dataset.directory, tmp_path / "elsewhere")
            dataset.directory.symlink_to(tmp_path / "elsewhere")
            with pytest.raises(UserError, match="a link in the cache, which could lead anywhere; remove it"):
                open_dataset(url, cache)
            return
        trap = {"partial": f"{shard.name}.{shard.bytes}.partial", "lock": f"{shard.name}.lock"}[place]
        (dataset.directory / trap).symlink_to(victim)
        with pytest.raises(UserError, match="the cache must be"):
            read_media(dataset, int((dataset.shards == 0).argmax()))
    assert victim.read_text() == "precious"
