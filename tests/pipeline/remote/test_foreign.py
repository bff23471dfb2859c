"""Shards that others keep in object storage: indexed and read there, by a folder that only names them."""

import shutil

import pytest

from pipeline.dataset import open_dataset
from pipeline.remote.transport import RemoteError
from sharding import IndexConfig, UserError, index, measure, verify
from sharding.__main__ import main
from sharding.dataset import load_dataset, read_shards_url
from tests.helpers.servers import Fault
from tests.pipeline.conftest import QUICK, content_of


@pytest.fixture
def indexed(store, tmp_path):
    """The folder of the table of the shards in s3://videos/train."""
    return index(IndexConfig(("s3://videos/train",), out=tmp_path / "out", workers=1)).directory


def test_shards_in_object_storage(indexed, store, in_shards, tmp_path, capsys):
    assert (indexed / "shards.url").read_text() == "s3://videos/train\n"
    assert not list(indexed.glob("*.tar")) and len(list(indexed.glob("*.idx"))) == 5
    theirs = load_dataset(in_shards)
    dataset = open_dataset(indexed, tmp_path / "cache")
    assert content_of(dataset) == content_of(theirs)
    assert list(dataset.keys) == list(theirs.keys) and dataset.labels.tolist() == theirs.labels.tolist()
    assert all((dataset.frame_offsets(n) == theirs.frame_offsets(n)).all() for n in range(len(theirs)))
    assert measure(indexed)[0].samples == 13
    with pytest.raises(UserError, match=r"its shards are at s3://videos/train"):
        verify(indexed)
    assert main(["index", "s3://videos/train", f"--out={indexed}"]) == 0
    assert "already complete" in capsys.readouterr().out


def test_a_server_that_fails_is_named(indexed, store, tmp_path):
    store.fault = lambda path, n: Fault("status", status=403) if path.endswith(".tar") else None
    dataset = open_dataset(indexed, tmp_path / "cache", retry=QUICK)
    with pytest.raises(RemoteError, match=r"s3://videos/train/shard-000000\.tar"):
        dataset.open_shard(0)


def test_only_stores_and_servers_may_be_named(indexed, tmp_path):
    folder = shutil.copytree(indexed, tmp_path / "copy")
    for text in (
        "/etc",
        "file:///etc",
        "local:///etc",
        "simplecache::s3://x/y",
        "https:// two words",
        "s3://",
        "ftp://a",
    ):
        (folder / "shards.url").write_text(text)
        with pytest.raises(UserError, match=r"shards\.url: .* is no URL of http, https, s3, "):
            open_dataset(folder, tmp_path / "cache")


@pytest.mark.parametrize("url", ["https://host/train", "s3://b/train", "gcs://b/train", "abfs://container/train"])
def test_every_store_that_index_writes_may_be_named(tmp_path, url):
    (tmp_path / "shards.url").write_text(url + "\n")
    assert read_shards_url(tmp_path) == url
