"""Pictures: curves of a run, a confusion matrix, what synthesizers fuse, where frames are sampled, heat over frames."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from launch.training.run_log import read_metrics
from launch.visualization.figures import plt, save
from model import SynthesizerConfig
from pipeline.sampling import middle_frames, random_frames
from sharding.errors import UserError

plt.rcParams["text.parse_math"] = False  # names of classes and files may hold a $

MOST_NAMED_CLASSES = 60
FRAMES_PER_ROW = 8


def draw_curves(run_dir: Path, path: Path | None = None) -> Path:
    """Draw the loss and its parts, the accuracies and the learning rate over the epochs, from metrics.jsonl.

    Raises:
        UserError: the run has no figures yet.
    """
    lines = read_metrics(run_dir)
    steps = [line for line in lines if line["kind"] == "train"]
    evaluations = [line for line in lines if line["kind"] == "evaluation"]
    if not steps and not evaluations:
        raise UserError(f"{run_dir}: no figures in metrics.jsonl; is it a run folder?")
    figure, (loss, accuracy, rate) = plt.subplots(1, 3, figsize=(15, 4), constrained_layout=True)
    taught = [name for name in steps[-1] if name.startswith("distillation/")] if steps else []
    for name in ("loss", "classification", *taught):
        loss.plot([line["epoch"] for line in steps], [line[name] for line in steps], label=name, linewidth=1)
    loss.set(title="training loss", xlabel="epoch", ylim=(0, None))
    several = bool(evaluations) and "map" in evaluations[-1]
    accuracies = (("top1", "top-1"), ("top5", "top-5"), ("mean_class", "mean class"))
    for name, label in (("map", "mAP"),) if several else accuracies:
        values = [100 * line[name] for line in evaluations]
        accuracy.plot([line["epoch"] for line in evaluations], values, marker=".", label=label)
    epochs = [line for line in lines if line["kind"] == "epoch" and "top1" in line]
    if epochs:
        values = [100 * line["top1"] for line in epochs]
        accuracy.plot([line["epoch"] for line in epochs], values, "--", color="gray", label="top-1, training clips")
    title = "mean average precision" if several else "accuracy on the validation split"
    accuracy.set(title=title, xlabel="epoch", ylabel="%", ylim=(0, 101))
    rate.plot([line["epoch"] for line in steps], [line["learning_rate"] for line in steps], label="learning rate")
    rate.set(title="learning rate", xlabel="epoch", ylim=(0, None))
    for axes in (loss, accuracy):
        axes.legend()
        axes.grid(alpha=0.3)
    return save(figure, path or run_dir / "curves.png")


def draw_confusion(confusion: np.ndarray, classes: Sequence[str], path: Path) -> Path:
    """Draw counts (C, C), true classes down and predicted ones across, as fractions of each true class."""
    counts = np.asarray(confusion, float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(16.0, max(4.0, 0.45 * len(classes) + 2))
    figure, axes = plt.subplots(figsize=(side + 1, side), constrained_layout=True)
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, label="% of the true class", shrink=0.8)
    if len(classes) <= MOST_NAMED_CLASSES:
        places = range(len(classes))
        axes.set_xticks(places, classes, rotation=90)
        axes.set_yticks(places, classes)
    if len(classes) <= 20:
        for (row, column), share in np.ndenumerate(shares):
            if share:
                color = "white" if share > 0.5 else "black"
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=color, fontsize=8)
    accuracy = counts.trace() / max(1, counts.sum())
    axes.set(xlabel="predicted", ylabel="true", title=f"top-1 {accuracy:.2%} of {int(counts.sum())} samples")
    return save(figure, path)


def draw_average_precision(
    precisions: np.ndarray, positives: np.ndarray, samples: int, classes: Sequence[str], path: Path
) -> Path:
    """Draw the average precision of each class (C,), the highest first, next to what guessing gives it.

    Classes of which there are no `positives` have none (nan) and are left out; of many classes the names are too.
    """
    known = np.flatnonzero(positives > 0)
    order = known[np.argsort(-precisions[known], kind="stable")]
    height = min(16.0, max(3.0, 0.25 * len(order) + 1.5))
    figure, axes = plt.subplots(figsize=(8, height), constrained_layout=True)
    places = np.arange(len(order))
    axes.barh(places, 100 * precisions[order], color="tab:blue", label="average precision")
    axes.plot(100 * positives[order] / max(1, samples), places, "|", color="black", label="guessing")
    named = len(order) <= MOST_NAMED_CLASSES
    names: list[str] = [classes[int(label)] for label in order] if named else []
    axes.set_yticks(places if named else [], names)
    axes.invert_yaxis()
    left_out = f", {len(classes) - len(order)} without samples left out" if len(order) < len(classes) else ""
    mean = float(precisions[order].mean()) if len(order) else float("nan")
    axes.set(title=f"mAP {mean:.2%} of {len(order)} classes{left_out}, {samples} samples", xlabel="%", xlim=(0, 101))
    axes.legend(loc="lower right")
    return save(figure, path)


def draw_reliability(
    counts: np.ndarray, accuracies: np.ndarray, confidences: np.ndarray, error: float, path: Path
) -> Path:
    """Draw accuracy against confidence in M equal bins, and how many samples each bin has; all arguments are (M,).

    Below the diagonal a network is over-confident: the gap between a bar and the mark of its mean confidence is what
    the expected calibration error adds up.
    """
    num_bins, edges = len(counts), np.arange(len(counts)) / len(counts)
    size = {"height_ratios": (3, 1), "figsize": (5, 6.4)}
    figure, (axes, below) = plt.subplots(2, 1, sharex=True, constrained_layout=True, **size)
    some = counts > 0
    axes.bar(edges[some], 100 * accuracies[some], 1 / num_bins, align="edge", color="tab:blue", edgecolor="white")
    axes.vlines(confidences[some], 100 * accuracies[some], 100 * confidences[some], color="crimson", linewidth=1)
    axes.plot(confidences[some], 100 * confidences[some], "_", color="crimson", markersize=12, label="mean confidence")
    axes.plot([0, 1], [0, 100], "--", color="black", linewidth=1, label="perfectly calibrated")
    axes.set(ylabel="accuracy in %", xlim=(0, 1), ylim=(0, 101))
    axes.set_title(f"expected calibration error {error:.2%}, {num_bins} bins, {int(counts.sum())} samples", fontsize=10)
    axes.legend(loc="upper left", fontsize=9)
    below.bar(edges, 100 * counts / max(1, counts.sum()), 1 / num_bins, align="edge", color="grey", edgecolor="white")
    below.set(xlabel="confidence: the highest probability", ylabel="% of samples")
    return save(figure, path)


def kernel_names(config: SynthesizerConfig) -> tuple[list[str], list[str]]:
    """Return the four spatial and the four temporal kernels, named as in Figure 5 of the paper: domain, kind, size.

    >>> kernel_names(SynthesizerConfig())
    (['S-I', 'S-C-3', 'S-C-5', 'S-M-3'], ['T-I', 'T-C-3', 'T-C-5', 'T-M-3'])
    """
    spatial, temporal = config.receptive_field.split("x")[0], config.receptive_field.split("x")[2]
    pooling = {"max": "M-3", "avg": "A-3", "none": "I"}[config.pooling]
    in_space, in_time = (
        [f"{domain}-{kind}" for kind in ("I", "C-3", f"C-{largest}", pooling)]
        for domain, largest in (("S", spatial), ("T", temporal))
    )
    return in_space, in_time


def draw_synthesizers(
    norms: Mapping[str, np.ndarray],
    config: SynthesizerConfig,
    title: str,
    path: Path,
    start: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Draw ||T_ij||_1 (4, 4) of each synthesizer: spatial kernels j across, temporal kernels i down; Figure 5.

    The darker the denser, each map on its own scale, from its smallest to its largest value. With `start`, the norms
    before training, it is their change in percent, all maps on one scale: red grew, blue shrank.
    """
    spatial, temporal = kernel_names(config)
    size = (2.9 * len(norms) + 0.6, 3.7)
    figure, rows = plt.subplots(1, len(norms), figsize=size, constrained_layout=True, squeeze=False, sharey=True)
    if start is not None:
        norms = {name: 100 * (values / start[name] - 1) for name, values in norms.items()}
    most = max(float(np.abs(values).max()) for values in norms.values())
    for axes, (name, values) in zip(rows[0], norms.items()):
        low, high = float(values.min()), float(values.max())
        if start is None:
            axes.imshow(values, cmap="Blues", vmin=low, vmax=high)
            is_dark, number = values > low + 0.6 * (high - low), "{:.3g}"
        else:
            axes.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most)
            is_dark, number = np.abs(values) > 0.7 * most, "{:+.1f}"
        for place, value in np.ndenumerate(values):
            color = "white" if is_dark[place] else "black"
            axes.text(*reversed(place), number.format(value), ha="center", va="center", color=color, fontsize=9)
        axes.set_xticks(range(len(spatial)), spatial)
        axes.set_yticks(range(len(temporal)), temporal)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(f"after {name}: {number.format(low)} to {number.format(high)}", fontsize=11)
    rows[0, 0].set_ylabel("temporal kernel i")
    kinds = "I: identity; C: convolution; M, A: max-, average pooling; with their sizes"
    figure.supxlabel(f"spatial kernel j   ({kinds})", fontsize=10)
    change = "" if start is None else "change by training in %, "
    figure.suptitle(f"{change}‖Tᵢⱼ‖₁ of {title}", fontsize=12)
    return save(figure, path)


def draw_frames(num_frames: np.ndarray, num_segments: int, epochs: int, title: str, path: Path) -> Path:
    """Draw where in videos of `num_frames` (N,) frames are sampled: in `epochs` of training, in a test, and evenly.

    Left: places in the video, from its beginning 0 to its end 1; a frame f of n covers [f/n, (f+1)/n). Right: how
    many frames are between one sampled frame and the next.
    """
    draws = np.random.default_rng(0).random((epochs, len(num_frames), num_segments))
    training = [[random_frames(int(n), u) for n, u in zip(num_frames, epoch)] for epoch in draws]
    test = np.array([middle_frames(int(n), num_segments) for n in num_frames])
    training = np.array(training).reshape(-1, num_segments)
    lengths = np.tile(num_frames, epochs)
    bins = 12 * num_segments
    figure, (places, gaps) = plt.subplots(1, 2, figsize=(13, 4), constrained_layout=True, width_ratios=(2, 1))
    edges = np.linspace(0, 1, bins + 1)
    colors = plt.get_cmap("viridis")(np.linspace(0.15, 0.85, num_segments))
    bottom = np.zeros(bins)
    for frames, color in zip(training.T, colors):
        density = np.diff(share_before(edges, frames, lengths)) * bins / num_segments
        places.bar(edges[:-1], density, 1 / bins, bottom, align="edge", color=color, linewidth=0)
        bottom += density
    places.bar(0, 0, color=colors[num_segments // 2], label=f"{epochs} epochs of training, a colour a segment")
    places.axhline(1, color="black", linewidth=1, linestyle="--", label="uniform")
    middles = ((test + 0.5) / num_frames[:, None]).mean(0)
    places.plot(middles, np.full(num_segments, 0.06), "^", color="crimson", markersize=8, label="test, mean of all")
    places.set(title=f"{num_segments} frames of {title}", xlabel="place in the video", ylabel="density", xlim=(0, 1))
    places.set_ylim(0, max(1.45, 1.15 * bottom.max()))
    places.legend(loc="upper center", ncols=3, fontsize=9, frameon=False)
    steps = {"training": np.diff(training).ravel(), "test": np.diff(test).ravel()}
    _draw_gaps(gaps, steps)
    return save(figure, path)


def draw_clips(clips: np.ndarray, titles: Sequence[str], path: Path) -> Path:
    """Draw clips (N, T, H, W, 3) uint8 in strips, each below its title."""
    count, length, height, width = clips.shape[:4]
    gap = max(1, width // 40)
    figure_width = min(16.0, 1.6 * length)
    size = (figure_width, count * (figure_width * height / (length * width) + 0.3))
    figure, rows = plt.subplots(count, 1, figsize=size, squeeze=False, constrained_layout=True)
    for axes, clip, title in zip(rows[:, 0], clips, titles):
        framed = np.pad(clip, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
        axes.imshow(framed.transpose(1, 0, 2, 3).reshape(height, length * (width + gap), 3))
        axes.set_title(title, fontsize=9, loc="left")
        axes.axis("off")
    return save(figure, path)


def draw_heat(pictures: np.ndarray, heat: np.ndarray, labels: Sequence[str], title: str, path: Path) -> Path:
    """Draw pictures (T, H, W, 3) uint8 in a strip, and below each the same under its heat (T, H, W) in [0, 1]."""
    count, height, width = pictures.shape[:3]
    per_row, gap = min(count, FRAMES_PER_ROW), max(1, width // 40)
    bands = math.ceil(count / per_row)
    opacity = 0.15 + 0.6 * heat[..., None]
    plain = pictures / 255
    heated = (1 - opacity) * plain + opacity * plt.get_cmap("inferno")(heat)[..., :3]
    step = width + gap
    figure_width = 1.6 * per_row
    strip_height = figure_width * (2 * height + gap) / (per_row * step - gap)
    size = (figure_width, bands * (strip_height + 0.25) + 0.35)
    figure, rows = plt.subplots(bands, 1, figsize=size, squeeze=False, constrained_layout=True)
    for band, axes in enumerate(rows[:, 0]):
        strip = np.ones((2 * height + gap, per_row * step - gap, 3))
        shown = range(band * per_row, min(count, (band + 1) * per_row))
        for column, place in enumerate(shown):
            columns = np.s_[column * step : column * step + width]
            strip[:height, columns], strip[height + gap :, columns] = plain[place], heated[place]
        axes.imshow(strip, interpolation="lanczos")
        axes.xaxis.tick_top()
        axes.set_xticks([i * step + width / 2 for i in range(len(shown))], [labels[place] for place in shown])
        axes.set_yticks([])
        axes.tick_params(length=0, pad=1, labelsize=9)
        axes.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=12)
    return save(figure, path)


def share_before(edges: np.ndarray, frames: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the fraction of the frames (K,) of videos of `lengths` (K,) frames that is before each edge (E,).

    A frame counts with the fraction of its stretch [f/n, (f+1)/n) that does, so that one of a short video, which covers
    much of it, does not fall into a single bin.
    """
    return np.array([np.clip(edge * lengths - frames, 0, 1).mean() for edge in edges])


def _draw_gaps(axes, steps: Mapping[str, np.ndarray]) -> None:
    largest = max((int(values.max()) for values in steps.values() if len(values)), default=0)
    for (name, values), color in zip(steps.items(), ("tab:green", "crimson")):
        counts = np.bincount(values, minlength=largest + 1) / max(1, len(values))
        axes.step(np.arange(largest + 1), 100 * counts, where="mid", color=color, label=name)
    axes.set(title="from one sampled frame to the next", xlabel="stored frames (0: the same again)", ylabel="%")
    axes.set_ylim(0, None)
    axes.legend()
