"""The page: what was found about a run, put into one file that needs nothing else and asks no server for anything."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from launch.training.versions import VERSION
from launch.visualization.report import evaluation_sections, run_sections
from launch.visualization.report.evaluations import EvaluationFile, MultiLabelFile, SingleLabelFile
from launch.visualization.report.facts import RunFacts
from launch.visualization.report.markup import command, element, escape, island, isolated
from launch.visualization.report.mistakes import Mistake


@dataclass(frozen=True)
class EvaluationView:
    """An evaluation, and what is shown of it."""

    evaluation: SingleLabelFile | MultiLabelFile
    mistakes: list[tuple[Mistake, list[str], str]] = field(default_factory=list)
    """Each with its pictures, and where it has none with the reason."""
    also: Sequence[EvaluationFile] = field(default_factory=list)
    """The other evaluations of the run."""


def build_page(facts: RunFacts, view: EvaluationView | None, made: str) -> str:
    """Return the page as HTML.

    Args:
        view: the evaluation to show; None if there is none yet.
        made: when, for the foot of the page.
    """
    charts, points = run_sections.curves(facts)
    data: dict[str, Any] = {"charts": points}
    sections = [("Curves", "curves", charts)]
    if view is None:
        sections.append(("Classes", "classes-section", _missing_evaluation(facts)))
    else:
        sections += _evaluation_sections(view, data)
    values = view.evaluation.values if view else None
    sections += [
        ("Data", "data", run_sections.data(facts, values)),
        ("Configuration", "configuration", run_sections.configuration(facts.config)),
        ("Versions", "versions", run_sections.versions(facts)),
        ("Commands", "commands", run_sections.commands(facts)),
    ]
    body = "".join(element("section", element("h2", title), html, id=key) for title, key, html in sections)
    links = "".join(element("a", title, href=f"#{key}") for title, key, _ in sections)
    header = element(
        "header",
        element(
            "h1", isolated(facts.run_dir.resolve().name), element("span", facts.state, class_=f"state {_mark(facts)}")
        ),
        element("p", element("code", isolated(facts.run_dir))),
        run_sections.tiles(facts),
        _problems(facts),
        run_sections.log_lines(facts),
        element("nav", links),
    )
    foot = element("footer", f"made {escape(made)} by vpsn {VERSION}, launch/visualize.py report")
    return _document(f"{facts.run_dir.resolve().name}: report", header + element("main", body) + foot, data)


def _evaluation_sections(view: EvaluationView, data: dict[str, Any]) -> list[tuple[str, str, str]]:
    evaluation = view.evaluation
    also = [evaluation_sections.describe_evaluation(other) for other in view.also]
    sections = [("Evaluation", "evaluation", evaluation_sections.summary(evaluation, also))]
    if isinstance(evaluation, MultiLabelFile):
        table = evaluation_sections.precisions(evaluation)
        sections.append(("Average precision of each class", "classes-section", table))
    else:
        matrix, data["confusion"] = evaluation_sections.confusion(evaluation)
        sections.append(("Accuracy of each class", "classes-section", evaluation_sections.classes(evaluation)))
        sections.append(("Confusions", "confusion", matrix))
    if view.mistakes:
        cards = evaluation_sections.mistakes(view.mistakes, evaluation.classes)
        sections.append(("Most certain and wrong", "mistakes", cards))
    return sections


def _missing_evaluation(facts: RunFacts) -> str:
    if facts.last is None:
        return element("p", "There is no checkpoint to evaluate yet; one is written at the end of each epoch.")
    text = "Accuracy of each class, confusions and the worst mistakes need an evaluation of a checkpoint:"
    return element("p", text) + command(run_sections.evaluate_command(facts))


def _problems(facts: RunFacts) -> str:
    lines = list(facts.problems)
    if not facts.steps:
        lines.append("No figures of training yet; they come every train.log_every_steps steps.")
    shown = "".join(element("li", escape(line)) for line in lines)
    return element("div", element("ul", shown), class_="problems") if lines else ""


def _mark(facts: RunFacts) -> str:
    return {"running": "busy", "finished": "good"}.get(facts.state, "bad")


def _document(title: str, body: str, data: dict[str, Any]) -> str:
    """Return the file. Its policy lets the browser run this very script and load nothing, whatever names hold."""
    style, script = _resource("style.css"), _resource("matrix.js") + _resource("script.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    # The policy comes first: it holds only for what follows it. A hash is of plain base64, so nothing is to be escaped.
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><style>{style}</style>'
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}{island("report-data", data)}'
        f"<script>{script}</script></body></html>\n"
    )


def _resource(name: str) -> str:
    return (files("launch.visualization.report") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
