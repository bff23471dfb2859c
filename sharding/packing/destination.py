"""Where a split is packed to: a folder, or object storage (`sharding.objects.split`)."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sharding.manifest import FAILURES, Manifest
from sharding.packing.shard import ShardResult, ShardTask, pack_shard
from sharding.packing.split_folder import PackPlan, claim_folder, complete, parts_of, write_failures
from sharding.parallel import run_in_workers


class Destination(Protocol):
    """A place for one split; it is claimed, then shards are packed, then it is complete."""

    @property
    def directory(self) -> Path:
        """The folder that tasks are for: of the split, or of what is to be uploaded."""
        ...

    @property
    def url(self) -> str:
        """Where the split is, if that is object storage."""
        ...

    def claim(self) -> AbstractContextManager[Manifest | None]:
        """Return a context in which the place is for this plan; with the manifest if nothing is left to do."""
        ...

    def unfinished(self, tasks: Iterable[ShardTask]) -> Iterator[ShardTask]:
        """Yield the tasks of shards that are not known to be finished."""
        ...

    def pack(self, tasks: Iterable[ShardTask], workers: int) -> Iterator[ShardResult]:
        """Yield the result of every task as they come, finished ones among them."""
        ...

    def write_failures(self) -> str:
        """Write the list of failures; return where it is."""
        ...

    def complete(self) -> Manifest:
        """Join what was packed, and write the manifest last."""
        ...


@dataclass(frozen=True)
class FolderDestination:
    """The folder of a split."""

    directory: Path
    plan: PackPlan
    retry_failed: bool
    url = ""

    def claim(self) -> AbstractContextManager[Manifest | None]:
        return claim_folder(self.directory, self.plan, self.retry_failed)

    def unfinished(self, tasks: Iterable[ShardTask]) -> Iterator[ShardTask]:
        return iter(tasks)

    def pack(self, tasks: Iterable[ShardTask], workers: int) -> Iterator[ShardResult]:
        return run_in_workers(pack_shard, tasks, workers, ordered=False)

    def write_failures(self) -> str:
        write_failures(self.directory, parts_of(self.directory, len(self.plan.shards)))
        return str(self.directory / FAILURES)

    def complete(self) -> Manifest:
        return complete(self.directory, self.plan, parts_of(self.directory, len(self.plan.shards)))
