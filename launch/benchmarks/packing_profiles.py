"""Which profile to pack a dataset under: measured on a sample of the user's own videos, with the real loader."""

import itertools
import math
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from launch.benchmarks.loader_stages import measure_loader
from launch.benchmarks.options import AdviseOptions
from launch.benchmarks.report import conditions, table
from launch.benchmarks.train_step import measure_steps
from launch.inference.pack_files import list_videos, pack_files
from model import ModelConfig, build_model
from pipeline.config import DataConfig
from sharding.dataset import load_dataset
from sharding.errors import UserError

CANDIDATES = ("h264", "jpeg", "dense", "copy")
"""In the order of preference where nothing else decides."""
SMALL_BYTES = 1e9
"""Not worth another profile than the default."""
LEAST_VIDEOS = 24
"""With fewer, each is packed several times over, so that there is something to measure."""
HEADROOM = 1.2
"""A loader is fast enough if it gives so many times what the network takes: machines have busy moments."""


@dataclass(frozen=True)
class Candidate:
    """What one profile would mean for the complete dataset on this machine."""

    profile: str
    bytes_per_video: float
    total_bytes: float
    packing_hours: float
    clips_per_second: float
    """Of the training loader, reading from memory what was just written."""


def measure_candidates(
    videos: Sequence[Path],
    num_videos: int,
    config: DataConfig,
    workers: int,
    seconds: float,
    batch_size: int,
    device: torch.device,
) -> list[Candidate]:
    """Pack `videos` under every profile and load them on a device; totals are for `num_videos` videos like these.

    Raises:
        UserError: none of the videos can be packed.
    """
    waves = max(2, math.ceil(max(LEAST_VIDEOS, len(videos)) / workers))
    videos = list(itertools.islice(itertools.cycle(videos), waves * workers))
    candidates = []
    for profile in CANDIDATES:
        # What one video for each worker takes is mostly the start of the processes; in a large dataset that is nothing.
        with tempfile.TemporaryDirectory(prefix="vpsn-advise-") as folder:
            startup, *_ = _timed_pack(videos[:workers], Path(folder), profile, workers)
        with tempfile.TemporaryDirectory(prefix="vpsn-advise-") as folder:
            elapsed, packed, failures = _timed_pack(videos, Path(folder), profile, workers)
            if len(failures) == len(videos):
                raise UserError(f"none of {len(videos)} videos can be packed; the first: {failures[0]}")
            dataset = load_dataset(packed)
            size = dataset.manifest.bytes / len(dataset)
            speed = measure_loader(dataset, config, batch_size, seconds, device=device)
        hours = max(0.0, elapsed - startup) / (len(videos) - workers) * num_videos / 3600
        candidates.append(Candidate(profile, size, size * num_videos, hours, speed.clips_per_second))
    return candidates


def _timed_pack(videos: Sequence[Path], folder: Path, profile: str, workers: int) -> tuple[float, Path, dict[int, str]]:
    began = time.perf_counter()
    packed, failures = pack_files(videos, folder, profile=profile, workers=workers, samples_per_shard=1)
    return time.perf_counter() - began, packed, failures


def recommend(candidates: Sequence[Candidate], needed_clips_per_second: float) -> Candidate:
    """Return the first, in the order of preference, that keeps up with the network and is about as small as any.

    What is saved below SMALL_BYTES counts for nothing: a small dataset gets the profile that everything else assumes.
    If none keeps up, it is the fastest one.
    """
    enough = [c for c in candidates if c.clips_per_second >= HEADROOM * needed_clips_per_second]
    if not enough:
        return max(candidates, key=lambda candidate: candidate.clips_per_second)
    smallest = min(candidate.total_bytes for candidate in enough)
    return next(candidate for candidate in enough if candidate.total_bytes <= smallest + SMALL_BYTES)


def explain(best: Candidate, candidates: Sequence[Candidate], needed_clips_per_second: float) -> str:
    """Return in words why `best` was recommended."""
    if best.clips_per_second < HEADROOM * needed_clips_per_second:
        return "none keeps up, and it is the fastest"
    fast = f"loads {HEADROOM} times as fast"
    if best.total_bytes > min(candidate.total_bytes for candidate in candidates):
        return f"it {fast}, and no other saves more than {SMALL_BYTES / 1e9:.0f} GB and does too"
    return f"the smallest that {fast}"


def choose_sample(videos: Sequence[Path], size: int, seed: int = 0) -> list[Path]:
    """Return `size` of the videos at random, or all if there are no more."""
    return sorted(random.Random(seed).sample(list(videos), min(size, len(videos))))


def advise(options: AdviseOptions) -> None:
    """Pack and load a sample under every profile; print the figures and the profile that is recommended."""
    found = list_videos(options.videos)
    chosen = choose_sample(found, options.sample)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch_size, side = options.batch_size, options.crop_size
    shape = (batch_size if device.type == "cuda" else 1, options.num_segments, 3, side, side)
    needed = options.clips_per_second
    if needed is None:
        config = ModelConfig(num_segments=options.num_segments)
        needed = measure_steps({"vpsn": lambda: build_model(config)}, shape, device)["vpsn"].clips_per_second
    data = DataConfig(num_segments=options.num_segments, crop_size=side, short_side=max(256, side))
    num_videos = options.num_videos or len(found)
    candidates = measure_candidates(chosen, num_videos, data, options.workers, options.seconds, batch_size, device)
    rows = [
        (
            candidate.profile,
            f"{candidate.bytes_per_video / 1e3:.0f}",
            f"{candidate.total_bytes / 1e9:.2f}",
            f"{candidate.packing_hours:.2f}",
            f"{candidate.clips_per_second:.1f}",
        )
        for candidate in candidates
    ]
    print(f"{len(chosen)} of {len(found)} videos, for {num_videos:,}; {conditions()}")
    head = ("profile", "kB/video", "GB in all", f"hours to pack, {options.workers} workers", "clips/s loaded")
    print(table(head, rows))
    best = recommend(candidates, needed)
    reason = explain(best, candidates, needed)
    print(f"training takes {needed:.1f} clips/s; recommended: --profile {best.profile} ({reason})")
