"""A mistake that all ranks find is told once, and one that any rank finds ends them all alike."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from launch.engine import Ranks, gather_objects
from sharding.commandline import UserError

# The launcher ends all processes of a machine soon after the first; the one that speaks is to be the first.
_SILENT_SECONDS = 5.0


@contextmanager
def one_voice() -> Iterator[None]:
    """A UserError within leaves the first process of each machine as it is, and the others silently, with exit code 2
    and a little later."""
    try:
        yield
    except UserError:
        if int(os.environ.get("LOCAL_RANK", "0")) == 0:
            raise
        time.sleep(_SILENT_SECONDS)
        sys.exit(2)


@contextmanager
def all_or_none(ranks: Ranks) -> Iterator[None]:
    """A UserError within, on some of the ranks, becomes that of the lowest of these on all; all must come here."""
    found = None
    try:
        yield
    except UserError as error:
        found = str(error)
    errors = gather_objects(found, ranks)
    for rank, error in enumerate(errors):
        if error is not None:
            raise UserError(error if errors[0] == error else f"rank {rank}: {error}")
