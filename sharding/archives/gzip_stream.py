"""A gzip file from anybody as a stream: bounded, and with errors that name it."""

import gzip
import zlib
from typing import Any, BinaryIO

from sharding.errors import UserError

MAX_RATIO = 100
"""Bytes that may come out for each that goes in. Videos and JPEGs do not even come to 2."""
ALLOWANCE_BYTES = 64 << 20
"""That come out at any rate, such as of long texts."""


class GzipStream:
    """Reads forwards what a gzip stream holds.

    Raises:
        UserError: by `read`, if it is damaged, cut off, or a bomb.
    """

    def __init__(self, stream: BinaryIO, where: str):
        self._counted: Any = _Counted(stream)
        self._gzip = gzip.GzipFile(fileobj=self._counted, mode="rb")
        self._where, self._size = where, 0

    def seekable(self) -> bool:
        return False

    def read(self, num_bytes: int) -> bytes:
        try:
            data = self._gzip.read(num_bytes)
        except EOFError as error:
            raise self._error(f"cut off after {self._counted.size:,} bytes") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise self._error(f"damaged near byte {self._counted.size:,} ({error})") from error
        self._size += len(data)
        if self._size > MAX_RATIO * self._counted.size + ALLOWANCE_BYTES:
            raise UserError(
                f"{self._where}: {self._counted.size:,} bytes of it hold more than {self._size:,}, which no archive of "
                "videos does; take it away"
            )
        return data

    def _error(self, message: str) -> UserError:
        return UserError(f"{self._where}: {message}; copy or download it again, or take it away")


class _Counted:
    def __init__(self, stream: BinaryIO):
        self._stream, self.size = stream, 0

    def read(self, num_bytes: int = -1) -> bytes:
        data = self._stream.read(num_bytes)
        self.size += len(data)
        return data
