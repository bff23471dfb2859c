"""The folder of one split while it is packed: whose it is, what is finished in it, and how it becomes complete.

OUT/SPLIT/.parts/plan.json              the plan that may be packed here, written first
OUT/SPLIT/.parts/shard-000000.json      for each finished shard
OUT/SPLIT/samples.parquet, frames.npy, failures.jsonl, and last manifest.json; then .parts vanishes
"""

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sharding.errors import UserError
from sharding.files import file_sha256, locked, parse_json, replacing, write_atomically
from sharding.manifest import (
    FAILURES,
    FORMAT_VERSION,
    FRAMES,
    MANIFEST,
    NEWEST_FORMAT_VERSION,
    TABLE,
    Manifest,
    Shard,
    fingerprint_of,
    load_manifest,
    read_json_lines,
    table_schema,
)
from sharding.packing.frame_index import FrameIndexWriter, index_of_row, manifest_values, write_frame_index
from sharding.packing.shard import PARTS, part_path, read_part, write_part
from sharding.records import Annotations

_PLAN = "plan.json"
_LOCK = "lock"
_ROWS_A_GROUP = 1 << 16


@dataclass(frozen=True)
class PackPlan:
    """What will be packed, in what order."""

    dataset: str
    split: str
    annotations: Annotations
    shards: Sequence[np.ndarray]
    """Numbers of the records in each shard."""
    settings: Mapping[str, Any]
    """Every option that shapes the bytes."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all of it; differs between two plans."""
        a = self.annotations
        head = [1, self.dataset, self.split, a.classes, a.flip_pairs, a.levels, dict(self.settings)]
        digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
        for r in a.records:
            line = f"{r.key}\0{r.source}\0{r.label}\0{r.start_seconds}\0{r.end_seconds}\0{r.level_labels}\n"
            if r.labels is not None:
                line += f"{r.labels}\0{r.timed_labels}\n"
            digest.update(line.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def recorded_settings(directory: Path) -> Mapping[str, Any]:
    """Return the settings by which a folder is packed already, completely or in part; none for a new folder."""
    if (directory / MANIFEST).is_file():
        return load_manifest(directory).settings
    with contextlib.suppress(OSError, ValueError):
        return _read_plan(directory)["settings"]
    return {}


def _read_plan(directory: Path) -> Mapping[str, Any]:
    """Return what .parts/plan.json says. Raises UserError if it is damaged."""
    path = directory / PARTS / _PLAN
    try:
        values = parse_json(path.read_bytes())
        if isinstance(values, dict) and isinstance(values["settings"], dict):
            return {"plan": values["plan"], "settings": values["settings"]}
        raise ValueError("no object")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: damaged ({error}); remove {directory} and pack it again") from error


@contextlib.contextmanager
def claim_folder(directory: Path, plan: PackPlan, retry_failed: bool) -> Iterator[Manifest | None]:
    """Make the folder ready for this plan, for this process alone; yield the manifest if nothing is left to do.

    Raises UserError if it holds something else, or another process is packing there.
    """
    manifest = _complete_manifest(directory, plan)
    parts = directory / PARTS
    others = [path for path in directory.iterdir() if path != parts] if directory.is_dir() else []
    if others and not (parts / _PLAN).is_file() and not manifest:
        raise UserError(f"--out {directory}: holds other files; give an empty or a new folder")
    if manifest and not (retry_failed and manifest.failures):
        remove_leftovers(directory)
        yield manifest
        return
    with prepare_parts(directory):
        manifest = _complete_manifest(directory, plan)  # again: another process may have completed it in the meantime
        if manifest and not (retry_failed and manifest.failures):
            yield manifest
            return
        if not manifest and (parts / _PLAN).is_file():
            _same_plan(directory, _read_plan(directory)["plan"], plan.fingerprint)
        write_plan(directory, plan)  # before anything is removed: a folder with files and no plan is nobody's
        if manifest:
            _reopen(directory, plan)
        yield None


def write_plan(directory: Path, plan: PackPlan) -> None:
    """Declare what may be packed in a folder, of which `prepare_parts` has been entered."""
    values = {"plan": plan.fingerprint, "settings": dict(plan.settings)}
    write_atomically(directory / PARTS / _PLAN, json.dumps(values))


def _complete_manifest(directory: Path, plan: PackPlan) -> Manifest | None:
    """Return the manifest if the split is complete, else None. Raises UserError if it is of another plan."""
    if not (directory / MANIFEST).is_file():
        return None
    manifest = load_manifest(directory)
    _same_plan(directory, manifest.plan, plan.fingerprint)
    return manifest


def remove_leftovers(directory: Path) -> None:
    """Remove the parts of a complete split, which a process that was killed at its very end may have left."""
    if (directory / PARTS).is_dir():
        with contextlib.suppress(OSError, UserError), prepare_parts(directory):  # nothing depends on it
            pass


def is_being_packed(directory: Path) -> bool:
    """Return whether `pack` has begun here, and not finished."""
    return (directory / PARTS / _PLAN).is_file()


@contextlib.contextmanager
def prepare_parts(directory: Path) -> Iterator[None]:
    """Make the folder of parts, for this process alone, without what killed workers left there; in the end, remove it
    if the split is complete.

    Raises:
        UserError: it cannot be made, or another process has it.
    """
    parts = directory / PARTS
    try:
        parts.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=parts).close()
    except OSError as error:
        raise UserError(f"--out {directory}: cannot be written: {error.strerror}; give another folder") from error
    try:
        with locked(parts / _LOCK, wait=False) as free:
            if not free:
                raise UserError(f"--out {directory}: another process is packing there; wait for it")
            for leftover in parts.glob("work-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            try:
                yield
            finally:
                if (directory / MANIFEST).is_file():
                    shutil.rmtree(parts, ignore_errors=True)  # the split is complete, whatever is left of them
    finally:
        with contextlib.suppress(OSError):  # not empty, unless it was the open lock that could not be removed (NFS)
            parts.rmdir()


def empty_folder(directory: Path) -> None:
    """Remove all that is in a folder, but the lock of `prepare_parts`, which has been entered."""
    kept = {directory / PARTS, directory / PARTS / _LOCK}
    for path in (*directory.iterdir(), *(directory / PARTS).iterdir()):
        if path in kept:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


Part = Mapping[str, Any]
"""What is known of a finished shard; see `sharding.packing.shard.read_part`."""


def parts_of(directory: Path, num_shards: int) -> Iterator[Part]:
    """Yield what the shards' part files say, in order."""
    return (_part(directory, shard) for shard in range(num_shards))


def write_failures(directory: Path, parts: Iterable[Part]) -> None:
    failures = (failure for part in parts for failure in part["failures"])
    write_atomically(directory / FAILURES, "".join(json.dumps(failure) + "\n" for failure in failures))


def complete(directory: Path, plan: PackPlan, parts: Iterable[Part]) -> Manifest:
    """Join the parts, which `prepare_parts` removes, into the table, and say in the manifest that this is complete."""
    annotations = plan.annotations
    profile, levels = plan.settings["profile"], [level for level, _ in annotations.levels]
    has_one_label = annotations.has_labels and not annotations.multi_label
    schema = table_schema(levels, annotations.multi_label)
    with write_frame_index(directory, directory / PARTS) as index:
        shards, num_failures = _write_table(directory, parts, schema, profile, index)
    values = {
        "format_version": FORMAT_VERSION if has_one_label else NEWEST_FORMAT_VERSION,
        "multi_label": annotations.multi_label,
        "dataset": plan.dataset,
        "split": plan.split,
        "profile": profile,
        "classes": annotations.classes,
        "flip_pairs": annotations.flip_pairs,
        "levels": dict(annotations.levels),
        "shards": tuple(shards),
        "samples": sum(shard.samples for shard in shards),
        "bytes": sum(shard.bytes for shard in shards),
        "settings": dict(plan.settings),
    }
    manifest = Manifest(
        **values,
        failures=num_failures,
        fingerprint=fingerprint_of(values),
        plan=plan.fingerprint,
        table_sha256=file_sha256(directory / TABLE),
        **manifest_values(index),
    )
    write_atomically(directory / MANIFEST, manifest.to_json())
    return manifest


def _same_plan(directory: Path, recorded: str, fingerprint: str) -> None:
    if recorded != fingerprint:
        raise UserError(
            f"--out {directory}: already holds another dataset, or this one packed with other options "
            f"(plan {recorded[:16]}, not {fingerprint[:16]}); give another folder, or remove this one"
        )


def _reopen(directory: Path, plan: PackPlan) -> None:
    """Turn a complete split into finished shards that are not joined, so that failed videos can be tried again.

    Wherever it is stopped, the split is complete, or its plan and all parts are there.
    """
    manifest = load_manifest(directory)
    failures = {failure["key"]: failure for failure in read_json_lines(directory / FAILURES)}
    rows = iter(pq.read_table(directory / TABLE).to_pylist())
    for number, shard in enumerate(manifest.shards):
        keys = (plan.annotations.records[i].key for i in plan.shards[number])
        index = (directory / shard.name).with_suffix(".idx")
        part = {
            "name": shard.name,
            "bytes": shard.bytes,
            "sha256": shard.sha256,
            "index_sha256": file_sha256(index) if index.is_file() else "",
            "rows": [next(rows) for _ in range(shard.samples)],
            "failures": [failures[key] for key in keys if key in failures],
        }
        write_part(directory, number, part)
    (directory / MANIFEST).unlink()
    (directory / TABLE).unlink()
    (directory / FRAMES).unlink(missing_ok=True)


def _write_table(
    directory: Path, parts: Iterable[Part], schema: pa.Schema, profile: str, index: FrameIndexWriter
) -> tuple[list[Shard], int]:
    """Write samples.parquet and frames.npy in the order of the shards, some thousand rows at a time.

    Return the shards and the number of failures.
    """
    shards, rows, num_failures = [], [], 0
    written = directory / PARTS / TABLE  # what a killed process leaves there goes with the parts
    with replacing(written) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for part in parts:
            shards.append(Shard(part["name"], len(part["rows"]), part["bytes"], part["sha256"]))
            num_failures += len(part["failures"])
            rows += part["rows"]
            for row in part["rows"]:
                known = "frame_offsets" in row  # not in parts that version 0.1 or a complete split left
                found = (row["frame_offsets"], row["codec_parameters"]) if known else None
                index.add(row["num_frames"], *(found or index_of_row(directory, row, part["name"], profile)))
            if len(rows) >= _ROWS_A_GROUP:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                rows = []
        if rows or not any(shard.samples for shard in shards):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    written.replace(directory / TABLE)
    return shards, num_failures


def _part(directory: Path, shard: int) -> dict[str, Any]:
    part = read_part(directory, shard)
    if part is None:
        raise RuntimeError(f"{part_path(directory, shard)}: vanished while packing")
    return part
