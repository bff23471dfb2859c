"""Packing on a Dask cluster, here of two workers on this machine, one of which is killed in the middle."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sharding.errors import UserError
from sharding.pack import PackConfig, pack
from tests.conftest import ROOT
from tests.helpers.videos import write_numbered_video
from tests.sharding.test_pack import hashes

pytest.importorskip("distributed", reason="the extra 'dask' is not installed")


def config(videos: Path, out: Path, **options) -> PackConfig:
    return PackConfig("folder", videos, out, samples_per_shard=3, **options)


@pytest.mark.slow
def test_a_worker_dies_and_the_bytes_are_the_same(tmp_path, cluster):
    address, workers = cluster
    videos = tmp_path / "videos"
    for number in range(30):
        write_numbered_video(videos / "ab"[number % 2] / f"v{number}.mp4", 100, size=(320, 240), first_number=number)
    pack(config(videos, tmp_path / "here", workers=1))

    command = [sys.executable, "-m", "sharding", "pack", "--dataset=folder", f"--videos={videos}"]
    command += [f"--out={tmp_path / 'there'}", "--samples-per-shard=3", "--backend=dask", f"--scheduler={address}"]
    packing = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    parts = tmp_path / "there" / "train" / ".parts"
    deadline = time.monotonic() + 120
    while len(list(parts.glob("shard-*.json"))) < 2:
        assert time.monotonic() < deadline
        assert packing.poll() is None, packing.stderr.read()
        time.sleep(0.005)
    os.kill(workers[0].pid, signal.SIGKILL)
    _, errors = packing.communicate(timeout=240)
    assert packing.returncode == 0, errors
    assert hashes(tmp_path / "there") == hashes(tmp_path / "here")


def test_no_scheduler_there(tmp_path):
    write_numbered_video(tmp_path / "videos" / "a" / "v.mp4", 3)
    with pytest.raises(UserError, match=r"--scheduler tcp://127\.0\.0\.1:1: no Dask scheduler answers"):
        pack(config(tmp_path / "videos", tmp_path, backend="dask", scheduler="tcp://127.0.0.1:1"))
    with pytest.raises(UserError, match="one needs the other"):
        config(tmp_path / "videos", tmp_path, backend="dask")
