"""Remote datasets: the same bytes whatever their server does, or one line that says why not."""

import hashlib
import json
import shutil
import socket
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.dataset import open_dataset
from pipeline.loader import VideoLoader
from pipeline.reading import read_media
from pipeline.remote.transport import MissingError, RemoteError, RemoteFolder, RetryPolicy
from sharding.dataset import load_dataset
from sharding.errors import UserError
from sharding.manifest import Manifest, fingerprint_of
from sharding.objects import transport
from tests.helpers.clips import thread_config
from tests.helpers.servers import Fault, FaultyServer
from tests.pipeline.conftest import NUM_SHARDS, QUICK, content_of, first_time, run_python

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
    retry = replace(QUICK, stall_seconds=0.5) if fault.kind == "stall" else QUICK
    dataset = open_dataset(url, tmp_path, retry=retry)
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
        # Of the 9000 bytes sent, the client may have seen 4096 or 8192 before the connection broke, which is progress.
        assert len(server.requests_of(".tar")) <= 3 * 4


def test_batches_are_those_of_the_folder_bit_for_bit(remote, in_shards, tmp_path):
    server, url = remote
    server.fault = lambda path, n: [Fault("status"), Fault("drop", after=900), Fault("flip", after=800), None][
        min(n, 3)
    ]
    config = thread_config(num_segments=2, short_side=64, crop_size=32)
    local, fetched = (
        VideoLoader(dataset, config, training=True, micro_batch_size=3, seed=2)
        for dataset in (load_dataset(in_shards), open_dataset(url, tmp_path, retry=replace(QUICK, attempts=9)))
    )
    for _ in range(2):
        for expected, batch in zip(local, fetched, strict=True):
            assert torch.equal(expected.sample_ids, batch.sample_ids)
            assert torch.equal(expected.clips, batch.clips)


# -- servers that cannot be helped -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["raise", "quarantine"])
def test_a_dead_server_is_no_bad_sample(in_shards, tmp_path, mode):
    """Where shards cannot be fetched training ends, whatever is done with samples that cannot be decoded."""
    with FaultyServer(in_shards.parent) as server:
        dataset = open_dataset(f"{server.url}/train", tmp_path, retry=replace(QUICK, attempts=2))
        server.fault = lambda path, number: Fault("status")
        config = thread_config(num_segments=2, short_side=64, crop_size=32, on_bad_sample=mode)
        loader = VideoLoader(dataset, config, training=True, micro_batch_size=3)
        with pytest.raises(RemoteError, match=server.url):
            list(loader)
        assert loader.excluded == ()
        loader.close()


def test_an_epoch_fetches_ahead_in_the_order_of_the_plan(in_shards, tmp_path):
    """With room for two shards of five, blocks are fetched once each, for the next epoch too."""
    size = max(shard.bytes for shard in load_dataset(in_shards).manifest.shards)
    config = thread_config(num_segments=2, short_side=64, crop_size=32, shuffle="block", shuffle_block_shards=1)
    with FaultyServer(in_shards.parent) as server:
        dataset = open_dataset(f"{server.url}/train", tmp_path, cache_bytes=2 * size)
        loader = VideoLoader(dataset, replace(config, shuffle_streams=1), training=True, micro_batch_size=1)
        seen = [int(batch.sample_ids) for batch in loader]
        loader.close()
        fetched = [request.path for request in server.requests_of(".tar")]
    order = list(dict.fromkeys(dataset.shards[seen].tolist()))
    names = [f"/train/{dataset.manifest.shards[shard].name}" for shard in order]
    assert fetched[0] in names[:2]  # the two that there is room for are fetched at once
    assert set(fetched) == set(names)
    assert all(fetched.count(name) <= 2 for name in names)


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


@pytest.mark.parametrize(
    ("url", "variable", "value", "reason"),
    [
        ("s3://no bucket!/train", "AWS_ENDPOINT_URL", "http://127.0.0.1:9", 'Invalid bucket name "no bucket!"'),
        ("s3://bucket/train", "AWS_ENDPOINT_URL", "localhost:9000", "Invalid endpoint: localhost:9000"),
        ("s3://bucket/train", "AWS_DEFAULT_REGION", "no region", "Provided region_name 'no region'"),
    ],
)
def test_a_request_that_cannot_be_made_is_not_repeated(tmp_path, monkeypatch, caplog, url, variable, value, reason):
    for name, secret in (("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret"), (variable, value)):
        monkeypatch.setenv(name, secret)
    with pytest.raises(RemoteError, match=rf"manifest.json: .*{reason}.*; check the URL and what is set up"):
        open_dataset(url, tmp_path, retry=QUICK)
    assert "attempt" not in caplog.text


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
    with pytest.raises(UserError, match=r"nosuch://\*\*\*@host/train\?\*\*\*: ") as unknown:
        open_dataset("nosuch://me:hidden@host/train?token=secret", tmp_path)
    for shown in (caplog.text, str(refused.value), str(gone.value), str(unknown.value)):
        assert "hidden" not in shown and "secret" not in shown
    assert dataset.location == server.url.replace("//", "//***@") + "/train?***"


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
        "from pipeline.dataset import open_dataset\n"
        f"open_dataset('s3://videos/train', {str(tmp_path)!r})"
    )
    assert "UserError: s3://videos/train: " in done.stderr and "run pip install 'vpsn[remote]'" in done.stderr


def test_waits_grow_and_differ():
    policy = RetryPolicy()
    for failures, bound in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 40), (20, 40)]:
        waits = [policy.wait_seconds(failures) for _ in range(50)]
        assert bound / 2 <= min(waits) < max(waits) <= bound
