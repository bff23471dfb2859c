"""The forward pass outside of training: logits in the arithmetic the network was trained in."""

import contextlib
from collections.abc import Sequence

import torch
from torch import nn

from model import Network


def compute_logits(net: nn.Module, clips: torch.Tensor, precision: str) -> torch.Tensor:
    """Return logits (B, num_classes) float32 of clips (B, T, 3, H, W), in the arithmetic the network was trained in."""
    with torch.inference_mode(), autocast(clips, precision):
        return net(clips).float()


def compute_level_logits(
    net: Network, clips: torch.Tensor, precision: str, given: Sequence[torch.Tensor] = ()
) -> dict[str, torch.Tensor]:
    """Return logits (B, classes of the level) float32 on each coarser level that the network predicts, and under ""
    those of the classes; `given` are the true labels (B,) of levels that it may be given."""
    with torch.inference_mode(), autocast(clips, precision):
        outputs = net(clips, *given, with_losses=True)
    return {"": outputs.logits.float()} | {
        level: logits.float() for level, logits in zip(net.level_names, outputs.level_logits, strict=True)
    }


def autocast(clips: torch.Tensor, precision: str) -> contextlib.AbstractContextManager:
    """Return the context in which a network computes in that precision, on the device of the clips."""
    dtype = AUTOCAST_DTYPES.get(precision)
    return torch.autocast(clips.device.type, dtype) if dtype else contextlib.nullcontext()


AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
