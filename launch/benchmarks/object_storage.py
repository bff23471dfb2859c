"""What object storage costs packing: from a bucket into a bucket on loopback, against from folder to folder."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from launch.benchmarks.packing import Cost, measure_cost
from sharding.errors import UserError

_BUCKET = "benchmark"
_WAIT_SECONDS = 60


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[bool]:
    """Start an S3-compatible server with the videos of `folder` in a bucket, and let it be found by what is run within.

    False is yielded where the package moto, which it is, is not installed. It needs a core now and then as well.
    """
    try:
        import moto.server  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import s3fs
    except ImportError:
        yield False
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    settings = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    settings |= dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "benchmark")
    before = {name: os.environ.get(name) for name in settings}
    try:
        os.environ.update(settings)
        _wait_for(port)
        store = s3fs.S3FileSystem(skip_instance_cache=True)
        store.mkdir(_BUCKET)
        store.put(str(folder / "videos"), f"{_BUCKET}/videos", recursive=True)
        yield True
    finally:
        server.kill()
        server.wait()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


class PackingToStore:
    """Packs from the bucket into the bucket, each time below another prefix."""

    def __init__(self, workers: int):
        self._workers, self._times, self.cost = workers, 0, Cost(0.0, 0)

    def __call__(self) -> None:
        self._times += 1
        command = [sys.executable, "-m", "sharding", "pack", "--dataset=folder", f"--workers={self._workers}"]
        command += [f"--videos=s3://{_BUCKET}/videos", f"--out=s3://{_BUCKET}/packed-{self._times}"]
        self.cost = measure_cost(command)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise UserError(f"moto: no server after {_WAIT_SECONDS} s; run python -m moto.server to see why")
