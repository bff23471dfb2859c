"""What the controlled experiment found: the tables of RESULTS.md and its picture, from the files in docs/experiment."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from launch.studies.ablation.rows import RESULTS, ROWS, TUNED_RATES, TUNING_SEED
from launch.studies.marks import with_written
from launch.visualization.figures import plt, save
from sharding.errors import UserError
from sharding.files import write_atomically

PAGE, PICTURE = Path("RESULTS.md"), Path("docs/experiment.png")
PROGRAM = "python -m launch.studies.ablation"
STUDENT_T = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Half of a 95 % interval in standard errors (Student's t) with 1, 2, … degrees of freedom; more are taken for 9."""
PAPER_CHANCE = 1.3
"""Points of top-1 that two networks may differ by on the 11,522 validation videos of Something-Something v1 by chance:
two standard errors, sqrt(2 * 0.45 * 0.55 / 11522) each, were their mistakes independent."""

VERDICTS = {  # of a verdict, and how the picture says it
    "agrees": ("tab:green", "agrees with the paper"),
    "contradicts": ("tab:red", "contradicts it"),
    "better": ("tab:blue", "clear here, but not in the paper"),
    "worse": ("tab:blue", ""),
    "not resolved": ("tab:gray", "not resolved"),
}

Results = Mapping[str, Sequence[dict]]  # row -> its results, by seed


@dataclass(frozen=True)
class Comparison:
    """Two rows that the paper, or anybody, would compare."""

    what: str
    better: str
    """The row that is better according to the paper."""
    worse: str
    published: float | None = None
    """Difference in the paper where it is not that of the two rows' figures, in % top-1."""


COMPARISONS = (
    Comparison("shifting channels in time, over none", "tsm", "tsn"),
    Comparison("GST over TSM", "gst", "tsm"),
    Comparison("RF-S over GST: adding over replacing", "rf_s", "gst"),
    Comparison("RF-S over RF-L: a larger field alone", "rf_s", "rf_l"),
    Comparison("RF-L-Inception over RF-L: several scales", "rf_l_inception", "rf_l"),
    Comparison("RF-L-Inception-T over RF-L-Inception", "rf_l_inception_t", "rf_l_inception"),
    Comparison("synthesizer over RF-L-Inception: 16 shapes over 4", "vpsn", "rf_l_inception"),
    Comparison("synthesizer over TSM", "vpsn", "tsm"),
    Comparison("channel dropout over grouping: fusion", "vpsn_dropout", "rf_l_inception"),
    Comparison("shuffle over channel dropout: fusion", "vpsn_shuffle", "vpsn_dropout"),
    Comparison("learned fusion over shuffle", "vpsn", "vpsn_shuffle"),
    Comparison("interaction loss over none", "vpsn_interaction", "vpsn"),
    Comparison("capacity loss over none", "vpsn_capacity", "vpsn"),
    Comparison("both losses over none", "vpsn_both", "vpsn"),
    Comparison("L_int normalised over literal", "vpsn_both_normalised", "vpsn_both"),
    Comparison("max-pool over none", "vpsn", "vpsn_no_pool"),
    Comparison("inter-ReLU over none", "vpsn", "vpsn_no_relu"),
    Comparison("full kernels over dilated ones", "vpsn_no_dilation", "vpsn"),
    Comparison("16 frames over 8, TSN", "tsn_16f", "tsn"),
    Comparison("16 frames over 8, TSM", "tsm_16f", "tsm"),
    Comparison("16 frames over 8, VPSN", "vpsn_16f", "vpsn", 53.6 - 50.8),
)


def load_results() -> Results:
    """Read the results of each row that has any, in the order of the rows."""
    found: dict[str, list[dict]] = {}
    for name in ROWS:
        files = sorted(RESULTS.glob(f"{name}-[0-9]*.json"))
        if files:
            found[name] = [json.loads(file.read_text()) for file in files]
    return found


def write_results() -> str:
    """Write the tables into RESULTS.md, between its two marks, and draw the picture; return what was written.

    Raises:
        UserError: there is no result yet, or RESULTS.md lacks the marks.
    """
    results = load_results()
    if not results:
        raise UserError(f"{RESULTS}: no results; run python -m launch.studies.ablation")
    tables = describe(results)
    write_atomically(PAGE, with_written(PAGE.read_text(), PROGRAM, tables, PAGE))
    draw(results, PICTURE)
    return tables


def describe(results: Results) -> str:
    """Return the tables as Markdown."""
    return "\n\n".join((_networks(results), _comparisons(results), _tuning()))


def percent(results: Sequence[dict], figure: str = "top1") -> np.ndarray:
    """Return a figure of each seed, in %."""
    return 100 * np.array([result[figure] for result in results])


@dataclass(frozen=True)
class Difference:
    """Of two rows, in % top-1."""

    by_seed: np.ndarray
    """Over the seeds that both have; a seed brings both the same order of videos, the same frames and crops."""

    @property
    def mean(self) -> float:
        return float(self.by_seed.mean())

    @property
    def margin(self) -> float:
        """Half of the 95 % interval around the mean; nan of one seed."""
        freedom = len(self.by_seed) - 1
        if not freedom:
            return math.nan
        return STUDENT_T[min(freedom, len(STUDENT_T)) - 1] * float(self.by_seed.std(ddof=1)) / math.sqrt(freedom + 1)


def compare(results: Results, comparison: Comparison) -> Difference:
    """Return what the row that the paper calls better has more than the other."""
    better, worse = (
        {each["seed"]: 100 * each["top1"] for each in results[name]} for name in (comparison.better, comparison.worse)
    )
    return Difference(np.array([better[seed] - worse[seed] for seed in sorted(better.keys() & worse.keys())]))


def published_difference(comparison: Comparison) -> float | None:
    """Return the paper's difference, in % top-1."""
    ours, others = ROWS[comparison.better].published, ROWS[comparison.worse].published
    if comparison.published is not None or ours is None or others is None:
        return comparison.published
    return ours - others


def verdict(mean: float, margin: float, published: float | None) -> str:
    """Return what a difference says, next to the paper's where that is more than chance.

    >>> verdict(3.0, 2.0, 1.6), verdict(-3.0, 2.0, 1.6), verdict(3.0, 2.0, 0.4), verdict(1.0, 2.0, 1.6)
    ('agrees', 'contradicts', 'better', 'not resolved')
    """
    if not abs(mean) > margin:
        return "not resolved"
    if published is None or abs(published) < PAPER_CHANCE:
        return "better" if mean > 0 else "worse"
    return "agrees" if (mean > 0) == (published > 0) else "contradicts"


def _networks(results: Results) -> str:
    lines = [
        "| network | seeds | M parameters | G multiply-adds | top-1 % | motion alone % | small / large objects % "
        "| paper: top-1 % (table) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, each in results.items():
        row, top = ROWS[name], percent(each)
        spread = f" ± {top.std(ddof=1):.1f}" if len(top) > 1 else ""
        sizes = " / ".join(f"{value:.1f}" for value in 100 * np.mean([result["size_top1"] for result in each], axis=0))
        paper = "" if row.published is None else f"{row.published:.2f} ({row.table})"
        cost = f"{each[0]['parameters'] / 1e6:.2f} | {each[0]['multiply_adds'] / 1e9:.2f}"
        motion = percent(each, "motion_top1").mean()
        cells = (row.title, len(each), cost, f"**{top.mean():.1f}**{spread}", f"{motion:.1f}", sizes, paper)
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _comparisons(results: Results) -> str:
    lines = ["| what | here, points | seed by seed | paper, points | |", "|---|---|---|---|---|"]
    for comparison in _possible(results):
        difference, published = compare(results, comparison), published_difference(comparison)
        around = "" if math.isnan(difference.margin) else f" ± {difference.margin:.1f}"
        seeds = ", ".join(f"{points:+.1f}" for points in difference.by_seed)
        paper = "" if published is None else f"{published:+.2f}"
        found = verdict(difference.mean, difference.margin, published)
        lines.append(f"| {comparison.what} | {difference.mean:+.1f}{around} | {seeds} | {paper} | {found} |")
    return "\n".join(lines)


def _possible(results: Results) -> list[Comparison]:
    """Return the comparisons of rows that have a seed in common."""
    seeds = {name: {each["seed"] for each in found} for name, found in results.items()}
    return [each for each in COMPARISONS if seeds.get(each.better, set()) & seeds.get(each.worse, set())]


def _tuning() -> str:
    lines = ["| learning rate, TSN | training loss | top-1 % |", "|---|---|---|"]
    for rate in TUNED_RATES:
        file = RESULTS / f"tune_{rate:g}-{TUNING_SEED}.json"
        if file.exists():
            result = json.loads(file.read_text())
            lines.append(f"| {rate:g} | {result['training_loss']:.3f} | {100 * result['top1']:.1f} |")
    return "\n".join(lines)


def draw(results: Results, path: Path) -> Path:
    """Draw the top-1 of every row, a dot a seed; and the paper's differences against those found here."""
    size = (15, 0.3 * len(results) + 1.6)
    figure, (rows, differences) = plt.subplots(1, 2, figsize=size, constrained_layout=True)
    names = list(results)[::-1]
    for place, name in enumerate(names):
        top = percent(results[name])
        colour = "tab:blue" if name.startswith("vpsn") else "tab:gray"
        rows.barh(place, top.mean(), color=colour, alpha=0.35)
        rows.plot(top, [place] * len(top), ".", color=colour)
    rows.set_yticks(range(len(names)), [ROWS[name].title for name in names])
    classes = results[names[0]][0]["config"]["model"]["num_classes"]
    rows.axvline(100 / classes, color="black", linestyle=":", linewidth=1)
    rows.set(
        xlabel="top-1 in %, a dot a seed; dotted: chance", title="16 classes of motion and size, one budget; blue: VPSN"
    )
    known = _possible(results)[::-1]
    for place, comparison in enumerate(known):
        difference, published = compare(results, comparison), published_difference(comparison)
        found = verdict(difference.mean, difference.margin, published)
        colour, _ = VERDICTS[found]
        differences.errorbar(difference.mean, place, xerr=difference.margin, fmt="o", color=colour, capsize=2)
        differences.plot(difference.by_seed, [place] * len(difference.by_seed), ".", color=colour, alpha=0.5)
        if published is not None:
            differences.plot(published, place, "|", color="black", markersize=11)
    differences.set_yticks(range(len(known)), [each.what.split(":")[0] for each in known])
    differences.axvline(0, color="black", linewidth=0.8)
    points = [float(each) for comparison in known for each in compare(results, comparison).by_seed] or [0.0]
    differences.set_xlim(min(points) - 5, max(points) + 5)  # intervals of two seeds would leave no space for these
    differences.set(xlabel="points of top-1 with 95 % interval, a dot a seed", title="differences")
    for colour, meaning in VERDICTS.values():
        if meaning:
            differences.plot([], [], "o", color=colour, label=meaning)
    differences.plot([], [], "|", color="black", markersize=11, label="in the paper")
    figure.legend(loc="outside lower right", ncols=5, fontsize=9, frameon=False)
    return save(figure, path)
