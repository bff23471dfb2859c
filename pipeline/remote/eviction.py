"""The folder of shards on the local disk that processes share: what is there, what goes first, and who may touch it.

    CACHE/.lock                                  held while shards are evicted
    CACHE/FINGERPRINT/shard-000000.tar           complete: its SHA-256 was the manifest's
    CACHE/FINGERPRINT/shard-000000.tar.checked   size, time and hash at that moment; its own time is the last use
    CACHE/FINGERPRINT/shard-000000.tar.lock      held by whoever checks, fetches or removes the shard
    CACHE/FINGERPRINT/shard-000000.tar.N.partial the beginning of a shard of N bytes

All locks are flock(2), which the kernel gives back when a process dies. Whoever reads a shard holds it open, and Linux
keeps an open file readable although its name is removed, so any shard may be removed at any time.
"""

import contextlib
import json
import os
import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from sharding.files import locked, write_atomically
from sharding.manifest import Shard

_FOLDER = re.compile("[0-9a-f]{64}")
_PARTIAL = re.compile(r"(.+\.tar)\.(\d+)\.partial")


@dataclass(frozen=True)
class Entry:
    """A shard in the cache, complete or begun."""

    path: Path
    shard: Path
    """Its path when it is complete."""
    num_bytes: int
    """When it is complete."""
    last_use: int
    """In nanoseconds since 1970."""

    def remove(self) -> bool:
        """Remove it unless it is being fetched or checked."""
        with locked(lock_of(self.shard), wait=False) as free:
            if free:
                record_of(self.shard).unlink(missing_ok=True)
                self.path.unlink(missing_ok=True)
            return free


def find_entries(root: Path) -> list[Entry]:
    """Return all shards in a cache; other files there are none of its business."""
    entries = []
    for folder in root.iterdir():
        if not _FOLDER.fullmatch(folder.name) or not folder.is_dir():
            continue
        status = {}
        with os.scandir(folder) as files:
            for file in files:
                with contextlib.suppress(FileNotFoundError):
                    status[file.name] = file.stat()
        for name, of_file in status.items():
            path = folder / name
            if name.endswith(".tar"):
                used = status.get(record_of(path).name, of_file).st_mtime_ns
                entries.append(Entry(path, path, of_file.st_size, used))
            elif begun := _PARTIAL.fullmatch(name):
                entries.append(Entry(path, folder / begun[1], int(begun[2]), of_file.st_mtime_ns))
    return entries


def evict(root: Path, num_bytes: int, max_bytes: int, keep: Collection[Path], *, sparing: bool) -> bool:
    """Remove shards, the least recently used first, until `num_bytes` more make `max_bytes` or less.

    Args:
        root: the cache, locked by the caller.
        num_bytes: to be added.
        max_bytes: allowed together.
        keep: shards that go last.
        sparing: those do not go at all.

    Returns:
        Whether there is space now.
    """
    entries = sorted(find_entries(root), key=lambda entry: (entry.shard in keep, entry.last_use))
    excess = sum(entry.num_bytes for entry in entries) + num_bytes - max_bytes
    for entry in entries:
        if excess <= 0 or (sparing and entry.shard in keep):
            break
        if entry.remove():
            excess -= entry.num_bytes
    return excess <= 0


def record_use(path: Path) -> None:
    """Make now the last use of a shard."""
    now = time.time_ns()
    with contextlib.suppress(FileNotFoundError):  # the shard was removed just now
        os.utime(record_of(path), ns=(now, now))


def record_whole(path: Path, shard: Shard) -> None:
    """Record that a file was found to be the shard, until it changes."""
    write_atomically(record_of(path), json.dumps(_state(path, shard)))


def is_recorded(path: Path, shard: Shard) -> bool:
    """Return whether a file is, unchanged, one that was recorded as the shard."""
    try:
        return json.loads(record_of(path).read_bytes()) == _state(path, shard)
    except (OSError, ValueError):
        return False


def _state(path: Path, shard: Shard) -> dict[str, object]:
    status = path.stat()
    return {"sha256": shard.sha256, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def partial_of(path: Path, num_bytes: int) -> Path:
    """Return where a shard is fetched to; the name says how much space it will take."""
    return path.with_name(f"{path.name}.{num_bytes}.partial")


def record_of(path: Path) -> Path:
    return path.with_name(path.name + ".checked")


def lock_of(path: Path) -> Path:
    return path.with_name(path.name + ".lock")
