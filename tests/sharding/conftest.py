"""A Dask cluster of two workers on this machine."""

import os
import socket
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.fixture
def cluster(tmp_path):
    """(address, processes of the workers), started as `dask scheduler` and `dask worker` are on a cluster.

    Each worker has a folder of its own for temporary files, as on another machine: tmp_path / "tmp-0", "tmp-1".
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    options = {"cwd": ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [sys.executable, "-m", "dask", "scheduler", "--host=127.0.0.1", f"--port={port}", "--no-dashboard"]
    scheduler = subprocess.Popen(command, **options)
    command = [sys.executable, "-m", "dask", "worker", address, "--nthreads=1", "--no-nanny", "--no-dashboard"]
    workers = []
    for number in range(2):
        (tmp_path / f"tmp-{number}").mkdir()
        environment = os.environ | {"TMPDIR": str(tmp_path / f"tmp-{number}")}
        workers.append(subprocess.Popen([*command, f"--local-directory={tmp_path}"], env=environment, **options))
    yield address, workers
    for process in (*workers, scheduler):
        process.kill()
        process.wait()
