"""Packing to object storage on a Dask cluster whose workers share no folder, and one of which is killed."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

pytest.importorskip("distributed", reason="the extra 'dask' is not installed")


@pytest.mark.slow
def test_workers_upload_their_own_shards(bucket, cluster, packed_here, tmp_path):
    address, workers = cluster
    command = [sys.executable, "-m", "sharding", "pack", "--dataset=folder", f"--videos={bucket.url}/videos"]
    command += [f"--out={bucket.url}/packed", "--samples-per-shard=3", "--max-failures=0.3", "--short-side=32"]
    command += ["--backend=dask", f"--scheduler={address}"]
    packing = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not any(bucket.server.writes_of(f".parts/shard-{number:06d}.json") for number in range(4)):
        assert time.monotonic() < deadline
        assert packing.poll() is None, packing.stderr.read()
        time.sleep(0.002)
    os.kill(workers[0].pid, signal.SIGKILL)
    _, errors = packing.communicate(timeout=120)
    assert packing.returncode == 0, errors
    assert bucket.hashes("packed/train") == packed_here
    assert not list((tmp_path / "tmp").glob("vpsn-*"))
    assert list(tmp_path.glob("tmp-*/vpsn-pack-*/train"))  # each worker had its own
    assert not list(tmp_path.glob("tmp-1/**/*.tar"))
