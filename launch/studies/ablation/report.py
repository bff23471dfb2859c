"""What the controlled experiment found: the tables of RESULTS.md and its pictures, from docs/experiment."""

import json
from pathlib import Path

from launch.studies.ablation.long_report import describe_long, draw_long
from launch.studies.ablation.results import (
    Results,
    accuracies,
    by_size,
    compare,
    load_results,
    percent,
    possible,
    published_difference,
    verdict,
)
from launch.studies.ablation.rows import LONG, RESULTS, ROWS, SHORT, TUNED_RATES, TUNING_SEED
from launch.studies.marks import with_written
from launch.visualization.figures import plt, save
from sharding.errors import UserError
from sharding.files import write_atomically

PAGE, PICTURE, LONG_PICTURE = Path("RESULTS.md"), Path("docs/experiment.png"), Path("docs/experiment_long.png")
PROGRAM, LONG_PROGRAM = (f"python -m launch.studies.ablation --budgets {each.name}" for each in (SHORT, LONG))
VERDICTS = {  # of a verdict, and how the picture says it
    "agrees": ("tab:green", "agrees with the paper"),
    "contradicts": ("tab:red", "contradicts it"),
    "better": ("tab:blue", "clear here, but not in the paper"),
    "worse": ("tab:blue", ""),
    "not resolved": ("tab:gray", "not resolved"),
}


def write_results() -> str:
    """Write the tables into RESULTS.md, between the marks of each budget, and draw the pictures; return what was
    written.

    Raises:
        UserError: there is no result yet, or RESULTS.md lacks the marks.
    """
    short, long = load_results(SHORT), load_results(LONG)
    if not short:
        raise UserError(f"{RESULTS}: no results; run python -m launch.studies.ablation")
    tables = {PROGRAM: describe(short)} | ({LONG_PROGRAM: describe_long(short, long)} if long else {})
    page = PAGE.read_text()
    for program, written in tables.items():
        page = with_written(page, program, written, PAGE)
    write_atomically(PAGE, page)
    draw(short, PICTURE)
    if long:
        draw_long(short, long, LONG_PICTURE)
    return "\n\n".join(tables.values())


def describe(results: Results) -> str:
    """Return the tables as Markdown."""
    return "\n\n".join((_networks(results), _comparisons(results), _tuning()))


def _networks(results: Results) -> str:
    lines = [
        "| network | seeds | M parameters | G multiply-adds | top-1 % | motion alone % | small / large objects % "
        "| paper: top-1 % (table) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, each in results.items():
        row = ROWS[name]
        paper = "" if row.published is None else f"{row.published:.2f} ({row.table})"
        cost = f"{each[0]['parameters'] / 1e6:.2f} | {each[0]['multiply_adds'] / 1e9:.2f}"
        motion = percent(each, "motion_top1").mean()
        cells = (row.title, len(each), cost, accuracies(each), f"{motion:.1f}", by_size(each), paper)
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _comparisons(results: Results) -> str:
    lines = ["| what | here, points | seed by seed | paper, points | |", "|---|---|---|---|---|"]
    for comparison in possible(results):
        difference, published = compare(results, comparison), published_difference(comparison)
        paper = "" if published is None else f"{published:+.2f}"
        found = verdict(difference.mean, difference.margin, published)
        lines.append(f"| {comparison.what} | {difference} | {difference.seeds} | {paper} | {found} |")
    return "\n".join(lines)


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
    known = possible(results)[::-1]
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
