"""A trained network as ONNX, checked against onnxruntime, and a description of its input, for `launch/export.py`."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from launch.training.checkpoint import CheckpointInfo, find_checkpoint, load_checkpoint, packing_settings
from launch.training.config import Config
from launch.training.versions import version_of
from model import fuse_batch_norm
from pipeline.config import DataConfig
from pipeline.sampling import dense_frames, even_start, middle_frames
from sharding.errors import UserError
from sharding.files import check_writable, file_sha256, replacing, write_atomically

INPUT, OUTPUT = "clips", "logits"
TOLERANCE = 1e-4
CHECKED_BATCHES = (1, 3)
OLDEST_OPSET = 18
"""The exporter writes operators of this version and later ones; going further back, it fails on these networks."""
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Exported:
    """A file that was written and found to agree with the network."""

    opset: int
    largest_difference: float
    """Between a logit of onnxruntime and the network's, relative to the largest of the batch if that is above 1."""


def export_checkpoint(path: Path, out: Path, opset: int | None) -> None:
    """Export a checkpoint to `out` and describe it in the .json file of the same name; print what was done.

    Raises:
        UserError: it cannot be exported, or the file is not to be trusted.
    """
    require_packages(opset)
    checkpoint, description = find_checkpoint(path), out.with_suffix(".json")
    for target in (out, description):
        check_writable(target)
    net, info, config = load_checkpoint(checkpoint)
    shape = (config.data.frames_per_clip, 3, config.data.crop_size, config.data.crop_size)
    exported = export(fuse_batch_norm(net), shape, out, opset)
    values = describe(out.name, exported, checkpoint, info, config)
    write_atomically(description, json.dumps(values, indent=1) + "\n")
    print(
        f"{out}: {INPUT} (B, {', '.join(map(str, shape))}) -> {OUTPUT} (B, {len(info.classes)}), "
        f"opset {exported.opset}, {out.stat().st_size:,} bytes"
    )
    batches, difference = " and ".join(map(str, CHECKED_BATCHES)), f"{exported.largest_difference:.1e}"
    print(f"checked against onnxruntime with batches of {batches}: differs by at most {difference}")
    print(f"preprocessing and classes: {description}")


def export(net: nn.Module, shape: Sequence[int], path: Path, opset: int | None = None) -> Exported:
    """Write a network in evaluation mode, on the CPU, for clips (B, *shape), to `path`, once it was found to agree.

    Raises:
        UserError: it could not be written for this opset, or onnxruntime's logits differ by more than TOLERANCE.
    """
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it reports every way it tries to convert an opset
    clips = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    try:
        program = torch.onnx.export(
            net,
            (clips,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        reason = next((line for line in str(error.__cause__ or error).splitlines() if line.strip()), "no reason given")
        raise UserError(f"{type(net).__name__}: PyTorch's exporter cannot follow it: {reason.strip()}") from error
    assert program is not None  # as it is without dynamo
    with replacing(path) as temporary:
        program.save(temporary, external_data=False)
        written = read_opset(temporary)
        if opset is not None and written != opset:  # where it cannot convert, the exporter leaves things as they are
            raise UserError(f"--opset {opset}: cannot be had of this network; {written} can")
        difference = compare_with_onnxruntime(net, temporary, shape)
        if not difference <= TOLERANCE:
            raise UserError(
                f"{path}: not written, as onnxruntime's logits differ from the network's by {difference:.1e}, more "
                f"than {TOLERANCE}; try another --opset"
            )
    return Exported(written, difference)


def compare_with_onnxruntime(net: nn.Module, path: Path, shape: Sequence[int]) -> float:
    """Run the network and the file on the same random clips, in batches of CHECKED_BATCHES.

    Returns:
        `largest_difference` of `Exported`; not a number if one of the two gives logits that are none.

    Raises:
        UserError: onnxruntime refuses the file.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base
        reason = str(error).splitlines()[0]
        name = f"onnxruntime {onnxruntime.__version__}"
        raise UserError(f"{name} cannot load what was exported: {reason}; try another --opset") from error
    generator = torch.Generator().manual_seed(1)
    differences = []
    for batch in CHECKED_BATCHES:
        clips = torch.randn(batch, *shape, generator=generator)
        with torch.inference_mode():
            expected = net(clips)
        found = torch.from_numpy(session.run([OUTPUT], {INPUT: clips.numpy()})[0])
        assert found.shape == expected.shape, f"{found.shape} where the network returns {expected.shape}"
        differences.append((found - expected).abs().max() / expected.abs().max().clamp(min=1))
    return float(torch.stack(differences).max())


def read_opset(path: Path) -> int:
    """Return the version of the standard operators that an ONNX file uses."""
    import onnx

    return next(entry.version for entry in onnx.load(path).opset_import if entry.domain in ("", "ai.onnx"))


def describe(name: str, exported: Exported, checkpoint: Path, info: CheckpointInfo, config: Config) -> dict:
    """Return what model.json says: how a video becomes an input, what the outputs mean, and where it all comes from."""
    data = config.data
    return {
        "format_version": FORMAT_VERSION,
        "model": name,
        "opset": exported.opset,
        "input": {
            "name": INPUT,
            "dtype": "float32",
            "layout": "(B, T, 3, H, W)",
            "shape": ["batch", data.frames_per_clip, 3, data.crop_size, data.crop_size],
            "channels": "RGB",
        },
        "output": {
            "name": OUTPUT,
            "dtype": "float32",
            "shape": ["batch", len(info.classes)],
            **_meaning(config.model.multi_label),
        },
        "classes": list(info.classes),
        "preprocessing": _preprocessing(info.packing, data),
        "checkpoint": {
            "name": checkpoint.resolve().name,
            "sha256": file_sha256(checkpoint / "model.safetensors"),
            "arch": config.model.arch,
            "depth": config.model.depth,
            "backbone": config.model.backbone,
            "step": info.step,
            "epoch": info.epoch,
            "metrics": info.metrics,
            "train_fingerprint": info.train_fingerprint,
            "versions": info.versions,
        },
        "export": {
            "checked_batches": list(CHECKED_BATCHES),
            "largest_difference": exported.largest_difference,
            "versions": {name: version_of(name) for name in ("vpsn", "torch", "onnx", "onnxscript", "onnxruntime")},
        },
    }


def _meaning(multi_label: bool) -> dict[str, str]:
    """Return what the outputs are, for people and for programs."""
    if multi_label:
        meaning = "logits; the sigmoid of each is the probability of its class; a video may be of several, or of none"
        return {"meaning": meaning, "activation": "sigmoid"}
    return {"meaning": "logits; softmax over the last axis makes probabilities of them", "activation": "softmax"}


def _preprocessing(packing: Mapping[str, Any], data: DataConfig) -> list[dict]:
    """Return the steps from a video to an input, in order."""
    store = {"step": "store", "square_pixels": True, "upright": True}
    settings = packing_settings(packing)
    if settings["profile"] in ("h264", "jpeg"):
        store["max_frames"] = settings["max_frames"]
        store["frames"] = (
            "of N > M = max_frames keep, for j = 0 .. M - 1, floor((j + 1/2) * N / M) at a steady rate, at a varying "
            "one what is on show at (j + 1/2) / M of the duration; else all"
        )
    if settings["profile"] != "copy":
        store["short_side"] = settings["short_side"]
        store["size"] = "frames with a longer short side are scaled down to it, shorter ones left as they are"
    return [
        store | {"packing": packing},
        _sampling(data),
        {
            "step": "resize",
            "short_side": data.short_side,
            "size": "the longer side is rounded down to a whole pixel",
            "filter": "linear, antialiased when scaling down",
        },
        {
            "step": "crop",
            "height": data.crop_size,
            "width": data.crop_size,
            "place": "centre: top = floor((h - height + 1) / 2), left = floor((w - width + 1) / 2)",
        },
        {
            "step": "normalise",
            "value": "(pixel - mean) / std for each of R, G, B",
            "pixel_range": [0, 255],
            "mean": [round(value, 6) for value in data.pixel_mean],
            "std": [round(value, 6) for value in data.pixel_std],
        },
    ]


def _sampling(data: DataConfig) -> dict:
    step = {"step": "sample", "sampling": data.sampling, "num_segments": data.num_segments}
    if data.sampling == "segments":
        step["frames"] = "of n stored frames take floor((i + 1/2) * n / T) for i = 0 .. T - 1"
        if data.frames_per_segment > 1:
            step["frames_per_segment"] = data.frames_per_segment
            step["frames"] = (
                "of n stored frames take min(begin_i + j, n - 1) for j = 0 .. frames_per_segment - 1, for each "
                "begin_i = floor((i + 1/2) * max(1, n - frames_per_segment + 1) / num_segments), "
                "i = 0 .. num_segments - 1"
            )
        frames = middle_frames(64, data.num_segments, frames_per_segment=data.frames_per_segment)
    else:
        step["frame_stride"] = data.frame_stride
        step["frames"] = (
            "of n stored frames take (start + i * frame_stride) mod n for i = 0 .. T - 1, "
            "start = floor(max(0, n - T * frame_stride) / 2)"
        )
        start = even_start(64, data.num_segments, data.frame_stride, 0, 1)
        frames = dense_frames(64, data.num_segments, data.frame_stride, start)
    return step | {"example": {"n": 64, "frames": frames.tolist()}}


def require_packages(opset: int | None) -> None:
    """Raise UserError if a package is missing, or `opset` is none that could be written."""
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; run pip install 'vpsn[export]'") from error
    newest = onnx.defs.onnx_opset_version()
    if opset is not None and not OLDEST_OPSET <= opset <= newest:
        raise UserError(f"--opset {opset}: {OLDEST_OPSET} to {newest} is possible with onnx {onnx.__version__}")
