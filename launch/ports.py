"""Ports for the ranks of a run that is started here to find each other."""

import itertools
import os
import socket
from contextlib import suppress

_FIRST, _COUNT = 20_000, 12_000
"""Below 32,768: from there on Linux hands out ports by itself, to anybody, before the ranks have come to theirs."""
_turns = itertools.count(os.getpid() * 37)  # processes that ask at the same time begin at different ones


def free_port() -> int:
    """A port that nobody listens on; each call gives another one.

    Raises:
        OSError: there is none.
    """
    for turn in itertools.islice(_turns, _COUNT):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", _FIRST + turn % _COUNT))
            return _FIRST + turn % _COUNT
    raise OSError(f"no free port from {_FIRST} to {_FIRST + _COUNT - 1}")
