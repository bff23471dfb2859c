"""Shards made by others: webdataset's own writer makes them, `index` makes a training set of them."""

import importlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset

from pipeline import DataConfig, VideoLoader
from pipeline.reading import read_media
from sharding import IndexConfig, UserError, index, measure, open_dataset, verify
from sharding.__main__ import main
from sharding.archives.tar_reader import TarReader
from sharding.video.decode import decode_frames
from tests.helpers.videos import read_number, rotate_mp4, write_numbered_video
from tests.pipeline.test_loader import pixels
from tests.sharding.test_pack import hashes
from tests.sharding.test_parallel import die

KINDS = {  # of videos, as others encode them
    "all-intra": {"gop": 1},
    "long": {"gop": 250},
    "b-frames": {"gop": 12, "b_frames": 2},
    "sound": {"gop": 1, "audio": True},
}
LEFT, RIGHT = "push left to right", "push right to left"


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[bytes]:
    """Ten videos; video n has 5 + n frames that show the numbers from 100 n on."""
    folder = tmp_path_factory.mktemp("clips")
    kinds = list(KINDS.values())
    return [
        write_numbered_video(
            folder / f"{n}.mp4", 5 + n, size=(64, 64), first_number=100 * n, **kinds[n % len(kinds)]
        ).read_bytes()
        for n in range(10)
    ]


def write_shards(folder: Path, samples: list[dict], per_shard: int = 4) -> Path:
    """Write samples with webdataset's own writer."""
    folder.mkdir(parents=True, exist_ok=True)
    with webdataset.ShardWriter(str(folder / "part-%05d.tar"), maxcount=per_shard, verbose=0) as writer:
        for number, sample in enumerate(samples):
            writer.write({"__key__": f"{number:09d}"} | sample)
    return folder


@pytest.fixture
def shards(clips, tmp_path) -> Path:
    """As video2dataset lays them out, with a label in the JSON, and one in .cls that differs from it."""
    return write_shards(
        tmp_path / "foreign",
        [
            {"mp4": clip, "json": {"meta": {"action": ("b", "a")[n % 2]}}, "txt": (LEFT, RIGHT)[n % 2], "cls": n % 3}
            for n, clip in enumerate(clips)
        ],
    )


@pytest.fixture
def two(clips, tmp_path) -> Path:
    """One shard of two samples, for what goes wrong in it."""
    samples = [{"mp4": clips[n], "json": {"meta": {"action": "ab"[n]}}, "txt": "x", "cls": n} for n in range(2)]
    return write_shards(tmp_path / "foreign", samples)


def labels(shards: Path, **options) -> tuple[tuple[str, ...], list[int]]:
    dataset = open_dataset(index(IndexConfig((str(shards),), workers=1, **options)).directory)
    return dataset.manifest.classes, dataset.labels.tolist()


def test_another_process_indexes_the_shards_in_the_meantime(shards, monkeypatch):
    module = importlib.import_module("sharding.index")  # sharding.index is its function
    prepare = module.prepare_parts

    def late(directory: Path):
        monkeypatch.setattr(module, "prepare_parts", prepare)
        assert labels(shards, label_field="meta.action")[0] == ("a", "b")
        return prepare(directory)

    monkeypatch.setattr(module, "prepare_parts", late)
    with pytest.raises(UserError, match="these shards are indexed with other labels"):
        labels(shards)
    assert labels(shards, label_field="meta.action")[0] == ("a", "b")
    (shards / ".parts").mkdir()  # as of a process that was killed at its very end
    assert index(IndexConfig((str(shards),), label_field="meta.action")).already_complete
    assert not (shards / ".parts").exists()


def test_a_killed_worker_is_a_line(shards, monkeypatch, capsys):
    monkeypatch.setattr(importlib.import_module("sharding.index"), "read_foreign_shard", die)
    assert main(["index", str(shards), "--workers=2"]) == 1
    assert capsys.readouterr().err.startswith("sharding index: a worker process was killed")


def test_a_training_set_of_others_shards(shards, clips, capsys, tmp_path):
    before = hashes(shards)
    assert main(["index", str(shards), "--workers=2"]) == 0
    assert "10 samples in 3 shards" in capsys.readouterr().out
    assert before.items() <= hashes(shards).items(), "a tar was changed"
    assert not (shards / ".parts").exists()
    dataset = open_dataset(shards)
    theirs = list(webdataset.WebDataset([str(path) for path in sorted(shards.glob("*.tar"))], shardshuffle=False))
    assert list(dataset.keys) == [sample["__key__"] for sample in theirs]
    assert dataset.labels.tolist() == [int(sample["cls"]) for sample in theirs]
    assert [read_media(dataset, n) for n in range(10)] == clips == [sample["mp4"] for sample in theirs]
    assert dataset.num_frames.tolist() == [5 + n for n in range(10)]
    indexed = [dataset.frame_offsets(n) is not None for n in range(10)]
    assert indexed == [n % 4 == 0 for n in range(10)], "of those of keyframes alone, without sound between"
    for path in shards.glob("*.tar"):
        wds2idx = pytest.importorskip("wds2idx").__file__
        subprocess.run([sys.executable, wds2idx, path, tmp_path / "theirs"], check=True, capture_output=True)
        assert (tmp_path / "theirs").read_text() == path.with_suffix(".idx").read_text()
    report = verify(shards, decode=True)
    assert report.ok, report.problems
    stats, _ = measure(shards)
    assert (stats.listed, stats.samples, [c.samples for c in stats.classes]) == (10, 10, [4, 3, 3])
    assert main(["index", str(shards)]) == 0
    assert "already complete" in capsys.readouterr().out


def test_the_loader_shows_their_frames(shards):
    dataset = open_dataset(index(IndexConfig((str(shards),), workers=1)).directory)
    config = DataConfig(num_segments=4, short_side=64, crop_size=64, worker_type="thread", num_workers=1)
    with VideoLoader(dataset, config, training=False, micro_batch_size=4) as loader:
        seen = {}
        for batch in loader:
            for sample_id, label, clip in zip(batch.sample_ids.tolist(), batch.labels.tolist(), batch.clips):
                seen[sample_id] = label, [read_number(frame) for frame in pixels(clip)]
    assert seen.keys() == set(range(10))
    for sample_id, (label, numbers) in seen.items():
        frames = [(2 * segment + 1) * (5 + sample_id) // 8 for segment in range(4)]
        assert label == sample_id % 3
        assert numbers == [100 * sample_id + frame for frame in frames]


def test_where_labels_are(shards, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text(f"{RIGHT}\n{LEFT}\nneither\n")
    for number, (options, expected) in enumerate(
        [
            ({}, (("0", "1", "2"), [n % 3 for n in range(10)])),
            ({"classes": names}, ((RIGHT, LEFT, "neither"), [n % 3 for n in range(10)])),
            ({"label_field": "meta.action"}, (("a", "b"), [1 - n % 2 for n in range(10)])),
        ]
    ):
        assert labels(shards, out=tmp_path / str(number), **options) == expected
    for path in shards.glob("*.tar"):  # .txt counts where there is no .cls
        rewrite(path, lambda name, content: None if name.endswith(".cls") else content)
    assert labels(shards, out=tmp_path / "text", classes=names) == (
        (RIGHT, LEFT, "neither"),
        [1 - n % 2 for n in range(10)],
    )
    manifest = open_dataset(tmp_path / "text").manifest
    assert manifest.flip_pairs == ((0, 1),)


def test_numbers_with_leading_zeros(clips, tmp_path):
    folder = write_shards(tmp_path / "zeros", [{"mp4": clips[n], "cls": f"0{n}"} for n in (0, 3)])
    assert labels(folder, out=tmp_path / "out") == (("0", "1", "2", "3"), [0, 3])
    names = tmp_path / "names.txt"
    names.write_text("run\nwalk\nsit\nwait\n")
    assert labels(folder, out=tmp_path / "named", classes=names) == (("run", "walk", "sit", "wait"), [0, 3])
    names.write_text("03\n00\n01\n02\n")  # they are names then, in the order that is given
    assert labels(folder, out=tmp_path / "same", classes=names) == (("03", "00", "01", "02"), [1, 0])


def test_a_folder_whose_name_no_manifest_can_hold(two, tmp_path):
    named = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    two.rename(named)
    with pytest.raises(UserError, match=r"--dataset 'caf\\udce9': not valid UTF-8"):
        index(IndexConfig((str(named),), workers=1))
    with pytest.raises(UserError, match=r"--out '.*/caf\\udce9': not valid UTF-8"):
        index(IndexConfig((str(named),), workers=1, dataset="cafe"))
    assert not (named / ".parts").exists()
    assert index(IndexConfig((str(named),), workers=1, dataset="cafe", out=tmp_path / "out")).samples == 2
    with pytest.raises(UserError, match=r"--split 'caf\\udce9': not valid UTF-8"):
        IndexConfig(("x",), split="caf\udce9")


def rewrite(path: Path, change, extra: tuple[tuple[str, bytes], ...] = (), kind: bytes = tarfile.REGTYPE) -> None:
    """Write a tar again with each member as `change(name, content)` returns it, None to leave it out."""
    with tarfile.open(path) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar]
    with tarfile.open(path, "w") as tar:
        for name, content in [*((n, change(n, c)) for n, c in members), *extra]:
            if content is not None:
                info = tarfile.TarInfo(name)
                info.size, info.type = len(content), kind if (name, content) in extra else tarfile.REGTYPE
                tar.addfile(info, io.BytesIO(content))


def keep(name: str, content: bytes) -> bytes:
    return content


BAD = {
    "cut off": (lambda p: p.write_bytes(p.read_bytes()[:3000]), {}, r"part-00000\.tar: cut off at byte 3000"),
    "cut at a header": (
        lambda p: p.write_bytes(p.read_bytes().rstrip(b"\0").ljust(-(-len(p.read_bytes().rstrip(b"\0")) // 512) * 512)),
        {},
        r"part-00000\.tar: ends at byte \d+ without the mark of its end, so it is cut off; copy",
    ),
    "up": (lambda p: rewrite(p, keep, (("../x.mp4", b"1"),)), {}, r"member '\.\./x\.mp4': a path that leads out"),
    "twice": (
        lambda p: rewrite(p, keep, (("000000001.mp4", b"1"),)),
        {},
        r"part-00000\.tar: two members are named '000000001\.mp4'; write the shard again with one",
    ),
    "apart": (lambda p: rewrite(p, keep, (("000000000.avi", b"1"),)), {}, "of sample '000000000' are not together"),
    "link": (
        lambda p: rewrite(p, keep, (("x.mp4", b""),), tarfile.SYMTYPE),
        {},
        r"member 'x\.mp4' is no file but a link",
    ),
    "no label": (
        lambda p: rewrite(p, lambda n, c: None if n == "000000001.cls" else c),
        {},
        r"part-00000\.tar: sample '000000001' has no label in \.cls \(it has \.json, \.mp4, \.txt\); give --label",
    ),
    "no field": (
        lambda p: None,
        {"label_field": "label"},
        r"sample '000000000': no field 'label' in its \.json; --label-field: there are meta",
    ),
    "no such class": (
        lambda p: None,
        {"label_field": "meta.action", "classes": "b\nc\n"},
        r"part-00000\.tar, 000000000\.mp4: label 'a' is not among the 2 classes, such as 'b'; see --classes",
    ),
    "too few classes": (lambda p: None, {"classes": "a\n"}, "labels up to 1, but only 1 class names given"),
    "no video": (
        lambda p: rewrite(p, lambda n, c: None if n == "000000001.mp4" else c),
        {},
        r"sample '000000001' has no video, only \.cls, \.json, \.txt; write the shard again without it",
    ),
    "two videos": (
        lambda p: rewrite(p, keep, (("000000001.rgb.webm", b"1"),)),
        {},
        r"sample '000000001' has 2 videos, 000000001\.mp4 and 000000001\.rgb\.webm; one is expected",
    ),
    "no label in json": (
        lambda p: None,
        {"label_field": "meta"},
        r"'meta' in its \.json is \{\"action\": \"a\"\}; one label is expected",
    ),
    "blanks": (lambda p: rewrite(p, keep, (("a b.mp4", b"1"),)), {}, r"member 'a b\.mp4': an index of DALI"),
    "no extension": (
        lambda p: rewrite(p, keep, (("README", b"1"),)),
        {},
        r"member 'README': no extension, so it is of no sample; write the shard again without it",
    ),
    "empty": (lambda p: rewrite(p, lambda n, c: None), {}, r"part-00000\.tar: no samples in it; take it away"),
    "long text": (
        lambda p: rewrite(p, lambda n, c: b"a" * (17 << 20) if n == "000000001.cls" else c),
        {},
        r"member '000000001\.cls' has 17,825,792 bytes, but labels are read of it",
    ),
    "blank label": (
        lambda p: rewrite(p, lambda n, c: b" \n" if n == "000000001.cls" else c),
        {},
        r"sample '000000001': its \.cls holds no label; a number or a name is expected",
    ),
    "no json": (
        lambda p: rewrite(p, lambda n, c: None if n == "000000001.json" else c),
        {"label_field": "meta.action"},
        r"sample '000000001' has no \.json to take --label-field meta\.action from; write the shard again",
    ),
    "damaged json": (
        lambda p: rewrite(p, lambda n, c: b"{" if n == "000000001.json" else c),
        {"label_field": "meta.action"},
        r"sample '000000001': its \.json is none: .*; write the shard again",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_shards_are_named_and_nothing_is_written(case, two, tmp_path):
    spoil, options, message = BAD[case]
    spoil(two / "part-00000.tar")
    if "classes" in options:
        (tmp_path / "names.txt").write_text(options["classes"])
        options = options | {"classes": tmp_path / "names.txt"}
    before = hashes(two)
    with pytest.raises(UserError, match=message):
        index(IndexConfig((str(two),), workers=1, **options))
    left = {name: digest for name, digest in hashes(two).items() if not name.startswith(".parts/")}
    assert left == before
    assert not list(two.glob(".parts/work-*/*"))


@pytest.mark.parametrize("other", [{"split": "val"}, {"dataset": "bar"}])
def test_what_is_indexed_under_another_name_is_not_taken_for_it(shards, other):
    assert index(IndexConfig((str(shards),), workers=1, dataset="foo")).samples == 10
    assert index(IndexConfig((str(shards),), workers=1)).already_complete
    [(name, value)] = other.items()
    with pytest.raises(UserError, match=rf"indexed with --{name} (train|foo), not {value}; remove it to"):
        index(IndexConfig((str(shards),), workers=1, **other))


def test_a_mended_shard_is_read_and_no_other(shards, monkeypatch):
    good = (shards / "part-00002.tar").read_bytes()
    (shards / "part-00002.tar").write_bytes(good[:2000])
    with pytest.raises(UserError, match=r"part-00002\.tar"):
        index(IndexConfig((str(shards),), workers=1))
    (shards / "part-00002.tar").write_bytes(good)
    read, original = [], TarReader.__init__
    monkeypatch.setattr(
        TarReader, "__init__", lambda self, stream, where: (read.append(where), original(self, stream, where))[1]
    )
    assert index(IndexConfig((str(shards),), workers=1)).samples == 10
    assert [Path(where).name for where in read] == ["part-00002.tar"]


def test_what_does_not_decode_is_listed(shards, capsys):
    rewrite(shards / "part-00000.tar", lambda n, c: c[:-200] if n == "000000001.mp4" else c)
    assert main(["index", str(shards), "--workers=1", "--max-failures=0"]) == 1
    assert "1 of 10 videos do not decode, more than --max-failures 0; " in capsys.readouterr().err
    assert not (shards / "manifest.json").exists()
    result = index(IndexConfig((str(shards),), workers=1, max_failures=0.1))
    assert (result.samples, result.failures) == (9, 1)
    [failure] = map(json.loads, (shards / "failures.jsonl").read_text().splitlines())
    assert failure["key"] == "000000001" and failure["kind"] in ("open", "decode")
    assert verify(shards, decode=True).ok
    media = (shards / "part-00002.tar").read_bytes()
    (shards / "part-00002.tar").write_bytes(media[:1200] + b"flipped!" + media[1208:])
    assert not verify(shards).ok


def test_shards_of_several_folders_with_links(shards, clips, tmp_path):
    """Keys that come in both are told apart by the names of their shards, and turned videos are shown upright."""
    other = write_shards(tmp_path / "other", [{"mp4": clips[3], "cls": 1}])
    turned = rotate_mp4(write_numbered_video(tmp_path / "turned.mp4", 4, size=(96, 64)), 90)
    rewrite(other / "part-00000.tar", keep, (("a/b.c/turned.mp4", turned.read_bytes()), ("a/b.c/turned.cls", b"0")))
    (other / "part-00000.tar").rename(other / "more.tar")
    given = (str(shards / "part-00000.tar"), str(other))
    with pytest.raises(UserError, match="shards of 2 folders; give --out"):
        index(IndexConfig(given, workers=1))
    directory = index(IndexConfig(given, workers=1, out=tmp_path / "out")).directory
    dataset = open_dataset(directory)
    assert (directory / "more.tar").is_symlink() and (directory / "more.idx").is_file()
    assert list(dataset.keys)[:4] == ["part-00000-000000000", "000000001", "000000002", "000000003"]
    assert dataset.keys[4] == "more-000000000" and dataset.keys[5].startswith("a-b_c-turned")
    assert (dataset.widths[5], dataset.heights[5]) == (64, 96)
    assert decode_frames(read_media(dataset, 5), np.arange(4)).shape == (4, 96, 64, 3)
    assert dict(measure(directory)[0].notes) == {"kept_as_is": 1}
    assert verify(directory, decode=True).ok
    shutil.copy(shards / "part-00000.tar", other / "part-00000.tar")
    with pytest.raises(UserError, match="two shards of one name"):
        index(IndexConfig(given, workers=1, out=tmp_path / "out2"))


def test_what_is_no_folder_of_shards(shards, tmp_path):
    (tmp_path / "zipped").mkdir()
    (tmp_path / "zipped" / "a.tar.gz").write_bytes(b"x")
    for given, message in [
        (tmp_path / "absent", "no such file or folder"),
        (tmp_path / "zipped", r"no \.tar files in it; a\.tar\.gz is compressed, .*: uncompress it, or pack it"),
        (tmp_path, r"no \.tar files in it; give a folder of WebDataset shards"),
        ("https://me:secret@host/shards", r"https://\*\*\*@host/shards: give --out"),
    ]:
        with pytest.raises(UserError, match=message):
            index(IndexConfig((str(given),), workers=1))
    with pytest.raises(UserError, match=r"\*\*\*@host/shards: it would be kept in a file"):
        index(IndexConfig(("https://me:secret@host/shards",), tmp_path / "o"))
    index(IndexConfig((str(shards),), workers=1))
    with pytest.raises(UserError, match=r"manifest\.json: these shards are indexed with other labels; remove it"):
        index(IndexConfig((str(shards),), label_field="meta.action"))
    (shards / "part-00002.tar").unlink()
    with pytest.raises(UserError, match=r"manifest\.json: of other shards than are there now; remove it"):
        index(IndexConfig((str(shards),), workers=1))
