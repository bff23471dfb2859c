"""Sections of the page that need an evaluation: figures of each class, confusions, the worst mistakes."""

from typing import Any

import numpy as np

from launch.visualization.report.confusion import confused_pairs, order_by_confusion
from launch.visualization.report.evaluations import EvaluationFile, MultiLabelFile, SingleLabelFile
from launch.visualization.report.facts import is_number
from launch.visualization.report.markup import definitions, element, escape, isolated, percent
from launch.visualization.report.mistakes import Mistake
from sharding.errors import redacted

PAIRS_SHOWN = 40
MOST_CELLS = 250_000
"""Of the confusion matrix; of a larger number the smallest are left out of the page, and it says so."""


def summary(evaluation: EvaluationFile, also: list[str]) -> str:
    """Return what was evaluated, how, and what came out; `also` are lines about other evaluations."""
    values = evaluation.values
    clips, crops, size = (values.get(name, "?") for name in ("clips", "crops", "crop_size"))
    accuracies = {
        "top-1": "top1",
        "top-5": "top5",
        "mean class": "mean_class",
        "mAP": "map",
        "guessing": "map_of_guessing",
    }
    if len(evaluation.classes) <= 5:
        del accuracies["top-5"]  # of five classes it says nothing
    shown = {name: percent(values[key]) for name, key in accuracies.items() if is_number(values.get(key))}
    samples = values.get("samples")
    facts = {name: element("b", value) for name, value in shown.items()} | {
        "samples": f"{samples:,}" if isinstance(samples, int) else "?",
        "views": f"{escape(clips)} × {escape(crops)} <small>clips × crops of {escape(size)} pixels</small>",
        "fingerprint": element("code", escape(str(values.get("fingerprint", "?"))[:16])),
    }
    places = {
        "data": element("code", isolated(redacted(str(values.get("data", "?"))))),
        "checkpoint": element("code", isolated(values.get("checkpoint", "?"))),
        "file": element("code", isolated(evaluation.path)),
    }
    others = "".join(element("li", line) for line in also)
    more = element("details", element("summary", "other evaluations"), element("ul", others)) if others else ""
    return definitions(facts) + definitions(places, class_="wide") + more


def describe_evaluation(evaluation: EvaluationFile) -> str:
    """Return a line of HTML about an evaluation next to the one shown."""
    name, key = ("mAP", "map") if isinstance(evaluation, MultiLabelFile) else ("top-1", "top1")
    value = evaluation.values.get(key)
    return f"{element('code', isolated(evaluation.path))}: {name} {percent(value) if is_number(value) else '–'}"


def classes(evaluation: SingleLabelFile) -> str:
    """Return a table of all classes, the worst first, to be sorted and searched."""
    accuracies, counts = evaluation.accuracies, evaluation.samples
    known = accuracies[counts > 0]
    if not len(known):
        return element("p", "No samples were evaluated.")
    middle, zero, perfect = np.median(known), (known == 0).sum(), (known == 1).sum()
    text = (
        f"{len(known):,} classes with samples: the middle one has {percent(middle, 1)}; "
        f"{zero:,} have none right, {perfect:,} all."
    )
    ranked = np.lexsort((-counts, np.where(counts > 0, accuracies, 2)))
    rows = "".join(_class_row(evaluation, int(number)) for number in ranked)
    columns = (("class", "name"), ("accuracy", "accuracy"), ("right", "right"), ("samples", "samples"))
    return _class_table(text, columns, "taken most often for", rows)


def precisions(evaluation: MultiLabelFile) -> str:
    """Return a table of the average precision of all classes, the worst first, to be sorted and searched."""
    values, counts = evaluation.average_precision, evaluation.positives
    known = values[counts > 0]
    if not len(known):
        return element("p", "No samples with labels were evaluated.")
    text = (
        f"{len(known):,} classes with samples: the middle one has {percent(np.median(known), 1)}. The average "
        "precision of guessing is the fraction of the samples that are of the class."
    )
    ranked = np.lexsort((-counts, np.where(counts > 0, values, 2)))
    rows = "".join(_precision_row(evaluation, int(number)) for number in ranked)
    columns = (("class", "name"), ("average precision", "accuracy"), ("samples", "samples"))
    return _class_table(text, columns, "guessing", rows)


def _class_table(text: str, columns: tuple[tuple[str, str], ...], last: str, rows: str) -> str:
    """Return a table whose columns, (title, key), the script sorts by; the last one is only read."""
    buttons = "".join(
        element("th", element("button", escape(title), type="button", data_key=key), scope="col", class_=f"by-{key}")
        for title, key in columns
    )
    head = element("thead", element("tr", buttons, element("th", escape(last), scope="col")))
    body = element("table", head, element("tbody", rows), id="classes", class_="classes")
    search = element("input", type="search", placeholder="find a class", aria_label="find a class", id="find-class")
    return element("p", escape(text)) + search + element("div", body, class_="scroll tall", tabindex="0")


def _precision_row(evaluation: MultiLabelFile, number: int) -> str:
    count = int(evaluation.positives[number])
    precision = float(evaluation.average_precision[number]) if count else None
    return element(
        "tr",
        element("td", isolated(evaluation.classes[number]), class_="name"),
        _bar_cell(precision),
        element("td", f"{count:,}", class_="number"),
        element("td", percent(count / max(1, evaluation.num_samples), 1), class_="taken"),
        data_class=number,
        data_accuracy=-1 if precision is None else round(precision, 6),
        data_samples=count,
    )


def _bar_cell(fraction: float | None) -> str:
    bar = element("rect", width=100, height=8, class_="track") + element(
        "rect", width=round(100 * (fraction or 0), 2), height=8, class_="bar"
    )
    drawn = element("svg", bar, viewBox="0 0 100 8", preserveAspectRatio="none", aria_hidden="true")
    return element("td", drawn, element("span", percent(fraction, 1)), class_="accuracy")


def _class_row(evaluation: SingleLabelFile, number: int) -> str:
    total, right = int(evaluation.samples[number]), int(evaluation.confusion[number, number])
    accuracy = right / total if total else None
    wrong = evaluation.confusion[number].copy()
    wrong[number] = 0
    other = int(wrong.argmax())
    taken = f"{isolated(evaluation.classes[other])} <small>{wrong[other]:,}×</small>" if wrong[other] else ""
    return element(
        "tr",
        element("td", isolated(evaluation.classes[number]), class_="name"),
        _bar_cell(accuracy),
        element("td", f"{right:,}", class_="number"),
        element("td", f"{total:,}", class_="number"),
        element("td", taken, class_="taken"),
        data_class=number,
        data_accuracy=-1 if accuracy is None else round(accuracy, 6),
        data_samples=total,
        data_right=right,
    )


def confusion(evaluation: SingleLabelFile) -> tuple[str, dict[str, Any]]:
    """Return the matrix' place and controls, the list of the most confused pairs, and the counts for the script."""
    counts = evaluation.confusion
    rows, columns = np.nonzero(counts)
    values, note = counts[rows, columns], ""
    if len(values) > MOST_CELLS:
        kept = np.sort(np.argsort(-values, kind="stable")[:MOST_CELLS])
        note = f"Only the {MOST_CELLS:,} largest of {len(values):,} counts are in this page."
        rows, columns, values = rows[kept], columns[kept], values[kept]
    cells = {
        "classes": [name.encode("utf-8", "replace").decode() for name in evaluation.classes],
        "samples": evaluation.samples.tolist(),
        "order": order_by_confusion(counts).tolist(),
        "rows": rows.tolist(),
        "columns": columns.tolist(),
        "counts": values.tolist(),
    }
    html = element(
        "div", _matrix(), element("div", element("h3", "Most confused pairs"), _pairs(evaluation)), class_="two"
    )
    return html + (element("p", escape(note)) if note else ""), cells


def _matrix() -> str:
    orders = (("confusion", "confused classes together"), ("accuracy", "by accuracy"), ("name", "by name"))
    choices = "".join(element("option", escape(text), value=value) for value, text in orders)
    buttons = "".join(
        element("button", escape(sign), type="button", data_zoom=value, title=title, aria_label=title)
        for sign, value, title in (("+", "in", "zoom in"), ("−", "out", "zoom out"), ("⤢", "all", "show all"))
    )
    controls = element(
        "div",
        element("input", type="search", id="find-cell", placeholder="find a class", aria_label="find a class"),
        element("select", choices, id="order", aria_label="order of the classes"),
        element("span", buttons, class_="zoom"),
        class_="controls",
    )
    title = "confusion matrix: true classes down, predicted ones across"
    canvas = element("canvas", id="matrix", tabindex="0", role="img", aria_label=title)
    hint = (
        "Rows: true classes; columns: predicted. Drag to move; zoom with + and −, two fingers, or Ctrl and the wheel."
    )
    return element(
        "div",
        controls,
        element("div", id="found", class_="found"),
        element("div", canvas, class_="canvas"),
        element("p", id="cell", class_="cell", aria_live="polite"),
        element("p", element("small", hint)),
        element("div", id="about-class", class_="about"),
        class_="matrix",
    )


def _pairs(evaluation: SingleLabelFile) -> str:
    pairs, names, totals = confused_pairs(evaluation.confusion, PAIRS_SHOWN), evaluation.classes, evaluation.samples
    if not pairs:
        return element("p", "None: every sample is right.")
    lines = []
    for pair in pairs:
        there = f"{pair.first_as_second:,} of {totals[pair.first]:,}"
        back = f"back {pair.second_as_first:,} of {totals[pair.second]:,}"
        arrow = f"{isolated(names[pair.first])} <i>→</i> {isolated(names[pair.second])}"
        button = element(
            "button", arrow, type="button", data_row=pair.first, data_column=pair.second, title="show in the matrix"
        )
        lines.append(element("li", button, element("small", f"{there}; {back}")))
    return element("ol", *lines, class_="pairs")


def mistakes(found: list[tuple[Mistake, list[str], str]], names: tuple[str, ...]) -> str:
    """Return cards of mistakes, each with its pictures or the reason why there are none."""
    cards = []
    for mistake, pictures, reason in found:
        images = "".join(element("img", src=url, alt="") for url in pictures)
        shown = element("div", images, class_="frames") if pictures else element("p", element("small", escape(reason)))
        labels = ", ".join(isolated(names[label]) for label in mistake.labels) or "no class"
        text = (
            f"{element('small', 'is')} {element('b', labels)} "
            f"{element('small', 'predicted')} {element('b', isolated(names[mistake.prediction]), class_='bad')} "
        )
        true = ", ".join(percent(value, 1) for value in mistake.label_probabilities)
        chance = percent(mistake.probability, 1) + (
            f", the true {'class' if len(mistake.labels) == 1 else 'classes'} {true}" if true else ""
        )
        caption = element("p", text, element("span", chance)) + element("code", isolated(mistake.key))
        cards.append(element("article", shown, caption))
    return element("div", *cards, class_="cards")
