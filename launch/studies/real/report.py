"""What the study on real videos found: tables and picture of docs/real_videos.md, from the files in docs/real."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.studies.marks import with_written
from launch.studies.real.folds import clip_of
from launch.studies.real.rows import EXPERIMENTS, NETWORKS, RESULTS, SETS, TUNING, Experiment, VideoSet
from launch.studies.real.statistics import SIGNIFICANT, Accuracy, Difference, Scores, accuracy_of, compare
from launch.visualization.figures import plt, save
from sharding.errors import UserError
from sharding.files import write_atomically

PAGE, PICTURE = Path("docs/real_videos.md"), Path("docs/real_videos.png")
PROGRAM = "python -m launch.studies.real"
CHANCE_OF_DIRECTION = 0.5

Results = Mapping[tuple[str, str, str], Sequence[dict]]
"""(experiment, set, network) -> its results, a seed each."""


@dataclass(frozen=True)
class Comparison:
    """Two networks, or a network with and without pretraining, that anybody would compare."""

    what: str
    one: tuple[str, str]
    """Experiment and network."""
    other: tuple[str, str]


PAIRS = (("vpsn", "tsn"), ("tsm", "tsn"), ("gst", "tsn"), ("vpsn", "tsm"), ("vpsn", "gst"))
TASKS = {"action": "actions", "direction": "direction", "pretrained": "actions, pretrained"}
COMPARISONS = tuple(
    Comparison(f"{NETWORKS[one]} over {NETWORKS[other]}, {task}", (experiment, one), (experiment, other))
    for experiment, task in TASKS.items()
    for one, other in PAIRS
    if {one, other} <= set(EXPERIMENTS[experiment].networks)
) + tuple(
    Comparison(f"{NETWORKS[network]} pretrained over from scratch", ("pretrained", network), ("action", network))
    for network in EXPERIMENTS["pretrained"].networks
)


def load_results() -> Results:
    """Read the results that there are."""
    found: dict[tuple[str, str, str], list[dict]] = defaultdict(list)
    for file in sorted(RESULTS.glob("*.json")):
        result = json.loads(file.read_text())
        found[result["experiment"], result["set"], result["network"]].append(result)
    return found


def write_page() -> str:
    """Write the tables into docs/real_videos.md, between its two marks, and draw the picture; return what was written.

    Raises:
        UserError: there is no result yet, or the page lacks the marks.
    """
    results = load_results()
    if not results:
        raise UserError(f"{RESULTS}: no results; run python -m launch.studies.real --data DATA")
    tables = describe(results)
    write_atomically(PAGE, with_written(PAGE.read_text(), PROGRAM, tables, PAGE))
    draw(results, PICTURE)
    return tables


def describe(results: Results) -> str:
    """Return findings and tables as Markdown."""
    parts = [_findings(results)]
    parts += [_accuracies(results, each) for each in EXPERIMENTS.values() if _has(results, each)]
    parts += [_comparisons(results), _tuning(results)]
    return "\n\n".join(part for part in parts if part)


def scores_of(results: Sequence[dict]) -> Scores:
    """Return the fraction of right predictions of each clip, over its directions and the seeds."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for result in results:
        for fold in result["folds"].values():
            for key, (label, predicted) in fold["predictions"].items():
                hits[f"{result['set']}/{clip_of(key)}"].append(label == predicted)
    return {clip: sum(each) / len(each) for clip, each in hits.items()}


def scores_on_all_sets(results: Results, experiment: str, network: str) -> Scores:
    """Return the scores on the clips of all sets that have a result."""
    found: dict[str, float] = {}
    for name in SETS:
        found |= scores_of(results.get((experiment, name, network), ()))
    return found


def compared(results: Results) -> Iterator[tuple[Comparison, Difference, int]]:
    """Yield each comparison that is possible, with its difference and the number of clips that both have."""
    for comparison in COMPARISONS:
        one, other = (scores_on_all_sets(results, *which) for which in (comparison.one, comparison.other))
        shared = one.keys() & other.keys()
        if shared:
            yield comparison, compare(one, other), len(shared)


def chance_of(experiment: Experiment, videos: VideoSet) -> float:
    return CHANCE_OF_DIRECTION if experiment.task == "direction" else videos.chance


def _has(results: Results, experiment: Experiment) -> bool:
    return any(name == experiment.name for name, _, _ in results)


def _findings(results: Results) -> str:
    lines = []
    for comparison, difference, _ in compared(results):
        points = f"{100 * difference.value:+.1f} points, p = {difference.p:.2g}"
        if not difference.is_found:
            lines.append(f"- not found: {comparison.what} ({points})")
        else:
            found = "found" if difference.value > 0 else "found, the other way round"
            lines.append(f"- **{found}**: {comparison.what} ({points})")
    for network, title in NETWORKS.items():
        scores = scores_on_all_sets(results, "direction", network)
        if scores:
            found = accuracy_of(scores)
            word = "**found**" if found.interval[0] > CHANCE_OF_DIRECTION else "not found"
            lines.append(f"- {word}: {title} knows forward from reversed ({_percent(found)}; 50 % is chance)")
    return "\n".join(lines)


def _accuracies(results: Results, experiment: Experiment) -> str:
    heads = [f"{SETS[name].title} (chance {100 * chance_of(experiment, SETS[name]):.0f} %)" for name in experiment.sets]
    lines = [
        f"### {experiment.title}",
        "",
        f"| network | seeds | {' | '.join(heads)} | all clips | in training | seconds a fold |",
    ]
    lines.append("|---" * (len(heads) + 5) + "|")
    for network in experiment.networks:
        rows = {name: results.get((experiment.name, name, network), ()) for name in experiment.sets}
        if not any(rows.values()):
            continue
        cells = [_percent(accuracy_of(scores_of(each))) if each else "" for each in rows.values()]
        together = accuracy_of(scores_on_all_sets(results, experiment.name, network)) if all(rows.values()) else None
        seeds = min(len(each) for each in rows.values() if each)
        folds = [fold for each in rows.values() for result in each for fold in result["folds"].values()]
        trained, seconds = (sum(fold[name] for fold in folds) / len(folds) for name in ("training_top1", "seconds"))
        cells += [f"**{_percent(together)}**" if together else "", f"{100 * trained:.0f}", f"{seconds:.0f}"]
        lines.append(f"| {NETWORKS[network]} | {seeds} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _percent(accuracy: Accuracy) -> str:
    low, high = accuracy.interval
    return f"{100 * accuracy.value:.1f} ({100 * low:.0f} to {100 * high:.0f})"


def _comparisons(results: Results) -> str:
    lines = [
        "### On the same clips",
        "",
        "| what | clips | points, 95 % interval | more often right: the one / the other | p | |",
        "|---|---|---|---|---|---|",
    ]
    for comparison, difference, clips in compared(results):
        points = f"{100 * difference.value:+.1f} ± {100 * difference.margin:.1f}"
        sides = f"{difference.better} / {difference.worse}"
        found = ("found" if difference.value > 0 else "the other way round") if difference.is_found else "not found"
        lines.append(f"| {comparison.what} | {clips} | {points} | {sides} | {difference.p:.2g} | {found} |")
    return "\n".join(lines) if len(lines) > 4 else ""


def _tuning(results: Results) -> str:
    lines = ["### Hyper-parameters that were tried", "", "| optimizer, learning rate | TSN | VPSN |", "|---|---|---|"]
    for experiment in TUNING.values():
        cells = []
        for network in experiment.networks:
            found = results.get((experiment.name, experiment.sets[0], network))
            cells.append(_percent(accuracy_of(scores_of(found))) if found else "")
        if any(cells):
            lines.append(f"| {experiment.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) if len(lines) > 4 else ""


def draw(results: Results, path: Path) -> Path:
    """Draw the accuracy of each network on each set with its interval, and the differences on all clips."""
    shown = [experiment for experiment in EXPERIMENTS.values() if _has(results, experiment)]
    differences = list(compared(results))[::-1]
    size = (4.2 * len(shown) + 6, 4.6)
    figure, [axes] = plt.subplots(1, len(shown) + 1, figsize=size, constrained_layout=True, squeeze=False)
    for axis, experiment in zip(axes, shown):
        _draw_accuracies(axis, results, experiment)
    if shown:
        axes[0].legend(loc="lower right", fontsize=8)
    last = axes[-1]
    for place, (_, difference, _) in enumerate(differences):
        colour = "tab:green" if difference.is_found else "tab:gray"
        last.errorbar(100 * difference.value, place, xerr=100 * difference.margin, fmt="o", color=colour, capsize=2)
    last.set_yticks(range(len(differences)), [comparison.what for comparison, _, _ in differences], fontsize=8)
    last.axvline(0, color="black", linewidth=0.8)
    last.set(xlabel="points of accuracy, 95 % interval", title=f"same clips; green: p < {SIGNIFICANT:g}")
    return save(figure, path)


def _draw_accuracies(axis, results: Results, experiment: Experiment) -> None:
    for number, (name, videos) in enumerate(SETS.items()):
        colour = f"C{number}"
        axis.axhline(100 * chance_of(experiment, videos), color=colour, linestyle=":", linewidth=1)
        for place, network in enumerate(experiment.networks):
            found = results.get((experiment.name, name, network))
            if not found:
                continue
            accuracy = accuracy_of(scores_of(found))
            value, (low, high) = accuracy.value, accuracy.interval
            reach = [[100 * (value - low)], [100 * (high - value)]]
            axis.errorbar(place + 0.2 * (number - 1), 100 * value, yerr=reach, fmt="o", color=colour, capsize=2)
        axis.plot([], [], "o", color=colour, label=videos.title)
    axis.set_xticks(range(len(experiment.networks)), [NETWORKS[network] for network in experiment.networks])
    title = experiment.title.replace("? ", "?\n")
    axis.set(ylim=(0, 100), ylabel="accuracy in %, 95 % interval; dotted: chance", title=title)
