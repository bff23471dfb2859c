"""Packing: the same bytes whoever does it and however often it stops; every video is packed or accounted for."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset

import sharding.packing.shard
from sharding import cli
from sharding.__main__ import main
from sharding.dataset import load_dataset
from sharding.datasets import DATASETS
from sharding.errors import UserError
from sharding.pack import IncompleteError, PackConfig, pack, read_annotations
from sharding.packing import split_folder
from sharding.packing.profiles import PROFILES
from sharding.records import Annotations, VideoRecord
from sharding.verify import verify
from sharding.video.decode import decode_frames
from tests.conftest import run_command
from tests.helpers.videos import read_number, rotate_mp4, write_numbered_video


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Twelve videos in two class folders, and three files that are none."""
    folder = tmp_path_factory.mktemp("pack") / "videos"
    for number in range(12):
        write_numbered_video(folder / "ab"[number % 2] / f"v{number}.mp4", 5 + number, first_number=100 * number)
    for name, content in [("empty.mp4", b""), ("text.avi", b"hello"), ("cut.mp4", None)]:
        if content is None:
            content = (folder / "a" / "v2.mp4").read_bytes()[:-300]
        (folder / "b" / name).write_bytes(content)
    return folder


def config(videos: Path, out: Path, **options) -> PackConfig:
    defaults = {"workers": 1, "samples_per_shard": 4, "max_failures": 0.3}
    return PackConfig("folder", videos, out, **(defaults | options))


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def packed(videos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("packed")
    return pack(config(videos, out)).directory


def failures(split: Path) -> dict[str, dict]:
    return {line["key"]: line for line in map(json.loads, (split / "failures.jsonl").read_text().splitlines())}


def test_every_video_is_packed_or_accounted_for(videos, packed):
    dataset = load_dataset(packed)
    assert len(dataset) == 12
    failed = failures(packed)
    assert {key: line["kind"] for key, line in failed.items()} == {
        "b-empty": "open",
        "b-text": "open",
        "b-cut": "open",
    }
    assert failed["b-empty"]["error"] == "the file is empty"
    assert all(set(line) == {"key", "label", "source", "kind", "error"} for line in failed.values())
    assert sorted([*dataset.keys, *failed]) == sorted(f"{path.parent.name}-{path.stem}" for path in videos.glob("*/*"))
    assert dataset.manifest.failures == 3
    assert not list(packed.glob("*.partial"))
    assert not (packed / ".parts").exists()


def test_samples_show_what_their_sources_showed(packed):
    dataset = load_dataset(packed)
    for sample_id, key in enumerate(dataset.keys):
        number = int(key.removeprefix("a-v").removeprefix("b-v"))
        assert dataset.labels[sample_id] == number % 2
        assert dataset.num_frames[sample_id] == 5 + number
        with dataset.shard_path(dataset.shards[sample_id]).open("rb") as file:
            file.seek(dataset.media_offsets[sample_id])
            media = file.read(dataset.media_bytes[sample_id])
        shown = [read_number(frame) for frame in decode_frames(media, np.arange(5 + number))]
        assert shown == [100 * number + i for i in range(5 + number)]


def test_webdataset_and_dali_tools_agree(packed, tmp_path):
    dataset = load_dataset(packed)
    urls = [str(path) for path in sorted(packed.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == list(dataset.keys)
    assert [int(sample["cls"]) for sample in samples] == dataset.labels.tolist()
    wds2idx = pytest.importorskip("wds2idx").__file__
    for url in urls:
        subprocess.run([sys.executable, wds2idx, url, tmp_path / "theirs"], check=True, capture_output=True)
        assert (tmp_path / "theirs").read_text() == Path(url).with_suffix(".idx").read_text()


@pytest.mark.parametrize("profile", ["h264", "dense", "copy"])
def test_the_bytes_do_not_depend_on_the_workers(videos, tmp_path, profile):
    for workers in (1, 2):
        pack(config(videos, tmp_path / str(workers), workers=workers, profile=profile))
        assert verify(tmp_path / str(workers) / "train", decode=True).ok
    assert hashes(tmp_path / "1") == hashes(tmp_path / "2")


def test_another_seed_is_another_order(videos, packed, tmp_path):
    pack(config(videos, tmp_path, seed=1))
    first, second = load_dataset(packed), load_dataset(tmp_path / "train")
    assert first.fingerprint != second.fingerprint
    assert list(first.keys) != list(second.keys)
    assert sorted(first.keys) == sorted(second.keys)


def test_packing_returns_what_it_made_and_prints_nothing(videos, packed, tmp_path, capsys):
    result = pack(config(videos, tmp_path))
    manifest = load_dataset(packed).manifest
    figures = (result.samples, result.shards, result.bytes, result.failures, result.fingerprint)
    assert figures == (12, 4, manifest.bytes, 3, manifest.fingerprint)
    assert result.directory == tmp_path / "train" and not result.already_complete
    assert capsys.readouterr().out == ""


def test_a_complete_split_is_left_alone(videos, packed, capsys):
    before = hashes(packed)
    result = pack(config(videos, packed.parent, workers=2))
    assert result.already_complete and (result.samples, result.failures) == (12, 3)
    assert main(command(videos, packed.parent)[3:]) == 0
    assert capsys.readouterr().out == f"{packed}: already complete, 12 samples; nothing to do\n"
    assert hashes(packed) == before


def test_records_of_ones_own(videos, tmp_path):
    records = [VideoRecord(f"clip{n}", f"b/v{n}.mp4", ("low", "high")[n > 5]) for n in (1, 3, 7)]
    own = PackConfig("my-lab", videos, tmp_path, workers=1)
    result = pack(own, Annotations(records, ("low", "high")))
    dataset = load_dataset(result.directory)
    assert dict(zip(dataset.keys, dataset.labels.tolist())) == {"clip1": 0, "clip3": 0, "clip7": 1}
    assert dataset.manifest.dataset == "my-lab"
    with pytest.raises(UserError, match="label 'low' is not among the 1 classes"):
        pack(own, Annotations(records, ("high",)))


@pytest.mark.parametrize("options", [{"seed": 5}, {"max_frames": 8}, {"profile": "copy"}, {"samples_per_shard": 3}])
def test_two_plans_do_not_mix(videos, packed, options):
    with pytest.raises(UserError, match="already holds another dataset, or this one packed with other options"):
        pack(config(videos, packed.parent, **options))


def test_other_files_are_not_packed_over(videos, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds other files"):
        pack(config(videos, tmp_path))


def test_too_many_failures(videos, packed, tmp_path, capsys):
    with pytest.raises(IncompleteError, match=r"^3 of 15 videos failed, more than --max-failures 0\.1; "):
        pack(config(videos, tmp_path, max_failures=0.1))
    assert main(command(videos, tmp_path, "--max-failures=0.1")[3:]) == 1
    assert "sharding pack: 3 of 15 videos failed, more than --max-failures 0.1" in capsys.readouterr().err
    split = tmp_path / "train"
    assert len(failures(split)) == 3
    assert not (split / "manifest.json").exists()
    assert not (split / "samples.parquet").exists()
    with pytest.raises(UserError, match="not completely packed"):
        load_dataset(split)
    pack(config(videos, tmp_path))
    assert hashes(split) == hashes(packed)


def test_finished_shards_are_kept_and_spoilt_ones_made_again(videos, packed, tmp_path, monkeypatch):
    split = tmp_path / "train"
    with pytest.raises(IncompleteError):
        pack(config(videos, tmp_path, max_failures=0))
    shards = sorted(split.glob("*.tar"))
    assert len(shards) == 4
    (split / "shard-000001.idx").unlink()
    with shards[2].open("r+b") as file:
        file.seek(700)
        file.write(b"flipped")
    (split / ".parts" / "work-000003-old").mkdir()
    packed_again = []
    original = sharding.packing.shard._write_shard
    monkeypatch.setattr(
        "sharding.packing.shard._write_shard",
        lambda task, *args: (packed_again.append(task.shard), original(task, *args))[1],
    )
    pack(config(videos, tmp_path))
    assert packed_again == [1, 2]
    assert hashes(split) == hashes(packed)


@pytest.mark.parametrize(("dataset", "first"), [("list", 0), ("list", 1), ("list-multilabel", 0)])
def test_numbers_get_the_sides_of_their_names(tmp_path, dataset, first):
    """Mirrored, a clip of `from left to right` is one of its opposite, whatever the list calls them."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "classes.txt").write_text("Pushing from left to right\nPoking\nPushing from right to left\n")
    (tmp_path / "train.txt").write_text("".join(f"{n}.mp4 {n + first}\n" for n in range(3)))
    files = {"annotations": (tmp_path / "train.txt",), "classes": tmp_path / "classes.txt"}
    found = read_annotations(PackConfig(dataset, tmp_path / "videos", tmp_path / "out", **files))
    assert found.flip_pairs == ((0, 2),)
    (tmp_path / "classes.txt").write_text("Running\nPoking\nSitting\n")
    assert read_annotations(PackConfig(dataset, tmp_path / "videos", tmp_path / "out", **files)).flip_pairs == ()


def test_names_keep_the_pairs_that_their_reader_found(tmp_path):
    (tmp_path / "classes.txt").write_text("turn right\nturn left\nwait\n")
    config = PackConfig("mine", tmp_path, tmp_path.parent / "out", classes=tmp_path / "classes.txt")
    mine = Annotations([VideoRecord("v", "v.mp4", "wait")], ("turn left", "turn right", "wait"))
    assert read_annotations(config, mine).flip_pairs == ()


@pytest.mark.parametrize("stop", ["no plan", "manifest", "table", "frames"])
def test_a_retry_stopped_at_the_wrong_moment_loses_nothing(videos, packed, tmp_path, monkeypatch, stop):
    split = shutil.copytree(packed, tmp_path / "train")
    write, unlink = split_folder.write_atomically, Path.unlink
    name = {"manifest": "manifest.json", "table": "samples.parquet", "frames": "frames.npy"}.get(stop)

    def interrupted_unlink(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        if path == split / str(name):
            raise KeyboardInterrupt

    def full_disk(path: Path, content: str) -> None:
        if path.name == "plan.json":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", interrupted_unlink)
        if stop == "no plan":
            patch.setattr(split_folder, "write_atomically", full_disk)
        with pytest.raises((KeyboardInterrupt, IncompleteError)):
            pack(config(videos, tmp_path, retry_failed=True))
    assert (split / "manifest.json").exists() == (stop == "no plan")
    pack(config(videos, tmp_path))
    assert hashes(split) == hashes(packed)


def complete_between_the_looks(monkeypatch, make) -> None:
    """Let another process run when a folder was looked at, and its lock is not yet taken."""
    prepare = split_folder.prepare_parts

    def late(directory: Path):
        monkeypatch.setattr(split_folder, "prepare_parts", prepare)
        make()
        return prepare(directory)

    monkeypatch.setattr(split_folder, "prepare_parts", late)


def test_another_process_completes_the_split_in_the_meantime(videos, packed, tmp_path, monkeypatch):
    complete_between_the_looks(monkeypatch, lambda: pack(config(videos, tmp_path)))
    assert pack(config(videos, tmp_path)).already_complete
    assert hashes(tmp_path / "train") == hashes(packed)
    shutil.rmtree(tmp_path / "train")
    complete_between_the_looks(monkeypatch, lambda: pack(config(videos, tmp_path)))
    with pytest.raises(UserError, match="already holds another dataset"):
        pack(config(videos, tmp_path, seed=1))
    assert hashes(tmp_path / "train") == hashes(packed)


def test_parts_vanish_where_an_open_file_cannot(videos, packed, tmp_path, monkeypatch):
    """As on NFS, which renames it to .nfs..., and removes that when it is closed."""
    unlink, locked = os.unlink, split_folder.locked
    parts = tmp_path / "train" / ".parts"

    def nfs_unlink(name, *, dir_fd=None) -> None:
        if Path(name).name == "lock":
            (parts / "lock").rename(parts / ".nfs0001")
        elif Path(name).name != ".nfs0001":
            unlink(name, dir_fd=dir_fd)

    @contextlib.contextmanager
    def nfs_locked(path: Path, **options):
        with locked(path, **options) as free:
            yield free
        if (parts / ".nfs0001").exists():
            unlink(parts / ".nfs0001")

    monkeypatch.setattr(os, "unlink", nfs_unlink)
    monkeypatch.setattr(split_folder, "locked", nfs_locked)
    assert pack(config(videos, tmp_path)).samples == 12
    assert hashes(tmp_path / "train") == hashes(packed) and not parts.exists()


def test_parts_that_a_killed_process_left_in_a_complete_split_vanish(videos, packed, tmp_path):
    split = shutil.copytree(packed, tmp_path / "train")
    (split / ".parts" / "work-000001-old").mkdir(parents=True)
    (split / ".parts" / "plan.json").write_text("{")
    assert pack(config(videos, tmp_path)).already_complete
    assert hashes(split) == hashes(packed) and not (split / ".parts").exists()


def test_two_at_once_are_refused(videos, tmp_path):
    import fcntl

    with pytest.raises(IncompleteError):
        pack(config(videos, tmp_path, max_failures=0))
    with (tmp_path / "train" / ".parts" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is packing there"):
            pack(config(videos, tmp_path))


def command(videos: Path, out: Path, *options: str) -> list[str]:
    fixed = ["--dataset=folder", "--max-failures=0.3", "--samples-per-shard=4", "--workers=2"]
    return [sys.executable, "-m", "sharding", "pack", f"--videos={videos}", f"--out={out}", *fixed, *options]


def test_killed_and_run_again_gives_the_same_bytes(videos, packed, tmp_path):
    split = tmp_path / "train"
    for finished in (1, 2):
        process = subprocess.Popen(
            command(videos, tmp_path), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 120
        while len(list(split.glob(".parts/shard-*.json"))) < finished and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    result = run_command(command(videos, tmp_path))
    assert result.returncode == 0, result.stderr
    assert hashes(split) == hashes(packed)


def test_a_killed_worker_is_told_and_the_work_goes_on(videos, packed, tmp_path):
    split = tmp_path / "train"
    process = subprocess.Popen(command(videos, tmp_path), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 120
    while not list(split.glob(".parts/work-*")):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [int(child) for child in children if b"LokyProcess" in Path(f"/proc/{child}/cmdline").read_bytes()]
    os.kill(workers[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    print(f"exit code {process.returncode}: {errors}")
    if process.returncode:  # else it was between two shards, and another took its place
        assert process.returncode == 1
        assert "a worker process was killed" in errors
        assert "Traceback (most" not in errors
    assert run_command(command(videos, tmp_path)).returncode == 0
    assert hashes(split) == hashes(packed)


def test_kinetics_mini(shared_videos, tmp_path):
    mini = shared_videos / "kinetics_mini"
    annotations = (mini / "train.csv", mini / "val.csv")
    for split, samples in [("train", 14), ("val", 4)]:
        options = PackConfig("kinetics", mini / "videos", tmp_path, split, annotations, workers=2)
        pack(options)
        assert len(load_dataset(tmp_path / split)) == samples
        assert verify(tmp_path / split, decode=True).ok
    assert list(failures(tmp_path / "train").values()) == [
        {
            "key": "notdownloaded_000010_000012",
            "label": "arm wrestling",
            "source": "arm wrestling/notdownloaded_000010_000012.mp4",
            "kind": "missing",
            "error": "no such file",
        }
    ]
    assert not failures(tmp_path / "val")
    train, val = load_dataset(tmp_path / "train").manifest, load_dataset(tmp_path / "val").manifest
    assert train.classes == val.classes == ("applying makeup", "arm wrestling", "cleaning pool", "shooting basketball")


def test_copy_keeps_the_bytes_and_tells_what_it_could_not_keep(tmp_path):
    folder = tmp_path / "videos" / "a"
    same = write_numbered_video(folder / "same.mp4", 9, gop=8, b_frames=2)
    webm = write_numbered_video(folder / "webm.webm", 9, codec="libvpx-vp9")
    wrong = shutil.copy(same, folder / "suffix.avi")
    rotate_mp4(write_numbered_video(folder / "turned.mp4", 9), 90)
    write_numbered_video(folder / "deep.mkv", 9, pix_fmt="yuv444p")
    write_numbered_video(folder / "old.mkv", 9, codec="ffv1")
    pack(config(tmp_path / "videos", tmp_path, profile="copy"))
    assert verify(tmp_path / "train", decode=True).ok
    table = {row["key"]: row for row in pq.read_table(tmp_path / "train" / "samples.parquet").to_pylist()}
    for key, path, suffix in [("a-same", same, "mp4"), ("a-webm", webm, "webm"), ("a-suffix", wrong, "mp4")]:
        assert table[key]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert table[key]["suffix"] == suffix
    tar = tmp_path / "train" / "shard-000000.tar"
    about = {
        sample["__key__"]: json.loads(sample["json"])
        for path in (tar, tar.with_name("shard-000001.tar"))
        for sample in webdataset.WebDataset(str(path), shardshuffle=False)
    }
    assert {key: value.get("reencoded") for key, value in about.items()} == {
        "a-same": None,
        "a-webm": None,
        "a-suffix": None,
        "a-turned": "to be turned by 90 degrees",
        "a-deep": "pixel format yuv444p",
        "a-old": "codec ffv1",
    }
    assert (table["a-turned"]["width"], table["a-turned"]["height"]) == (64, 96)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset=imagenet"], "--dataset imagenet: known are "),
        (["--profile=vp8"], "--profile vp8: known are h264"),
        (["--videos=/nowhere"], "--videos /nowhere: no such folder"),
        (["--classes=/nowhere"], "/nowhere: no such file"),
        (["--max-frames=0"], "--max-frames 0: 1 to"),
        (["--out="], "an empty path, as of a variable that is not set; give a folder"),
        (["--max-failures=5"], "--max-failures 5"),
        (["--max-frame=5"], "did you mean --max-frames?"),
        (["--workers=x"], "workers"),
        (["--split=../x"], "--split '../x': a plain name"),
        (["--annotations", "/nowhere.csv"], "/nowhere.csv: no such file"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(videos, tmp_path, capsys, options: Sequence[str], message):
    arguments = command(videos, tmp_path / "out", *options)[3:]
    with pytest.raises(SystemExit) as exit_:
        cli.run_command(lambda _: main(arguments), "sharding")
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_help_names_every_dataset_and_profile():
    text = run_command([sys.executable, "-m", "sharding", "pack", "--help"]).stdout
    assert all(name in text for name in (*DATASETS, *PROFILES))


@pytest.mark.parametrize("option", ["--videos", "--out"])
def test_a_link_that_leads_to_itself(videos, tmp_path, capsys, option):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    arguments = [*command(videos, tmp_path / "out")[3:], option, str(tmp_path / "loop")]
    with pytest.raises(SystemExit) as exit_:
        cli.run_command(lambda _: main(arguments), "sharding")
    assert exit_.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
