"""Files that are complete or absent, hashes, locks between processes."""

import hashlib
import io
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from sharding.errors import UserError, check_minimum
from sharding.files import file_sha256, hash_rest, locked, new_folder, replacing, write_atomically
from tests.conftest import ROOT, run_command

HOLD = "import sys; from pathlib import Path; from sharding.files import locked\n"
HOLD += "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"


@pytest.mark.parametrize("content", ["täxt\n", b"\x00\xff"])
def test_a_file_is_replaced_as_a_unit(content, tmp_path):
    path = tmp_path / "file.json"
    path.write_text("old")
    write_atomically(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_writer_leaves_what_was_there(tmp_path):
    path = tmp_path / "file.json"
    path.write_text("old")

    def fail_half_way():
        with replacing(path) as temporary:
            temporary.write_text("half")
            assert temporary.suffix == ".json" and path.read_text() == "old"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_may_be_as_long_as_names_can_be(tmp_path):
    path = tmp_path / ("x" * 250 + ".json")
    write_atomically(path, "{}")
    assert list(tmp_path.iterdir()) == [path]


def test_two_processes_have_temporary_names_of_their_own(tmp_path):
    command = "import sys; from pathlib import Path; from sharding.files import replacing\n"
    command += "with replacing(Path(sys.argv[1])) as temporary: temporary.write_text('theirs'); print(temporary)"
    with replacing(tmp_path / "file") as ours:
        ours.write_text("ours")
        theirs = subprocess.check_output([sys.executable, "-c", command, tmp_path / "file"], text=True, cwd=ROOT)
        assert theirs.strip() != str(ours)
        assert (tmp_path / "file").read_text() == "theirs"
    assert (tmp_path / "file").read_text() == "ours"


def test_a_folder_appears_when_it_is_complete(tmp_path):
    folder = tmp_path / "new"

    def fail_half_way():
        with new_folder(folder) as partial:
            (partial / "leftover").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert not folder.exists()
    with new_folder(folder) as partial:
        (partial / "file").touch()
        assert not folder.exists()
    assert list(folder.iterdir()) == [folder / "file"]
    assert list(tmp_path.iterdir()) == [folder]
    with pytest.raises(UserError, match="already there"), new_folder(folder):
        pass


def test_hashes_of_files_and_of_ranges(tmp_path):
    content = os.urandom((1 << 20) + 17)  # more than one block
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
    for start, size in ((0, 0), (5, 1 << 20), (3, (1 << 20) + 14), (1 << 20, None)):
        file = io.BytesIO(content)
        file.seek(start)
        stop = len(content) if size is None else start + size
        assert hash_rest(file, size).hexdigest() == hashlib.sha256(content[start:stop]).hexdigest()
        assert file.tell() == stop


def test_a_lock_holds_against_processes_and_threads_until_its_holder_dies(tmp_path):
    path = tmp_path / "lock"
    with locked(path) as had, locked(path, wait=False) as again:
        assert had and not again
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert holder.stdout.readline() == "held\n"
    with locked(path, wait=False) as free:
        assert not free
    holder.kill()
    holder.communicate()
    with locked(path, wait=False) as free:
        assert free


@pytest.mark.parametrize("value", [0, 0.5, -1, float("nan")])
def test_an_option_below_its_minimum_is_named(value):
    with pytest.raises(UserError, match=rf"^data\.b={value}: use 1 or more$"):
        check_minimum(SimpleNamespace(a=1, b=value), 1, "a", "b", prefix="data.")


def test_memory_of_this_process():
    """In a process of its own: here, memory that others have freed may be used again."""
    code = """
import os
from sharding.memory import used_memory
before = used_memory("VmRSS")
held = os.urandom(64 << 20)
assert used_memory("VmRSS") - before > 0.9 * len(held)
assert used_memory("VmHWM") >= used_memory("VmRSS")
assert used_memory("VmPeak") >= used_memory("VmSize") > used_memory("VmRSS")
"""
    done = run_command([sys.executable, "-c", code], fresh=True)
    assert done.returncode == 0, done.stderr
