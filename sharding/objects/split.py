"""A split in object storage while it is packed: what is finished there, and how it becomes complete.

URL/.parts/plan.json                what may be packed there, written first, which also shows that it can be written
URL/.parts/shard-000000.json        for each finished shard; see `sharding.objects.shards`
URL/samples.parquet, frames.npy, failures.jsonl, and last manifest.json; then .parts vanishes
"""

import contextlib
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharding.errors import UserError
from sharding.files import parse_json
from sharding.manifest import FAILURES, FRAMES, MANIFEST, MAX_MANIFEST_BYTES, TABLE, Manifest, parse_manifest
from sharding.objects.folder import ObjectFolder, StoredFile, open_folder
from sharding.objects.shards import UploadTask, pack_and_upload, read_finished
from sharding.objects.transport import MissingError
from sharding.packing.shard import ShardResult, ShardTask, write_part
from sharding.packing.split_folder import (
    PackPlan,
    complete,
    empty_folder,
    parts_of,
    prepare_parts,
    write_failures,
    write_plan,
)
from sharding.packing.spool import PARTS
from sharding.parallel import run_in_workers

_PLAN = f"{PARTS}/plan.json"
_PART = re.compile(re.escape(PARTS) + r"/shard-[0-9]{6,}\.json")
_MAX_PLAN_BYTES = 1 << 20
_READ_AT_ONCE = 16


@dataclass(frozen=True)
class ObjectDestination:
    """A split below a URL, and the folder here for what is to be uploaded; see `sharding.packing.destination`."""

    url: str
    directory: Path
    """The `split_folder` of `work_dir`."""
    work_dir: Path | None
    plan: PackPlan
    retry_failed: bool
    _parts: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Of the shards that were found finished."""

    @property
    def _folder(self) -> ObjectFolder:
        return open_folder(self.url)

    @contextlib.contextmanager
    def claim(self) -> Iterator[Manifest | None]:
        try:
            with self._claimed() as manifest:
                yield manifest
        finally:
            for folder in (self.directory, self.directory.parent):
                with contextlib.suppress(OSError):  # not empty: what is kept for the next run, or another split
                    folder.rmdir()

    @contextlib.contextmanager
    def _claimed(self) -> Iterator[Manifest | None]:
        files, manifest = self._look()
        if manifest:
            yield manifest
            return
        with prepare_parts(self.directory):
            files, manifest = self._look()  # again: another process of this machine may have packed in the meantime
            if manifest:
                shutil.rmtree(self.directory, ignore_errors=True)
                yield manifest
                return
            if self._is_stale():
                empty_folder(self.directory)
            write_plan(self.directory, self.plan)
            self._folder.end_uploads()
            self._folder.upload(self.directory / _PLAN, _PLAN)
            self._find_finished(files)
            yield None

    def _look(self) -> tuple[dict[str, StoredFile], Manifest | None]:
        """Return the files that are there, and the manifest if they are complete. Raises UserError for other files."""
        files = self._folder.list_files()
        manifest = self._complete_manifest() if MANIFEST in files else None
        if manifest:
            self._folder.remove(path for path in files if path.startswith(f"{PARTS}/"))
        elif _PLAN in files:
            self._check_plan(_read_json(self._folder, _PLAN)["plan"])
        elif files:
            raise UserError(f"--out {self.url}: holds other files; give a URL below which there is nothing")
        return files, manifest

    def unfinished(self, tasks: Iterable[ShardTask]) -> Iterator[ShardTask]:
        return (task for task in tasks if not self._is_kept(task.shard))

    def pack(self, tasks: Iterable[ShardTask], workers: int) -> Iterator[ShardResult]:
        """Workers upload their shards themselves, and give back what the table needs."""
        for shard, part in self._parts.items():
            if self._is_kept(shard):
                yield ShardResult(shard, len(part["rows"]), len(part["failures"]), kept=True)
        left = self.unfinished(tasks)
        uploads = (UploadTask(task, self.url, self.work_dir, self._parts.get(task.shard)) for task in left)
        for packed in run_in_workers(pack_and_upload, uploads, workers, ordered=False):
            write_part(self.directory, packed.result.shard, packed.part)
            yield packed.result

    def write_failures(self) -> str:
        write_failures(self.directory, parts_of(self.directory, len(self.plan.shards)))
        self._folder.upload(self.directory / FAILURES, FAILURES)
        return self._folder.name_of(FAILURES)

    def complete(self) -> Manifest:
        manifest = complete(self.directory, self.plan, parts_of(self.directory, len(self.plan.shards)))
        for name in (TABLE, FRAMES, MANIFEST):
            self._folder.upload(self.directory / name, name)
        self._folder.remove(path for path in self._folder.list_files() if path.startswith(f"{PARTS}/"))
        shutil.rmtree(self.directory, ignore_errors=True)
        return manifest

    def _is_stale(self) -> bool:
        """Return whether what is here is of no use: of another plan, or complete, which the split there is not."""
        if not (self.directory / MANIFEST).is_file():
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                if parse_json((self.directory / _PLAN).read_bytes())["plan"] == self.plan.fingerprint:
                    return False
        return True

    def _is_kept(self, shard: int) -> bool:
        part = self._parts.get(shard)
        return part is not None and not (self.retry_failed and part["failures"])

    def _complete_manifest(self) -> Manifest:
        manifest = parse_manifest(self._folder.read(MANIFEST, MAX_MANIFEST_BYTES), self._folder.name_of(MANIFEST))
        self._check_plan(manifest.plan)
        if self.retry_failed and manifest.failures:
            raise UserError(
                f"--out {self.url}: complete, and --retry-failed is for a folder, or for what is not complete; copy it "
                "into a folder and retry there, or pack it again below another URL"
            )
        return manifest

    def _check_plan(self, recorded: str) -> None:
        if recorded != self.plan.fingerprint:
            raise UserError(
                f"--out {self.url}: already holds another dataset, or this one packed with other options "
                f"(plan {recorded[:16]}, not {self.plan.fingerprint[:16]}); give another URL, or remove what is there"
            )

    def _find_finished(self, files: dict[str, StoredFile]) -> None:
        """Read the parts of all shards that are there as they were uploaded."""
        names = [name for name in files if _PART.fullmatch(name)]
        with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
            work = self.directory / PARTS
            for found in pool.map(lambda name: read_finished(self._folder, name, files, work), names):
                if found and found[0] < len(self.plan.shards):
                    shard, part = found
                    self._parts[shard] = part
                    write_part(self.directory, shard, part)


def recorded_settings_at(url: str) -> Mapping[str, Any]:
    """Return the settings by which a split is packed already, completely or in part; none if nothing is there."""
    folder = open_folder(url)
    with contextlib.suppress(MissingError):
        return parse_manifest(folder.read(MANIFEST, MAX_MANIFEST_BYTES), folder.name_of(MANIFEST)).settings
    with contextlib.suppress(MissingError):
        return _read_json(folder, _PLAN)["settings"]
    return {}


def _read_json(folder: ObjectFolder, name: str) -> dict[str, Any]:
    """Return what a plan says. Raises UserError if it is damaged."""
    try:
        values = parse_json(folder.read(name, _MAX_PLAN_BYTES))
        if isinstance(values, dict) and isinstance(values["settings"], dict) and isinstance(values["plan"], str):
            return values
        raise ValueError("no object")
    except (ValueError, KeyError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder.name_of(name)}: damaged ({error}); remove what is there and pack it again") from error
