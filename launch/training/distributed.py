"""The ranks of a run: who they are, what they exchange besides gradients, and errors raised on all of them alike."""

import itertools
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
import torch.distributed as dist

from launch.training.launcher import ErrorOfAllRanks
from sharding.errors import UserError


@dataclass(frozen=True)
class Ranks:
    """This process among all of the job."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main_process(self) -> bool:
        return self.rank == 0


_time_limit = timedelta(minutes=30)
"""Of every collective operation between the processes."""


def set_time_limit(limit: timedelta) -> None:
    """Set the time limit of the groups that are made from here on."""
    global _time_limit
    _time_limit = limit


@cache
def _host_group() -> dist.ProcessGroup | None:
    """Return the group over which the processes exchange what is not on their devices; None is the default group."""
    return None if dist.get_backend() == "gloo" else new_group()


def new_group() -> dist.ProcessGroup:
    """Return a group of all ranks that communicates over the processors' memories; to be called by all of them
    together."""
    group = dist.new_group(backend="gloo", timeout=_time_limit)
    assert isinstance(group, dist.ProcessGroup)  # an int only for a rank that is not in it
    return group


def barrier() -> None:
    """Wait for all ranks."""
    dist.barrier(group=_host_group())


def any_rank(flag: bool, ranks: Ranks) -> bool:
    """Return whether `flag` holds on any rank; waits for the other ranks' processes, not for the devices."""
    if ranks.world_size == 1:
        return flag
    value = torch.tensor(int(flag))
    dist.all_reduce(value, dist.ReduceOp.MAX, group=_host_group())
    return bool(value)


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Return the sum of `values` over all ranks, computed in place where they are: on the devices or the processors."""
    dist.all_reduce(values, group=_host_group() if values.device.type == "cpu" else None)
    return values


Value = TypeVar("Value")


def gather_over_ranks(value: Value) -> list[Value]:
    """Return the values of all ranks, in the order of the ranks, on each of them; waits like `any_rank`. A process that
    has joined no others is alone."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    values: list = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=_host_group())
    return values


class Agreement:
    """The union over the ranks of the sample ids that each of them gives, as `VideoLoader` wants it.

    Called by all ranks together, once a step. It travels between the processors' memories, so no rank waits for its
    GPU; as long as nobody has anything to say it costs one number.
    """

    def __init__(self):
        self._group = new_group()

    def __call__(self, sample_ids: list[int]) -> list[int]:
        count = torch.tensor([len(sample_ids)])
        dist.all_reduce(count, group=self._group)
        if not count.item():
            return []
        lists: list = [None] * dist.get_world_size()
        dist.all_gather_object(lists, sample_ids, group=self._group)
        return sorted({sample_id for ids in lists for sample_id in ids})


@contextmanager
def errors_on_all_ranks(ranks: Ranks) -> Iterator[None]:
    """Raise on all ranks, as ErrorOfAllRanks, what of the UserErrors within the lowest of them raised; all must come
    here."""
    found = None
    try:
        yield
    except UserError as error:
        found = str(error)
    errors = gather_over_ranks(found)
    for rank, error in enumerate(errors):
        if error is not None:
            raise ErrorOfAllRanks(error if errors[0] == error else f"rank {rank}: {error}")


_FIRST, _COUNT = 20_000, 12_000
"""Below 32,768: from there on Linux hands out ports by itself, to anybody, before the ranks have come to theirs."""


_turns = itertools.count(os.getpid() * 37)  # processes that ask at the same time begin at different ones


def free_port() -> int:
    """Return a port that nobody listens on; each call gives another one.

    Raises:
        OSError: there is none.
    """
    for turn in itertools.islice(_turns, _COUNT):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", _FIRST + turn % _COUNT))
            return _FIRST + turn % _COUNT
    raise OSError(f"no free port from {_FIRST} to {_FIRST + _COUNT - 1}")
