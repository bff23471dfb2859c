"""What a training step minimises: cross-entropy on each level of labels, and the synthesizers' losses."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from launch.training.config import LossConfig
from model import Outputs


def training_losses(
    outputs: Outputs,
    labels: torch.Tensor,
    weights: LossConfig,
    stages: tuple[str, ...],
    level_labels: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """Return scalars by name: "loss" is the sum to minimise, the others are what it is made of.

    Of a network with several heads "classification" is the sum of their cross-entropies.

    Args:
        labels: (B,) class ids, or (B, num_classes) fractions of the classes.
        stages: names of the synthesizers, in the order of `outputs`.
        level_labels: (B,) class ids of each coarser level that `outputs` has logits of, in that order.
    """
    heads = outputs.head_logits or (outputs.logits,)
    classification = sum(_cross_entropy(logits, labels, weights) for logits in heads)
    levels = {
        f"classification/{level}": _cross_entropy(logits, of_level, weights)
        for logits, (level, of_level) in zip(outputs.level_logits, (level_labels or {}).items(), strict=True)
    }
    auxiliary = weights.interaction * outputs.interaction_loss + weights.capacity * outputs.capacity_loss
    losses = {"loss": classification + sum(levels.values()) + auxiliary, "classification": classification} | levels
    for index, stage in enumerate(stages):
        losses[f"interaction/{stage}"] = outputs.interaction_losses[index]
        losses[f"capacity/{stage}"] = outputs.capacity_losses[index]
        losses[f"mean_gate/{stage}"] = outputs.mean_gates[index]
    return losses


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor, weights: LossConfig) -> torch.Tensor:
    return F.cross_entropy(logits.float(), labels, label_smoothing=weights.label_smoothing)
