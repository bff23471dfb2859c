"""The exponential moving average of a network's weights and buffers, for evaluation and for model.safetensors."""

from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from model import Network


class WeightEma:
    """After each step average <- decay * average + (1 - decay) * network; with decay 0 it is the network itself.

    The first step's network is where it begins. Made before `net` is given to an engine, whose hooks it must not copy.
    """

    def __init__(self, net: Network, decay: float, device: torch.device):
        self._net = net
        self._averaged = None
        if decay:
            self._averaged = AveragedModel(net, device, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
            self._averaged.requires_grad_(False)

    @property
    def module(self) -> Network:
        """The network to evaluate and to keep."""
        return self._net if self._averaged is None else cast(Network, self._averaged.module)

    @property
    def raw(self) -> Network | None:
        """The network that is trained, where `module` is an average of it."""
        return None if self._averaged is None else self._net

    @torch.no_grad()
    def update(self) -> None:
        """Takes in what the optimizer's step has made of the network."""
        if self._averaged is not None:
            self._averaged.update_parameters(self._net)

    def load(self, path: Path, num_updates: int) -> None:
        """Goes on from the file `path` with the tensors that `module` had after `num_updates` updates."""
        if self._averaged is not None:
            self._averaged.module.load_state_dict(load_file(path))
            self._averaged.n_averaged.fill_(num_updates)
