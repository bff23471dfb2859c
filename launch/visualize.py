"""Pictures of runs.

    python launch/visualize.py curves RUN                   # loss, accuracy and learning rate -> RUN/curves.png
    python launch/visualize.py confusion EVALUATION.json    # confusion matrix -> beside the file
"""

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

from launch.runlog import read_metrics
from sharding.commandline import CommandLine, UserError, run_command

mpl.use("Agg")
from matplotlib import pyplot as plt

MOST_NAMED_CLASSES = 60


def draw_curves(run_dir: Path) -> Path:
    """Draws the loss and its parts, the accuracies and the learning rate over the epochs, from metrics.jsonl.

    Raises:
        UserError: the run has no figures yet.
    """
    lines = read_metrics(run_dir)
    steps = [line for line in lines if line["kind"] == "train"]
    evaluations = [line for line in lines if line["kind"] == "evaluation"]
    if not steps and not evaluations:
        raise UserError(f"{run_dir}: no figures in metrics.jsonl; is it a run folder?")
    figure, (loss, accuracy, rate) = plt.subplots(1, 3, figsize=(15, 4), constrained_layout=True)
    for name in ("loss", "classification"):
        loss.plot([line["epoch"] for line in steps], [line[name] for line in steps], label=name, linewidth=1)
    loss.set(title="training loss", xlabel="epoch", ylim=(0, None))
    for name, label in (("top1", "top-1"), ("top5", "top-5"), ("mean_class", "mean class")):
        values = [100 * line[name] for line in evaluations]
        accuracy.plot([line["epoch"] for line in evaluations], values, marker=".", label=label)
    accuracy.set(title="validation accuracy", xlabel="epoch", ylabel="%", ylim=(0, 101))
    rate.plot([line["epoch"] for line in steps], [line["learning_rate"] for line in steps], label="learning rate")
    rate.set(title="learning rate", xlabel="epoch", ylim=(0, None))
    for axes in (loss, accuracy):
        axes.legend()
        axes.grid(alpha=0.3)
    return _save(figure, run_dir / "curves.png")


def draw_confusion(confusion: np.ndarray, classes: Sequence[str], path: Path) -> Path:
    """Draws counts (C, C), true classes down and predicted ones across, as shares of each true class."""
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
    return _save(figure, path)


def _save(figure, path: Path) -> Path:
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
    temporary.replace(path)
    return path


def main(arguments: list[str] | None = None) -> None:
    parser = CommandLine(prog="launch/visualize.py", description="Draws pictures of runs.")
    commands = parser.add_subcommands()
    curves = CommandLine(description="Loss, accuracy and learning rate of a run, as RUN/curves.png.")
    curves.add_argument("run", type=Path, help="Run folder.")
    confusion = CommandLine(description="The confusion matrix of an evaluation, as a PNG beside the file.")
    confusion.add_argument("evaluation", type=Path, help="evaluation.json that launch/evaluate.py wrote.")
    commands.add_subcommand("curves", curves)
    commands.add_subcommand("confusion", confusion)
    options = parser.parse_args(arguments)
    if options.subcommand == "curves":
        print(draw_curves(options.curves.run))
        return
    path = options.confusion.evaluation
    try:
        values = json.loads(path.read_text())
        print(draw_confusion(values["confusion"], values["classes"], path.with_name("confusion.png")))
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not an evaluation.json of launch/evaluate.py: {error}") from error


if __name__ == "__main__":
    run_command(main, "launch/visualize.py")
