"""What goes wrong with one request to a store or server, in words, and whether another attempt may mend it."""

import re
from typing import Any

from sharding.errors import redacted_addresses

_CREDENTIAL_ERRORS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError")
_REQUEST_ERRORS = ("ParamValidationError", "InvalidRegionError")  # of botocore, which then sends nothing
_EXPIRED = re.compile(r"(?i)expired.?token|token.{0,20}expired|credentials.{0,20}expired")
_PASSING_STATUS = (408, 416, 425, 429)  # of 400 to 499, those that another attempt may mend


class Failure(Exception):
    """One attempt that came to nothing."""

    def __init__(self, reason: str, remedy: str = "", missing: bool = False):
        super().__init__(reason)
        self.remedy, self.missing = remedy, missing

    @property
    def passing(self) -> bool:
        """Return whether another attempt may succeed."""
        return not self.remedy


def failure_of(error: Exception, missing_remedy: str) -> Failure:
    """Return what an error of fsspec, or of a library behind it, means."""
    status = _status_of(error)
    words = " ".join(str(getattr(error, "message", "") or error).split()) or type(error).__name__
    text = redacted_addresses(words)
    if _code_of(error) == "NoSuchUpload":  # for s3fs a file that is not found
        return Failure("its upload in parts was ended by somebody else")
    if isinstance(error, FileNotFoundError) or status == 404:
        return Failure("not found", missing_remedy, missing=True)
    if _EXPIRED.search(words):
        return Failure(f"the credentials have expired ({text})", "renew them and run this again")
    if isinstance(error, PermissionError) or status in (401, 403) or text.startswith("Forbidden"):
        return Failure(f"access refused ({text})", "check the URL and the credentials", missing=True)
    if type(error).__name__ in _CREDENTIAL_ERRORS:
        return Failure(text, "give credentials where the library of this store looks for them")
    if type(error).__name__ in _REQUEST_ERRORS or words.startswith("Invalid endpoint"):
        return Failure(text, "check the URL and what is set up for this store")
    if 400 <= status < 500 and status not in _PASSING_STATUS:
        return Failure(f"the server answered {status} ({text})", "check the URL")
    if type(error).__name__.startswith("InvalidUrl"):
        return Failure("no address", "check the URL")
    return Failure(f"the server answered {status} ({text})" if status else f"{type(error).__name__}: {text}")


def _status_of(error: BaseException) -> int:
    """Return the HTTP status that an error reports, or 0."""
    answer = getattr(error.__cause__, "response", None)  # botocore, below s3fs
    if isinstance(answer, dict):
        return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    status: Any = getattr(error, "status", None) or getattr(error, "code", None)  # aiohttp; gcsfs
    return int(status) if str(status).isdecimal() else 0


def _code_of(error: BaseException) -> str:
    """Return the code by which S3 reports an error, or nothing."""
    answer = getattr(error.__cause__, "response", None)  # botocore, below s3fs
    return str(answer.get("Error", {}).get("Code", "")) if isinstance(answer, dict) else ""
