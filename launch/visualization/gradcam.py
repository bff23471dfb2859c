"""Grad-CAM: which parts of the frames a class rests on."""

import difflib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from launch.inference.predictor import open_loader
from launch.training.checkpoint import CheckpointInfo
from launch.training.config import Config
from launch.visualization.plots import draw_heat
from model import Network, VideoResNet
from pipeline.config import DataConfig
from pipeline.plan import plan_clip
from sharding.errors import UserError


def draw_gradcam(
    net: Network,
    info: CheckpointInfo,
    config: Config,
    video: Path,
    path: Path,
    class_name: str | None = None,
    stage: str = "layer4",
) -> Path:
    """Draw the frames that the network sees of a video, and over them what speaks for a class of `info.classes`.

    By default for the most probable one.

    Raises:
        UserError: the video cannot be decoded, or the network is no ResNet, or several that are joined.
    """
    if not isinstance(net, VideoResNet):
        model = config.model
        raise UserError(f"model.arch={model.arch}, model.head={model.head}: Grad-CAM looks into one ResNet only")
    with open_loader([video], info.packing, config.data, "cpu") as (loader, failures):
        if loader is None:
            raise UserError(f"{video}: {failures[0]}")
        [batch] = loader
        frames = plan_clip(loader.dataset, loader.config, 0, training=False).frames
        num_frames = int(loader.dataset.num_frames[0])
    with torch.inference_mode():
        logits = net(batch.clips)[0]
    probabilities = logits.sigmoid() if config.model.multi_label else logits.softmax(0)
    target = info.classes.index(class_name) if class_name else int(probabilities.argmax())
    heat = compute_gradcam(net, batch.clips, target, stage)[0]
    return draw_heat(
        restore_pixels(batch.clips[0], config.data),
        heat.numpy(),
        [f"{(frame + 0.5) / num_frames:.0%}" for frame in frames],
        f"{video.name}: {info.classes[target]}, {probabilities[target]:.1%}",
        path,
    )


def compute_gradcam(net: VideoResNet, clips: torch.Tensor, target: int, stage: str) -> torch.Tensor:
    """Return Grad-CAM of class `target` at the end of a stage, for clips (B, T, 3, H, W): (B, T, H, W) in [0, 1].

    The gradients are averaged over space for each frame, so that frames may count differently; the largest value of a
    clip is 1, unless nothing in it speaks for the class.
    """
    from captum.attr import LayerGradCam

    layer: nn.Module = net.synthesizers[stage] if stage in net.synthesizers else getattr(net, stage)
    # Feature maps are those of folded frames (B * T, C, h, w), and so are the maps; where a stem strides over time each
    # covers several frames.
    maps = LayerGradCam(net, layer).attribute(clips, target=target, relu_attributions=True)
    assert isinstance(maps, torch.Tensor)  # one layer, one output
    maps = maps.detach()
    maps = maps.repeat_interleave(clips.shape[0] * clips.shape[1] // len(maps), dim=0)
    maps = F.interpolate(maps, clips.shape[-2:], mode="bilinear").unflatten(0, clips.shape[:2])[:, :, 0]
    return maps / maps.amax((1, 2, 3), keepdim=True).clamp(min=1e-12)


def restore_pixels(clip: torch.Tensor, data: DataConfig) -> np.ndarray:
    """Return the pictures (T, H, W, 3) uint8 of a clip (T, 3, H, W) that was normalised as `data` says."""
    pixels = clip.permute(0, 2, 3, 1) * torch.tensor(data.pixel_std) + torch.tensor(data.pixel_mean)
    return pixels.round().clamp(0, 255).byte().numpy()


def require_captum() -> None:
    """Raise UserError if captum is not installed."""
    try:
        import captum  # noqa: F401
    except ImportError:
        raise UserError("captum is not installed; run pip install 'vpsn[visualize]'") from None


def check_class(name: str | None, classes: Sequence[str]) -> None:
    """Raise UserError for a class that is not among `classes`, with the nearest one that is."""
    if name is None or name in classes:
        return
    near = difflib.get_close_matches(name, classes, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {len(classes)}, such as {classes[0]!r}"
    raise UserError(f"--class-name {name!r}: the network has no such class; {hint}")
