"""The teacher of a distillation: any trained network, frozen, that is asked about the clips of the training."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from launch.training.checkpoint import find_checkpoint, load_checkpoint
from launch.training.config import DistillationConfig
from model import ModelConfig, Network, VideoResNet, build_model
from model.heads.hierarchy import pathway_frames
from model.weights.families import RESNET_RS, Statistics
from model.weights.files import WeightFileError
from model.weights.source import read_weights_file
from model.weights.writing import find_arch
from pipeline.config import IMAGENET_MEAN, IMAGENET_STD, DataConfig
from sharding.errors import UserError
from sharding.manifest import describe_class_difference

_POINTERS = ("last", "best")


@dataclass(frozen=True)
class Teacher:
    """A frozen network in evaluation mode. It is no part of the one that it teaches: neither its optimizer nor its
    checkpoints know it."""

    net: Network
    source: str
    """Where it is from, and what it is, in words."""
    num_frames: int
    """Frames of the clips that it takes."""
    num_classes: int
    """Of its logits; 0 if it has no classifier that was trained."""
    classes: tuple[str, ...] | None
    """Their names, None if they are not known."""
    statistics: Statistics | None
    """Of its pixels; None if they are those of whom it teaches."""

    def features(self, clips: Tensor) -> Tensor:
        """Return vectors (B, F, channels), one for each of F frames or, with F = 1, for the clip; `clips` (B,
        num_frames, 3, H, W) are normalised as it expects."""
        found = self.net.forward_features(clips)  # type: ignore[operator]  # `has_features`
        return frame_vectors(found, len(clips))

    @property
    def has_features(self) -> bool:
        """Whether it gives features: it is a ResNet, or has a method of that name."""
        return callable(getattr(self.net, "forward_features", None))

    def logits(self, clips: Tensor) -> Tensor:
        """Return logits (B, num_classes) of such clips."""
        return self.net(clips)

    def features_and_logits(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Return both, of one pass through a ResNet."""
        if not isinstance(self.net, VideoResNet):
            return self.features(clips), self.logits(clips)
        maps = self.net.forward_features(clips)
        return frame_vectors(maps, len(clips)), self.net.forward_head(maps)


def frame_vectors(features: Tensor, num_clips: int) -> Tensor:
    """Return vectors (B, F, channels) of feature maps (B*F, channels, h, w), or of vectors (B, F, channels) or (B*F,
    channels)."""
    if features.ndim == 4:
        features = features.mean((2, 3))
    return features if features.ndim == 3 else features.unflatten(0, (num_clips, -1))


def load_teacher(source: str, student: ModelConfig) -> Teacher:
    """Return the teacher that `source` names, on the CPU: a run or checkpoint, a file of weights, or MODULE:CLASS.

    Args:
        student: what it is to teach; a network of which only the weights are known, or the class, takes as many frames.

    Raises:
        UserError: there is none, or it takes more frames than the student's clips have.
    """
    path = Path(source)
    try:
        if path.is_file() and path.name not in _POINTERS:
            teacher = _from_file(path, student)
        elif not path.exists() and ":" in source:
            teacher = _from_class(source, student)
        else:
            teacher = _from_run(path)
    except (ValueError, OSError) as error:
        raise UserError(f"distillation.teacher={source}: {error}") from error
    if teacher.num_frames > student.num_segments:
        raise UserError(
            f"distillation.teacher={source}: it takes {teacher.num_frames} frames and a clip of this run has "
            f"{student.num_segments}; use more data.num_segments, or another teacher"
        )
    teacher.net.eval().requires_grad_(False)
    return teacher


def _from_run(path: Path) -> Teacher:
    if not path.is_dir() and path.name not in _POINTERS:
        raise ValueError("no such folder or file; give a run, a file of weights, or MODULE:CLASS")
    folder = find_checkpoint(path)
    net, info, config = load_checkpoint(folder)
    model, data = config.model, config.data
    statistics = data.mean or IMAGENET_MEAN, data.std or IMAGENET_STD
    source = f"{model.arch}-{model.depth} of {folder}"
    return Teacher(net, source, model.num_segments, model.num_classes, info.classes, statistics)


def _from_file(path: Path, student: ModelConfig) -> Teacher:
    try:
        weights = read_weights_file(path)
    except WeightFileError as error:
        raise ValueError(str(error)) from error
    if not weights.depth:
        raise ValueError(f"{weights.title}: not a ResNet of a depth that is known; give a run, or MODULE:CLASS")
    shapes = weights.shapes
    names = weights.family.rename(shapes) if weights.family else {name: name for name in shapes}
    classifier = next((shapes[theirs] for theirs, ours in names.items() if ours == "fc.weight"), None)
    config = ModelConfig(
        arch=find_arch(weights, None) or "tsn",
        depth=weights.depth,  # type: ignore[arg-type]  # one of those
        backbone="resnet_rs" if RESNET_RS.matches(shapes) else "resnet",
        num_classes=classifier[0] if classifier else 1,
        num_segments=student.num_segments,
        pretrained=str(path),
    )
    net = build_model(config)
    lacking = [name for name in net.fresh_names if not name.startswith("fc.") and "num_batches" not in name]
    if lacking:
        raise ValueError(f"it has no {min(lacking)}, which would stay random; give a run, or a complete file")
    source = f"{config.arch}-{config.depth} of {path}"
    return Teacher(net, source, config.num_segments, classifier[0] if classifier else 0, None, weights.statistics)


def _from_class(source: str, student: ModelConfig) -> Teacher:
    config = ModelConfig(arch=source, num_classes=student.num_classes, num_segments=student.num_segments)
    return Teacher(build_model(config), source, config.num_segments, config.num_classes, None, None)


def check_teacher(teacher: Teacher, wanted: DistillationConfig, classes: tuple[str, ...]) -> None:
    """Raise UserError if the teacher has not got what is to be learned from it in a training of these classes."""
    if wanted.features and not teacher.has_features:
        raise UserError(
            f"distillation.teacher={wanted.teacher}: {type(teacher.net).__name__} gives no features; give it a method "
            "forward_features(clips), or use distillation.features=0 and a weight for distillation.logits"
        )
    if not wanted.logits:
        return
    if teacher.classes is not None and teacher.classes != classes:
        difference = describe_class_difference(teacher.classes, classes)
        raise UserError(
            f"distillation.teacher={wanted.teacher}: its classes are not those of data.train: {difference}; use "
            "distillation.logits=0, or a teacher of these classes"
        )
    if teacher.num_classes != len(classes):
        raise UserError(
            f"distillation.teacher={wanted.teacher}: it has {teacher.num_classes or 'no'} classes, data.train has "
            f"{len(classes)}; use distillation.logits=0, or a teacher of these classes"
        )


def teacher_frames(teacher: Teacher, num_segments: int) -> list[int]:
    """Return which frames of a clip of `num_segments` the teacher sees: the middle one of equal parts."""
    return pathway_frames(num_segments, teacher.num_frames)


def pixel_change(teacher: Teacher, data: DataConfig) -> tuple[Tensor, Tensor] | None:
    """Return factor and shift, each (3, 1, 1), that make pixels normalised as `data` says what the teacher expects;
    None if they are that already."""
    own = torch.tensor([data.mean or IMAGENET_MEAN, data.std or IMAGENET_STD])
    theirs = own if teacher.statistics is None else torch.tensor(teacher.statistics)
    if torch.allclose(own, theirs, rtol=0, atol=1e-4):
        return None
    factor, shift = own[1] / theirs[1], (own[0] - theirs[0]) / theirs[1]
    return factor[:, None, None], shift[:, None, None]


def fingerprint(net: nn.Module) -> str:
    """Return 16 hexadecimal digits that stand for all weights and buffers of a network."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(memoryview(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()[:16]
