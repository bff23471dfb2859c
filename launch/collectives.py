"""What the ranks tell each other besides gradients: results to be joined, and samples to leave out."""

from typing import TypeVar

import torch
import torch.distributed as dist

Value = TypeVar("Value")


def gather_over_ranks(value: Value) -> list[Value]:
    """The values of all ranks, in the order of the ranks, on each of them."""
    values: list = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


class Agreement:
    """The union over the ranks of the sample ids that each of them gives, as `VideoLoader` wants it.

    Called by all ranks together, once a step. It travels between the processors' memories, so no rank waits for its
    GPU; as long as nobody has anything to say it costs one number.
    """

    def __init__(self):
        self._group = dist.new_group(backend="gloo")

    def __call__(self, sample_ids: list[int]) -> list[int]:
        count = torch.tensor([len(sample_ids)])
        dist.all_reduce(count, group=self._group)
        if not count.item():
            return []
        lists: list = [None] * dist.get_world_size()
        dist.all_gather_object(lists, sample_ids, group=self._group)
        return sorted({sample_id for ids in lists for sample_id in ids})
