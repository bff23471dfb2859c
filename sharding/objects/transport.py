"""Files of a folder in object storage or on a web server, fetched through fsspec whatever the server does.

The repetitions of the libraries below are turned off, so that the rules of `RetryPolicy` hold; only gcsfs cannot be
configured so, and tries six times within each attempt.
"""

import io
import logging
import math
import random
import re
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, BinaryIO
from urllib.parse import urlsplit, urlunsplit

from sharding.errors import UserError, redacted
from sharding.files import hash_rest
from sharding.objects.failures import Failure, failure_of

logger = logging.getLogger(__name__)

_BLOCK_BYTES = 8 << 20
_DAMAGED_DOWNLOADS = 3
_DOWN_SECONDS = 60


class RemoteError(UserError):
    """A remote file that could not be had; the message says which, why, and after how many attempts."""


class MissingError(RemoteError):
    """There is no such file, or, as some stores answer for a missing one, it is forbidden."""


@dataclass(frozen=True)
class RetryPolicy:
    """How long a server is bothered before it is given up: with the defaults, one to two minutes if it refuses at once.

    The wait after failure n is drawn from the upper half of [0, first_wait_seconds * 2**(n - 1)], that bound never
    being more than longest_wait_seconds.
    """

    attempts: int = 8
    """Failures in a row, without a byte of progress between them, after which a file is given up."""
    first_wait_seconds: float = 1.0
    """Bound of the wait after the first failure."""
    longest_wait_seconds: float = 40.0
    """Bound of every wait."""
    connect_seconds: float = 10.0
    """A connection that has not come about after this long is a failure."""
    stall_seconds: float = 30.0
    """A server that sends nothing for this long is dropped, which is a failure."""

    def wait_seconds(self, failures: int) -> float:
        bound = min(self.longest_wait_seconds, self.first_wait_seconds * 2 ** (failures - 1))
        return bound * random.uniform(0.5, 1)


class RemoteFolder:
    """The files under one URL.

    Args:
        url: any that fsspec knows: s3://bucket/folder, gs://bucket/folder, https://host/folder, ... Options such as an
            endpoint or credentials are taken from where fsspec and the library of the store look for them: the
            environment, ~/.config/fsspec, ~/.aws, ...
        retry: when to give up.

    Raises:
        UserError: a URL of a kind that is unknown, or whose library is not installed.
    """

    missing_remedy = "check the URL"

    def __init__(self, url: str, retry: RetryPolicy | None = None):
        if "***" in url:
            raise UserError(
                f"{url}: its password or token is kept in no file; give the URL again (--data.train=URL, "
                "--data.val=URL), or one without it: fsspec's own configuration and the environment may have it too"
            )
        self.url, self.retry = url.rstrip("/"), retry or RetryPolicy()
        self.protocol = urlsplit(url).scheme
        self._stopped = threading.Event()
        self._gave_up = -math.inf  # when all attempts had come to nothing, and nothing has come since
        self._filesystem, self._root = _open(self.url, self.retry)

    def __reduce__(self):
        return type(self), (self.url, self.retry)

    def __str__(self) -> str:
        return redacted(self.url)

    def name_of(self, name: str) -> str:
        """Return the URL of a file as messages and logs show it."""
        address, mark, query = str(self).partition("?")
        return f"{address}/{name}{mark}{query}"

    def stop(self) -> None:
        """Let running downloads end with a RemoteError, at their next block or attempt."""
        self._stopped.set()

    def restart(self) -> None:
        """Let downloads begin again after `stop`."""
        self._stopped.clear()

    def is_stopped(self, after_seconds: float = 0) -> bool:
        """Wait, but not longer than until it is stopped; return whether it is."""
        return self._stopped.wait(after_seconds)

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return the content of a small file. Raises as `download`."""
        file = io.BytesIO()
        self.download(name, file, max_bytes=max_bytes)
        return file.getvalue()

    def download(
        self,
        name: str,
        file: BinaryIO,
        *,
        num_bytes: int | None = None,
        max_bytes: int | None = None,
        digest: str = "",
    ) -> None:
        """Continue from what `file`, open for reading and writing, holds already, to the end of the remote file.

        With a digest, an interrupted transfer is continued where it broke off if the server can; otherwise it is
        begun again.

        Args:
            name: of the file in this folder.
            file: is appended to, or emptied where the server or a wrong digest makes that necessary.
            num_bytes: the length of the file, if known: not a byte more is fetched, and fewer are a failure.
            max_bytes: of a file whose length is not known; a server that sends more is given up.
            digest: the SHA-256 (hexadecimal) that all of it must have; a file with another is fetched again.

        Raises:
            MissingError: there is no such file.
            RemoteError: it could not be had.
            OSError: of `file` itself.
        """
        file.seek(0)
        hashed, position = hash_rest(file), file.tell()
        if num_bytes is not None and position > num_bytes:
            hashed, position = _empty(file), 0
        farthest, failures, damaged = position, 0, 0
        while True:
            try:
                for offset, block in self._blocks(name, position, num_bytes):
                    if offset < position:  # the server began again
                        hashed = _empty(file)
                    if max_bytes is not None and offset + len(block) > max_bytes:
                        raise Failure(f"more than the {max_bytes:,} bytes that it may have", "upload it again")
                    file.write(block)
                    hashed.update(block)
                    position = offset + len(block)
                    if position > farthest:
                        farthest, failures, self._gave_up = position, 0, -math.inf
                if num_bytes is not None and position != num_bytes:
                    raise Failure(f"it ends after {position} of {num_bytes} bytes")
                if digest and hashed.hexdigest() != digest:
                    damaged += 1
                    hashed, position = _empty(file), 0
                    remedy = "" if damaged < _DAMAGED_DOWNLOADS else "upload it again"
                    raise Failure("its bytes are not those of the manifest", remedy)
                return
            except Failure as failure:
                failures += 1
                self._give_up_or_wait(name, failure, failures)
                if not digest:  # nothing would show whether both parts are of one version
                    hashed, position = _empty(file), 0

    def _give_up_or_wait(self, name: str, failure: Failure, failures: int) -> None:
        where = self.name_of(name)
        if not failure.passing:
            raise (MissingError if failure.missing else RemoteError)(f"{where}: {failure}; {failure.remedy}")
        # Else each of the threads that wait for the server would try as long again, one after the other.
        known_to_be_down = time.monotonic() - self._gave_up < _DOWN_SECONDS
        if known_to_be_down or failures >= self.retry.attempts:
            self._gave_up = time.monotonic()
            raise RemoteError(
                f"{where}: {failure} (given up after {failures} in a row); check the server and the network, and run "
                "this again: what has been fetched is kept"
            )
        seconds = self.retry.wait_seconds(failures)
        logger.warning("%s: %s; attempt %d of %d in %.1f s", where, failure, failures + 1, self.retry.attempts, seconds)
        if self.is_stopped(seconds):
            raise RemoteError(f"{where}: not fetched, because this run ends")

    def _blocks(self, name: str, start: int, end: int | None) -> Iterator[tuple[int, bytes]]:
        """Yield pieces (offset, bytes) of a file in order: from `start`, or from 0 if the server can only that.

        Raises:
            Failure: whatever goes wrong on the way.
        """
        if start == end:
            return
        source = self._streamed if self.protocol in ("http", "https") else self._ranges
        blocks = source(self._path_of(name), start, end)
        while True:
            if self.is_stopped():
                raise Failure("not fetched", "this run ends")
            try:
                offset, block = next(blocks)
            except StopIteration:
                return
            except Failure:
                raise
            except Exception as error:  # the libraries of the stores have no common class of errors
                raise failure_of(error, self.missing_remedy) from error
            yield offset, block if end is None else block[: end - offset]
            if end is not None and offset + len(block) >= end:
                blocks.close()
                return

    def _streamed(self, path: str, start: int, end: int | None) -> Generator[tuple[int, bytes], None, None]:
        """Make one request for the rest of the file, read as it comes: needs no range requests where nothing breaks."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        # A size is given so that fsspec does not ask for it; with block_size=0 it means nothing else.
        with self._filesystem.open(path, "rb", block_size=0, size=1, headers=headers) as file:
            offset = start if file.r.status == 206 else 0
            sent = re.match(r"bytes (\d+)-", file.r.headers.get("Content-Range", ""))
            if offset and (not sent or int(sent[1]) != offset):
                raise Failure(f"asked for bytes from {offset}, the server sent others")
            while block := file.read(_BLOCK_BYTES):
                yield offset, block
                offset += len(block)

    def _ranges(self, path: str, start: int, end: int | None) -> Generator[tuple[int, bytes], None, None]:
        """Make a request for each block of the file."""
        length: int = self._filesystem.size(path) if end is None else end
        for offset in range(start, length, _BLOCK_BYTES):
            stop = min(offset + _BLOCK_BYTES, length)
            block = self._filesystem.cat_file(path, start=offset, end=stop)
            yield offset, block
            if len(block) < stop - offset:
                return

    def _path_of(self, name: str) -> str:
        """Return the file as its filesystem wants it named, behind it the query of a web address, such as a token."""
        if self.protocol not in ("http", "https"):
            return f"{self._root}/{name}"
        parts = urlsplit(self._root)
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def _open(url: str, retry: RetryPolicy) -> tuple[Any, str]:
    """Return the filesystem of a URL, and the URL's path in it."""
    protocol = urlsplit(url).scheme
    install = "run pip install " + ("adlfs" if protocol in ("abfs", "abfss", "az") else "'vpsn[remote]'")
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise UserError(f"{redacted(url)}: fsspec is not installed; {install}") from None
    try:
        options = _options(protocol, retry)
        filesystem, root = url_to_fs(url, skip_instance_cache=True, use_listings_cache=False, **options)
    except ImportError as error:
        raise UserError(f"{redacted(url)}: {error}; {install}") from error
    except ValueError as error:
        raise UserError(f"{redacted(url)}: {error}; use s3://, gs://, https:// or another that fsspec knows") from error
    if protocol in ("s3", "s3a"):
        filesystem.retries = 1  # attempts of s3fs within each of ours
    return filesystem, root.rstrip("/")


def _options(protocol: str, retry: RetryPolicy) -> dict[str, Any]:
    """Return what puts the time limits of `retry` into a filesystem, next to what the user has configured."""
    from fsspec.config import conf

    def with_configured(name: str, ours: dict[str, Any]) -> dict[str, Any]:
        return {name: ours | conf.get(protocol, {}).get(name, {})}

    if protocol in ("s3", "s3a"):
        limits = {"connect_timeout": retry.connect_seconds, "read_timeout": retry.stall_seconds}
        return with_configured("config_kwargs", limits | {"retries": {"total_max_attempts": 1}})
    if protocol not in ("http", "https", "gs", "gcs"):
        return {}
    import aiohttp

    limits = aiohttp.ClientTimeout(
        total=None, connect=retry.connect_seconds, sock_connect=retry.connect_seconds, sock_read=retry.stall_seconds
    )
    if protocol in ("gs", "gcs"):
        return {"requests_timeout": limits}
    ours = {
        "timeout": limits,
        "headers": {"Accept-Encoding": "identity"},  # ranges of a compressed answer would be ranges of other bytes
        "trust_env": True,  # proxies and .netrc, as other programs take them
        "read_bufsize": 1 << 20,
    }
    return with_configured("client_kwargs", ours)


def _empty(file: BinaryIO) -> Any:
    """Empty a file; return the hash of nothing."""
    file.seek(0)
    file.truncate()
    return sha256()
