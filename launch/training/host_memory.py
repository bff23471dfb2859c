"""How the host's memory is given back in training."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> None:
    """Let malloc keep what is freed for what is needed next, instead of giving it back to the system.

    On CPUs each step frees large tensors and asks for as much again: with pages that are new each time, a step of a
    ResNet-18 on one core takes 1.2 times as long. Only glibc has such a setting; other C libraries stay as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)
