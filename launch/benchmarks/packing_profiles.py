"""Which profile to pack a dataset under: measured on a sample of the user's own videos, with the real loader."""

import math
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.benchmarks.loader_stages import measure_loader
from launch.inference.pack_files import pack_files
from pipeline.config import DataConfig
from sharding.dataset import load_dataset
from sharding.errors import UserError

CANDIDATES = ("h264", "jpeg", "dense", "copy")
LEAST_VIDEOS = 24
"""With fewer, each is packed several times over, so that there is something to measure."""
HEADROOM = 1.2
"""A loader is fast enough if it gives so many times what the network takes: machines have busy moments."""


@dataclass(frozen=True)
class Candidate:
    """What one profile would mean for the whole dataset on this machine."""

    profile: str
    bytes_per_video: float
    total_bytes: float
    packing_hours: float
    clips_per_second: float
    """Of the training loader, reading from memory what was just written."""


def measure_candidates(
    videos: Sequence[Path], num_videos: int, config: DataConfig, workers: int, seconds: float, batch_size: int
) -> list[Candidate]:
    """Packs `videos` under every profile and loads them; totals are for `num_videos` videos like these.

    Raises:
        UserError: none of the videos can be packed.
    """
    videos = list(videos) * math.ceil(LEAST_VIDEOS / len(videos))
    candidates = []
    for profile in CANDIDATES:
        # What one video takes is mostly the start of the processes; in a large dataset that is nothing.
        with tempfile.TemporaryDirectory(prefix="vpsn-advise-") as folder:
            startup, *_ = _timed_pack(videos[:1], Path(folder), profile, workers)
        with tempfile.TemporaryDirectory(prefix="vpsn-advise-") as folder:
            elapsed, packed, failures = _timed_pack(videos, Path(folder), profile, workers)
            if len(failures) == len(videos):
                raise UserError(f"none of {len(videos)} videos can be packed; the first: {failures[0]}")
            dataset = load_dataset(packed)
            size = dataset.manifest.bytes / len(dataset)
            speed = measure_loader(dataset, config, batch_size, seconds)
        hours = max(0.0, elapsed - startup) / (len(videos) - 1) * num_videos / 3600
        candidates.append(Candidate(profile, size, size * num_videos, hours, speed.clips_per_second))
    return candidates


def _timed_pack(videos: Sequence[Path], folder: Path, profile: str, workers: int) -> tuple[float, Path, dict[int, str]]:
    began = time.perf_counter()
    packed, failures = pack_files(videos, folder, profile=profile, workers=workers, samples_per_shard=1)
    return time.perf_counter() - began, packed, failures


def recommend(candidates: Sequence[Candidate], needed_clips_per_second: float) -> Candidate:
    """The smallest dataset whose loader keeps up with the network; if none does, the fastest one."""
    enough = [c for c in candidates if c.clips_per_second >= HEADROOM * needed_clips_per_second]
    if enough:
        return min(enough, key=lambda candidate: candidate.total_bytes)
    return max(candidates, key=lambda candidate: candidate.clips_per_second)


def choose_sample(videos: Sequence[Path], size: int, seed: int = 0) -> list[Path]:
    """`size` of the videos at random, or all if there are no more."""
    return sorted(random.Random(seed).sample(list(videos), min(size, len(videos))))
