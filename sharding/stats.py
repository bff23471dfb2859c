"""The passport of a packed split: what is in it, how much, and what is lacking."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from sharding.manifest import FAILURES, load_dataset, read_json_lines


@dataclass(frozen=True)
class Quantiles:
    """The smallest, the middle and the greatest of some numbers, and their mean."""

    minimum: float
    median: float
    maximum: float
    mean: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Quantiles":
        if not len(values):
            return cls(0.0, 0.0, 0.0, 0.0)
        return cls(float(values.min()), float(np.median(values)), float(values.max()), float(values.mean()))

    def __str__(self) -> str:
        return f"{self.minimum:g} to {self.maximum:g}, median {self.median:g}, mean {self.mean:.4g}"


@dataclass(frozen=True)
class Stats:
    """All figures of `stats`, as they also appear in its JSON."""

    dataset: str
    split: str
    profile: str
    fingerprint: str
    samples: int
    listed: int
    quarantined: int
    failures: dict[str, int]
    """Stage -> videos that failed in it; `missing` are listed but not there."""
    hours: float
    bytes: int
    shards: int
    num_frames: Quantiles
    fps: Quantiles
    sizes: dict[str, int]
    """"width x height" -> samples, the most frequent first."""
    media_bytes: Quantiles
    classes: dict[str, int]
    """Class name -> samples, in the order of the label ids."""

    def to_dict(self) -> dict:
        return asdict(self)


def measure(directory: Path) -> Stats:
    """Raises UserError if the split cannot be opened."""
    dataset = load_dataset(directory)
    manifest = dataset.manifest
    failures: dict[str, int] = {}
    for line in read_json_lines(directory / FAILURES):
        stage = line.get("stage", "unknown")
        failures[stage] = failures.get(stage, 0) + 1
    counts = np.bincount(dataset.labels, minlength=len(manifest.classes))
    sizes, size_counts = np.unique(np.stack([dataset.widths, dataset.heights], 1), axis=0, return_counts=True)
    by_count = np.argsort(-size_counts, kind="stable")
    return Stats(
        dataset=manifest.dataset,
        split=manifest.split,
        profile=manifest.profile,
        fingerprint=manifest.fingerprint,
        samples=len(dataset),
        listed=len(dataset) + sum(failures.values()),
        quarantined=len(dataset.quarantined),
        failures=failures,
        hours=float((dataset.num_frames / np.maximum(dataset.fps, 1e-6)).sum() / 3600),
        bytes=manifest.bytes,
        shards=len(manifest.shards),
        num_frames=Quantiles.of(dataset.num_frames),
        fps=Quantiles.of(dataset.fps),
        sizes={f"{sizes[i][0]} x {sizes[i][1]}": int(size_counts[i]) for i in by_count},
        media_bytes=Quantiles.of(dataset.media_bytes),
        classes={name: int(count) for name, count in zip(manifest.classes, counts)},
    )


def to_text(stats: Stats) -> str:
    """A page of plain text."""
    failed = ", ".join(f"{count} {stage}" for stage, count in sorted(stats.failures.items())) or "none"
    empty = [name for name, count in stats.classes.items() if not count]
    counts = Quantiles.of(np.array(list(stats.classes.values())))
    few = sorted((count, name) for name, count in stats.classes.items() if count)[:5]
    sizes = list(stats.sizes.items())[:5]
    lines = [
        f"{stats.dataset} {stats.split}, profile {stats.profile}",
        f"fingerprint   {stats.fingerprint}",
        f"samples       {stats.samples} of {stats.listed} listed; failed: {failed}; quarantined: {stats.quarantined}",
        f"length        {stats.hours:.4g} hours of video",
        f"bytes         {stats.bytes:,} in {stats.shards} shards; media {stats.media_bytes} a sample",
        f"frames        {stats.num_frames} a sample",
        f"frame rate    {stats.fps} a second",
        f"sizes         {', '.join(f'{size} ({count})' for size, count in sizes)}"
        + (f", and {len(stats.sizes) - len(sizes)} more" if len(stats.sizes) > len(sizes) else ""),
        f"classes       {len(stats.classes)}; samples a class {counts}",
        f"fewest        {', '.join(f'{name} ({count})' for count, name in few)}",
    ]
    if empty:
        lines.append(f"without any   {len(empty)}: {', '.join(empty[:20])}{', ...' if len(empty) > 20 else ''}")
    return "\n".join(lines)
