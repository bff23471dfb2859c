"""The pictures of `launch/visualize.py`: each function reads what it draws, draws it, and returns the file."""

import json
import shlex
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from launch.visualization.plots import (
    draw_average_precision,
    draw_clips,
    draw_confusion,
    draw_curves,
    draw_frames,
    draw_reliability,
    draw_synthesizers,
)
from launch.visualization.report.evaluations import find_evaluations, read_multi_label, read_single_label
from pipeline.augment import OPERATIONS
from pipeline.config import DataConfig
from pipeline.plan import plan_clip
from sharding.dataset import PackedDataset, load_dataset
from sharding.errors import UserError
from sharding.files import check_writable

MOST_VIDEOS = 2000
"""Videos of a dataset whose frames are sampled for a picture."""


def curves(run: Path, out: Path | None) -> Path:
    """Draw loss, accuracy and learning rate of a run."""
    return draw_curves(run, _target(out or run / "curves.png"))


def confusion(evaluation: Path, out: Path | None) -> Path:
    """Draw the confusion matrix of an evaluation: its file, its folder, or a run whose newest one is meant."""
    found = read_single_label(find_evaluation(evaluation))
    target = _target(out or found.path.with_name("confusion.png"))
    return draw_confusion(found.confusion, found.classes, target)


def precision(evaluation: Path, out: Path | None) -> Path:
    """Draw the average precision of each class of an evaluation of videos with several labels."""
    found = read_multi_label(find_evaluation(evaluation))
    target = _target(out or found.path.with_name("average_precision.png"))
    return draw_average_precision(found.average_precision, found.positives, found.num_samples, found.classes, target)


def reliability(evaluation: Path, out: Path | None) -> Path:
    """Draw the reliability diagram of an evaluation: its file, its folder, or a run whose newest one is meant."""
    path = find_evaluation(evaluation)
    try:
        values = json.loads(path.read_text())["calibration"]
        counts, right, sure = (np.array(values[name], float) for name in ("counts", "accuracies", "confidences"))
        if counts.ndim != 1 or not counts.shape == right.shape == sure.shape:
            raise ValueError("calibration: lists of different lengths")
        expected = float(values["expected_calibration_error"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: no evaluation.json with a calibration ({error}); make one with launch/evaluate.py"
        ) from error
    return draw_reliability(counts, right, sure, expected, _target(out or path.with_name("reliability.png")))


def find_evaluation(path: Path) -> Path:
    """Return the evaluation.json that `path` is or holds; of several in a run, the newest.

    Raises:
        UserError: it is a folder without one.
    """
    found = find_evaluations(path)
    if not found:
        command = f"launch/evaluate.py --checkpoint {shlex.quote(str(path))} --data VAL"
        raise UserError(f"{path}: no evaluation in it; make one with {command}")
    return found[0]


def synthesizers(checkpoint: Path, relative_to_init: bool, out: Path | None) -> Path:
    """Draw how strongly each spatial kernel feeds each temporal one, or by how much training changed that."""
    from launch.training.builders import build_network
    from launch.training.checkpoint import find_checkpoint, load_checkpoint

    folder = find_checkpoint(checkpoint)
    net, _, config = load_checkpoint(folder)
    norms = _fusion_norms(net)
    if not norms:
        raise UserError(f"{checkpoint}: its network, model.arch={config.model.arch}, has no synthesizers")
    if relative_to_init and any((values == 0).any() for values in norms.values()):
        raise UserError(
            f"{checkpoint}: its fusion is fixed, so training cannot change it; leave --relative-to-init out"
        )
    target = _target(out or folder / "synthesizers.png")
    title = f"{config.model.arch}-{config.model.depth}, {checkpoint}"
    start = _fusion_norms(build_network(config)) if relative_to_init else None
    return draw_synthesizers(norms, config.model.synthesizer, title, target, start)


def _fusion_norms(net) -> dict[str, np.ndarray]:
    return {name: net.synthesizers[name].fusion_norms().detach().numpy() for name in net.synthesizer_names}


def gradcam(checkpoint: Path, video: Path, class_name: str | None, stage: str, out: Path | None) -> Path:
    """Draw what in each sampled frame speaks for a class."""
    from launch.training.checkpoint import load_checkpoint
    from launch.visualization.gradcam import check_class, draw_gradcam, require_captum
    from sharding.errors import MediaError
    from sharding.video.decode import probe

    require_captum()
    try:
        probe(video)
    except MediaError as error:
        raise UserError(f"{video}: {error.message}") from error
    target = _target(out or Path(f"{video.stem}-gradcam.png"))
    net, info, config = load_checkpoint(checkpoint)
    check_class(class_name, info.classes)
    return draw_gradcam(net, info, config, video, target, class_name, stage)


def frames(dataset: Path, num_segments: int, epochs: int, out: Path | None) -> Path:
    """Draw where in the videos of a dataset frames are sampled."""
    packed = load_dataset(dataset)
    target = _target(out or Path("frames.png"))
    if not len(packed):
        raise UserError(f"{dataset}: not one video in it")
    chosen = packed.num_frames[:: -(-len(packed) // MOST_VIDEOS)]
    title = f"{dataset}: {len(chosen):,} videos of {chosen.min()} to {chosen.max()} stored frames"
    return draw_frames(chosen, num_segments, epochs, title, target)


def clips(config: Path, num_clips: int, out: Path | None) -> Path:
    """Draw the first clips of a training as the network sees them, with what was drawn for each."""
    from launch.training.config_parser import load_config
    from launch.visualization.gradcam import restore_pixels
    from pipeline.dataset import open_dataset
    from pipeline.loader import VideoLoader

    values = load_config(config / "config.yaml" if config.is_dir() else config)
    data, seed, target = values.data, values.train.seed, _target(out or Path("clips.png"))
    if data.train is None:
        raise UserError(f"{config}: data.train is not set: give the folder of a packed training split there")
    dataset = open_dataset(data.train, data.cache_dir, data.cache_bytes)
    size = min(num_clips, len(dataset.kept))
    loader = VideoLoader(
        dataset, replace(data, worker_type="thread"), training=True, micro_batch_size=max(1, size), seed=seed
    )
    with closing(loader):
        batch = next(iter(loader))
    titles = [_describe_draws(dataset, data, sample_id, seed) for sample_id in batch.sample_ids.tolist()]
    return draw_clips(np.stack([restore_pixels(clip, data) for clip in batch.clips]), titles, target)


def _describe_draws(dataset: PackedDataset, data: DataConfig, sample_id: int, seed: int) -> str:
    """Return what was drawn for a sample in the first epoch: "jump/003 (jump): mirrored, rotate -9, erased"."""
    plan = plan_clip(dataset, data, sample_id, training=True, seed=seed)
    drawn = ["mirrored"] if plan.flips.any() else []
    for number, magnitude, negated in plan.operations.tolist():
        drawn.append(f"{OPERATIONS[number]} {'-' if negated else ''}{magnitude}")
    drawn += ["erased"] if plan.erased.any() else []
    name = ", ".join(dataset.label_names(sample_id))
    return f"{dataset.key(sample_id)} ({name}): {', '.join(drawn) or 'cropped'}"


def report(run: Path, evaluation: Path | None, data: Path | None, mistakes: int, out: Path | None) -> Path:
    """Write the page of a run."""
    from launch.visualization.report.report import write_report

    return write_report(run, evaluation, data, mistakes, out)


def _target(path: Path) -> Path:
    if path.suffix.lower() != ".png":
        raise UserError(f"--out {path}: use a name that ends in .png")
    check_writable(path)
    return path
