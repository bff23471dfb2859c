"""What five times as many steps changed: the second tables of RESULTS.md and their picture."""

from pathlib import Path

import numpy as np

from launch.studies.ablation.results import (
    Difference,
    Results,
    accuracies,
    by_size,
    compare,
    percent,
    possible,
    published_difference,
    verdict,
)
from launch.studies.ablation.rows import LONG, ROWS, SHORT
from launch.visualization.figures import plt, save

SMOOTHING = 5
"""Lines of the log, each the mean of ten steps, that a point of the learning curves is the mean of."""

BEFORE = {"marker": "o", "linestyle": "", "color": "tab:gray", "markerfacecolor": "white"}
AFTER = {"marker": "o", "linestyle": "", "color": "tab:blue"}
PUBLISHED = {"marker": "|", "linestyle": "", "color": "black", "markersize": 13}


def describe_long(short: Results, long: Results) -> str:
    """Return the tables of the rows that were trained for longer, next to what they were before, as Markdown."""
    lines = [
        f"| network | seeds | top-1 %, {SHORT.num_steps:,} steps | {LONG.num_steps:,} steps | training loss "
        "| motion alone % | small / large objects % | paper: top-1 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, each in long.items():
        loss = np.mean([result["training_loss"] for result in each])
        cells = (
            *(ROWS[name].title, len(each)),
            *(accuracies(short[name]) if name in short else "", accuracies(each), f"{loss:.2f}"),
            *(f"{percent(each, 'motion_top1').mean():.1f}", by_size(each), f"{ROWS[name].published or '':.5}"),
        )
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    lines += [
        "",
        f"| what | {SHORT.num_steps:,} steps, points | {LONG.num_steps:,} steps, points | seed by seed | paper | "
        f"| what was found with {SHORT.num_steps:,} |",
        "|---|---|---|---|---|---|---|",
    ]
    for comparison in possible(long):
        before = compare(short, comparison) if comparison in possible(short) else None
        after, published = compare(long, comparison), published_difference(comparison)
        cells = (
            *(comparison.what, "" if before is None else before, after, after.seeds),
            "" if published is None else f"{published:+.2f}",
            *(verdict(after.mean, after.margin, published), "" if before is None else what_stands(before, after)),
        )
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def what_stands(before: Difference, after: Difference) -> str:
    """Return what longer training makes of a difference.

    >>> gain, loss, none = (Difference(np.array(points)) for points in ([3.0, 3.1], [-8.0, -8.2], [-3.0, 3.0]))
    >>> [what_stands(*each) for each in ((gain, gain), (gain, loss), (gain, none), (none, loss), (none, none))]
    ['stands', 'is reversed', 'is no longer clear', 'became clear', 'unclear']
    """
    if before.is_clear and after.is_clear:
        return "stands" if before.mean * after.mean > 0 else "is reversed"
    if before.is_clear:
        return "is no longer clear"
    return "became clear" if after.is_clear else "unclear"


def draw_long(short: Results, long: Results, path: Path) -> Path:
    """Draw the training loss of each row over the steps of the long budget, and the differences with both budgets."""
    figure, (losses, differences) = plt.subplots(1, 2, figsize=(15, 4.6), constrained_layout=True)
    for place, (name, each) in enumerate(long.items()):
        steps = [step for step, _ in each[0]["training_losses"]]
        mean = np.mean([[loss for _, loss in result["training_losses"]] for result in each], axis=0)
        smooth = np.convolve(mean, np.ones(SMOOTHING) / SMOOTHING, "valid")
        line = "--" if name.startswith("vpsn_") else "-"
        losses.plot(steps[SMOOTHING - 1 :], smooth, line, color=f"C{place}", label=ROWS[name].title, linewidth=1.2)
    losses.axvline(SHORT.num_steps, color="black", linestyle=":", linewidth=1)
    losses.set(xlabel="step", ylabel="classification loss in training", title="how the rows learn (mean of the seeds)")
    losses.legend(fontsize=8, frameon=False)
    known = possible(long)[::-1]
    for place, comparison in enumerate(known):
        for results, shift, style in ((short, 0.14, BEFORE), (long, -0.14, AFTER)):
            if comparison in possible(results):
                found = compare(results, comparison)
                differences.errorbar(found.mean, place + shift, xerr=found.margin, capsize=2, **style)
        published = published_difference(comparison)
        if published is not None:
            differences.plot(published, place, **PUBLISHED)
    differences.set_yticks(range(len(known)), [each.what.split(":")[0] for each in known])
    differences.axvline(0, color="black", linewidth=0.8)
    for style, label in (
        (BEFORE, f"{SHORT.num_steps:,} steps"),
        (AFTER, f"{LONG.num_steps:,} steps"),
        (PUBLISHED, "in the paper"),
    ):
        differences.plot([], [], label=label, **style)
    differences.legend(fontsize=8, frameon=False)
    differences.set(xlabel="points of top-1 with 95 % interval", title="differences with both budgets")
    return save(figure, path)
