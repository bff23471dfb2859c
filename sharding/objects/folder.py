"""A folder in object storage as packing uses it: listed once, files fetched and checked, and uploaded whole or not.

folder = open_folder("s3://bucket/k400")
files = folder.list_files()
folder.fetch("train/run/v1.mp4", Path("copy.mp4"), files["train/run/v1.mp4"])
folder.upload(Path("shard-000000.tar"), "packed/shard-000000.tar")
"""

import base64
import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from sharding.errors import UserError, redacted
from sharding.files import file_sha256, hash_rest
from sharding.objects.failures import Failure, failure_of
from sharding.objects.transport import RemoteError, RemoteFolder, RetryPolicy

log = logging.getLogger(__name__)

WRITABLE = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")
"""Protocols of object stores, in which a file appears when all of it has arrived, and that list what they hold."""
RETRY = RetryPolicy()
_PART_BYTES = 16 << 20  # of an upload in parts; a file of less than two parts is sent in one piece
_PARTS_AT_ONCE = 4
_LONGEST_UPLOAD = timedelta(days=1)  # of a file, in any network that shards are packed through
_DAMAGED_DOWNLOADS = 3
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in object storage, by what the store says of it."""

    bytes: int
    stamp: str
    """Changes with the content: the store's tag, or time and size where it has none."""
    md5: str = ""
    """Of its content, hexadecimal, where the store seems to say it: the tag of an encrypted file may only look so."""


class ObjectFolder(RemoteFolder):
    """The files under a URL in object storage, or on a web server, which can neither be listed nor written.

    Every method repeats what fails in passing by the rules of its RetryPolicy, and raises RemoteError, one line with
    the file and what to do.
    """

    missing_remedy = "check the URL, and that its bucket is there"
    _has_other_tags = False
    """Whether tags were seen that look like an MD5 and are another."""

    @property
    def is_listed(self) -> bool:
        """Return whether the store lists its files."""
        return self.protocol not in ("http", "https")

    def list_files(self) -> dict[str, StoredFile]:
        """Return all files below the folder, by path."""
        start = f"{self._root}/"
        found = self._attempt("", lambda: self._list())
        files = {path[len(start) :]: entry for path, entry in found.items() if path.startswith(start)}
        return {
            path: _stored(entry) for path, entry in sorted(files.items()) if path and entry.get("type") != "directory"
        }

    def info(self, name: str) -> StoredFile:
        return self._attempt(name, lambda: _stored(self._filesystem.info(self._path_of(name))))

    def fetch(self, name: str, target: Path, expected: StoredFile | None, max_bytes: int) -> None:
        """Download a file, which must be the one that was listed.

        Raises:
            MissingError: there is no such file, or not for everybody.
            RemoteError: it could not be had, or has changed.
            OSError: of `target`.
        """
        seen: set[str] = set()
        while True:
            with target.open("w+b") as file:
                size = None if expected is None else expected.bytes
                self.download(name, file, num_bytes=size, max_bytes=max_bytes)
                file.seek(0)
                md5 = hash_rest(file, algorithm="md5").hexdigest() if expected is not None and expected.md5 else ""
            if expected is None or (md5 and md5 == expected.md5):
                return
            if not md5 or self._has_other_tags:
                break
            if md5 in seen:  # twice the same bytes: it is the tag that is no MD5
                self._has_other_tags = True
                break
            seen.add(md5)
            if len(seen) == _DAMAGED_DOWNLOADS:
                raise RemoteError(f"{self.name_of(name)}: other bytes come each time; check the network and the store")
        if self.info(name).stamp != expected.stamp:
            raise RemoteError(f"{self.name_of(name)}: changed since it was listed; run this again")

    def upload(self, path: Path, name: str) -> StoredFile:
        """Upload a file, and check that what has arrived is what was sent; what is damaged is removed."""
        sent = _Sent(path.stat().st_size, _md5_of_parts(path))

        def send() -> StoredFile:
            self._put(path, name)
            stored = _stored(self._filesystem.info(self._path_of(name)))
            if not sent.is_like(stored) and not self._is_there(path, name, stored):
                self._remove(name)
                raise Failure("other bytes have arrived than were sent")
            return stored

        return self._attempt(name, send)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are gone already are no error."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._attempt(name, lambda name=name: self._remove(name))

    def end_uploads(self) -> None:
        """End the uploads in parts that a killed process began here: nobody sees the parts, but somebody pays.

        A day after they began they are taken for such; those of another machine that packs the same now go on.
        """
        if self.protocol not in ("s3", "s3a"):
            return
        try:
            bucket, key, _ = self._filesystem.split_path(self._root)
            dead = datetime.now(timezone.utc) - _LONGEST_UPLOAD
            for upload in self._filesystem.list_multipart_uploads(bucket):
                if upload["Key"].startswith(f"{key}/") and upload["Initiated"] < dead:
                    which = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                    self._filesystem.call_s3("abort_multipart_upload", **which)
        except Exception as error:  # a right that not everybody has, and nothing depends on it
            log.info("%s: uploads in parts not looked at: %s", self, redacted(str(error)))

    def _attempt(self, name: str, action: Callable[[], _Result]) -> _Result:
        failures = 0
        while True:
            try:
                return action()
            except Exception as error:  # the libraries of the stores have no common class of errors
                failure = error if isinstance(error, Failure) else failure_of(error, self.missing_remedy)
                failures += 1
                self._give_up_or_wait(name, failure, failures)

    def _list(self) -> dict[str, dict[str, Any]]:
        try:
            return self._filesystem.find(self._root, detail=True)
        except FileNotFoundError:
            self._filesystem.ls(self._root.partition("/")[0])  # raises where there is no bucket
            return {}

    def _put(self, path: Path, name: str) -> None:
        is_s3 = self.protocol in ("s3", "s3a")
        options = {"chunksize": _PART_BYTES, "max_concurrency": _PARTS_AT_ONCE} if is_s3 else {}
        self._filesystem.put_file(str(path), self._path_of(name), **options)

    def _is_there(self, path: Path, name: str, stored: StoredFile) -> bool:
        """Return whether a file arrived, by reading it back: for stores that say no checksum that is known here."""
        if stored.bytes != path.stat().st_size:
            return False
        digest = hashlib.sha256()
        for start in range(0, stored.bytes, _PART_BYTES):
            stop = min(start + _PART_BYTES, stored.bytes)
            digest.update(self._filesystem.cat_file(self._path_of(name), start=start, end=stop))
        return digest.hexdigest() == file_sha256(path)

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._filesystem.rm_file(self._path_of(name))


@dataclass(frozen=True)
class _Sent:
    """What a store should say of a file that was uploaded."""

    num_bytes: int
    md5_of_parts: list[bytes]

    def is_like(self, stored: StoredFile) -> bool:
        if stored.bytes != self.num_bytes:
            return False
        if self.num_bytes < 2 * _PART_BYTES:
            return stored.md5 == self.md5_of_parts[-1].hex()
        joined = hashlib.md5(b"".join(self.md5_of_parts[:-1]), usedforsecurity=False).hexdigest()
        return stored.stamp == f"{joined}-{len(self.md5_of_parts) - 1}" or stored.md5 == self.md5_of_parts[-1].hex()


@lru_cache(maxsize=16)
def open_folder(url: str) -> ObjectFolder:
    """Return the folder at a URL, the same for all who ask in this process, so that they share its connections."""
    return ObjectFolder(url, RETRY)


def check_writable_url(url: str) -> None:
    """Raise UserError if nothing can be packed there."""
    protocol = url.partition("://")[0]
    if redacted(url) != url:
        raise UserError(
            f"--out {redacted(url)}: without user, password and query; give credentials in the environment or in "
            "fsspec's configuration"
        )
    if protocol in ("http", "https"):
        raise UserError(f"--out {url}: a web server can be read, not written; give s3://, gs:// or abfs://")
    if protocol not in WRITABLE:
        raise UserError(f"--out {url}: no object storage; give a folder, or s3://, gs:// or abfs://")


def _stored(entry: dict[str, Any]) -> StoredFile:
    size = int(entry.get("size") or 0)
    tag = str(entry.get("ETag") or entry.get("etag") or "").strip('"')
    times = [str(entry[field]) for field in ("LastModified", "updated", "last_modified", "mtime") if entry.get(field)]
    stamp = tag or "-".join([str(size), *times[:1]])
    encoded = entry.get("md5Hash") or (entry.get("content_settings") or {}).get("content_md5")
    if encoded:
        md5 = bytes(encoded).hex() if isinstance(encoded, (bytes, bytearray)) else base64.b64decode(encoded).hex()
    else:
        md5 = tag.lower() if len(tag) == 32 and all(letter in "0123456789abcdef" for letter in tag.lower()) else ""
    return StoredFile(size, stamp, md5)


def _md5_of_parts(path: Path) -> list[bytes]:
    """Return the MD5 of each part of a file as it is uploaded, and last that of all of it."""
    complete, parts = hashlib.md5(usedforsecurity=False), []
    with path.open("rb") as file:
        while block := file.read(_PART_BYTES):
            complete.update(block)
            parts.append(hashlib.md5(block, usedforsecurity=False).digest())
    return [*parts, complete.digest()]
