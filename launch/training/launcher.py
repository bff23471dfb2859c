"""What a process knows of its job before torch is imported: the launcher's environment."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sharding.errors import UserError


def expected_world_size() -> int:
    """Return the number of ranks that the launcher describes in the environment."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class ErrorOfAllRanks(UserError):
    """One that every rank raises at the same place, in the same words."""


# The launcher ends all processes of a machine soon after the first; the one that speaks is to be the first.
_SILENT_SECONDS = 5.0


@contextmanager
def errors_once() -> Iterator[None]:
    """Let a UserError within leave the first process of each machine as it is, and the others silently, with its exit
    code and a little later."""
    try:
        yield
    except UserError as error:
        if int(os.environ.get("LOCAL_RANK", "0")) == 0:
            raise
        time.sleep(_SILENT_SECONDS)
        sys.exit(error.exit_code)
