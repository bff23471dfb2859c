"""Open a packed dataset wherever it is: in a folder, in object storage or on a web server.

    dataset = open_dataset("s3://bucket/k400/train", cache_dir="/nvme/vpsn", cache_bytes=500 * 10**9)

Of a remote dataset the manifest, the table and the quarantine are fetched when it is opened, the shards when they are
read or ahead of that. It must be reachable whenever it is opened, also if all of it is in the cache: only the server
knows whether it has changed, and all machines of a run must see the same.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pipeline.config import is_remote
from pipeline.remote.cache import ShardCache
from pipeline.remote.transport import MissingError, RemoteError, RemoteFolder, RetryPolicy
from sharding.dataset import PackedDataset, load_dataset, load_table, max_frames_bytes, read_shards_url
from sharding.errors import UserError
from sharding.files import file_sha256, locked, replacing, write_atomically
from sharding.manifest import (
    FRAMES,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    QUARANTINE,
    TABLE,
    Manifest,
    load_manifest,
    parse_manifest,
)

DEFAULT_CACHE_BYTES = 100 * 10**9

# What a server may send at most of files of which no length is known.
MAX_QUARANTINE_BYTES = 64 << 20
_TABLE_BYTES = 4 << 20
_TABLE_BYTES_OF_A_ROW = 4096  # a key and the path of a video are of 255 bytes each in most file systems
_DAMAGED_MANIFESTS = 3


def open_dataset(
    location: str | Path,
    cache_dir: str | Path | None = None,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
    retry: RetryPolicy | None = None,
) -> PackedDataset:
    """Open a packed split and make the cheap checks of `load_dataset`.

    Args:
        location: the folder that holds manifest.json, or its URL: s3://, gs://, https:// or another that fsspec knows.
            A folder whose shards are elsewhere says so in shards.url; see `sharding.index`.
        cache_dir: a folder for what is fetched, best on a fast local disk; see `default_cache_dir`.
        cache_bytes: of shards, at most, in that folder, whichever datasets they belong to.
        retry: how long a server is bothered before it is given up.

    Raises:
        UserError: of it RemoteError if it could not be fetched.
    """
    if not is_remote(location):
        url = read_shards_url(Path(location))
        if url is None:
            return load_dataset(location)
        dataset, remote = load_table(location), RemoteFolder(url, retry)
        with _cache_of(dataset.manifest, cache_dir) as directory:
            return replace(dataset, shard_source=ShardCache(remote, directory, dataset.manifest.shards, cache_bytes))
    remote = RemoteFolder(str(location), retry)
    manifest = _fetch_manifest(remote)
    with _cache_of(manifest, cache_dir) as directory, locked(directory / ".lock"):
        dataset = _fetch_table(remote, manifest, directory, max(cache_bytes, _TABLE_BYTES))
    return replace(dataset, shard_source=ShardCache(remote, directory, manifest.shards, cache_bytes))


@contextmanager
def _cache_of(manifest: Manifest, cache_dir: str | Path | None) -> Iterator[Path]:
    """Yield the folder in the cache for a dataset; that it cannot be written is a UserError."""
    root = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
    directory = root.absolute() / manifest.fingerprint
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if directory.is_symlink():
            raise UserError(f"{directory}: a link in the cache, which could lead anywhere; remove it")
        yield directory
    except OSError as error:
        raise UserError(f"{error.filename or directory}: {error.strerror}; the cache must be writable") from error


def read_manifest(location: str | Path) -> Manifest:
    """Return the manifest of a packed split, wherever it is. Raises UserError."""
    return _fetch_manifest(RemoteFolder(str(location))) if is_remote(location) else load_manifest(Path(location))


def default_cache_dir() -> Path:
    """Return $VPSN_CACHE, or vpsn in the user's folder of caches ($XDG_CACHE_HOME or ~/.cache)."""
    if own := os.environ.get("VPSN_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vpsn"


def _fetch_manifest(remote: RemoteFolder) -> Manifest:
    """Return the manifest, if it is as it was when its fingerprint was made; else it is fetched again, a few times."""
    problem: UserError | None = None
    for _ in range(_DAMAGED_MANIFESTS):
        content = remote.read(MANIFEST, MAX_MANIFEST_BYTES)
        try:
            return parse_manifest(content, remote.name_of(MANIFEST))
        except UserError as error:
            problem = error
    assert problem is not None
    raise problem


def _fetch_table(remote: RemoteFolder, manifest: Manifest, directory: Path, cache_bytes: int) -> PackedDataset:
    """Make the folder, which the caller has locked, that of the dataset without its shards, and open it."""
    table = directory / TABLE
    if not _is_whole(table, manifest):
        max_bytes = min(_TABLE_BYTES + manifest.samples * _TABLE_BYTES_OF_A_ROW, cache_bytes)
        _fetch_file(remote, table, manifest.table_sha256, max_bytes)
    try:
        if manifest.frames_sha256 and not _has_hash(directory / FRAMES, manifest.frames_sha256):
            max_bytes = min(max_frames_bytes(directory, manifest), cache_bytes)
            _fetch_file(remote, directory / FRAMES, manifest.frames_sha256, max_bytes)
        try:
            write_atomically(directory / QUARANTINE, remote.read(QUARANTINE, MAX_QUARANTINE_BYTES))
        except MissingError:  # nothing is set aside
            (directory / QUARANTINE).unlink(missing_ok=True)
        write_atomically(directory / MANIFEST, manifest.to_json())
        return load_table(directory)
    except RemoteError:
        raise
    except UserError as error:
        table.unlink(missing_ok=True)  # the next attempt fetches it again
        raise UserError(f"{remote}: {error}, or upload it again") from error


def _is_whole(table: Path, manifest: Manifest) -> bool:
    """Return whether the cached table is that of the manifest; without a hash, what was once complete is."""
    if not table.is_file():
        return False
    if not manifest.table_sha256:
        return (table.parent / MANIFEST).is_file()
    return _has_hash(table, manifest.table_sha256)


def _has_hash(path: Path, digest: str) -> bool:
    return path.is_file() and file_sha256(path) == digest


def _fetch_file(remote: RemoteFolder, path: Path, digest: str, max_bytes: int) -> None:
    with replacing(path) as temporary, temporary.open("w+b") as file:
        remote.download(path.name, file, max_bytes=max_bytes, digest=digest)
