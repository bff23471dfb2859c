"""Results of the controlled experiment: the files in docs/experiment, and what two rows differ by."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from launch.studies.ablation.rows import RESULTS, ROWS, SHORT, Budget

STUDENT_T = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Half of a 95 % interval in standard errors (Student's t) with 1, 2, … degrees of freedom; more are taken for 9."""
PAPER_CHANCE = 1.3
"""Points of top-1 that two networks may differ by on the 11,522 validation videos of Something-Something v1 by chance:
two standard errors, sqrt(2 * 0.45 * 0.55 / 11522) each, were their mistakes independent."""

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


def load_results(budget: Budget = SHORT) -> Results:
    """Read the results of each row that has any, in the order of the rows."""
    found: dict[str, list[dict]] = {}
    for name in budget.rows:
        files = sorted((RESULTS / budget.folder).glob(f"{name}-[0-9]*.json"))
        if files:
            found[name] = [json.loads(file.read_text()) for file in files]
    return found


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

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return abs(self.mean) > self.margin

    @property
    def seeds(self) -> str:
        """Seed by seed."""
        return ", ".join(f"{points:+.1f}" for points in self.by_seed)

    def __str__(self) -> str:
        return f"{self.mean:+.1f}" + ("" if math.isnan(self.margin) else f" ± {self.margin:.1f}")


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


def possible(results: Results) -> list[Comparison]:
    """Return the comparisons of rows that have a seed in common."""
    seeds = {name: {each["seed"] for each in found} for name, found in results.items()}
    return [each for each in COMPARISONS if seeds.get(each.better, set()) & seeds.get(each.worse, set())]


def accuracies(results: Sequence[dict]) -> str:
    """Return the mean and the standard deviation of the top-1 in %, for a table."""
    top = percent(results)
    return f"**{top.mean():.1f}**" + (f" ± {top.std(ddof=1):.1f}" if len(top) > 1 else "")


def by_size(results: Sequence[dict]) -> str:
    """Return the mean top-1 in % of each size of objects, for a table."""
    return " / ".join(f"{value:.1f}" for value in 100 * np.mean([each["size_top1"] for each in results], axis=0))
