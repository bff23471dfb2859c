"""What the controlled experiment found: the tables of RESULTS.md and its picture, from the files in docs/experiment."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from launch.experiment_rows import RESULTS, ROWS, TUNED_RATES, TUNING_SEED
from launch.outputs import replacing
from launch.plots import plt, save
from sharding.commandline import UserError

PAGE, PICTURE = Path("RESULTS.md"), Path("docs/experiment.png")
BEGIN, END = "<!-- written by python -m launch.experiment -->", "<!-- end of what is written -->"
RESOLVED = 2
"""Standard errors from zero on that a difference counts."""
FEWEST_DEGREES = 10
"""Of freedom, below which two standard errors are no evidence: with ten they are passed by chance once in fourteen."""

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
    """Of each row that has any, in the order of the rows."""
    found: dict[str, list[dict]] = {}
    for name in ROWS:
        files = sorted(RESULTS.glob(f"{name}-[0-9]*.json"))
        if files:
            found[name] = [json.loads(file.read_text()) for file in files]
    return found


def write_results() -> str:
    """Writes the tables into RESULTS.md, between its two marks, and draws the picture; returns what was written.

    Raises:
        UserError: there is no result yet, or RESULTS.md lacks the marks.
    """
    results = load_results()
    if not results:
        raise UserError(f"{RESULTS}: no results; run python -m launch.experiment")
    text = PAGE.read_text()
    if BEGIN not in text or END not in text:
        raise UserError(f"{PAGE}: lacks the line {BEGIN} or {END}")
    tables = describe(results)
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    with replacing(PAGE) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}")
    draw(results, PICTURE)
    return tables


def describe(results: Results) -> str:
    """The tables as Markdown."""
    deviation = residual_deviation(results)
    note = f"What neither row nor seed explains: {deviation:.2f} points of top-1 (standard deviation)."
    if math.isnan(deviation):
        note = "Too few rows have several seeds yet: no difference below is known to be more than chance."
    return "\n\n".join((_networks(results), note, _comparisons(results, deviation), _tuning()))


def percent(results: Sequence[dict], figure: str = "top1") -> np.ndarray:
    """A figure of each seed, in %."""
    return 100 * np.array([result[figure] for result in results])


def residual_deviation(results: Results) -> float:
    """Standard deviation of top-1 in % that neither its row nor its seed explains, by least squares; nan where too
    few rows have several seeds to know it.

    A seed brings every row the same order of videos, the same frames and crops, and where the shapes are the same the
    same initial weights, so seeds are blocks: what a seed adds to all rows says nothing against a difference of two.
    """
    runs = [(row, each["seed"], 100 * each["top1"]) for row, found in results.items() for each in found]
    rows, seeds, tops = (np.array(values) for values in zip(*runs))
    design = np.hstack([rows[:, None] == np.unique(rows), seeds[:, None] == np.unique(seeds)]).astype(float)
    solution, _, rank, _ = np.linalg.lstsq(design, tops, rcond=None)
    freedom = len(tops) - int(rank)
    if freedom < FEWEST_DEGREES:
        return math.nan
    return float(np.linalg.norm(tops - design @ solution) / math.sqrt(freedom))


def compare(results: Results, comparison: Comparison, deviation: float) -> tuple[float, float]:
    """Difference of two rows in % top-1 over the seeds that both have, and its standard error."""
    better, worse = (
        {each["seed"]: 100 * each["top1"] for each in results[name]} for name in (comparison.better, comparison.worse)
    )
    both = sorted(better.keys() & worse.keys())
    return float(np.mean([better[seed] - worse[seed] for seed in both])), deviation * math.sqrt(2 / len(both))


def published_difference(comparison: Comparison) -> float | None:
    """In the paper, in % top-1."""
    ours, others = ROWS[comparison.better].published, ROWS[comparison.worse].published
    if comparison.published is not None or ours is None or others is None:
        return comparison.published
    return ours - others


def verdict(difference: float, error: float, published: float | None) -> str:
    """Whether a difference has the paper's sign.

    >>> verdict(3.0, 1.0, 0.4), verdict(-3.0, 1.0, 0.4), verdict(1.0, 1.0, 0.4)
    ('agrees', 'contradicts', 'not resolved')
    """
    if not abs(difference) > RESOLVED * error:
        return "not resolved"
    if published is None:
        return "better" if difference > 0 else "worse"
    return "agrees" if (difference > 0) == (published > 0) else "contradicts"


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


def _comparisons(results: Results, deviation: float) -> str:
    lines = ["| what | here, points | paper, points | |", "|---|---|---|---|"]
    for comparison in _possible(results):
        difference, error = compare(results, comparison, deviation)
        published = published_difference(comparison)
        around = "" if math.isnan(error) else f" ± {error:.1f}"
        paper = "" if published is None else f"{published:+.2f}"
        found = verdict(difference, error, published)
        lines.append(f"| {comparison.what} | {difference:+.1f}{around} | {paper} | {found} |")
    return "\n".join(lines)


def _possible(results: Results) -> list[Comparison]:
    """Those of rows that have a seed in common."""
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
    """Top-1 of every row, a dot a seed; and the paper's differences against those found here."""
    deviation = residual_deviation(results)
    size = (15, 0.3 * len(results) + 1.6)
    figure, (rows, differences) = plt.subplots(1, 2, figsize=size, constrained_layout=True)
    names = list(reversed(results))
    for place, name in enumerate(names):
        top = percent(results[name])
        colour = "tab:blue" if name.startswith("vpsn") else "tab:gray"
        rows.barh(place, top.mean(), color=colour, alpha=0.35)
        rows.plot(top, [place] * len(top), ".", color=colour)
    rows.set_yticks(range(len(names)), [ROWS[name].title for name in names])
    classes = results[names[0]][0]["config"]["model"]["num_classes"]
    rows.axvline(100 / classes, color="black", linestyle=":", linewidth=1)
    rows.set(xlabel="top-1 in %, a dot a seed; dotted: chance", title="16 classes of motion and size, one budget")
    known = _possible(results)[::-1]
    for place, comparison in enumerate(known):
        published = published_difference(comparison)
        difference, error = compare(results, comparison, deviation)
        found = verdict(difference, error, published)
        colour = {"agrees": "tab:green", "contradicts": "tab:red"}.get(found, "tab:gray")
        differences.errorbar(difference, place, xerr=RESOLVED * error, fmt="o", color=colour, capsize=2)
        if published is not None:
            differences.plot(published, place, "|", color="black", markersize=11)
    differences.set_yticks(range(len(known)), [each.what.split(":")[0] for each in known])
    differences.axvline(0, color="black", linewidth=0.8)
    differences.set(xlabel="points of top-1, ± 2 standard errors; black marks: in the paper")
    differences.set_title("green agrees, red contradicts, grey is not resolved")
    return save(figure, path)
