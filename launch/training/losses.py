"""What a training step minimises: cross-entropy on each level of labels, or binary ones of each class, and the
synthesizers' losses and those of a teacher."""

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
    multi_label: bool = False,
    class_weights: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Return scalars by name: "loss" is the sum to minimise, the others are what it is made of.

    Of a network with several heads "classification" is the sum of their cross-entropies, of one that predicts at every
    time step the mean of the steps'.

    Args:
        labels: (B,) class ids, or (B, num_classes) fractions of the classes; with `multi_label` ones for all classes of
            a sample, or what mixing made of them.
        stages: names of the synthesizers, in the order of `outputs`.
        level_labels: (B,) class ids of each coarser level that `outputs` has logits of, in that order.
        multi_label: take binary cross-entropies of the classes instead of the cross-entropy over them.
        class_weights: (num_classes,) weights of the classes, not those of the coarser levels.
    """
    heads = outputs.head_logits or (outputs.logits,)
    if outputs.step_logits is not None:
        heads = (outputs.step_logits.flatten(0, 1),)
        labels = labels.repeat_interleave(outputs.step_logits.shape[1], dim=0)
    if multi_label:
        classification = sum(_binary_cross_entropy(logits, labels, weights) for logits in heads)
    else:
        classification = sum(_cross_entropy(logits, labels, weights, class_weights) for logits in heads)
    levels = {
        f"classification/{level}": _cross_entropy(logits, of_level, weights)
        for logits, (level, of_level) in zip(outputs.level_logits, (level_labels or {}).items(), strict=True)
    }
    auxiliary = weights.interaction * outputs.interaction_loss + weights.capacity * outputs.capacity_loss
    taught = dict(outputs.teacher_losses)
    total = classification + sum(levels.values()) + auxiliary + sum(taught.values())
    losses = {"loss": total, "classification": classification} | levels | taught
    for index, stage in enumerate(stages):
        losses[f"interaction/{stage}"] = outputs.interaction_losses[index]
        losses[f"capacity/{stage}"] = outputs.capacity_losses[index]
        losses[f"mean_gate/{stage}"] = outputs.mean_gates[index]
    return losses


def _binary_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, weights: LossConfig) -> torch.Tensor:
    """Return the mean over samples and classes. Smoothing spreads a part of each label over its two sides, 1 and 0."""
    labels = labels * (1 - weights.label_smoothing) + weights.label_smoothing / 2
    return F.binary_cross_entropy_with_logits(logits.float(), labels)


def _cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, weights: LossConfig, class_weights: torch.Tensor | None = None
) -> torch.Tensor:
    smoothing = weights.label_smoothing
    if class_weights is None:
        return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
    # Not divided by the sum of the batch's weights: then it would matter how ranks and micro-batches share a batch.
    total = F.cross_entropy(logits.float(), labels, class_weights, reduction="sum", label_smoothing=smoothing)
    return total / len(labels)
