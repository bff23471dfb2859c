"""Distillation: a network that learns from a frozen teacher besides its labels.

Features (FROSTER, Huang et al., 2024). Of a frame's features f, the network's, and t, the teacher's,

    u = f / |f|,    loss = 1 - cos(u + 0.1 W2 gelu(W1 u), t)

where W2 starts as nothing: at first the features themselves are drawn to the teacher's. Later the residual may take up
the difference, so that f is free for what the labels ask for. Where the widths differ, f is mapped to the teacher's
width first. Both maps are trained with the network and are no part of it.

Logits (Hinton et al., 2015). With probabilities at a temperature T, T^2 KL(teacher || network).

All of it is around the network, in the module that the engine trains; nothing else in training knows of it.
"""

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from launch.training.config import Config
from launch.training.teacher import (
    Teacher,
    check_teacher,
    fingerprint,
    frame_vectors,
    load_teacher,
    pixel_change,
    teacher_frames,
)
from model import Network, Outputs, VideoResNet
from model.resnet import to_channels_last
from model.temporal import select_frames
from sharding.errors import UserError

log = logging.getLogger("launch.training.distillation")

RESIDUAL_SCALE = 0.1
"""Factor on the residual, as in FROSTER."""


class Projector(nn.Module):
    """From the network's features to what is compared with the teacher's, (..., channels) -> (..., width), of length 1
    as long as the residual is nothing."""

    def __init__(self, channels: int, width: int, residual: bool) -> None:
        super().__init__()
        self.project = nn.Linear(channels, width, bias=False) if channels != width else nn.Identity()
        self.residual: nn.Module | None = None
        if residual:
            first, last = (nn.Linear(width, width, bias=False) for _ in range(2))
            nn.init.kaiming_normal_(first.weight)
            nn.init.zeros_(last.weight)
            self.residual = nn.Sequential(first, nn.GELU(), last)

    def forward(self, features: Tensor) -> Tensor:
        x = F.normalize(self.project(features).float(), dim=-1)
        return x if self.residual is None else x + RESIDUAL_SCALE * self.residual(x).float()


class DistilledNet(nn.Module):
    """A network in training next to its teacher: its outputs, with what it is to learn from the teacher."""

    def __init__(self, net: Network, teacher: Teacher, config: Config) -> None:
        super().__init__()
        self.net, self.wanted = net, config.distillation
        self._teacher = (teacher,)  # hidden from PyTorch: no parameters of this one, and no mode but its own
        self._frames = teacher_frames(teacher, config.model.num_segments)
        device = next(teacher.net.parameters(), torch.empty(0)).device
        pixels = pixel_change(teacher, config.data)
        self._pixels = None if pixels is None else tuple(value.to(device) for value in pixels)
        self.fingerprint = fingerprint(teacher.net)
        self.projector: Projector | None = None
        if self.wanted.features:
            assert isinstance(net, VideoResNet)
            size = config.data.crop_size
            with torch.no_grad():
                width = teacher.features(torch.zeros(1, teacher.num_frames, 3, size, size, device=device)).shape[-1]
            channels = list(net.stage_channels.values())[-1]
            self.projector = Projector(channels, width, self.wanted.residual)

    @property
    def fresh_names(self) -> frozenset[str]:
        """Those of the network, as it is called here."""
        return frozenset(f"net.{name}" for name in self.net.fresh_names)

    def forward(self, clips: Tensor, *given: Tensor, with_losses: bool = True) -> Outputs:
        """Return the network's outputs for clips (B, T, 3, H, W), with `teacher_losses`."""
        outputs = self.net(clips, *given, with_losses=True)
        features, logits = self._targets(self._shown(clips))
        losses = []
        if self.projector is not None and features is not None:
            assert outputs.features is not None  # a ResNet's
            own = self._aligned(frame_vectors(outputs.features, len(clips)), clips.shape[1], features.shape[1])
            target = features if own.shape[1] == features.shape[1] else features.mean(1, keepdim=True)
            losses.append(("distillation/features", self.wanted.features * feature_loss(self.projector(own), target)))
        if logits is not None:
            loss = logit_loss(outputs.logits, logits, self.wanted.temperature)
            losses.append(("distillation/logits", self.wanted.logits * loss))
        return outputs._replace(features=None, teacher_losses=tuple(losses))

    @torch.no_grad()
    def _targets(self, clips: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the teacher's features and logits of clips that it expects; None for what is not learned."""
        teacher = self._teacher[0]
        if self.projector is not None and self.wanted.logits:
            return teacher.features_and_logits(clips)
        if self.projector is not None:
            return teacher.features(clips), None
        return None, teacher.logits(clips) if self.wanted.logits else None

    def _shown(self, clips: Tensor) -> Tensor:
        """Return the frames that the teacher sees, in its pixels."""
        if len(self._frames) < clips.shape[1]:
            clips = select_frames(clips, self._frames)
        if self._pixels is None:
            return clips
        factor, shift = (value.to(clips.dtype) for value in self._pixels)
        return torch.addcmul(shift, clips, factor)

    def _aligned(self, own: Tensor, num_frames: int, count: int) -> Tensor:
        """Return those of the network's vectors (B, F, channels) that the teacher's `count` are compared with: of the
        same frames, else the mean over time."""
        if own.shape[1] == num_frames and count == len(self._frames):
            return select_frames(own, self._frames)
        return own.mean(1, keepdim=True)


def feature_loss(features: Tensor, target: Tensor) -> Tensor:
    """Return the mean of 1 - cosine of vectors (..., channels)."""
    return (1 - F.cosine_similarity(features.float(), target.float(), dim=-1)).mean()


def logit_loss(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(target || logits) of logits (B, classes) at the temperature T, the mean over clips."""
    own, theirs = ((values.float() / temperature).log_softmax(1) for values in (logits, target))
    return temperature**2 * F.kl_div(own, theirs, reduction="batchmean", log_target=True)


def with_teacher(net: Network, config: Config, classes: tuple[str, ...], device: torch.device) -> nn.Module:
    """Return what the engine is to train: `net`, or where distillation.teacher is given `net` next to its teacher.

    Args:
        classes: names of the classes that are learned.
        device: where the teacher is to be.

    Raises:
        UserError: there is no such teacher, or it does not go with the network.
    """
    source = config.distillation.teacher
    if source is None:
        return net
    teacher, wanted = load_teacher(source, config.model), config.distillation
    if wanted.features and not isinstance(net, VideoResNet):
        raise UserError(
            f"distillation.teacher={source}: features are learned by a ResNet, which {type(net).__name__} is not; use "
            "distillation.features=0 and a weight for distillation.logits"
        )
    check_teacher(teacher, wanted, classes)
    to_channels_last(teacher.net.to(device))
    torch.manual_seed(config.train.seed)  # the projector of all ranks is the same
    trained = DistilledNet(net, teacher, config)
    log.info("%s", describe_teacher(trained, teacher, config.model.num_segments))
    return trained


def describe_teacher(trained: DistilledNet, teacher: Teacher, num_segments: int) -> str:
    """Return who teaches what to a network whose clips have `num_segments` frames."""
    wanted, parts = trained.wanted, [f"teacher: {teacher.source}, frozen, fingerprint {trained.fingerprint}"]
    if trained.projector is not None:
        project, of = trained.projector.project, "features, "
        if isinstance(project, nn.Linear):
            of = f"features of {project.in_features} channels mapped to {project.out_features}, "
        parts.append(f"{of}weight {wanted.features:g}" + (", with a residual" if wanted.residual else ""))
    if wanted.logits:
        parts.append(f"logits, weight {wanted.logits:g}, temperature {wanted.temperature:g}")
    if teacher.num_frames < num_segments:
        parts.append(f"it sees {teacher.num_frames} of the {num_segments} frames of a clip")
    return "; ".join(parts)


def teacher_fingerprint(trained: object) -> str:
    """Return the fingerprint of the teacher in what an engine trains, "" if there is none."""
    return trained.fingerprint if isinstance(trained, DistilledNet) else ""
