"""`launch/visualize.py report`: reads a run and its evaluation, and writes the page."""

import time
from pathlib import Path

import numpy as np

from launch.inference.scores import read_scores
from launch.visualization.report.evaluations import EvaluationFile, find_evaluations, read_evaluation
from launch.visualization.report.facts import RunFacts, read_run
from launch.visualization.report.mistakes import find_samples, scores_next_to, show_mistake, worst_mistakes
from launch.visualization.report.page import EvaluationView, build_page
from pipeline.config import is_remote
from sharding.dataset import PackedDataset, load_dataset
from sharding.errors import UserError, redacted
from sharding.files import check_writable, write_atomically


def write_report(run: Path, evaluation: Path | None, data: Path | None, num_mistakes: int, out: Path | None) -> Path:
    """Write the page of a run, and return its file.

    Args:
        run: its folder.
        evaluation: the evaluation.json, or a folder with one, to show; by default the run's newest.
        data: where the split of that evaluation is now, if not where it was; for the frames of mistakes.
        num_mistakes: how many of them to show.
        out: the file; by default report.html in the folder of the run.

    Raises:
        UserError: it is no run, a file that was named is not what it should be, or the page cannot be written.
    """
    target = out or run / "report.html"
    if target.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {target}: use a name that ends in .html")
    facts = read_run(run)
    check_writable(target)
    view = _view(run, evaluation, data, num_mistakes, facts.problems)
    if view is not None:
        facts.problems.extend(_staleness(facts, view.evaluation))
    write_atomically(target, build_page(facts, view, time.strftime("%Y-%m-%d %H:%M")))
    return target


def _view(
    run: Path, evaluation: Path | None, data: Path | None, num_mistakes: int, problems: list[str]
) -> EvaluationView | None:
    """Return the evaluation and what can be shown of it; None if there is none.

    A damaged one that was not named gives way to the next; that, and what else cannot be shown, is added to `problems`.
    """
    found = []
    for path in find_evaluations(evaluation or run):
        try:
            found.append(read_evaluation(path))
        except UserError as error:
            if evaluation is not None:
                raise
            problems.append(str(error))
    if evaluation is not None and not found:
        raise UserError(f"--evaluation {evaluation}: no evaluation.json there; launch/evaluate.py writes one")
    if not found:
        return None
    shown, *also = found
    view = EvaluationView(shown, also=also)
    try:
        _add_mistakes(view, data, num_mistakes, problems)
    except UserError as error:
        if data is not None:
            raise
        problems.append(str(error))
    return view


def _add_mistakes(view: EvaluationView, data: Path | None, count: int, problems: list[str]) -> None:
    evaluation = view.evaluation
    path = scores_next_to(evaluation.path)
    if not path.exists():
        problems.append(f"{path}: not there, so no mistakes are shown; launch/evaluate.py writes it")
        return
    scores = read_scores(path)
    same = scores.classes == evaluation.classes and scores.fingerprint == evaluation.values.get("fingerprint")
    known = scores.is_multilabel or np.isin(scores.labels, np.arange(len(scores.classes))).all()
    if not same or not known:
        problems.append(f"{path}: of another evaluation than {evaluation.path.name}; evaluate again")
        return
    mistakes = worst_mistakes(scores, count)
    dataset, reason = _open(evaluation, data)
    if dataset is None and mistakes:
        problems.append(f"The videos of the mistakes are not shown: {reason}")
    sample_ids = find_samples(dataset, mistakes) if dataset else {}
    for mistake in mistakes:
        pictures, why = show_mistake(dataset, sample_ids.get(mistake.key)) if dataset else ([], "")
        view.mistakes.append((mistake, pictures, why))


def _open(evaluation: EvaluationFile, data: Path | None) -> tuple[PackedDataset | None, str]:
    """Return the split that was evaluated, or None and why; with `data`, which was given, an error instead.

    Raises:
        UserError: `data` is not the split.
    """
    location = str(data or evaluation.values.get("data", ""))
    if is_remote(location):
        return None, f"{redacted(location)} is remote; give a copy of it on this machine with --data"
    try:
        dataset = load_dataset(location)
        if dataset.fingerprint != evaluation.values.get("fingerprint"):
            raise UserError(f"{location}: not the split that was evaluated, but of another fingerprint; name that one")
        return dataset, ""
    except UserError as error:
        if data is not None:
            raise
        return None, f"{error}; or say where it is now with --data"


def _staleness(facts: RunFacts, evaluation: EvaluationFile) -> list[str]:
    """Return whether the evaluation is of an older checkpoint than the best one, in words."""
    name = Path(str(evaluation.values.get("checkpoint", ""))).name
    if facts.best is None or not name.startswith("step-") or name == f"step-{facts.best.step:08d}":
        return []
    return [f"The evaluation is of {name}, and the best checkpoint now is step-{facts.best.step:08d}; evaluate again."]
