"""Packs one split of a dataset: annotations -> plan -> shards -> table -> manifest.

OUT/SPLIT/shard-000000.tar, .idx    as the shards get finished, by any number of workers, in any order
OUT/SPLIT/.parts/                   what is needed to go on after a stop; vanishes at the end
OUT/SPLIT/samples.parquet, failures.jsonl, and last manifest.json
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from sharding.commandline import UserError
from sharding.datasets import DATASETS
from sharding.manifest import (
    FAILURES,
    FORMAT_VERSION,
    MANIFEST,
    TABLE,
    Manifest,
    Shard,
    fingerprint_of,
    load_manifest,
    table_schema,
)
from sharding.plan import default_samples_per_shard, plan_shards
from sharding.profiles import PROFILES, ProfileSettings
from sharding.records import Annotations, check_records, read_classes, with_classes
from sharding.shard import PARTS, ShardResult, ShardTask, pack_shard, printable, read_part
from sharding.tar import write_atomically

_PLAN = "plan.json"
_ROWS_A_GROUP = 1 << 16
_LINE_EVERY_SECONDS = 10


@dataclass(frozen=True)
class PackConfig:
    """Packs one split of a dataset into tar shards. Run again after any stop, it goes on where it was."""

    dataset: str
    """Kind of dataset, that is how videos and annotations are laid out."""
    videos: Path
    """Folder that holds the videos."""
    out: Path
    """Folder for the packed dataset; the split gets its own folder in it."""
    split: str = "train"
    """Split to pack; names the folder in --out."""
    annotations: tuple[Path, ...] = ()
    """Annotation files, as published with the dataset. Give those of all splits, so that classes are numbered alike."""
    classes: Path | None = None
    """File with a class name a line, in the order of the label ids. Default: in the order of the names."""
    profile: str = "h264"
    """In what form frames are stored: h264 (at most --max-frames frames, each a keyframe), dense (all frames, every 8th
    a keyframe), copy (the original bytes, checked by decoding)."""
    max_frames: int = 64
    """At most this many frames of a video are kept, evenly spaced."""
    short_side: int = 256
    """Longer short sides are scaled down to this many pixels; nothing is enlarged."""
    quality: int | None = None
    """Quality of encoding; h264, dense: the constant rate factor of x264, 0 (best) to 51, default 23."""
    samples_per_shard: int | None = None
    """Videos in a shard. Default: a 64th of the dataset, at least 16, at most 1,024."""
    seed: int = 0
    """Seed of the order in which videos lie in the shards."""
    max_failures: float = 0.05
    """Fraction of the videos that may fail, rounded up to a whole video; with more, the split is not complete."""
    workers: int = os.cpu_count() or 1
    """Processes that encode at the same time. The bytes do not depend on it."""

    def __post_init__(self):
        if self.dataset not in DATASETS:
            raise UserError(f"--dataset {self.dataset}: known are {', '.join(sorted(DATASETS))}")
        if self.profile not in PROFILES:
            raise UserError(f"--profile {self.profile}: known are {', '.join(PROFILES)}")
        for name, low, high in [
            ("max_frames", 1, 1 << 20),
            ("short_side", 16, 8192),
            ("samples_per_shard", 1, 1 << 20),
            ("quality", 0, 51),
            ("workers", 1, 4096),
            ("max_failures", 0, 1),
            ("seed", 0, (1 << 63) - 1),
        ]:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UserError(f"--{name.replace('_', '-')} {value}: {low} to {high} is possible")
        if not self.split or "/" in self.split or self.split.startswith("."):
            raise UserError(f"--split {self.split!r}: a plain name such as train is expected")

    @property
    def directory(self) -> Path:
        return self.out / self.split

    @property
    def profile_settings(self) -> ProfileSettings:
        quality = 23 if self.quality is None else self.quality
        return ProfileSettings(self.profile, self.max_frames, self.short_side, quality)


@dataclass(frozen=True)
class PackPlan:
    """What will be packed, in what order; `fingerprint` tells two plans apart."""

    annotations: Annotations
    shards: list[np.ndarray]
    settings: dict[str, str | int]
    fingerprint: str


def pack(config: PackConfig) -> int:
    """Packs a split. Returns 0, or 1 if too many videos failed or the disk is full; then running it again goes on.

    Raises UserError before anything is written if the input or the output folder is not as it must be.
    """
    annotations = read_annotations(config)
    plan = make_plan(config, annotations)
    num_records = len(annotations.records)
    with _claim_folder(config.directory, plan) as complete:
        if complete:
            print(f"{config.directory}: already complete, {complete.samples} samples; nothing to do")
            return 0
        try:
            num_failures = _run(config, plan, num_records)
            _write_failures(config.directory, len(plan.shards))
            if num_failures > math.ceil(config.max_failures * num_records):
                print(
                    f"sharding pack: {num_failures} of {num_records} videos failed, more than --max-failures "
                    f"{config.max_failures:g}; {config.directory / FAILURES} says why. Not declared complete: mend the "
                    "videos or the paths, or raise --max-failures, and run it again",
                    file=sys.stderr,
                )
                return 1
            manifest = _finish(config, plan, num_failures)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            print(
                f"sharding pack: no space left for {config.directory}; free some and run it again, it goes on here",
                file=sys.stderr,
            )
            return 1
    print(
        f"{config.directory}: {manifest.samples} samples in {len(manifest.shards)} shards, {manifest.bytes:,} bytes, "
        f"{num_failures} failures; fingerprint {manifest.fingerprint[:16]}"
    )
    return 0


def read_annotations(config: PackConfig) -> Annotations:
    """The records and classes of the split, checked."""
    if not config.videos.is_dir():
        raise UserError(f"--videos {config.videos}: no such folder")
    for path in (*config.annotations, *([config.classes] if config.classes else [])):
        if not path.is_file():
            raise UserError(f"{path}: no such file")
    annotations = DATASETS[config.dataset](config.videos, config.annotations, config.split)
    if config.classes:
        annotations = with_classes(annotations, read_classes(config.classes))
    if not annotations.records:
        raise UserError(f"--split {config.split}: no videos are listed for it")
    return check_records(annotations)


def make_plan(config: PackConfig, annotations: Annotations) -> PackPlan:
    num_records = len(annotations.records)
    samples_per_shard = config.samples_per_shard or default_samples_per_shard(num_records)
    settings = asdict(config.profile_settings) | {"seed": config.seed, "samples_per_shard": samples_per_shard}
    head = [FORMAT_VERSION, config.dataset, config.split, annotations.classes, annotations.flip_pairs]
    digest = hashlib.sha256(json.dumps([*head, annotations.levels, settings], sort_keys=True).encode())
    for r in annotations.records:
        line = f"{r.key}\0{r.source}\0{r.label}\0{r.start_seconds}\0{r.end_seconds}\0{r.level_labels}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    shards = plan_shards(num_records, samples_per_shard, config.seed)
    return PackPlan(annotations, shards, settings, digest.hexdigest())


def _run(config: PackConfig, plan: PackPlan, num_records: int) -> int:
    """Packs all shards that are not finished; returns the number of failed videos."""
    tasks = (joblib.delayed(pack_shard)(task) for task in _tasks(config, plan))
    parallel = joblib.Parallel(n_jobs=min(config.workers, len(plan.shards)), return_as="generator_unordered")
    num_failures = 0
    for result in _with_progress(parallel(tasks), num_records):
        num_failures += result.failures
    return num_failures


def _tasks(config: PackConfig, plan: PackPlan) -> Iterator[ShardTask]:
    annotations = plan.annotations
    label_ids = {name: number for number, name in enumerate(annotations.classes)}
    levels = [(level, {name: i for i, name in enumerate(names)}) for level, names in annotations.levels]
    for number, members in enumerate(plan.shards):
        records = tuple(annotations.records[i] for i in members)
        yield ShardTask(
            directory=config.directory.absolute(),
            shard=number,
            videos=config.videos.absolute(),
            records=records,
            labels=tuple(label_ids[record.label] for record in records),
            level_labels=tuple(
                {level: ids[label] for (level, ids), label in zip(levels, record.level_labels)} for record in records
            ),
            settings=config.profile_settings,
        )


def _with_progress(results: Iterator[ShardResult], num_records: int) -> Iterator[ShardResult]:
    """Passes results on; shows a bar on a terminal, else a plain line now and then."""
    began, last_line, failed = time.monotonic(), time.monotonic(), 0
    with tqdm(total=num_records, unit=" videos", disable=not sys.stderr.isatty(), smoothing=0.05) as bar:
        done = 0
        for result in results:
            count = result.samples + result.failures
            done, failed = done + count, failed + result.failures
            bar.update(count)
            if failed:
                bar.set_postfix_str(f"{failed} failed")
            if bar.disable and time.monotonic() - last_line > _LINE_EVERY_SECONDS:
                last_line = time.monotonic()
                rate = done / (last_line - began)
                left = (num_records - done) / rate / 60
                print(
                    f"{done}/{num_records} videos, {rate:.1f}/s, {failed} failed, {left:.0f} min left",
                    file=sys.stderr,
                    flush=True,
                )
            yield result


@contextlib.contextmanager
def _claim_folder(directory: Path, plan: PackPlan) -> Iterator[Manifest | None]:
    """Makes the folder ready for this plan, for this process alone; yields the manifest if it is complete already.

    Raises UserError if it holds something else, or another process is packing there.
    """
    if (directory / MANIFEST).is_file():
        manifest = load_manifest(directory)
        _same_plan(directory, manifest.plan, plan)
        yield manifest
        return
    parts = directory / PARTS
    if directory.exists() and not parts.is_dir() and any(directory.iterdir()):
        raise UserError(f"--out {directory}: holds other files; give an empty or a new folder")
    parts.mkdir(parents=True, exist_ok=True)
    with (parts / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"--out {directory}: another process is packing there; wait for it") from None
        if (parts / _PLAN).is_file():
            _same_plan(directory, json.loads((parts / _PLAN).read_text())["plan"], plan)
        else:
            write_atomically(parts / _PLAN, json.dumps({"plan": plan.fingerprint, "settings": plan.settings}))
        for leftover in parts.glob("work-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield None


def _same_plan(directory: Path, fingerprint: str, plan: PackPlan) -> None:
    if fingerprint != plan.fingerprint:
        raise UserError(
            f"--out {directory}: already holds another dataset, or this one packed with other options "
            f"(plan {fingerprint[:16]}, not {plan.fingerprint[:16]}); give another folder, or remove this one"
        )


def _write_failures(directory: Path, num_shards: int) -> None:
    failures = (failure for shard in range(num_shards) for failure in _part(directory, shard)["failures"])
    write_atomically(directory / FAILURES, "".join(json.dumps(failure) + "\n" for failure in failures))


def _finish(config: PackConfig, plan: PackPlan, num_failures: int) -> Manifest:
    """Joins the parts into the table, and says in the manifest that the split is complete."""
    directory, annotations = config.directory, plan.annotations
    shards = _write_table(directory, len(plan.shards), [level for level, _ in annotations.levels])
    values = {
        "format_version": FORMAT_VERSION,
        "dataset": config.dataset,
        "split": config.split,
        "profile": config.profile,
        "classes": annotations.classes,
        "flip_pairs": annotations.flip_pairs,
        "levels": dict(annotations.levels),
        "shards": tuple(shards),
        "samples": sum(shard.samples for shard in shards),
        "bytes": sum(shard.bytes for shard in shards),
        "settings": plan.settings,
    }
    manifest = Manifest(**values, failures=num_failures, fingerprint=fingerprint_of(values), plan=plan.fingerprint)
    write_atomically(directory / MANIFEST, manifest.to_json())
    shutil.rmtree(directory / PARTS)
    return manifest


def _write_table(directory: Path, num_shards: int, levels: list[str]) -> list[Shard]:
    """Writes samples.parquet in the order of the shards, some thousand rows at a time."""
    schema = table_schema(levels)
    partial = directory / f"{TABLE}.partial"
    shards, rows = [], []
    with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for number in range(num_shards):
            part = _part(directory, number)
            shards.append(Shard(part["name"], len(part["rows"]), part["bytes"], part["sha256"]))
            rows += part["rows"]
            if len(rows) >= _ROWS_A_GROUP or number == num_shards - 1:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                rows = []
    partial.replace(directory / TABLE)
    return shards


def _part(directory: Path, shard: int) -> dict:
    part = read_part(directory, shard)
    assert part is not None, f"{printable(str(directory))}: shard {shard} has no part file"
    return part
