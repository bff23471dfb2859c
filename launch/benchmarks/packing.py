"""How fast packing is, next to the programs that do the same work: ffmpeg for `h264`, tar for `copy`."""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from launch.benchmarks.options import PackOptions
from launch.benchmarks.report import conditions, table
from launch.inference.pack_files import list_videos
from sharding.dataset import PackedDataset, load_dataset
from sharding.errors import UserError
from sharding.pack import PackConfig, make_plan, read_annotations


@dataclass(frozen=True)
class PackSpeed:
    """One profile against another program on the same files, each run in turn."""

    profile: str
    other: str
    ours_seconds: float
    """Median."""
    others_seconds: float
    ratio: float
    """Median over the rounds of their seconds over ours: above 1, packing is faster."""
    spread: float
    """(largest - smallest) of those ratios."""
    source_frames: int
    source_bytes: int


def measure_pack(videos: Sequence[Path], workers: int, rounds: int) -> list[PackSpeed]:
    """Pack files as `h264` and as `copy` without check, and let ffmpeg and tar do the same, interleaved.

    Raises:
        UserError: ffmpeg or tar is not installed, or a file cannot be packed.
    """
    for program in ("ffmpeg", "tar"):
        if shutil.which(program) is None:
            raise UserError(f"{program} is not installed; it is what packing is compared with")
    with tempfile.TemporaryDirectory(prefix="vpsn-benchmark-") as scratch:
        folder = Path(scratch)
        copy_videos(videos, folder)
        _pack(folder, workers, "h264")
        commands = [_ffmpeg(folder, sample) for sample in _samples(load_dataset(folder / "packed"))]
        tar = [["tar", "-cf", str(folder / "all.tar"), "-C", str(folder), "videos"]]
        pairs = [
            ("h264", "ffmpeg", lambda: _pack(folder, workers, "h264"), lambda: _run_all(commands, workers)),
            ("copy", "tar", lambda: _pack(folder, workers, "copy", "--no-decode-check"), lambda: _run_all(tar, 1)),
        ]
        frames = sum(sample["source_num_frames_decoded"] for sample in _samples(load_dataset(folder / "packed")))
        size = sum(video.stat().st_size for video in videos)
        return [_compare(*pair, rounds, frames, size) for pair in pairs]


@dataclass(frozen=True)
class Cost:
    """Cost of some work done in its own process."""

    seconds: float
    peak_bytes: int
    """Maximum of memory that it, or any one of the processes it started, held."""


def measure_planning(num_records: int) -> Cost:
    """Read a list of that many videos and plan their shards."""
    with tempfile.TemporaryDirectory(prefix="vpsn-benchmark-") as scratch:
        listing = Path(scratch) / "list.txt"
        with listing.open("w") as file:
            file.writelines(f"class{i % 400:03d}/video_{i:08d}.mp4 class{i % 400:03d}\n" for i in range(num_records))
        return measure_cost([sys.executable, "-m", "launch.benchmarks.packing", str(listing)])


def measure_memory(videos: Sequence[Path], copies: Sequence[int]) -> list[Cost]:
    """Pack the videos so many times over, as `h264` with one worker."""
    costs = []
    for count in copies:
        with tempfile.TemporaryDirectory(prefix="vpsn-benchmark-") as scratch:
            copy_videos(list(videos) * count, Path(scratch))
            costs.append(measure_cost(_pack_command(Path(scratch), 1, "h264")))
    return costs


# What a process held before it became another program counts for its ru_maxrss, so the parent must be a small one.
_WITH_PEAK = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


def measure_cost(command: list[str]) -> Cost:
    """Run a command; raise UserError if it fails."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", _WITH_PEAK, *command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(command)}: exit code {done.returncode}")
    return Cost(time.perf_counter() - began, int(done.stdout) * 1024)


def _plan(listing: Path) -> None:
    config = PackConfig(dataset="list", videos=listing.parent, annotations=(listing,), out=listing.parent / "out")
    make_plan(config, read_annotations(config))


def _compare(
    profile: str, other: str, ours: Callable[[], None], theirs: Callable[[], None], rounds: int, frames: int, size: int
) -> PackSpeed:
    times = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    ratios = [their / our for our, their in times]
    return PackSpeed(
        profile,
        other,
        statistics.median(our for our, _ in times),
        statistics.median(their for _, their in times),
        statistics.median(ratios),
        max(ratios) - min(ratios),
        frames,
        size,
    )


def seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def copy_videos(videos: Sequence[Path], folder: Path) -> None:
    for index, video in enumerate(videos):
        target = folder / "videos" / "class" / f"{index:06d}{video.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(video, target)


def _pack(folder: Path, workers: int, profile: str, *options: str) -> None:
    shutil.rmtree(folder / "packed", ignore_errors=True)
    done = subprocess.run(_pack_command(folder, workers, profile, *options), capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"packing failed: {done.stderr.strip().splitlines()[-1]}")


def _pack_command(folder: Path, workers: int, profile: str, *options: str) -> list[str]:
    command = [sys.executable, "-m", "sharding", "pack", "--dataset=folder", f"--videos={folder / 'videos'}"]
    return [*command, f"--out={folder}", "--split=packed", f"--profile={profile}", f"--workers={workers}", *options]


def _samples(dataset: PackedDataset) -> list[dict]:
    """Return KEY.json of every sample."""
    offsets, sizes, samples = dataset.column("json_offset"), dataset.column("json_bytes"), []
    for index in range(len(dataset)):
        with dataset.shard_path(dataset.shards[index]).open("rb") as shard:
            shard.seek(int(offsets[index]))
            samples.append(json.loads(shard.read(int(sizes[index]))))
    return samples


def _ffmpeg(folder: Path, sample: dict) -> list[str]:
    """Return a command that makes of a file what the h264 profile makes: the same frames, size and encoder options."""
    count, kept = sample["source_num_frames_decoded"], sample["num_frames"]
    # Frame n is the middle of one of `kept` equal parts.
    choice = f"gt(floor((n+1)*{kept}/{count}-0.5)\\,floor(n*{kept}/{count}-0.5))"
    filters = f"select='{choice}',scale={sample['width']}:{sample['height']}:flags=bicubic,setsar=1"
    target = folder / f"{sample['key']}.mp4"
    return [
        *("ffmpeg", "-v", "error", "-nostdin", "-y", "-threads", "1", "-i", str(folder / "videos" / sample["source"])),
        *("-vf", filters, "-filter_threads", "1", "-fps_mode", "passthrough", "-an", "-c:v", "libx264"),
        *("-preset", "veryfast", "-tune", "fastdecode", "-crf", "23", "-g", "1", "-bf", "0", "-pix_fmt", "yuv420p"),
        *("-threads", "1", "-movflags", "+faststart", str(target)),
    ]


def _run_all(commands: Sequence[list[str]], processes: int) -> None:
    """Run commands, at most so many at a time."""
    with ThreadPoolExecutor(processes) as pool:
        for done in pool.map(lambda command: subprocess.run(command, capture_output=True, text=True), commands):
            if done.returncode:
                raise UserError(f"{done.args[0]} failed: {done.stderr.strip()}")


def pack(options: PackOptions) -> None:
    """Print how fast packing is next to ffmpeg and tar, its memory, and what planning costs."""
    found = list_videos(options.videos)
    rows = [
        (
            f"{speed.profile} / {speed.other}",
            f"{speed.source_frames / speed.ours_seconds:.0f}",
            f"{speed.source_bytes / speed.ours_seconds / 1e6:.1f}",
            f"{speed.ours_seconds:.2f} / {speed.others_seconds:.2f}",
            f"{speed.ratio:.2f}",
            f"{speed.spread:.2f}",
        )
        for speed in measure_pack(found * options.copies, options.workers, options.rounds)
    ]
    print(f"{len(found) * options.copies} videos, {options.workers} processes, {options.rounds} rounds; {conditions()}")
    print(table(("", "source frames/s", "MB/s", "seconds", "ratio", "spread"), rows))
    few, many = measure_memory(found, (1, 5))
    print(
        f"peak memory of a process, one worker: {few.peak_bytes / 1e6:.0f} MB for {len(found)} videos, "
        f"{many.peak_bytes / 1e6:.0f} MB for {5 * len(found)}"
    )
    cost = measure_planning(options.records)
    print(f"planning {options.records:,} records: {cost.seconds:.1f} s, {cost.peak_bytes / 1e9:.2f} GB")


if __name__ == "__main__":
    _plan(Path(sys.argv[1]))
