"""Small packed datasets that several folders' tests share, packed by the real command."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Before anything reads it: small networks gain nothing from more threads, and wait long for them on a busy machine.
os.environ["OMP_NUM_THREADS"] = "1"
# tests/gpu has a run of its own; what all others say of networks and ranks is of a machine without a GPU.
if not any("gpu" in argument for argument in sys.argv):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest
from hypothesis import settings

from tests.helpers.commands import ROOT, run_command
from tests.helpers.videos import write_numbered_video

# The time of an example is that of a machine that others use too.
settings.register_profile("vpsn", deadline=None)
settings.load_profile("vpsn")

SHARED_VIDEOS = ROOT.parent / "shared" / "videos"


def pack(videos: Path, out: Path, split: str = "train", **options: object) -> Path:
    """Packs class folders with `python -m sharding pack` and returns the folder of the split."""
    flags = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "sharding", "pack", "--dataset=folder", f"--videos={videos}", f"--split={split}"]
    done = run_command([*command, f"--out={out}", "--workers=1", *flags])
    assert done.returncode == 0, done.stderr
    return out / split


@pytest.fixture(scope="session")
def shared_videos() -> Path:
    """Real clips that lie beside the project; tests that want them are skipped where they do not."""
    if not SHARED_VIDEOS.is_dir():
        pytest.skip(f"no real videos in {SHARED_VIDEOS}")
    return SHARED_VIDEOS


NUMBERED_FRAMES = (1, 2, 3, 5, 8, 9, 12, 16, 20, 25, 30, 33, 40)


@pytest.fixture(scope="session")
def numbered_videos(tmp_path_factory) -> Path:
    """Class folders of 13 videos of 1 to 40 frames; frame i of a video shows the number i."""
    folder = tmp_path_factory.mktemp("numbered_videos")
    for index, num_frames in enumerate(NUMBERED_FRAMES):
        write_numbered_video(folder / ("even", "odd")[index % 2] / f"video{index:02d}_{num_frames}.mp4", num_frames)
    return folder


@pytest.fixture(scope="session")
def numbered(numbered_videos, tmp_path_factory) -> Path:
    """The numbered videos packed under the h264 profile."""
    return pack(numbered_videos, tmp_path_factory.mktemp("numbered"))


@pytest.fixture(scope="session")
def numbered_jpeg(numbered_videos, tmp_path_factory) -> Path:
    """The numbered videos packed under the jpeg profile."""
    return pack(numbered_videos, tmp_path_factory.mktemp("numbered_jpeg"), profile="jpeg")


SEVERAL_CLASSES = ("move_left", "move_right", "wait")


@pytest.fixture(scope="session")
def several_labels(numbered_videos, tmp_path_factory) -> Path:
    """The numbered videos, each with those of SEVERAL_CLASSES that the bits of its number say."""
    from sharding import Annotations, PackConfig, VideoRecord
    from sharding import pack as pack_records

    videos = sorted(path.relative_to(numbered_videos).as_posix() for path in numbered_videos.rglob("*.mp4"))
    records = []
    for number, video in enumerate(videos):
        labels = tuple(name for bit, name in enumerate(SEVERAL_CLASSES) if number >> bit & 1)
        timed = tuple((name, 0.5, 1.0) for name in labels)
        records.append(VideoRecord(f"video{number:02d}", video, labels=labels, timed_labels=timed))
    out = tmp_path_factory.mktemp("several_labels")
    config = PackConfig("mine", numbered_videos, out, workers=1)
    pack_records(config, Annotations(records, SEVERAL_CLASSES, ((0, 1),)))
    return out / "train"


def labels_in_bits(key: str) -> list[int]:
    """The label ids of a sample of `several_labels`."""
    return [bit for bit in range(len(SEVERAL_CLASSES)) if int(key.removeprefix("video")) >> bit & 1]


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """An S3-compatible server on loopback."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
