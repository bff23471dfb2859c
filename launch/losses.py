"""What a training step minimises: cross-entropy and the synthesizers' losses."""

import torch
import torch.nn.functional as F

from launch.config import LossConfig
from model import Outputs


def training_losses(
    outputs: Outputs, labels: torch.Tensor, weights: LossConfig, stages: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """Scalars by name: "loss" is the sum to minimise, the others are what it is made of.

    Args:
        labels: (B,) class ids, or (B, num_classes) shares of the classes.
        stages: names of the synthesizers, in the order of `outputs`.
    """
    classification = F.cross_entropy(outputs.logits.float(), labels, label_smoothing=weights.label_smoothing)
    auxiliary = weights.interaction * outputs.interaction_loss + weights.capacity * outputs.capacity_loss
    losses = {"loss": classification + auxiliary, "classification": classification}
    for index, stage in enumerate(stages):
        losses[f"interaction/{stage}"] = outputs.interaction_losses[index]
        losses[f"capacity/{stage}"] = outputs.capacity_losses[index]
        losses[f"mean_gate/{stage}"] = outputs.mean_gates[index]
    return losses
