"""Pooled features of any stage of a network, as vectors (D,) of clips."""

import torch
import torch.nn.functional as F
from torch import nn

from launch.training.forward import autocast
from sharding.errors import UserError

STAGES = ("layer1", "layer2", "layer3", "layer4", "pool")


class _Found(Exception):
    """Ends a forward pass once what was wanted of it is there."""


class FeatureExtractor:
    """The features of a stage: the mean over the pixels and the frames of a clip.

    Args:
        net: in evaluation mode.
        stage: layer1 to layer4, with the synthesizer behind it where there is one; or pool, what the classifier sees.
        precision: of the arithmetic, as in training.
        batch_size: clips in a forward pass. A last batch of fewer is filled up, so that features do not depend on what
            else is in a batch.

    Raises:
        UserError: the network has no such stage.
    """

    def __init__(self, net: nn.Module, stage: str, precision: str, batch_size: int):
        self.net, self.stage, self.precision, self.batch_size = net, stage, precision, batch_size
        self._module = _find_stage(net, stage)

    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        """Return features (N, D) float32, on their device, of clips (N, T, 3, H, W)."""
        parts = [self._forward(part) for part in clips.split(self.batch_size)]
        return torch.cat(parts)

    def _forward(self, clips: torch.Tensor) -> torch.Tensor:
        count = len(clips)
        if count < self.batch_size:
            channels_last = clips.permute(0, 1, 3, 4, 2)  # as they are in memory
            padding = (0, 0) * 4 + (0, self.batch_size - count)
            clips = F.pad(channels_last, padding).permute(0, 1, 4, 2, 3)
        found: list[torch.Tensor] = []

        def keep(module: nn.Module, inputs: tuple, output: torch.Tensor | None = None) -> None:
            found.append(inputs[0] if output is None else output)
            raise _Found

        if self.stage == "pool":
            handle = self._module.register_forward_pre_hook(keep)
        else:
            handle = self._module.register_forward_hook(keep)
        try:
            with torch.inference_mode(), autocast(clips, self.precision):
                self.net(clips)
        except _Found:
            pass
        finally:
            handle.remove()
        [features] = found
        with torch.inference_mode():
            # (B * T, C, h, w) of a stage, (B * T, C) or (B, C) of a classifier's input; T may be fewer than the clip's.
            if features.ndim > 2:
                features = features.mean(tuple(range(2, features.ndim)), dtype=torch.float32)
            return features.float().unflatten(0, (len(clips), -1)).mean(1)[:count]


def _find_stage(net: nn.Module, stage: str) -> nn.Module:
    synthesizers = getattr(net, "synthesizers", {})
    module = synthesizers[stage] if stage in synthesizers else getattr(net, "fc" if stage == "pool" else stage, None)
    if not isinstance(module, nn.Module):
        has = [name for name in STAGES if isinstance(getattr(net, "fc" if name == "pool" else name, None), nn.Module)]
        there = f"it has {', '.join(has)}" if has else "it has none of a ResNet's stages"
        raise UserError(f"--stage {stage}: no such stage in {type(net).__name__}; {there}")
    return module
