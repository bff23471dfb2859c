"""The exponential moving average of a network's weights and buffers, for evaluation and for model.safetensors."""

from copy import deepcopy
from itertools import chain
from pathlib import Path

import torch
from safetensors.torch import load_file

from model import Network


class WeightEma:
    """After each step average <- decay * average + (1 - decay) * network; with decay 0 it is the network itself.

    The first step's network is where it begins. Made before `net` is given to an engine, whose hooks it must not copy.
    """

    def __init__(self, net: Network, decay: float, device: torch.device):
        self._net, self._decay = net, decay
        self._averaged = deepcopy(net).to(device).requires_grad_(False) if decay else None
        self._num_updates = 0

    @property
    def module(self) -> Network:
        """The network to evaluate and to keep."""
        return self._net if self._averaged is None else self._averaged

    @property
    def raw(self) -> Network | None:
        """The network that is trained, where `module` is an average of it."""
        return None if self._averaged is None else self._net

    @torch.no_grad()
    def update(self) -> None:
        """Take in what the optimizer's step has made of the network; does not wait for the device."""
        if self._averaged is None:
            return
        averages, values = (list(chain(net.parameters(), net.buffers())) for net in (self._averaged, self._net))
        self._num_updates += 1
        if self._num_updates == 1:
            for average, value in zip(averages, values, strict=True):
                average.copy_(value)
            return
        floating = [index for index, average in enumerate(averages) if average.is_floating_point()]
        old, new = ([tensors[i] for i in floating] for tensors in (averages, values))
        torch.ops.aten._foreach_lerp_.Scalar(old, new, 1 - self._decay)
        for average, value in zip(averages, values, strict=True):
            if not average.is_floating_point():  # BatchNorm's number of batches
                average.copy_(value)

    def load(self, path: Path, num_updates: int) -> None:
        """Resume from the file `path` with the tensors that `module` had after `num_updates` updates."""
        if self._averaged is not None:
            self._averaged.load_state_dict(load_file(path))
            self._num_updates = num_updates
