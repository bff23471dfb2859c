"""The errors that cross rooms: what a person did and can correct, and what a media file is to blame for."""

import re

# A password may have blanks, or slashes where no port and path could be meant.
_USER = re.compile(r"(?<=://)(?:[^\s/@:]+:(?!\d+(?:[/?#]|$))\S*|[^\s/]*|[^\s/@:]*:[^/\n]*)@")
_QUERY = re.compile(r"(://(?:(?!://)[^\s?#])*)[?#](\S*)")
# The path of a URL may have blanks, as the text around it has: a name and a value tell that a query follows.
_QUERY_AFTER_BLANKS = re.compile(r"(://(?:(?!://).){0,4096}?)\?([^\s?#=&]+=\S*)", re.DOTALL)
_RELATIVE_QUERY = re.compile(r"()\?(\S+)")
_CLOSING = "'\")>"


class UserError(ValueError):
    """Something the person at the keyboard did and can mend; the message says what, where, and what to do."""

    exit_code = 2
    """Of the command that it ends."""


class WorkerKilledError(UserError):
    """A worker process that was killed from outside, as the kernel does for want of memory."""


class MediaError(Exception):
    """A video that cannot be read or written. `kind` says what failed: missing, open, decode or encode."""

    def __init__(self, kind: str, message: str):
        super().__init__(kind, message)
        self.kind = kind
        self.message = " ".join(message.split())

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


def redacted(text: str) -> str:
    """Return text without what may be a secret in its URLs: users and passwords, queries such as signatures, fragments.

    >>> redacted("https://me:password@host/train?token=secret was not found")
    'https://***@host/train?*** was not found'
    """
    return _QUERY_AFTER_BLANKS.sub(_hide, _QUERY.sub(_hide, _USER.sub("***@", text)))


def redacted_addresses(text: str) -> str:
    """Return text about one request, `redacted`, and without the queries of addresses that lack their host.

    >>> redacted_addresses("GET /train?token=secret failed")
    'GET /train?*** failed'
    """
    return _RELATIVE_QUERY.sub(_hide, redacted(text))


def _hide(query: re.Match[str]) -> str:
    """Return the address without the query; what closes a quotation or bracket behind it stays."""
    end = query[2].rstrip(",.;:")
    closing = query[2][len(end.rstrip(_CLOSING)) :] if end.endswith(tuple(_CLOSING)) else ""
    return f"{query[1]}?***{closing}"


def check_minimum(options: object, minimum: float, *names: str, prefix: str = "") -> None:
    """Check that options are `minimum` or more, and no NaN.

    Raises:
        UserError: the first of `names` that is not; the message writes `prefix` in front of its name.
    """
    for name in names:
        value = getattr(options, name)
        if not value >= minimum:
            raise UserError(f"{prefix}{name}={value}: use {minimum} or more")
