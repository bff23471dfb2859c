"""How many samples make up a shard of so many bytes: measured on a few videos of the order."""

import contextlib
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sharding.errors import UserError
from sharding.packing.partition import plan_shards
from sharding.packing.profiles import EncodedSample, ProfileSettings
from sharding.packing.sandbox import Limits, Sandbox
from sharding.packing.shard import requests_of
from sharding.packing.video_store import VideoStore
from sharding.records import VideoRecord

_MEASURED_VIDEOS = 32
_BYTES_OF_HEADERS = 3 * 1024  # of a sample in a tar, with its label and description
_SAMPLES_IF_ALL_FAIL = 16


def samples_for_bytes(
    shard_bytes: int,
    store: VideoStore,
    records: Sequence[VideoRecord],
    settings: ProfileSettings,
    limits: Limits,
    seed: int,
) -> int:
    """Encode the first videos of the order, and return how many make up `shard_bytes`.

    Raises:
        UserError: they can only be had in the order of their archive.
    """
    [first, *_] = plan_shards(len(records), _MEASURED_VIDEOS, seed)
    chosen = [records[i] for i in first]
    if any(store.is_streamed(record.source) for record in chosen):
        raise UserError("--shard-bytes: the first videos of a .tar.gz cannot be measured; give --samples-per-shard")
    sandbox = Sandbox(limits)
    with tempfile.TemporaryDirectory() as work, contextlib.closing(sandbox):
        outcomes = sandbox.encode_all(requests_of(store, chosen, settings, Path(work)))
        sizes = [outcome.media.stat().st_size for outcome in outcomes if isinstance(outcome, EncodedSample)]
    if not sizes:
        return _SAMPLES_IF_ALL_FAIL
    return max(1, round(shard_bytes / (statistics.mean(sizes) + _BYTES_OF_HEADERS)))
