"""Damaged files, a full disk, videos that come later: nothing crashes, hangs, or goes unaccounted for."""

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sharding.dataset import load_dataset
from sharding.errors import UserError
from sharding.pack import IncompleteError, PackConfig, pack
from sharding.packing.sandbox import Request
from sharding.records import Annotations, VideoRecord
from sharding.verify import verify
from sharding.video.source import open_source
from tests.helpers.videos import write_numbered_video
from tests.sharding.test_pack import command, hashes

STAGES = {"missing", "open", "decode", "encode"}


def failures(split: Path) -> dict[str, dict]:
    return {line["source"]: line for line in map(json.loads, (split / "failures.jsonl").read_text().splitlines())}


def damaged_versions(name: str, data: bytes):
    """(name, bytes) of many ways in which a file can be damaged; the same on every run."""
    dice = random.Random(name)
    stem, suffix = name.split(".")
    for percent in (0.1, 1, 3, 10, 25, 40, 50, 60, 75, 90, 95, 98, 99, 99.9):
        yield f"{stem}_cut_{percent}.{suffix}".replace(".", "_", 1), data[: int(len(data) * percent / 100)]
    for number in range(24):
        flipped = bytearray(data)
        for _ in range(1 + number // 3):
            flipped[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        yield f"{stem}_flip_{number}.{suffix}", bytes(flipped)
    for number in range(12):
        start = dice.randrange(len(data))
        length = dice.randrange(1, 1 + len(data) // 3)
        zeroed = data[:start] + bytes(length) + data[start + length :]
        yield f"{stem}_zero_{number}.{suffix}", zeroed[: len(data)]
    yield f"{stem}_twice.{suffix}", data + data
    yield f"{stem}_after_text.{suffix}", b"GET / HTTP/1.1\r\n" + data


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A class folder of over 200 damaged or strange files, and four good ones."""
    folder = tmp_path_factory.mktemp("faults") / "videos" / "a"
    good = [
        write_numbered_video(folder / "h264.mp4", 30, gop=8, b_frames=2),
        write_numbered_video(folder / "mpeg4.avi", 30, codec="mpeg4", gop=8),
        write_numbered_video(folder / "vp9.webm", 30, codec="libvpx-vp9"),
        write_numbered_video(folder / "ffv1.mkv", 30, codec="ffv1"),
    ]
    for path in good:
        for name, data in damaged_versions(path.name, path.read_bytes()):
            (folder / name).write_bytes(data)
    shutil.copy(good[0], folder / "wrong_suffix.avi")
    shutil.copy(good[0], folder / "name\nwith newline.mp4")
    shutil.copy(good[0], folder / "näme ünicode 视频.mp4")
    shutil.copy(good[0], folder / "..mp4.mp4".lstrip("."))
    shutil.copy(good[0], folder / "a..b.mp4")
    shutil.copy(good[0], os.fsencode(folder) + b"/not_utf8_\xff.mp4")
    write_numbered_video(folder / "one_frame.mp4", 1)
    write_numbered_video(folder / "lies.avi", 10, codec="mpeg4")
    lie(folder / "lies.avi")
    write_sound(folder / "only_sound.mp4")
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("not a video\n" * 100)
    (folder / "folder.mp4").mkdir()
    (folder / "dangling.mp4").symlink_to("nowhere.mp4")
    (folder / "loop.mp4").symlink_to("loop.mp4")
    os.mkfifo(folder / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as unix:
        here = Path.cwd()
        os.chdir(folder)  # the path of a socket must be short
        unix.bind("socket.mp4")
        os.chdir(here)
    return folder.parent


def lie(avi: Path) -> None:
    """Writes 100,000 as the number of frames into both headers."""
    data = bytearray(avi.read_bytes())
    for place in (data.index(b"avih") + 8 + 16, data.index(b"strh") + 8 + 32):
        data[place : place + 4] = (100_000).to_bytes(4, "little")
    avi.write_bytes(data)


def write_sound(path: Path) -> None:
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux([*stream.encode(frame), *stream.encode(None)])


@pytest.mark.parametrize("profile", ["h264", "jpeg", "copy"])
def test_a_corpus_of_damaged_files(corpus, tmp_path, profile):
    listed = [entry for entry in os.scandir(os.fsencode(corpus / "a")) if not entry.name.startswith(b".")]
    assert len(listed) > 200
    pack(PackConfig("folder", corpus, tmp_path, profile=profile, max_failures=1, workers=2))
    split = tmp_path / "train"
    dataset, failed = load_dataset(split), failures(split)
    assert len(dataset) + len(failed) == len(listed)
    assert {line["kind"] for line in failed.values()} <= STAGES
    assert all(line["error"] and "\n" not in line["error"] for line in failed.values())
    packed = set(dataset.column("source"))
    for name in ("h264.mp4", "mpeg4.avi", "vp9.webm", "ffv1.mkv", "wrong_suffix.avi", "one_frame.mp4", "a..b.mp4"):
        assert f"a/{name}" in packed
    assert {"a/name\nwith newline.mp4", "a/näme ünicode 视频.mp4", "a/not_utf8_\\udcff.mp4"} <= packed
    for name, stage in [
        ("empty.mp4", "open"),
        ("text.mp4", "open"),
        ("only_sound.mp4", "open"),
        ("folder.mp4", "open"),
        ("dangling.mp4", "missing"),
        ("loop.mp4", "missing"),
        ("pipe.mp4", "open"),
        ("socket.mp4", "open"),
    ]:
        assert failed[f"a/{name}"]["kind"] == stage, failed[f"a/{name}"]
    cut = [source for source in packed if "_cut_" in source]
    assert not cut
    assert verify(split, decode=True).ok


@pytest.mark.parametrize("hidden", ["secret.mp4", "."])
def test_no_permission(hidden):
    with tempfile.TemporaryDirectory() as folder:  # not below pytest's own, which is closed to others altogether
        Path(folder).chmod(0o755)
        path = write_numbered_video(Path(folder) / "a" / "secret.mp4", 3)
        assert opened_by_somebody_else(path) == "opened"
        (path.parent / hidden).chmod(0)
        assert opened_by_somebody_else(path) == "open: Permission denied"
        path.parent.chmod(0o755)


def opened_by_somebody_else(path: Path) -> str:
    """Open a video without root's rights, to whom nothing is forbidden, and return what came of it."""
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        message = "opened"
        try:
            if os.geteuid() == 0:
                os.setegid(65534)
                os.seteuid(65534)
            with open_source(path):
                pass
        except BaseException as error:
            message = str(error)
        finally:
            os.write(sender, message.encode())
            os._exit(0)
    os.waitpid(child, 0)
    message = os.read(receiver, 1000).decode()
    os.close(receiver)
    os.close(sender)
    return message


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("later") / "videos"
    for number in range(10):
        write_numbered_video(folder / "ab"[number % 2] / f"v{number}.mp4", 8, first_number=10 * number)
    return folder


def config(videos: Path, out: Path, **options) -> PackConfig:
    return PackConfig("folder", videos, out, **({"workers": 1, "samples_per_shard": 4, "max_failures": 0.3} | options))


@pytest.mark.parametrize("completed", [True, False])
@pytest.mark.parametrize("profile", ["h264", "jpeg"])
def test_videos_mended_later_are_packed_by_retry_failed(videos, tmp_path, monkeypatch, completed, profile):
    pack(config(videos, tmp_path / "undisturbed", profile=profile))
    mended = shutil.copytree(videos, tmp_path / "videos")
    for name in ("a/v0.mp4", "b/v3.mp4"):
        (mended / name).write_bytes(b"")
    options = {"profile": profile} | ({} if completed else {"max_failures": 0})
    with contextlib.nullcontext() if completed else pytest.raises(IncompleteError):
        pack(config(mended, tmp_path, **options))
    split = tmp_path / "train"
    assert set(failures(split)) == {"a/v0.mp4", "b/v3.mp4"}
    for name in ("a/v0.mp4", "b/v3.mp4"):
        shutil.copy(videos / name, mended / name)
    if completed:
        assert pack(config(mended, tmp_path, profile=profile)).already_complete  # without the option nothing changes
        assert load_dataset(split).manifest.failures == 2
    encoded = []

    def note(videos: Path, record: VideoRecord, *others) -> Request:
        encoded.append(record.key)
        return Request(videos, record, *others)

    monkeypatch.setattr("sharding.packing.shard.Request", note)
    pack(config(mended, tmp_path, profile=profile, retry_failed=True))
    assert sorted(encoded) == ["a-v0", "b-v3"]
    assert hashes(split) == hashes(tmp_path / "undisturbed" / "train")
    assert pack(config(mended, tmp_path, profile=profile, retry_failed=True)).already_complete


def test_names_that_are_no_text_are_refused_before_anything_is_written(videos, tmp_path):
    named = Path(os.fsdecode(os.fsencode(tmp_path) + b"/videos/caf\xe9"))
    shutil.copytree(videos / "a", named)
    with pytest.raises(UserError, match=r"class 'caf\\udce9': not valid UTF-8"):
        pack(config(named.parent, tmp_path / "out"))
    for option in ("split", "dataset", "out"):
        with pytest.raises(UserError, match=rf"--{option} 'caf\\udce9': not valid UTF-8"):
            PackConfig(**({"dataset": "folder", "videos": videos, "out": tmp_path} | {option: "caf\udce9"}))
    assert not (tmp_path / "out").exists()


def test_a_path_with_a_zero_byte(videos, tmp_path):
    (tmp_path / "train.txt").write_text("a/v0.mp4 a\na/v\0.mp4 a\n")
    with pytest.raises(UserError, match=r"'a/v\\x00\.mp4': a path with a zero byte"):
        pack(PackConfig("list", videos, tmp_path / "out", annotations=(tmp_path / "train.txt",), workers=1))
    assert not (tmp_path / "out").exists()


def test_annotation_files_name_no_videos_elsewhere(videos, tmp_path):
    """Of a reader that takes folders from the labels; records of one's own may be anywhere."""
    (tmp_path / "train.csv").write_text(f"label,youtube_id,time_start,time_end\n../{videos.name}/a,v0,0,1\n")
    options = {"annotations": (tmp_path / "train.csv",), "workers": 1}
    with pytest.raises(
        UserError, match=r"v0_000000_000001: '.*\.\./.*': a path inside the folder of videos is expected"
    ):
        pack(PackConfig("kinetics", tmp_path, tmp_path.parent / "other", **options))
    mine = Annotations([VideoRecord("v0", str(videos / "a" / "v0.mp4"), "a")], ("a",))
    (tmp_path / "empty").mkdir()
    assert pack(PackConfig("mine", tmp_path / "empty", tmp_path / "mine", workers=1), mine).samples == 1


def test_what_still_fails_stays_a_failure(videos, tmp_path):
    broken = shutil.copytree(videos, tmp_path / "videos")
    (broken / "a" / "v0.mp4").unlink()
    (broken / "a" / "v0.mp4").write_text("x")
    pack(config(broken, tmp_path))
    before = hashes(tmp_path / "train")
    pack(config(broken, tmp_path, retry_failed=True))
    assert hashes(tmp_path / "train") == before


def test_a_full_disk(videos, tmp_path):
    """In a file system of its own, of 100 kB; then it gets larger and the run goes on."""
    out = tmp_path / "small"
    out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(out)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("making a small file system needs the right to mount")
    try:
        arguments = command(videos, out, "--samples-per-shard=4", "--profile=jpeg", "--workers=1")
        full = subprocess.run(arguments, capture_output=True, text=True)
        assert full.returncode == 1
        assert "no space left for" in full.stderr
        assert "run it again" in full.stderr
        assert "Traceback" not in full.stderr
        assert not (out / "train" / "manifest.json").exists()
        finished = {path.name: path.stat().st_mtime_ns for path in (out / "train").glob("*.tar")}
        subprocess.run(["mount", "-o", "remount,size=10m", str(out)], check=True)
        assert subprocess.run(arguments, capture_output=True).returncode == 0
        assert all((out / "train" / name).stat().st_mtime_ns == time for name, time in finished.items())
        pack(config(videos, tmp_path / "undisturbed", profile="jpeg"))
        assert hashes(out / "train") == hashes(tmp_path / "undisturbed" / "train")
    finally:
        subprocess.run(["umount", str(out)], check=True)


def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path):
    """Peak memory of encoding 200 and 3,000 frames, each in a process of its own."""
    peaks = []
    for num_frames in (200, 3000):
        path = write_numbered_video(tmp_path / f"{num_frames}.mp4", num_frames, size=(160, 120))
        code = (
            "import sys; from pathlib import Path; from sharding.video.encode import *\n"
            "encode_h264(Path(sys.argv[1]), Path(sys.argv[2]), FrameChoice(None, 256), 8)\n"
            "encode_jpegs(Path(sys.argv[1]), Path(sys.argv[2]), FrameChoice(None, 256))\n"
            "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
        )
        done = subprocess.run([sys.executable, "-c", code, path, tmp_path / "out"], capture_output=True, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 8_000  # kB; the 2,800 frames more are 160 MB
