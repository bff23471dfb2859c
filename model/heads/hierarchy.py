"""The multi-task network of a hierarchy of labels: a pathway for each level, joined from coarse to fine.

Stage 1, `PathwayNet`: each level has its own network, on its own number of frames of the same clip, and its
cross-entropy. Stage 2, `IntegrationNet`: these networks are frozen; of each one's features a layer makes e, s, el, and
the event is predicted from [e], the set from [e; s], the element from [e; s; el].
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.pretrained import enter_weights, read_weights
from model.resnet import Outputs, VideoResNet, classifier, join_outputs
from model.temporal import clip_means, select_frames

HIDDEN = 512


def pathway_frames(num_segments: int, num_frames: int) -> list[int]:
    """Return the frames of a clip that a pathway takes: the middle one of each of `num_frames` equal parts.

    >>> pathway_frames(16, 4)
    [2, 6, 10, 14]
    """
    return [(2 * frame + 1) * num_segments // (2 * num_frames) for frame in range(num_frames)]


class PathwayNet(nn.Module):
    """A network for each level of labels, coarsest first, that see the same clip at their own frame rates."""

    synthesizer_names: tuple[str, ...] = ()
    given_levels: tuple[str, ...] = ()
    fresh_names: frozenset[str] = frozenset()

    def __init__(self, pathways: Sequence[VideoResNet], config: ModelConfig) -> None:
        super().__init__()
        assert len(pathways) == len(config.levels) + 1, (len(pathways), config.levels)
        self.num_segments, self.level_names = config.num_segments, tuple(name for name, _ in config.levels)
        self.pathways = nn.ModuleList(pathways)
        self.frames = [pathway_frames(config.num_segments, pathway.num_segments) for pathway in pathways]

    def forward(self, clips: Tensor, with_losses: bool = False) -> Tensor | Outputs:
        """Return logits (B, num_classes) of clips (B, T, 3, H, W); with `with_losses` those of the coarser levels too.

        Raises:
            ValueError: the clips do not have `num_segments` frames.
        """
        if clips.ndim != 5 or clips.shape[1] != self.num_segments:
            raise ValueError(
                f"clips of shape {tuple(clips.shape)}: the network takes (B, {self.num_segments}, 3, H, W), "
                f"as model.num_segments={self.num_segments}"
            )
        *coarser, logits = self.classify(clips)
        return join_outputs(logits, [], tuple(coarser)) if with_losses else logits

    def classify(self, clips: Tensor) -> list[Tensor]:
        """Return the logits of every level, (B, classes of the level)."""
        return [pathway(select_frames(clips, frames)) for pathway, frames in zip(self.pathways, self.frames)]

    def load_pretrained(self, source: str, depth: int) -> set[str]:
        """Load weights of such a network, or of one ResNet into every pathway; see `pretrained.load_pretrained`."""
        weights = read_weights(source, depth, frozenset(self.state_dict()))
        if any(name.startswith("pathways.") for name in weights.tensors):
            return enter_weights(self, source, weights, depth)
        return {
            f"pathways.{number}.{name}"
            for number, pathway in enumerate(self.pathways)
            for name in enter_weights(pathway, source, weights, depth)
        }


class IntegrationNet(PathwayNet):
    """Frozen pathways, and for each level a classifier on what its own and the coarser ones found.

    Without model.join_levels the classifier of a level sees what its own pathway found alone.
    """

    added = ("hidden", "classifiers")

    def __init__(self, pathways: Sequence[VideoResNet], config: ModelConfig) -> None:
        super().__init__(pathways, config)
        self.pathways.requires_grad_(False)
        self.seen = [range(0 if config.join_levels else level, level + 1) for level in range(len(pathways))]
        """Of each level, the levels whose features its classifier sees."""
        fcs = [pathway.fc for pathway in pathways]
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.Linear(fc.in_features, HIDDEN), nn.ReLU(), nn.Dropout(config.dropout)) for fc in fcs
        )
        self.classifiers = nn.ModuleList(
            classifier(len(seen) * HIDDEN, fc.out_features) for seen, fc in zip(self.seen, fcs)
        )
        self.train()

    def train(self, mode: bool = True) -> "IntegrationNet":
        """Keep the pathways in evaluation mode: frozen, their BatchNorm learns nothing either."""
        super().train(mode)
        self.pathways.eval()
        return self

    def classify(self, clips: Tensor) -> list[Tensor]:
        with torch.no_grad():
            features = [
                _features(pathway, select_frames(clips, frames)) for pathway, frames in zip(self.pathways, self.frames)
            ]
        hidden = [layer(feature) for layer, feature in zip(self.hidden, features)]
        return [
            classify(torch.cat([hidden[level] for level in seen], dim=1))
            for classify, seen in zip(self.classifiers, self.seen)
        ]


def _features(pathway: nn.Module, clips: Tensor) -> Tensor:
    """(B, channels): the mean over space and frames."""
    assert isinstance(pathway, VideoResNet)
    return clip_means(pathway.forward_features(clips), pathway.num_segments)
