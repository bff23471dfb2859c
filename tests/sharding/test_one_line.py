"""What a user can correct, and what an attacker has made, is answered in one line, and nothing is written elsewhere."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from sharding.__main__ import main
from sharding.dataset import load_dataset
from sharding.errors import UserError
from sharding.files import locked, write_atomically
from sharding.manifest import read_json_lines
from sharding.packing.frame_index import add_frame_index
from sharding.packing.profiles import EncodedSample
from sharding.packing.spool import write_spooled
from sharding.verify import verify
from tests.conftest import run_command
from tests.helpers.manifests import edit_manifest


def refused(arguments: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        main(arguments)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def pack_arguments(videos: Path, out: Path) -> list[str]:
    return ["pack", "--dataset=folder", f"--videos={videos}", "--split=train", f"--out={out}", "--workers=1"]


def test_a_class_folder_that_cannot_be_read(numbered_videos, tmp_path, monkeypatch):
    scandir = os.scandir

    def scan(path: Path):
        if Path(path).name == "odd":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    message = refused(pack_arguments(numbered_videos, tmp_path / "out"))
    assert message == f"{numbered_videos / 'odd'}: cannot be read: Permission denied; make it readable, or take it away"


def test_an_out_that_cannot_be_written(numbered_videos, tmp_path):
    (tmp_path / "file").touch()
    message = refused(pack_arguments(numbered_videos, tmp_path / "file" / "out"))
    assert message.endswith("cannot be written: Not a directory; give another folder")


def test_a_damaged_plan(numbered_videos, tmp_path):
    parts = tmp_path / "out" / "train" / ".parts"
    parts.mkdir(parents=True)
    for text in ("{", "[" * 100_000, "[]", '{"plan": 1}'):
        (parts / "plan.json").write_text(text)
        assert "plan.json: damaged" in refused(pack_arguments(numbered_videos, tmp_path / "out"))


@pytest.mark.parametrize("line", [b"\xff", b"[" * 100_000, b"[]", b"{}", b'{"key": []}', b"9" * 5000])
def test_a_broken_quarantine(numbered, tmp_path, line):
    split = shutil.copytree(numbered, tmp_path / "split")
    (split / "quarantine.jsonl").write_bytes(b'{"key": "a"}\n' + line + b"\n")
    with pytest.raises(UserError, match=r"quarantine.jsonl, line 2: .*; remove the line"):
        read_json_lines(split / "quarantine.jsonl")
    with pytest.raises(UserError, match="line 2"):
        print(load_dataset(split).quarantined)


@pytest.mark.parametrize("text", [b"[]", b"[" * 200, b"1"])
def test_a_crafted_json_in_a_shard_is_a_problem(numbered, tmp_path, text):
    split = shutil.copytree(numbered, tmp_path / "split")
    [tar] = split.glob("*.tar")
    data = tar.read_bytes()
    start = data.index(b'{"')
    tar.write_bytes(data[:start] + text.ljust(len(text) + 1) + data[start + len(text) + 1 :])
    report = verify(split)
    assert "its .json is no JSON of an object" in report.bad_samples.values()


def test_a_file_that_an_error_names_is_one_line_of_a_command():
    code = "from sharding.cli import run_command; run_command(lambda _: open('/nothing/here'), 'prog')"
    done = run_command([sys.executable, "-c", code])
    assert done.returncode == 2
    assert done.stderr == "prog: error: /nothing/here: No such file or directory; correct that and run it again\n"


def test_nothing_is_written_through_a_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".data.lock").symlink_to(tmp_path / "made")
    with pytest.raises(OSError), locked(tmp_path / ".data.lock"):
        pass
    assert not (tmp_path / "made").exists()
    (tmp_path / f".data.{os.getpid()}.json").symlink_to(victim)  # the name is easily guessed
    write_atomically(tmp_path / "data.json", "new")
    assert (victim.read_text(), (tmp_path / "data.json").read_text()) == ("precious", "new")
    assert not (tmp_path / "data.json").is_symlink()


def test_packing_writes_nothing_through_a_link(numbered_videos, tmp_path):
    """Under all names that can be guessed, such as a killed process would leave, are links to a precious file."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    videos, split = shutil.copytree(numbered_videos, tmp_path / "videos"), tmp_path / "out" / "train"
    (videos / "odd" / "bad.mp4").touch()
    assert main([*pack_arguments(videos, tmp_path / "out"), "--max-failures=0"]) == 1
    pid = os.getpid()
    names = ("frames.npy.partial", "frames.npy", "samples.parquet", f".frames.{pid}.npy", f".samples.{pid}.parquet")
    for folder in (split, split / ".parts"):
        for name in names:
            (folder / name).symlink_to(victim)
    assert main([*pack_arguments(videos, tmp_path / "out"), "--max-failures=1"]) == 0
    assert victim.read_text() == "precious"
    assert not any((split / name).is_symlink() for name in ("frames.npy", "samples.parquet"))
    (split / "frames.npy.partial").unlink()
    edit_manifest(split, format_version=1, frames_sha256="", codec_parameters=[])
    (split / "frames.npy.partial").symlink_to(victim)
    assert add_frame_index(split)
    assert victim.read_text() == "precious"


def test_a_spooled_video_is_not_written_through_a_link(tmp_path):
    victim, media = tmp_path / "victim", tmp_path / "media"
    victim.write_text("precious")
    media.write_bytes(b"video")
    spooled = tmp_path / ".parts" / "spool" / "000000" / "key"
    spooled.parent.mkdir(parents=True)
    spooled.symlink_to(victim)
    write_spooled(tmp_path, 0, "key", EncodedSample("mp4", media, 1, 25.0, 32, 32), keep_source=True)
    assert (victim.read_text(), spooled.read_bytes()) == ("precious", b"video")
