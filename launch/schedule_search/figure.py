"""The picture of a plan: its graph with the path found, and the accuracy along each edge with the fitted curve."""

import math
from pathlib import Path

import numpy as np

from launch.schedule_search.algorithm import SOURCE, Outcome, Plan, PlanConfig, fit_curve
from launch.training.clip_schedule import ClipConfig
from launch.visualization.figures import plt, save

CHOSEN, OTHER = "tab:red", "0.65"


def draw_plan(plan: Plan, config: PlanConfig, file: Path) -> Path:
    """Draw the states, clips across and learning rates down, with the edges; next to them a plot for each edge.

    The path into the last state is drawn in full; its edges of zero epochs, which hand a model on, are dotted.
    """
    columns = min(5, math.ceil(math.sqrt(len(plan.outcomes))))
    rows = math.ceil(len(plan.outcomes) / columns)
    size = (5.5 + 2.3 * columns, max(4.5, 1.9 * rows))
    figure = plt.figure(figsize=size, constrained_layout=True)
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(5.5, 2.3 * columns)).flat
    chosen = {outcome.edge for outcome in plan.trace(config.num_states)}
    _draw_graph(left.subplots(), plan, config, chosen)
    plots = right.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, outcome in zip(plots.flat, plan.outcomes):
        _draw_edge(axes, outcome, CHOSEN if outcome.edge in chosen else OTHER)
    for axes in plots.flat[len(plan.outcomes) :]:
        axes.set_visible(False)
    right.supxlabel("epoch; dashed: the peak", fontsize=10)
    right.supylabel("(top-1 + top-3 + top-5) / 3, %", fontsize=10)
    return save(figure, file)


def _draw_graph(axes, plan: Plan, config: PlanConfig, chosen: set) -> None:
    num_rates = len(config.rate_factors)
    places = {SOURCE: (-0.9, 0.0)}
    for state in range(1, config.num_states + 1):
        clip, rate = divmod(state - 1, num_rates)
        places[state] = (float(clip), -float(rate))
    for outcome in plan.outcomes:
        start, end = outcome.edge
        taken = outcome.edge in chosen
        # From the source past the first state to the second, around it.
        bend = "arc3,rad=-0.35" if start == SOURCE and places[end][0] > 0 else "arc3"
        style = {"arrowstyle": "-|>", "color": CHOSEN if taken else OTHER, "linewidth": 2.5 if taken else 1}
        style["linestyle"] = "-" if outcome.epochs or not taken else ":"
        axes.annotate(
            "", places[end], places[start], arrowprops=style | {"shrinkA": 14, "shrinkB": 14, "connectionstyle": bend}
        )
        x, y = np.add(places[start], places[end]) / 2 + ((0, 0.3) if bend != "arc3" else (0, 0))
        label = f"{outcome.epochs} ep\n{100 * outcome.score:.1f}"
        color = CHOSEN if taken else "0.35"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85}
        axes.text(x, y, label, ha="center", va="center", fontsize=7, color=color, bbox=box)
    for state, (x, y) in places.items():
        on_path = state == SOURCE or any(edge.end == state for edge in chosen)
        color = CHOSEN if on_path else OTHER
        axes.plot(x, y, "o", markersize=24, markerfacecolor="white", markeredgecolor=color, markeredgewidth=2)
        axes.text(x, y, str(state), ha="center", va="center", fontsize=11)
    axes.set_xticks(range(len(config.clips)), [_describe(clip) for clip in config.clips], fontsize=9)
    axes.set_yticks([-rate for rate in range(num_rates)], [f"× {factor:g}" for factor in config.rate_factors])
    axes.set(xlim=(-1.3, len(config.clips) - 0.6), ylim=(0.6 - num_rates, 0.8), ylabel="learning rate")
    axes.set_title("states and edges: epochs, fitted accuracy in %", fontsize=11)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _describe(clip: ClipConfig) -> str:
    unit = "frames" if clip.sampling == "dense" or clip.frame_stride else "segments"
    frames = f"{clip.num_segments or ''} {unit}".strip()
    if clip.frames_per_segment:
        frames += f" of {clip.frames_per_segment}"
    stride = f", stride {clip.frame_stride}" if clip.frame_stride else ""
    return f"{frames}{stride}\nrate {clip.learning_rate:g}"


def _draw_edge(axes, outcome: Outcome, color: str) -> None:
    epochs = len(outcome.metrics) - 1
    axes.plot(range(epochs + 1), 100 * np.array(outcome.metrics), ".", color="0.3", markersize=4)
    curve = fit_curve(outcome.metrics)
    if curve is not None:
        x = np.linspace(0, epochs, 100)
        axes.plot(x, 100 * curve(x), color=color, linewidth=1.8)
    axes.axvline(outcome.epochs, color=color, linestyle="--", linewidth=1)
    axes.set_title(str(outcome.edge), fontsize=9, color=color if color == CHOSEN else "0.2", pad=2)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
