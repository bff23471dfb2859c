"""Packing from and to object storage: the bytes of a folder, whatever the server does, and one line where it cannot."""

import json
import os
import stat
import subprocess
import sys
import tarfile
import time
from datetime import datetime, timedelta, timezone

import psutil
import pytest

from pipeline.dataset import open_dataset
from sharding.__main__ import main
from sharding.errors import UserError
from sharding.files import locked
from sharding.objects import folder as object_folder
from sharding.objects import split as objects_split
from sharding.objects.transport import MissingError, RemoteError
from sharding.objects.work_folder import split_folder
from sharding.pack import IncompleteError, pack
from tests.conftest import ROOT, run_command
from tests.helpers.servers import Fault, FaultyServer
from tests.sharding.objects.conftest import NUM_SHARDS, config, sha256

# -- the same bytes --------------------------------------------------------------------------------------------------


def test_from_bucket_to_bucket(bucket, packed_here, tmp_path):
    result = pack(config(f"{bucket.url}/videos", f"{bucket.url}/packed"))
    assert (result.samples, result.failures, result.location) == (11, 1, f"{bucket.url}/packed/train")
    assert bucket.hashes("packed/train") == packed_here
    assert list((tmp_path / "tmp").iterdir()) == []  # nothing is left here
    gets = bucket.server.requests_of(".mp4")
    assert len(gets) == 12
    assert len({get.path for get in gets}) == 12
    again = pack(config(f"{bucket.url}/videos", f"{bucket.url}/packed"))
    assert again.already_complete
    assert len(bucket.server.requests_of(".mp4")) == 12
    assert len(open_dataset(result.location, tmp_path / "cache")) == 11


def test_lists_and_videos_of_a_web_server(class_folders, packed_here, tmp_path, bucket):
    """Nothing can be listed there; the list of videos comes from there too, and so do the names of classes."""
    names = sorted(path.relative_to(class_folders).as_posix() for path in class_folders.rglob("*.mp4"))
    lists = tmp_path / "lists"
    lists.mkdir()
    lines = [f"{name} {name[0]}\n" for name in names if " " not in name]
    (lists / "train.txt").write_text("".join([*lines, "a/gone.mp4 a\n"]))
    (lists / "classes.txt").write_text("a\nb\n")
    with FaultyServer(class_folders) as web, FaultyServer(lists) as annotations:
        web.fault = lambda path, n: [Fault("status", status=503), Fault("drop", after=200), None][min(n, 2)]
        options = {
            "dataset": "list",
            "annotations": (f"{annotations.url}/train.txt?token=SECRET",),
            "classes": f"{annotations.url}/classes.txt",
        }
        result = pack(config(f"{web.url}?signature=SECRET", tmp_path / "out", **options))
        assert (result.samples, result.failures) == (10, 2)
        failures = (tmp_path / "out" / "train" / "failures.jsonl").read_text()
        assert '"kind": "missing"' in failures
        assert not any(b"SECRET" in path.read_bytes() for path in (tmp_path / "out").rglob("*.*"))
        (lists / "train.txt").write_text("a/v0.mp4\n")
        with pytest.raises(UserError, match=rf"{annotations.url}/train.txt\?\*\*\*, line 1"):
            pack(config(web.url, tmp_path / "out2", **options))
    here = pack(config(class_folders, tmp_path / "here", **options | local(lists, lines)))
    assert here.samples == 10
    assert result.fingerprint == here.fingerprint


def local(lists, lines) -> dict:
    (lists / "train.txt").write_text("".join([*lines, "a/gone.mp4 a\n"]))
    return {"annotations": (lists / "train.txt",), "classes": lists / "classes.txt"}


READ_FAULTS = {
    "500": Fault("status", status=500),
    "throttled": Fault("status", status=503, body=b"<Error><Code>SlowDown</Code></Error>"),
    "drop": Fault("drop", after=500),
    "cut": Fault("cut", after=300),
    "flip": Fault("flip", after=400),
    "stall": Fault("stall", after=300),
}
WRITE_FAULTS = {
    "500": Fault("status", status=500),
    "throttled": Fault("status", status=503, body=b"<Error><Code>SlowDown</Code></Error>"),
    "drop": Fault("drop"),
    "flip": Fault("flip", after=20),
}


def quick(names, *chosen: str) -> list:
    """All names, of which those that are not chosen run with the slow tests."""
    return [name if name in chosen else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("kind", quick(READ_FAULTS, "flip"))
def test_faults_of_reading_change_nothing(bucket, packed_here, tmp_path, kind):
    fault = READ_FAULTS[kind]
    few = ("v0.mp4", "v3.mp4") if fault.kind == "stall" else ".mp4"
    bucket.server.fault = lambda path, n: fault if n == 0 and path.endswith(few) else None
    pack(config(f"{bucket.url}/videos", tmp_path / "out"))
    found = {path.name: sha256(path.read_bytes()) for path in (tmp_path / "out" / "train").iterdir()}
    assert found == packed_here


@pytest.mark.parametrize("kind", quick(WRITE_FAULTS, "flip"))
def test_faults_of_writing_change_nothing(bucket, class_folders, packed_here, kind):
    """Of every request that writes, the first attempt goes wrong."""
    fault = WRITE_FAULTS[kind]
    bucket.server.write_fault = lambda path, n: fault if n == 0 and "?" not in path else None
    pack(config(class_folders, f"{bucket.url}/packed"))
    assert bucket.hashes("packed/train") == packed_here
    assert len(bucket.server.writes_of("manifest.json")) >= 2


def test_uploads_in_parts(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(object_folder, "_PART_BYTES", 5 << 20)
    content = os.urandom(11 << 20)
    (tmp_path / "file").write_bytes(content)
    folder = object_folder.open_folder(f"{bucket.url}/parts")
    key = f"{bucket.name}/parts/file"
    begun = bucket.direct.call_s3("create_multipart_upload", Bucket=bucket.name, Key="parts/dead")
    assert begun["UploadId"]
    [listed] = folder._filesystem.list_multipart_uploads(bucket.name)
    for hours, left in ((23, 1), (25, 0)):  # another machine may be at it, but not that long
        begun = listed | {"Initiated": datetime.now(timezone.utc) - timedelta(hours=hours)}
        monkeypatch.setattr(folder._filesystem, "list_multipart_uploads", lambda _, begun=begun: [begun])
        folder.end_uploads()
        assert len(bucket.direct.list_multipart_uploads(bucket.name)) == left
    assert bucket.direct.list_multipart_uploads(bucket.name) == []
    bucket.server.write_fault = lambda path, n: Fault("status") if n == 1 else None  # one part
    stored = folder.upload(tmp_path / "file", "file")
    assert stored.stamp.endswith("-3")
    assert bucket.direct.cat_file(key) == content
    assert bucket.direct.list_multipart_uploads(bucket.name) == []
    monkeypatch.setattr(object_folder._Sent, "is_like", lambda *_: False)  # a store that says no checksum
    assert folder.upload(tmp_path / "file", "file") == stored


def test_an_upload_that_somebody_else_ends_is_begun_again(bucket, tmp_path, monkeypatch):
    def end_uploads(path: str, n: int) -> None:
        if not ended and any("partNumber" in request.path for request in bucket.server.writes_of("file")):
            ended.append(path)
            bucket.direct.clear_multipart_uploads(bucket.name)

    ended: list[str] = []
    monkeypatch.setattr(object_folder, "_PART_BYTES", 5 << 20)
    content = os.urandom(11 << 20)
    (tmp_path / "file").write_bytes(content)
    bucket.server.write_fault = end_uploads
    object_folder.open_folder(f"{bucket.url}/parts").upload(tmp_path / "file", "file")
    assert ended
    assert bucket.direct.cat_file(f"{bucket.name}/parts/file") == content


def test_a_video_that_changes_after_it_was_listed(bucket, tmp_path):
    def change(path: str, n: int) -> None:
        if path.endswith("/v1.mp4") and n == 0:
            bucket.direct.pipe_file(f"{bucket.name}/videos/b/v1.mp4", b"x" * size)

    size = bucket.direct.size(f"{bucket.name}/videos/b/v1.mp4")
    bucket.server.fault = change
    with pytest.raises(RemoteError, match=r"b/v1\.mp4: changed since it was listed; run this again"):
        pack(config(f"{bucket.url}/videos", tmp_path / "out"))


# -- what cannot be helped -------------------------------------------------------------------------------------------


def forbidden(path: str, n: int) -> Fault:
    return Fault("status", status=403, body=b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")


EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"


def test_refusals_are_one_line_each(bucket, class_folders, tmp_path, capsys):
    out = f"{bucket.url}/packed"
    with pytest.raises(UserError, match=r"s3://nobucket-\w+/.*: not found; check the URL, and that its bucket"):
        pack(config(class_folders, f"s3://nobucket-{bucket.name}/packed"))
    with pytest.raises(UserError, match=r"s3://nobucket-\w+/.*: not found; check the URL, and that its bucket"):
        pack(config(f"s3://nobucket-{bucket.name}/videos", tmp_path / "out"))
    with pytest.raises(UserError, match="nothing is below it"):
        pack(config(f"{bucket.url}/vidoes", tmp_path / "out"))
    with pytest.raises(UserError, match="does not list its class folders; give --dataset list"):
        pack(config("https://host/videos", tmp_path / "out"))
    with pytest.raises(UserError, match="a web server can be read, not written"):
        config(class_folders, "https://host/packed")
    with pytest.raises(UserError, match=r"s3://\*\*\*@bucket/x: without user"):
        config(class_folders, "s3://key:secret@bucket/x")
    with pytest.raises(UserError, match="inside --videos"):
        pack(config(bucket.url, out))
    bucket.direct.pipe_file(f"{bucket.name}/packed/train/other", b"x")
    with pytest.raises(UserError, match="holds other files"):
        pack(config(class_folders, out))
    bucket.direct.rm_file(f"{bucket.name}/packed/train/other")
    bucket.server.write_fault = forbidden
    with pytest.raises(MissingError, match=r"plan\.json: access refused .*; check the URL and the credentials"):
        pack(config(class_folders, out))
    assert bucket.hashes("packed") == {}
    bucket.server.fault = forbidden
    with pytest.raises(MissingError, match=r"access refused"):
        pack(config(f"{bucket.url}/videos", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", quick(["video", "shard", "table", "dead server"], "table"))
def test_the_end_of_a_token_or_a_server_in_the_middle(bucket, packed_here, tmp_path, what):
    """One line, which file; nothing else under a final name; and a later run ends with the same bytes."""
    fault = Fault("status", status=400, body=EXPIRED) if what != "dead server" else Fault("status", status=500)
    ending = {"video": "v3.mp4", "shard": "shard-000002.tar", "table": "samples.parquet", "dead server": "000001.idx"}
    broken = {"fault" if what == "video" else "write_fault": True}
    for name in broken:
        setattr(bucket.server, name, lambda path, n: fault if path.endswith(ending[what]) else None)
    arguments = ["--dataset=folder", f"--videos={bucket.url}/videos", f"--out={bucket.url}/packed", "--workers=1"]
    arguments += ["--samples-per-shard=3", "--max-failures=0.3", "--short-side=32"]
    expected = "given up after" if what == "dead server" else "the credentials have expired"
    with pytest.raises(RemoteError, match=expected) as error:
        main(["pack", *arguments])
    assert ending[what] in str(error.value)
    assert "\n" not in str(error.value)
    assert "SECRET" not in str(error.value)
    there = bucket.hashes("packed/train")
    assert "manifest.json" not in there
    assert {name: there[name] for name in there if not name.startswith(".parts")}.items() <= packed_here.items()
    for path in (tmp_path / "tmp").rglob("*"):
        assert not path.is_file() or b"SECRET" not in path.read_bytes()
    bucket.server.fault = bucket.server.write_fault = lambda path, n: None
    before = len(bucket.server.requests_of(".mp4"))
    main(["pack", *arguments])
    assert bucket.hashes("packed/train") == packed_here
    if what == "table":
        assert len(bucket.server.requests_of(".mp4")) == before


def test_exit_code_and_line(bucket, class_folders):
    """The token expires when the second shard is uploaded, by one of two workers."""
    expired = Fault("status", status=400, body=EXPIRED)
    bucket.server.write_fault = lambda path, n: expired if path.endswith("shard-000001.tar") else None
    command = [sys.executable, "-m", "sharding", "pack", "--dataset=folder", f"--videos={class_folders}", "--workers=2"]
    done = run_command([*command, f"--out={bucket.url}/packed", "--samples-per-shard=3"])
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert f"{bucket.url}/packed/train/shard-000001.tar: the credentials have expired" in done.stderr
    assert "manifest.json" not in bucket.hashes("packed/train")


# -- killed, and begun again -----------------------------------------------------------------------------------------


def test_shards_that_changed_are_packed_again(bucket, class_folders, packed_here):
    """With all shards there and the table not, one shard is replaced by others' bytes, and one part is damaged."""
    bucket.server.write_fault = lambda path, n: Fault("status") if path.endswith("samples.parquet") else None
    out = f"{bucket.url}/packed"
    with pytest.raises(RemoteError):
        pack(config(class_folders, out))
    bucket.direct.pipe_file(f"{bucket.name}/packed/train/shard-000001.tar", b"x")
    bucket.direct.pipe_file(f"{bucket.name}/packed/train/.parts/shard-000002.json", b"{")
    bucket.server.write_fault = lambda path, n: None
    with pytest.raises(UserError, match="already holds another dataset"):
        pack(config(class_folders, out, seed=1))
    before = {n: len(bucket.server.writes_of(f"shard-00000{n}.tar")) for n in range(NUM_SHARDS)}
    pack(config(class_folders, out))
    sent = {n: len(bucket.server.writes_of(f"shard-00000{n}.tar")) - before[n] for n in range(NUM_SHARDS)}
    assert sent == {0: 0, 1: 1, 2: 1, 3: 0}
    assert bucket.hashes("packed/train") == packed_here


def test_the_work_folder_is_only_of_use_for_the_same_plan(bucket, class_folders, tmp_path):
    """What an earlier run left on this machine of a split that was removed from the bucket does no harm."""
    bucket.server.write_fault = lambda path, n: Fault("status") if path.endswith("shard-000001.tar") else None
    with pytest.raises(RemoteError):
        pack(config(class_folders, f"{bucket.url}/packed"))
    assert list((tmp_path / "tmp").glob("vpsn-pack-*/train/shard-000001.tar"))
    bucket.direct.rm(f"{bucket.name}/packed", recursive=True)
    bucket.server.write_fault = lambda path, n: None
    here = pack(config(class_folders, tmp_path / "out", seed=1))
    assert pack(config(class_folders, f"{bucket.url}/packed", seed=1)).fingerprint == here.fingerprint


def test_two_processes_of_a_machine_do_not_take_each_others_work(bucket, class_folders, packed_here, tmp_path):
    """The first has joined its shards here and uploads them: its work folder looks complete, which it is not there."""
    work = split_folder(f"{bucket.url}/packed/train", None)
    (work / ".parts").mkdir(parents=True)
    (work / "manifest.json").write_text("{}")
    with locked(work / ".parts" / "lock"):
        with pytest.raises(UserError, match="another process is packing there"):
            pack(config(class_folders, f"{bucket.url}/packed"))
        assert (work / "manifest.json").exists()
        assert bucket.hashes("packed") == {}
    pack(config(class_folders, f"{bucket.url}/packed"))
    assert bucket.hashes("packed/train") == packed_here
    assert list((tmp_path / "tmp").iterdir()) == []


def test_another_process_of_the_machine_packs_in_the_meantime(
    bucket, class_folders, packed_here, tmp_path, monkeypatch
):
    prepare, out = objects_split.prepare_parts, f"{bucket.url}/packed"

    def late(directory):
        monkeypatch.setattr(objects_split, "prepare_parts", prepare)
        pack(config(class_folders, out))
        return prepare(directory)

    monkeypatch.setattr(objects_split, "prepare_parts", late)
    with pytest.raises(UserError, match="already holds another dataset"):
        pack(config(class_folders, out, seed=1))
    assert bucket.hashes("packed/train") == packed_here
    bucket.direct.rm(f"{bucket.name}/packed", recursive=True)
    monkeypatch.setattr(objects_split, "prepare_parts", late)
    assert pack(config(class_folders, out)).already_complete
    assert bucket.hashes("packed/train") == packed_here
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_work_folder_is_this_users_alone(bucket, class_folders, packed_here, tmp_path):
    """Of archives it holds listings, which are written first of all."""
    with tarfile.open(tmp_path / "videos.tar", "w") as tar:
        tar.add(class_folders, ".")
    folder, elsewhere = split_folder(f"{bucket.url}/packed/train", None).parent, tmp_path / "elsewhere"
    folder.rmdir()
    folder.symlink_to(elsewhere)
    elsewhere.mkdir()
    with pytest.raises(UserError, match="somebody else's, or a link"):
        pack(config(tmp_path / "videos.tar", f"{bucket.url}/packed"))
    assert list(elsewhere.iterdir()) == []
    folder.unlink()
    for made_before in (False, True):
        if made_before:
            folder.chmod(0o755)
            bucket.direct.rm(f"{bucket.name}/packed", recursive=True)
        pack(config(tmp_path / "videos.tar", f"{bucket.url}/packed"))
        assert bucket.hashes("packed/train") == packed_here
        assert [path.name for path in folder.iterdir()] == [".listings"]
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_failed_videos_are_tried_again(bucket, class_folders, packed_here, tmp_path):
    """First without two videos, whose failure is too much; then with them, and the good samples are taken over."""
    for name in ("a/v2.mp4", "a/v4.mp4"):
        bucket.direct.pipe_file(f"{bucket.name}/videos/{name}", b"")
    out = f"{bucket.url}/packed"
    with pytest.raises(IncompleteError, match=rf"{out}/train/failures\.jsonl says why"):
        pack(config(f"{bucket.url}/videos", out, max_failures=0.1))
    failed = bucket.direct.cat_file(f"{bucket.name}/packed/train/failures.jsonl").splitlines()
    assert {json.loads(line)["key"] for line in failed} == {"a-v2", "a-v4", "b-v7"}
    for name in ("a/v2.mp4", "a/v4.mp4"):
        bucket.direct.pipe_file(f"{bucket.name}/videos/{name}", (class_folders / name).read_bytes())
    before = len(bucket.server.requests_of(".mp4"))
    pack(config(f"{bucket.url}/videos", out, max_failures=0.1, retry_failed=True))
    assert len(bucket.server.requests_of(".mp4")) == before + 3
    assert bucket.hashes("packed/train") == packed_here


@pytest.mark.parametrize("victim", ["main", "worker"])
@pytest.mark.slow
def test_kill_9(bucket, packed_here, victim, tmp_path):
    command = [sys.executable, "-m", "sharding", "pack", "--dataset=folder", f"--videos={bucket.url}/videos"]
    command += [f"--out={bucket.url}/packed", "--samples-per-shard=3", "--max-failures=0.3", "--short-side=32"]
    packing = subprocess.Popen([*command, "--workers=2"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not bucket.server.writes_of(".parts/shard-000000.json") + bucket.server.writes_of("shard-000001.json"):
        assert time.monotonic() < deadline
        assert packing.poll() is None, packing.stderr.read()
        time.sleep(0.002)
    if victim == "main":
        packing.kill()
    else:
        children = psutil.Process(packing.pid).children()
        workers = [child for child in children if any("popen_loky" in word for word in child.cmdline())]
        workers[0].kill()
    _, errors = packing.communicate(timeout=120)
    assert packing.returncode or victim == "worker", errors  # one between two shards is replaced
    if packing.returncode:
        assert "manifest.json" not in bucket.hashes("packed/train")
    assert run_command([*command, "--workers=2"]).returncode == 0
    assert bucket.hashes("packed/train") == packed_here
