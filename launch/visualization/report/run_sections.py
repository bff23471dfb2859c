"""Sections of the page that need the run's folder alone: how far it is, curves, data, configuration, commands."""

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from launch.training.config import Config
from launch.visualization.report.charts import Chart, Line, draw_chart
from launch.visualization.report.facts import RunFacts, is_number
from launch.visualization.report.markup import (
    command,
    definitions,
    duration,
    element,
    escape,
    isolated,
    percent,
    table,
)
from pipeline.config import is_remote
from sharding.errors import UserError, redacted
from sharding.manifest import load_manifest

_SECRET = re.compile(r"passw|secret|token|credential|api_?key|access_?key", re.IGNORECASE)
_MOST_LEVELS = 3


def tiles(facts: RunFacts) -> str:
    """Return the figures that people look for first."""
    shown: list[tuple[str, str, str]] = []
    config, best = facts.config, facts.best_evaluation
    total = f"of {config.train.epochs}" if config else ""
    shown.append(("epochs", f"{facts.epochs_done:.4g}", total))
    if best:
        when, chance = f"after epoch {best['epoch']:g}", ""
        if facts.measure == "map":
            chance = f", guessing {percent(guessing)}" if is_number(guessing := best.get("map_of_guessing")) else ""
        elif facts.last and facts.last.classes:
            chance = f", chance {percent(1 / len(facts.last.classes))}"
        name = "mAP" if facts.measure == "map" else "top-1"
        shown.append((f"best {name} in training", percent(best[facts.measure]), f"{when}{chance}"))
    if facts.steps:
        seconds, waiting = facts.training_seconds()
        if seconds:
            shown.append(
                ("waiting for data", percent(waiting / seconds, 1), f"of {duration(seconds)} in training steps")
            )
        last = facts.steps[-1]
        shown.append(("speed", f"{last['clips_per_second']:,.1f}", "clips/s, all ranks, at the end"))
        if is_number(last.get("flop_utilization")):
            shown.append(("GPU's FLOPs used", percent(last["flop_utilization"], 1), "of the peak"))
        if is_number(last.get("peak_memory_bytes")):
            shown.append(("GPU memory", f"{last['peak_memory_bytes'] / 2**30:.1f} GiB", "at most, a rank"))
    cells = (
        element("div", element("small", escape(what)), element("b", escape(value)), element("span", escape(more)))
        for what, value, more in shown
    )
    return element("div", *cells, class_="tiles")


def curves(facts: RunFacts) -> tuple[str, list[dict[str, Any]]]:
    """Return the charts, and their points for the script."""
    end = float(facts.config.train.epochs) if facts.config else 0.0
    epochs = [line["epoch"] for line in facts.steps]
    figures = [
        Chart(
            "Training loss", _lines(facts.steps, {"loss": "loss", "classification": "classification"}), last_epoch=end
        ),
        Chart(
            "Validation mAP" if facts.measure == "map" else "Validation accuracy",
            _accuracies(facts.evaluations),
            " %",
            100,
            end,
        ),
        Chart("Learning rate", _lines(facts.steps, {"learning_rate": "learning rate"}), last_epoch=end),
    ]
    waiting = [100 * line["loading_share"] for line in facts.steps]
    figures.append(Chart("Time waiting for data", [Line("waiting", epochs, waiting)], " %", 100, end))
    drawn = [draw_chart(chart) for chart in figures]
    return element("div", *(figure for figure, _ in drawn), class_="charts"), [data for _, data in drawn]


def _accuracies(evaluations: list[dict[str, Any]]) -> list[Line]:
    names = {"top1": "top-1", "top5": "top-5", "mean_class": "mean class", "map": "mAP", "map_of_guessing": "guessing"}
    for level in sorted({name for line in evaluations for name in line if name.startswith("top1/")})[:_MOST_LEVELS]:
        names[level] = f"top-1 of {level.partition('/')[2]}"
    return _lines(evaluations, names, 100)


def _lines(lines: list[dict[str, Any]], names: Mapping[str, str], factor: float = 1) -> list[Line]:
    found = []
    for key, title in names.items():
        points = [(line["epoch"], factor * line[key]) for line in lines if is_number(line.get(key))]
        if points:
            found.append(Line(title, *zip(*points)))
    return found


def data(facts: RunFacts, evaluated: Mapping[str, Any] | None) -> str:
    """Return which data the run was trained and evaluated on, and whether they are still there and the same."""
    if facts.config is None:
        return element("p", "No configuration, so it is not known.")
    head = ("", "training", "validation" if evaluated is None else "validation, evaluated")
    trained = facts.last.train_fingerprint if facts.last else None
    splits = [
        _describe_split(facts.config.data.train, trained),
        _describe_split(facts.config.data.val, _text(evaluated, "fingerprint")),
    ]
    names = dict.fromkeys(name for split in splits for name in split)
    rows = ([escape(name), *(split.get(name, "–") for split in splits)] for name in names)
    excluded = facts.epochs[-1].get("excluded", 0) if facts.epochs else 0
    note = f"{excluded} training samples that could not be read were left out." if excluded else ""
    return element("div", table(rows, head, class_="facts"), class_="scroll") + (element("p", note) if note else "")


def _text(values: Mapping[str, Any] | None, key: str) -> str | None:
    value = values.get(key) if values else None
    return value if isinstance(value, str) else None


def _describe_split(location: str | None, fingerprint: str | None) -> dict[str, str]:
    """Return cells about a split, HTML: where it is, what was used, and what is there now."""
    if location is None:
        return {"location": "none"}
    cells = {"location": element("code", isolated(redacted(location)))}
    if fingerprint:
        cells["fingerprint then"] = element("code", escape(fingerprint[:16]), title=fingerprint)
    if is_remote(location):
        return cells
    try:
        manifest = load_manifest(Path(location))
    except (UserError, OSError) as error:
        return cells | {"there now": escape(redacted(str(error)))}
    same = fingerprint is None or manifest.fingerprint == fingerprint
    state = "the same data" if same else f"other data: fingerprint {manifest.fingerprint[:16]}"
    cells["there now"] = element("span", escape(state), class_="good" if same else "bad")
    return cells | {
        "dataset": isolated(f"{manifest.dataset} {manifest.split}, profile {manifest.profile}"),
        "samples": f"{manifest.samples:,} in {len(manifest.shards):,} shards, {manifest.bytes / 1e9:,.3g} GB",
        "classes": f"{len(manifest.classes):,}",
        "failed when packed": f"{manifest.failures:,}",
    }


def versions(facts: RunFacts) -> str:
    """Return the versions that the newest checkpoint was written with."""
    if facts.last is None:
        return element("p", "They are written into every checkpoint; there is none yet.")
    return definitions({name: escape(version) for name, version in facts.last.versions.items()})


def configuration(config: Config | None) -> str:
    """Return what differs from the defaults, and below it the complete configuration."""
    if config is None:
        return element("p", "config.yaml is missing or cannot be read.")
    values, defaults = masked(config.without_secrets()), dict(_flatten(Config().without_secrets()))
    changed = [
        [element("code", escape(key)), element("code", escape(value)), element("code", escape(defaults.get(key, "–")))]
        for key, value in _flatten(values)
        if defaults.get(key) != value
    ]
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    complete = element("details", element("summary", "all of config.yaml"), element("pre", escape(text)))
    different = table(changed, ("what differs from the defaults", "this run", "default"), class_="facts")
    return element("div", different, class_="scroll") + complete


def masked(values: Any, name: str = "") -> Any:
    """Return values of a configuration without what may be secret: under a name that says so, or in a URL.

    >>> masked({"deepspeed": {"api_key": "abc", "url": "https://me:pw@host/x?sig=1", "steps": 3}})
    {'deepspeed': {'api_key': '***', 'url': 'https://***@host/x?***', 'steps': 3}}
    """
    if isinstance(values, dict):
        return {key: masked(value, str(key)) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [masked(value, name) for value in values]
    if isinstance(values, str):
        return "***" if _SECRET.search(name) else redacted(values)
    return values


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value


def commands(facts: RunFacts) -> str:
    """Return what can be done with the run next, as commands."""
    run, shown = shlex.quote(str(facts.run_dir)), []
    val = facts.config.data.val if facts.config else None
    split = shlex.quote(redacted(val)) if val else "SPLIT"
    if facts.state in ("stopped", "not started") and facts.config is not None:
        shown.append(("Continue the training", f"python launch/train.py --run_dir {run} --resume"))
    if facts.last is not None:
        shown += [
            ("Evaluate, as in papers with more clips and crops", f"{evaluate_command(facts)} --clips 10 --crops 3"),
            ("Classify a video", f"python launch/predict.py --checkpoint {run} VIDEO.mp4"),
            ("Export to ONNX", f"python launch/export.py --checkpoint {run} --out model.onnx"),
            (
                "Begin another training from these weights",
                f"python launch/train.py --config RECIPE.yaml --model.pretrained={run} --run_dir NEW",
            ),
        ]
    if val and not is_remote(val):
        shown.append(("Check the validation split", f"python -m sharding verify {split} --decode"))
    shown.append(("Make this page again", f"python launch/visualize.py report {run}"))
    return "".join(element("h3", escape(title)) + command(line) for title, line in shown)


def evaluate_command(facts: RunFacts) -> str:
    """Return the command that evaluates the run."""
    val = facts.config.data.val if facts.config else None
    split = shlex.quote(redacted(val)) if val else "SPLIT"
    return f"python launch/evaluate.py --checkpoint {shlex.quote(str(facts.run_dir))} --data {split}"


def log_lines(facts: RunFacts) -> str:
    """Return the newest warnings and errors of the log."""
    if not facts.warnings:
        return ""
    shown = element("pre", escape("\n".join(facts.warnings)))
    return element(
        "details",
        element("summary", "the newest warnings and errors of logs/rank-0.log"),
        shown,
        open=facts.state == "stopped",
    )
