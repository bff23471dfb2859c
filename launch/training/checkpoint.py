"""Checkpoints: folders that appear complete or not at all, with all that evaluation and prediction need.

RUN/checkpoints/step-00000120/
    model.safetensors    the network alone; what evaluate, predict and anyone else's code read
    model_raw.safetensors    with train.ema_decay: the network that is trained, of which that is the moving average
    checkpoint.json      classes, input specification, where in the run it was taken, metrics, versions
    config.yaml          the resolved configuration
    mp_rank_00_… .pt     DeepSpeed's: optimizer and everything else that training resumes from
RUN/checkpoints/last, best    text files with a folder's name
"""

import json
import platform
import re
import shutil
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from launch.training.config import Config
from launch.training.config_parser import load_config
from launch.training.versions import version_of
from model import Network, build_model
from model.pretrained import describe_mismatch
from model.weights.header import describe_weights
from pipeline.config import IMAGENET_MEAN, IMAGENET_STD
from sharding.errors import UserError
from sharding.files import parse_json, write_atomically
from sharding.packing.profiles import PROFILES

FORMAT_VERSION = 1


@dataclass(frozen=True)
class CheckpointInfo:
    """checkpoint.json."""

    step: int
    """Optimizer steps taken since the beginning of the run."""
    epoch: int
    """Complete epochs taken."""
    classes: tuple[str, ...]
    """Class names; the place is the class id."""
    packing: Mapping[str, Any]
    """The packing settings of the training split: what a video goes through before the network sees it."""
    train_fingerprint: str
    """Which packed data it was trained on."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Figures of the evaluation at this point, if there was one."""
    teacher_fingerprint: str = ""
    """Of the frozen network that it learned from, "" if there was none."""
    versions: dict[str, str] = field(default_factory=lambda: describe_versions())
    format_version: int = FORMAT_VERSION


def describe_versions() -> dict[str, str]:
    """Return versions that bear on a result."""
    names = ("vpsn", "torch", "torchvision", "deepspeed", "av", "numpy")
    return {"python": platform.python_version()} | {name: version_of(name) for name in names}


def write_checkpoint(
    folder: Path, net: nn.Module, info: CheckpointInfo, config: Config, raw: nn.Module | None = None
) -> None:
    """Write the parts of a checkpoint that evaluation and prediction need: of `net`, and if it is an average the `raw`
    network too."""
    config_path = folder / "config.yaml"
    config_path.write_text(config.to_yaml())
    mode = stat.S_IMODE(config_path.stat().st_mode)
    data = config.data
    metadata = describe_weights(config.model.arch, (data.mean or IMAGENET_MEAN, data.std or IMAGENET_STD))
    _write_tensors(net, folder / "model.safetensors", mode, metadata)
    if raw is not None:
        _write_tensors(raw, folder / "model_raw.safetensors", mode, metadata)
    write_info(folder, info)


def _write_tensors(net: nn.Module, path: Path, mode: int, metadata: dict[str, str]) -> None:
    tensors = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    save_file(tensors, path, metadata)
    path.chmod(mode)  # safetensors lets only the owner read it, whatever the umask


def write_info(folder: Path, info: CheckpointInfo) -> None:
    """Write checkpoint.json."""
    write_atomically(folder / "checkpoint.json", json.dumps(asdict(info), indent=1) + "\n")


def read_info(folder: Path) -> CheckpointInfo:
    """Read checkpoint.json.

    Raises:
        UserError: it is missing, damaged, or of a newer version.
    """
    try:
        values = parse_json((folder / "checkpoint.json").read_text())
        newer = values["format_version"] > FORMAT_VERSION
        info = None if newer else CheckpointInfo(**values | {"classes": tuple(values["classes"])})
        if info is not None:
            _check_info(info)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder}: damaged checkpoint: checkpoint.json: {' '.join(str(error).split())}") from error
    if info is None:
        raise UserError(f"{folder}: made by a newer version of this program (format {values['format_version']})")
    return info


def _check_info(info: CheckpointInfo) -> None:
    """Raise ValueError if a value is not of its kind."""
    kinds = {"step": int, "epoch": int, "packing": dict, "metrics": dict, "versions": dict}
    kinds |= {"train_fingerprint": str, "teacher_fingerprint": str}
    for name, kind in kinds.items():
        if not isinstance(getattr(info, name), kind):
            raise ValueError(f"{name} is not of the kind {kind.__name__}")
    if not all(isinstance(name, str) for name in info.classes):
        raise ValueError("classes are not names")
    if not all(isinstance(value, (int, float)) for value in info.metrics.values()):
        raise ValueError("metrics are not numbers")


def packing_settings(packing: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of PackConfig with which a video is packed as the training data were.

    Args:
        packing: `CheckpointInfo.packing`.

    Raises:
        UserError: it lacks one of them, or has one of another kind.
    """
    kinds = {"profile": str, "max_frames": int, "short_side": int, "quality": int}
    for name, kind in kinds.items():
        if not isinstance(value := packing.get(name), kind):
            raise UserError(
                f"checkpoint.json: packing: {name}: {value!r}: it must be of the kind {kind.__name__}; without it no "
                "video can be prepared as the training data were; use a checkpoint that training wrote"
            )
    settings = {name: packing[name] for name in kinds}
    profile = PROFILES.get(settings["profile"])
    if profile is not None and profile.quality is None:  # recorded as 0, and no option of such a profile
        del settings["quality"]
    return settings


def point(folder: Path, pointer: str, name: str) -> None:
    """Let `pointer` ("last" or "best") name the checkpoint `name`."""
    write_atomically(folder / pointer, name + "\n")


def pointed(folder: Path, pointer: str) -> str | None:
    """Return the name of the checkpoint that `pointer` names, or None.

    Raises:
        UserError: it contains anything else than such a name.
    """
    path = folder / pointer
    if not path.exists():
        return None
    name = path.read_text(errors="replace").strip()
    if not re.fullmatch(r"step-\d+", name):
        raise UserError(f"{path}: it should name a checkpoint of this folder, such as step-00000120, not {name[:60]!r}")
    return name


def remove_old_checkpoints(folder: Path, keep: int) -> None:
    """Keep the newest `keep` checkpoints and those that `last` and `best` name."""
    names = sorted(path.name for path in folder.glob("step-*"))
    kept = {pointed(folder, "last"), pointed(folder, "best"), *names[-keep:]}
    for name in names:
        if name not in kept:
            shutil.rmtree(folder / name)


def find_checkpoint(path: Path | str) -> Path:
    """Return the checkpoint folder that `path` means: itself, what RUN/last or RUN/best names (or the file itself, in
    RUN/checkpoints), or a run's best one, or where there is no best one its last.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    if (path / "checkpoint.json").exists():
        return path
    if path.name in ("last", "best") and not path.is_dir():
        folder = path.parent if path.is_file() else path.parent / "checkpoints"
        name = pointed(folder, path.name)
        others = [other for other in ("last", "best") if (folder / other).is_file()]
        if name is None and others:
            raise UserError(
                f"{path}: the run has no {path.name} checkpoint, as it was never evaluated; use "
                f"{path.with_name(others[0])}"
            )
    else:
        folder = path if path.name == "checkpoints" else path / "checkpoints"
        name = pointed(folder, "best") or pointed(folder, "last")
    if name is None:
        raise UserError(
            f"{path}: no checkpoint there; give a run folder, or a folder with checkpoint.json and model.safetensors"
        )
    return folder / name


def load_checkpoint(path: Path | str) -> tuple[Network, CheckpointInfo, Config]:
    """Return the trained network, in eval mode on the CPU, with its description and configuration; nothing is
    unpickled.

    Raises:
        UserError: no checkpoint, a damaged one, one of a newer version, or of a network that cannot be imported.
    """
    folder = find_checkpoint(path)
    config, info = load_config(folder / "config.yaml"), read_info(folder)
    if len(info.classes) != config.model.num_classes:
        raise UserError(
            f"{folder}: damaged checkpoint: {len(info.classes)} classes in checkpoint.json, but "
            f"model.num_classes={config.model.num_classes} in config.yaml"
        )
    try:
        net = build_model(config.model.without_files())
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from error
    check_weights(net, folder)
    net.load_state_dict(load_file(folder / "model.safetensors"))
    return net.eval(), info, config


def check_weights(net: nn.Module, folder: Path) -> None:
    """Check the names and shapes of the weights in a checkpoint against those of `net`.

    Raises:
        UserError: they differ, or the file is missing or damaged.
    """
    path = folder / "model.safetensors"
    try:
        with safe_open(path, "pt") as tensors:
            shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: damaged checkpoint: {' '.join(str(error).split())}") from error
    if mismatch := describe_mismatch(net, shapes):
        raise UserError(f"{path}: damaged checkpoint, or one of another network: {mismatch}")
