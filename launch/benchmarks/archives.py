"""What archives, object storage and shards of others cost: packing from and to them against folders; indexing."""

import json
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from launch.benchmarks.object_storage import PackingToStore, s3_server
from launch.benchmarks.options import ArchivesOptions
from launch.benchmarks.packing import copy_videos, seconds
from launch.benchmarks.report import conditions, table
from launch.inference.pack_files import list_videos
from sharding.errors import UserError
from sharding.packing.tar import TarWriter

_MOST_SAMPLES_A_SHARD = 64


def archives(options: ArchivesOptions) -> None:
    """Print how fast videos are packed from each kind of archive, and indexed as shards."""
    found = list_videos(options.videos)
    with tempfile.TemporaryDirectory(prefix="vpsn-benchmark-") as scratch:
        folder = Path(scratch)
        copy_videos(found * options.copies, folder)
        rows = list(_rows(folder, len(found) * options.copies, options))
    print(f"{len(found) * options.copies} videos, {options.workers} processes, {options.rounds} rounds; {conditions()}")
    print(table(("", "seconds", "ratio of time", "spread"), rows))


def _rows(folder: Path, num_videos: int, options: ArchivesOptions) -> Iterator[tuple]:
    def is_wanted(part: str) -> bool:
        return options.only in (None, part)

    packing_folder = _packing(folder, None, options)
    for kind in filter(is_wanted, ("tar", "tar.gz", "zip")):
        archive = _archive(folder, f"all.{kind}")
        yield _compare(f"pack all.{kind} / folder", options, _packing(folder, archive, options), packing_folder)
    if is_wanted("s3"):
        with s3_server(folder) as is_there:
            if is_there:
                in_store = PackingToStore(options.workers)
                yield _compare("pack s3 to s3 / folder", options, in_store, packing_folder)
                print(f"s3 to s3: no process held more than {in_store.cost.peak_bytes / 1e6:.0f} MB")
            else:
                print("s3: not measured; pip install 'moto[s3,server]' 'vpsn[remote]'")
    if is_wanted("index"):
        _write_shards(folder, samples_a_shard=max(1, min(_MOST_SAMPLES_A_SHARD, num_videos // (4 * options.workers))))
        yield _compare("index / decode", options, _indexing(folder, options), _decoding(folder, options))


def _compare(name: str, options: ArchivesOptions, ours: Callable[[], None], other: Callable[[], None]) -> tuple:
    times = [(seconds(ours), seconds(other)) for _ in range(options.rounds)]
    ratios = [mine / others for mine, others in times]
    medians = [statistics.median(each) for each in zip(*times)]
    shown = f"{medians[0]:.2f} / {medians[1]:.2f}"
    return name, shown, f"{statistics.median(ratios):.3f}", f"{max(ratios) - min(ratios):.3f}"


def _archive(folder: Path, name: str) -> Path:
    videos, path = sorted((folder / "videos").rglob("*.*")), folder / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for video in videos:
                archive.write(video, video.relative_to(folder / "videos"))
        return path
    with tarfile.open(path, "w:gz" if name.endswith("gz") else "w") as tar:
        for video in videos:
            tar.add(video, video.relative_to(folder / "videos"))
    return path


def _write_shards(folder: Path, samples_a_shard: int) -> None:
    videos = sorted((folder / "videos").rglob("*.*"))
    (folder / "shards").mkdir()
    for number, start in enumerate(range(0, len(videos), samples_a_shard)):
        with TarWriter(folder / "shards" / f"{number:05d}.tar") as tar:
            for video in videos[start : start + samples_a_shard]:
                tar.add(video.name, video)
                tar.add(f"{video.stem}.json", json.dumps({"label": 0}).encode())


def _packing(folder: Path, archive: Path | None, options: ArchivesOptions) -> Callable[[], None]:
    command = ["pack", "--dataset=folder", f"--videos={archive or folder / 'videos'}", f"--out={folder / 'packed'}"]
    return lambda: _run(folder / "packed", [*command, f"--workers={options.workers}"])


def _indexing(folder: Path, options: ArchivesOptions) -> Callable[[], None]:
    command = ["index", str(folder / "shards"), "--label-field=label", f"--out={folder / 'index'}"]
    return lambda: _run(folder / "index", [*command, f"--workers={options.workers}"])


def _run(out: Path, arguments: Sequence[str]) -> None:
    shutil.rmtree(out, ignore_errors=True)
    done = subprocess.run([sys.executable, "-m", "sharding", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{arguments[0]} failed: {done.stderr.strip().splitlines()[-1]}")


_DECODE = """
import sys, av
for path in sys.argv[1:]:
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for frame in container.decode(video=0):
            pass
"""


def _decoding(folder: Path, options: ArchivesOptions) -> Callable[[], None]:
    """Return what decodes every frame of the files, a plain loop in each of as many processes."""
    videos = sorted(map(str, (folder / "videos").rglob("*.*")))
    parts = [videos[number :: options.workers] for number in range(options.workers)]

    def decode() -> None:
        started = [subprocess.Popen([sys.executable, "-c", _DECODE, *part]) for part in parts]
        codes = [process.wait() for process in started]
        if any(codes):
            raise UserError("a video does not decode")

    return decode
