"""verify finds every kind of damage, says which sample, and can set bad samples aside."""

import hashlib
import json
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharding.__main__ import main
from sharding.dataset import load_dataset
from sharding.errors import UserError
from sharding.pack import PackConfig, pack
from sharding.verify import verify
from tests.conftest import run_command
from tests.helpers.manifests import edit_manifest
from tests.sharding.test_parallel import die


@pytest.fixture
def split(numbered, tmp_path) -> Path:
    return shutil.copytree(numbered, tmp_path / "split")


def test_a_sound_split(split, capsys):
    report = verify(str(split), decode=True, workers=2)
    assert report.ok and not report.problems and (report.samples, report.shards) == (13, 1)
    assert capsys.readouterr().out == ""
    assert main(["verify", str(split), "--workers=1"]) == 0
    assert capsys.readouterr().out == f"{split}: 13 samples in 1 shards checked, 0 bad samples, 0 other problems\n"


@pytest.mark.parametrize("workers", [0, -1, 5000])
def test_workers_that_cannot_be(split, workers):
    with pytest.raises(UserError, match=f"--workers {workers}: 1 to 4096 is possible"):
        main(["verify", str(split), f"--workers={workers}"])


def test_a_killed_worker_is_a_line(numbered_videos, tmp_path, monkeypatch):
    split = pack(PackConfig("folder", numbered_videos, tmp_path, samples_per_shard=7)).directory
    monkeypatch.setattr(sys.modules["sharding.verify"], "_check_shard_of", die)
    with pytest.raises(UserError, match="a worker process was killed"):
        main(["verify", str(split), "--workers=2"])


def test_swapped_classes_are_noticed(split, capsys):
    """Every label would mean another class, and no byte of the shards or the table has changed."""
    manifest = json.loads((split / "manifest.json").read_text())
    (split / "manifest.json").write_text(json.dumps(manifest | {"classes": manifest["classes"][::-1]}))
    with pytest.raises(UserError, match=r"manifest.json: does not fit its own fingerprint"):
        main(["verify", str(split), "--workers=1"])


def flip(split: Path, sample_id: int, where: float = 0.5, num_bytes: int = 1) -> str:
    """Inverts bytes inside the media of a sample; returns its key."""
    dataset = load_dataset(split)
    offset = dataset.media_offsets[sample_id] + int(dataset.media_bytes[sample_id] * where)
    with dataset.shard_path(0).open("r+b") as file:
        file.seek(offset)
        old = file.read(num_bytes)
        file.seek(offset)
        file.write(bytes(255 - byte for byte in old))
    return dataset.key(sample_id)


def test_one_flipped_byte_is_found_and_named(split, capsys):
    key = flip(split, 3)
    report = verify(split)
    assert report.bad_samples == {key: "the bytes of its .mp4 have changed"}
    assert not report.ok and not report.other_problems
    assert main(["verify", str(split), "--workers=1"]) == 1
    output = capsys.readouterr().out
    assert f"shard-000000.tar, sample {key}: the bytes of its .mp4 have changed" in output
    assert "1 bad samples, 0 other problems" in output


def test_shards_of_a_plan_with_other_classes_are_found(split):
    """A table and a manifest that fit each other, and shards that call the labels otherwise."""
    manifest = json.loads((split / "manifest.json").read_text())
    edit_manifest(split, classes=[f"other {name}" for name in manifest["classes"]])
    report = verify(split)
    assert len(report.bad_samples) == report.samples
    name = manifest["classes"][load_dataset(split).labels[0]]
    message = f"its .json names the label {name!r}, but the manifest 'other {name}'"
    assert report.bad_samples[load_dataset(split).key(0)] == message


def test_a_flipped_byte_of_padding_is_found(split):
    with (split / "shard-000000.tar").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    report = verify(split, quarantine=True)
    [problem] = report.other_problems
    assert "its SHA-256 is not the manifest's" in str(problem)
    assert not report.ok and report.num_quarantined is None


def test_bad_samples_are_set_aside_once(split, capsys):
    keys = {flip(split, 3), flip(split, 7)}
    shards = {path.name: path.read_bytes() for path in split.glob("shard-*")}
    for num_new in (2, 0):
        report = verify(split, quarantine=True)
        assert report.ok and report.num_quarantined == num_new and set(report.bad_samples) == keys
    assert main(["verify", str(split), "--workers=1", "--quarantine"]) == 0
    assert "quarantine.jsonl: 0 samples added; training and evaluation leave them out" in capsys.readouterr().out
    lines = [json.loads(line) for line in (split / "quarantine.jsonl").read_text().splitlines()]
    assert {line["key"] for line in lines} == keys
    assert load_dataset(split).quarantined.tolist() == [3, 7]
    assert {path.name: path.read_bytes() for path in split.glob("shard-*")} == shards


def rewrite(split: Path, **columns) -> None:
    """Changes single values of the table, as a faulty packer would write them: column=(row, value)."""
    rows = pq.read_table(split / "samples.parquet")
    values = rows.to_pylist()
    for column, (row, value) in columns.items():
        values[row][column] = value
    pq.write_table(pa.Table.from_pylist(values, schema=rows.schema), split / "samples.parquet")
    # An index of other numbers of frames would be refused when the split is opened.
    edit_manifest(split, **({"frames_sha256": "", "codec_parameters": []} if "num_frames" in columns else {}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: (s / "shard-000000.idx").unlink(), "shard-000000.idx: missing"),
        (lambda s: (s / "shard-000000.idx").write_text("v1.2 0\n"), "shard-000000.idx: does not describe its tar"),
        (lambda s: rewrite(s, label=(2, 1 - load_dataset(s).labels[2])), "its .cls is not the label of the table"),
        (lambda s: rewrite(s, media_offset=(2, 1024)), "its .mp4 is not where the table says"),
        (lambda s: rewrite(s, media_bytes=(2, 10**9)), "its bytes lie outside its shard"),
        (lambda s: rewrite(s, num_frames=(2, 0)), "no frames, or frames without pixels"),
        (lambda s: rewrite(s, fps=(2, 99.0)), "its .json and the table differ in fps"),
        (lambda s: rewrite(s, key=(2, load_dataset(s).key(3))), "a key appears twice"),
        (lambda s: rewrite(s, key=(2, "other")), "its samples are not those of the table"),
    ],
)
def test_every_kind_of_damage(split, spoil, message):
    spoil(split)
    report = verify(split)
    assert not report.ok and any(message in str(problem) for problem in report.problems)


def replace_media(split: Path, change) -> None:
    """Changes the media of sample 6 so that all hashes agree: only decoding can tell."""
    dataset = load_dataset(split)
    offset, size = int(dataset.media_offsets[6]), int(dataset.media_bytes[6])
    data = bytearray(dataset.shard_path(0).read_bytes())
    media = change(bytes(data[offset : offset + size]))
    data[offset : offset + size] = media.ljust(size, b"\0")
    dataset.shard_path(0).write_bytes(data)
    about = json.loads(data[slice(*_json_range(split, 6))])
    new_hash = hashlib.sha256(data[offset : offset + size]).hexdigest()
    start, end = _json_range(split, 6)
    data[start:end] = json.dumps(about | {"sha256": new_hash}, sort_keys=True).encode()
    dataset.shard_path(0).write_bytes(data)
    rewrite(split, sha256=(6, new_hash))
    [shard] = json.loads((split / "manifest.json").read_text())["shards"]
    edit_manifest(split, shards=[shard | {"sha256": hashlib.sha256(data).hexdigest()}])


def _json_range(split: Path, row: int) -> tuple[int, int]:
    values = pq.read_table(split / "samples.parquet").to_pylist()[row]
    return values["json_offset"], values["json_offset"] + values["json_bytes"]


@pytest.mark.parametrize("change", [lambda media: bytes(len(media)), lambda media: media[: len(media) // 3]])
def test_what_only_decoding_can_tell(split, change):
    replace_media(split, change)
    assert verify(split).ok
    [problem] = verify(split, decode=True).problems
    assert problem.key == load_dataset(split).key(6)
    assert "does not decode" in problem.message or " frames, but " in problem.message


@pytest.mark.parametrize("num_frames", [1, 100])
def test_a_wrong_number_of_frames(split, num_frames):
    row = int(np.flatnonzero(load_dataset(split).num_frames == 20)[0])
    rewrite(split, num_frames=(row, num_frames))
    report = verify(split, decode=True)
    assert not report.ok
    assert any("its .json and the table differ in num_frames" in str(problem) for problem in report.problems)


def as_format_1(split: Path, **columns) -> Path:
    """Make it a split without an index of frames, with other values in its table."""
    edit_manifest(split, format_version=1, frames_sha256="", codec_parameters=[])
    (split / "frames.npy").unlink()
    rewrite(split, **columns)
    edit_manifest(split)
    return split


def upgraded(split: Path) -> str:
    """Return the line that `verify --upgrade` ends with."""
    files = sorted(path.name for path in split.iterdir())
    with pytest.raises(UserError) as error:
        main(["verify", str(split), "--upgrade", "--workers=1"])
    assert sorted(path.name for path in split.iterdir()) == files
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{split}/")


def test_an_upgrade_gives_the_index_that_packing_gives(numbered, split, capsys):
    as_format_1(split)
    assert main(["verify", str(split), "--upgrade", "--workers=1"]) == 0
    assert "index of frames written" in capsys.readouterr().out
    assert (split / "frames.npy").read_bytes() == (numbered / "frames.npy").read_bytes()


@pytest.mark.parametrize(
    "columns",
    [
        {"media_offset": (2, -1)},
        {"media_offset": (2, 2**62)},
        {"media_bytes": (2, 2**62)},
        {"media_bytes": (2, -1)},
        {"index_bytes": (2, 2**62)},
        {"index_offset": (2, -5), "index_bytes": (2, 0)},
    ],
)
def test_an_upgrade_takes_no_range_from_a_strange_table(split, columns):
    message = upgraded(as_format_1(split, **columns))
    key = load_dataset(split).key(2)
    assert message == f"samples.parquet, sample {key}: its bytes lie outside its shard; pack this split again"


def test_an_upgrade_takes_no_number_of_frames_from_a_strange_table(split):
    as_format_1(split, num_frames=(2, 2**31 - 1))
    key = load_dataset(split).key(2)
    again = "pack this split again"
    assert upgraded(split) == f"samples.parquet, sample {key}: more frames than its media have bytes; {again}"
    rewrite(split, num_frames=(2, 50))
    edit_manifest(split)
    assert f"shard-000000.tar, sample {key}: damaged (" in upgraded(split)
    rewrite(split, index_bytes=(2, 8))
    edit_manifest(split)
    assert "damaged (an index of 8 bytes for 50 frames); copy it here again, or pack" in upgraded(split)


def test_an_upgrade_names_a_damaged_sample(split):
    dataset = load_dataset(as_format_1(split))
    with dataset.shard_path(0).open("r+b") as file:
        file.seek(dataset.media_offsets[4])
        file.write(bytes(40))
    assert f"shard-000000.tar, sample {dataset.key(4)}: damaged (" in upgraded(split)


def without_labels(split: Path) -> None:
    table = pq.read_table(split / "samples.parquet").to_pylist()
    schema = pq.read_schema(split / "samples.parquet")
    rows = [row | {"label": -1, "cls_offset": -5, "cls_bytes": 0} for row in table]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), split / "samples.parquet")
    edit_manifest(split)


def test_offsets_of_nothing_are_not_read(split, numbered_jpeg, tmp_path):
    without_labels(split)
    assert len(verify(split).bad_samples) == 13
    jpegs = shutil.copytree(numbered_jpeg, tmp_path / "jpegs")
    rewrite(jpegs, index_offset=(2, -5), index_bytes=(2, 0))
    edit_manifest(jpegs)
    assert load_dataset(jpegs).key(2) in verify(jpegs, decode=True).bad_samples


@pytest.mark.parametrize("kind", ["long names", "size", "pax"])
def test_a_tar_that_was_made_to_do_harm_is_a_problem(split, kind):
    """Header after header without a member; a member larger than any file; names as large as the shard."""
    tar = split / "shard-000000.tar"
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = (tarfile.XHDTYPE, 4 << 20) if kind == "pax" else (tarfile.GNUTYPE_LONGNAME, 2)
    data = (info.tobuf(tarfile.GNU_FORMAT) + b"a\0".ljust(512, b"\0")) * 1500
    if kind == "pax":
        data = info.tobuf(tarfile.GNU_FORMAT) + bytes(4 << 20)
    if kind == "size":
        info.type, info.size = tarfile.REGTYPE, 1 << 80
        data = info.tobuf(tarfile.GNU_FORMAT)
    tar.write_bytes(data + tar.read_bytes())
    [shard] = json.loads((split / "manifest.json").read_text())["shards"]
    edit_manifest(split, shards=[shard | {"bytes": tar.stat().st_size}])
    problems = [str(problem) for problem in verify(split).problems]
    assert problems
    if kind != "long names":
        assert "shard-000000.tar: not a readable tar: " in problems[0]


def test_the_command(split):
    assert run_command([sys.executable, "-m", "sharding", "verify", split, "--decode"]).returncode == 0
    nowhere = run_command([sys.executable, "-m", "sharding", "verify", split / "nowhere"])
    assert nowhere.returncode == 2
    assert "no such folder" in nowhere.stderr


def test_a_quarantine_that_was_edited_by_hand(numbered, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(numbered, copy)
    key = load_dataset(copy).key(0)
    (copy / "quarantine.jsonl").write_text(f'{{"key": "{key}"}}\n\n')
    assert verify(copy).ok and load_dataset(copy).quarantined.tolist() == [0]
    (copy / "quarantine.jsonl").write_text('{"key": "mistyped"}\n')
    [problem] = verify(copy).problems
    assert "'mistyped' is no sample of this split; correct the key" in str(problem)
    (copy / "quarantine.jsonl").write_text("x\n")
    with pytest.raises(UserError, match=r"quarantine.jsonl, line 1: .*; remove the line"):
        verify(copy)
