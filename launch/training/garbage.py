"""Python's garbage collector, which would otherwise stop each rank at another moment and make all others wait."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def frozen_heap() -> Iterator[None]:
    """Spare every later collection what exists already: modules, network, optimizer."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def no_automatic_collection() -> Iterator[None]:
    """Collect garbage only where `gc.collect` is called."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
