"""The dataset card of a packed split: what is in it, how much, what is missing. As text, JSON, or a page."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sharding.dataset import SHARDS_URL, PackedDataset, load_dataset, load_table
from sharding.manifest import FAILURES, LABELS, kind_of, read_json_lines

_NOTES = {
    "interlaced": "interlaced, stored as they are",
    "hdr": "HDR, stored without tone mapping",
    "distinct_frames": "frames stored more than once, where the source's times have gaps",
    "begins_before_keyframe": "beginnings without a keyframe, left out",
    "ends_early": "parts that go on after the end of their video",
    "reencoded": "not copied but encoded again",
    "kept_as_is": "kept, though packing would encode them again",
}


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
        return f"{self.minimum:.6g} to {self.maximum:.6g}, median {self.median:.6g}, mean {self.mean:.4g}"


@dataclass(frozen=True)
class ClassStats:
    """One class: its label id and name, and how many of its listed videos are packed, missing, or failed otherwise."""

    label: int
    name: str
    samples: int
    missing: int
    failed: int


@dataclass(frozen=True)
class Stats:
    """All figures of a split."""

    dataset: str
    split: str
    profile: str
    fingerprint: str
    settings: dict
    listed: int
    """Videos in the annotations."""
    samples: int
    quarantined: int
    failures: dict[str, int]
    """Kind of failure -> videos; `missing` are listed but not there."""
    hours: float
    bytes: int
    shards: int
    num_frames: Quantiles
    seconds: Quantiles
    fps: Quantiles
    media_bytes: Quantiles
    sizes: dict[str, int]
    """"width x height" -> samples, the most frequent first."""
    notes: dict[str, int]
    """What is uncommon about samples -> how many it is true of, the most frequent first."""
    classes: tuple[ClassStats, ...]
    """In the order of the label ids."""
    labels: Quantiles | None = None
    """Labels of a sample, where it may have several."""
    unlabelled: int = 0
    """Samples that have none of the labels."""
    has_labels: bool = True
    """Whether its samples have labels; without them, no sample counts for a class."""

    @property
    def samples_a_class(self) -> np.ndarray:
        return np.array([c.samples for c in self.classes])

    @property
    def empty_classes(self) -> list[str]:
        return [c.name for c in self.classes if not c.samples]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


def measure(directory: Path | str) -> tuple[Stats, PackedDataset]:
    """Return the figures of a packed split, and the split itself.

    Raises:
        UserError: it cannot be opened.
    """
    directory = Path(directory)
    dataset = load_table(directory) if (directory / SHARDS_URL).is_file() else load_dataset(directory)
    manifest = dataset.manifest
    failures = read_json_lines(directory / FAILURES)
    missing = Counter(name for line in failures if kind_of(line) == "missing" for name in _labels_of(line))
    failed = Counter(name for line in failures if kind_of(line) != "missing" for name in _labels_of(line))
    sets = dataset.label_sets
    one = sets is None
    labels = dataset.labels if dataset.has_labels else dataset.labels[:0]
    counts = np.bincount(labels, minlength=len(manifest.classes)) if one else sets.count_samples()
    seconds = dataset.num_frames / np.maximum(dataset.fps, 1e-6)
    sizes = Counter(zip(dataset.widths.tolist(), dataset.heights.tolist()))
    stats = Stats(
        dataset=manifest.dataset,
        split=manifest.split,
        profile=manifest.profile,
        fingerprint=manifest.fingerprint,
        settings=dict(manifest.settings),
        listed=len(dataset) + len(failures),
        samples=len(dataset),
        quarantined=len(dataset.quarantined),
        failures=dict(sorted(Counter(map(kind_of, failures)).items())),
        hours=float(seconds.sum() / 3600),
        bytes=manifest.bytes,
        shards=len(manifest.shards),
        num_frames=Quantiles.of(dataset.num_frames),
        seconds=Quantiles.of(seconds),
        fps=Quantiles.of(dataset.fps),
        media_bytes=Quantiles.of(dataset.media_bytes),
        sizes={f"{width} x {height}": count for (width, height), count in sizes.most_common()},
        notes=_count_notes(dataset),
        classes=tuple(
            ClassStats(label, name, int(counts[label]), missing[name], failed[name])
            for label, name in enumerate(manifest.classes)
        ),
        labels=None if one else Quantiles.of(sets.sizes),
        unlabelled=0 if one else int((sets.sizes == 0).sum()),
        has_labels=dataset.has_labels,
    )
    return stats, dataset


def _labels_of(failure: Mapping[str, Any]) -> list[str]:
    """Return the names of the classes of a line of failures.jsonl, which may come from anybody."""
    labels = failure.get(LABELS)
    return [name for name in (labels if isinstance(labels, list) else [failure.get("label")]) if isinstance(name, str)]


def _count_notes(dataset: PackedDataset) -> dict[str, int]:
    """Count the samples of each note; none in datasets packed before notes were taken."""
    if "notes" not in dataset.column_names:
        return {}
    noted = (word for notes in dataset.column("notes") if notes for word in notes.split(","))
    return dict(Counter(word.partition("=")[0] for word in noted).most_common())


def dataset_card(stats: Stats) -> list[tuple[str, str]]:
    """Return the figures of the complete split, as (name, value) lines for people."""
    failed = ", ".join(f"{count} {kind}" for kind, count in stats.failures.items()) or "none"
    sizes = list(stats.sizes.items())[:5]
    more = f", and {len(stats.sizes) - len(sizes)} more" if len(stats.sizes) > len(sizes) else ""
    fewest = sorted((c.samples, c.name) for c in stats.classes if c.samples)[:5]
    listed = f"{stats.samples:,} of {stats.listed:,} listed; failed: {failed}; quarantined: {stats.quarantined}"
    lines = [
        ("fingerprint", stats.fingerprint),
        ("packed with", ", ".join(f"{name} {value}" for name, value in stats.settings.items())),
        ("samples", listed),
        ("length", f"{stats.hours:.4g} hours; seconds a sample: {stats.seconds}"),
        ("bytes", f"{stats.bytes:,} in {stats.shards:,} shards; a sample: {stats.media_bytes}"),
        ("frames", f"a sample: {stats.num_frames}"),
        ("frame rate", f"{stats.fps} a second"),
        ("sizes", ", ".join(f"{size} ({count:,})" for size, count in sizes) + more),
    ]
    if stats.labels:
        lines.append(("labels", f"a sample: {stats.labels}; {stats.unlabelled:,} samples without any"))
    if stats.has_labels:
        lines += [
            ("classes", f"{len(stats.classes):,}; samples a class: {Quantiles.of(stats.samples_a_class)}"),
            ("fewest", ", ".join(f"{name} ({count})" for count, name in fewest) or "none"),
        ]
    else:
        lines.append(("labels", f"none: for predictions alone, of {len(stats.classes):,} classes"))
    if stats.notes:
        lines.append(
            ("noted", ", ".join(f"{_NOTES.get(word, word)} ({count:,})" for word, count in stats.notes.items()))
        )
    empty = stats.empty_classes
    if empty and stats.has_labels:
        names = ", ".join(empty[:20]) + (", ..." if len(empty) > 20 else "")
        lines.append(("without any", f"{len(empty)} classes: {names}"))
    return lines


def to_text(stats: Stats) -> str:
    head = f"{stats.dataset} {stats.split}, profile {stats.profile}"
    return "\n".join([head, *(f"{name:<12} {value}" for name, value in dataset_card(stats))])
