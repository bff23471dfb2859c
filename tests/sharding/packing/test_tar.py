"""Shards that DALI, webdataset and tar read, with an index equal to that of DALI's own tool."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.files import write_atomically
from sharding.packing.tar import TarWriter, UnreadableError, format_index
from sharding.records import MAX_KEY_LENGTH

KEYS = st.text("abcXYZ019_-", min_size=1, max_size=MAX_KEY_LENGTH)
SAMPLES = st.dictionaries(KEYS, st.lists(st.binary(max_size=2000), min_size=3, max_size=3), min_size=1, max_size=5)


def write(path: Path, samples: dict[str, list[bytes]]) -> TarWriter:
    with TarWriter(path) as tar:
        for key, contents in samples.items():
            for suffix, content in zip(("mp4", "cls", "json"), contents):
                tar.add(f"{key}.{suffix}", content)
    return tar


@given(samples=SAMPLES)
@settings(deadline=None, max_examples=25)
def test_ranges_point_at_the_payloads(tmp_path_factory, samples):
    path = tmp_path_factory.mktemp("tar") / "shard.tar"
    tar = write(path, samples)
    data = path.read_bytes()
    assert len(data) == tar.size
    assert len(data) % tarfile.RECORDSIZE == 0
    expected = [content for contents in samples.values() for content in contents]
    assert [data[c.offset : c.offset + c.size] for c in tar.components] == expected
    with tarfile.open(path) as read:
        members = read.getmembers()
        expected = [(c.name, c.offset, c.size) for c in tar.components]
        assert [(m.name, m.offset_data, m.size) for m in members] == expected
        assert {(m.mtime, m.uid, m.gid, m.mode, m.uname, m.pax_headers == {}) for m in members} == {
            (0, 0, 0, 0o644, "", True)
        }
    assert all(data[c.offset - 512 :][257:263] == b"ustar\0" for c in tar.components)


def test_the_index_is_that_of_wds2idx(tmp_path):
    wds2idx = pytest.importorskip("wds2idx").__file__
    if not shutil.which("tar"):
        pytest.skip("wds2idx needs the tar program")
    samples = {"a": [b"x" * 1000, b"1", b"{}"], "-b-": [b"", b"12", b"{}"], "c" * MAX_KEY_LENGTH: [b"y", b"3", b"{ }"]}
    tar = write(tmp_path / "shard.tar", samples)
    command = [sys.executable, wds2idx, tmp_path / "shard.tar", tmp_path / "theirs.idx"]
    subprocess.run(command, check=True, capture_output=True)
    assert format_index(tar.components) == (tmp_path / "theirs.idx").read_text()


def test_webdataset_reads_it(tmp_path):
    samples = {f"key_{i}": [bytes([i]) * i, str(i).encode(), b"{}"] for i in range(5)}
    write(tmp_path / "shard.tar", samples)
    read = list(webdataset.WebDataset(str(tmp_path / "shard.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in read] == list(samples)
    assert [[sample["mp4"], sample["cls"], sample["json"]] for sample in read] == list(samples.values())


def test_files_are_streamed_and_equal_to_bytes(tmp_path):
    content = bytes(range(256)) * 10_000
    (tmp_path / "media").write_bytes(content)
    for name, source in [("a.tar", content), ("b.tar", tmp_path / "media")]:
        with TarWriter(tmp_path / name) as tar:
            component = tar.add("key.mp4", source)
        assert component.size == len(content)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_a_file_that_no_header_has_room_for_is_refused_and_the_tar_goes_on(tmp_path):
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(8 << 30)  # sparse
    with TarWriter(tmp_path / "shard.tar") as tar:
        tar.add("a.mp4", b"a")
        mark = tar.mark()
        tar.add("b.cls", b"1")
        with pytest.raises(
            UnreadableError, match=r"^8,589,934,592 bytes, and a file in a shard may have 8,589,934,591$"
        ):
            tar.add("b.mp4", tmp_path / "huge")
        tar.back_to(mark)
        tar.add("c.mp4", b"c")
    with tarfile.open(tmp_path / "shard.tar") as read:
        assert read.getnames() == ["a.mp4", "c.mp4"]


def test_a_crash_leaves_no_file_under_the_final_name(tmp_path, monkeypatch):
    def full(path: Path, content: bytes) -> None:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "manifest.json", "{}")
    assert not (tmp_path / "manifest.json").exists()
