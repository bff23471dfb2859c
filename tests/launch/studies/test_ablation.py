"""The controlled experiment: rows differ in what they say, tables follow from the results, runs go on."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from launch.studies.ablation import report, results
from launch.studies.ablation import run as study
from launch.studies.ablation.long_report import describe_long, draw_long
from launch.studies.ablation.report import describe
from launch.studies.ablation.results import COMPARISONS, Comparison, compare, published_difference, verdict
from launch.studies.ablation.rows import BUDGETS, LONG, ROWS, SHORT
from launch.studies.ablation.run import Run
from launch.studies.marks import END, begin_mark, with_written
from sharding.errors import UserError
from tests.conftest import ROOT


def flat(values: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    found = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value}
    return found


@pytest.fixture(scope="module", autouse=True)
def in_the_repository():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield


def test_the_long_budget_is_the_same_training_for_longer() -> None:
    short, long = (
        flat(dataclasses.asdict(Run("tsn", ROWS["tsn"].options, 0, each).config())) for each in (SHORT, LONG)
    )
    assert {name for name in short if short[name] != long[name]} == {"train.epochs", "run_dir"}
    assert long["train.epochs"] * SHORT.num_steps == LONG.num_steps
    with pytest.raises(UserError, match="gst: of no such budget"):
        study.main(["--rows=gst", "--budgets=long"])


@pytest.mark.studies
def test_rows_differ_from_the_first_in_their_options_only() -> None:
    settings = {name: flat(dataclasses.asdict(Run(name, row.options, 0).config())) for name, row in ROWS.items()}
    base = settings["tsn"]
    for name, row in ROWS.items():
        changed = {key for key, value in settings[name].items() if value != base[key]} - {"run_dir"}
        said = {option[2:].split("=")[0] for option in row.options}
        assert changed - {"model.num_segments"} == said - {"model.arch"} | ({"model.arch"} & changed)
    everything = [
        tuple(sorted((k, str(v)) for k, v in values.items() if k != "run_dir")) for values in settings.values()
    ]
    assert len(set(everything)) == len(ROWS)


def test_comparisons_are_of_rows() -> None:
    for comparison in COMPARISONS:
        assert {comparison.better, comparison.worse} <= ROWS.keys()
    learned = Comparison("", "vpsn", "vpsn_shuffle")
    assert published_difference(learned) == pytest.approx(0.43)


def made_results(**tops: list[float]) -> dict:
    return {
        name: [
            {"seed": seed, "top1": top, "motion_top1": top, "size_top1": [top] * 2, "parameters": 1, "multiply_adds": 1}
            for seed, top in enumerate(values)
        ]
        for name, values in tops.items()
    }


def test_a_difference_and_its_verdict() -> None:
    found = made_results(vpsn=[0.5, 0.52, 0.57], tsm=[0.4, 0.41, 0.45], gst=[0.3, 0.3])
    difference = compare(found, Comparison("", "vpsn", "tsm"))
    assert difference.by_seed == pytest.approx([10, 11, 12])
    assert difference.mean == pytest.approx(11)
    assert difference.margin == pytest.approx(4.303 * 1 / math.sqrt(3))
    assert compare(found, Comparison("", "vpsn", "gst")).by_seed == pytest.approx([20, 22])  # seeds that both have
    assert math.isnan(results.Difference(np.array([10.0])).margin)
    strangers = made_results(tsm=[0.4]) | {"vpsn": found["vpsn"][1:]}
    assert [each.what for each in results.possible(found)] == [
        "GST over TSM",
        "synthesizer over TSM",
    ]
    assert results.possible(strangers) == []
    assert verdict(11, 2.5, 3.3) == "agrees"
    assert verdict(11, 2.5, -3.3) == "contradicts"
    assert verdict(-11, 2.5, 0.4) == "worse"  # too little in the paper to be contradicted
    assert verdict(11, 2.5, None) == "better"
    assert verdict(1, 2.5, 3.3) == "not resolved"
    assert verdict(5, math.nan, 3.3) == "not resolved"  # a seed each


def test_what_a_seed_adds_to_both_rows_is_no_spread() -> None:
    together = np.array([0.0, 0.3, 0.1])
    found = made_results(vpsn=list(0.5 + together), tsm=list(0.4 + together))
    assert compare(found, Comparison("", "vpsn", "tsm")).margin == pytest.approx(0, abs=1e-9)


def test_intervals_hold_what_they_promise() -> None:
    """Differences of nothing but noise leave zero outside of their 95 % interval once in twenty times."""
    random = np.random.default_rng(0)
    for seeds in (2, 3, 5):
        drawn = [results.Difference(points) for points in random.standard_normal((4000, seeds))]
        outside = sum(abs(each.mean) > each.margin for each in drawn)
        assert outside / len(drawn) == pytest.approx(0.05, abs=0.012)  # 3.5 standard deviations


def test_a_single_row_is_drawn(tmp_path: Path) -> None:
    """Before there is anything to compare."""
    found = made_results(tsn=[0.1])
    found["tsn"][0]["config"] = {"model": {"num_classes": 16}}
    assert report.draw(found, tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_longer_training_next_to_shorter(tmp_path: Path) -> None:
    """A difference that shrinks below its interval, one that comes, and a row without a result yet."""
    short = made_results(tsn=[0.1, 0.1], tsm=[0.4, 0.41], vpsn=[0.3, 0.6], rf_l_inception=[0.2, 0.2])
    long = made_results(tsn=[0.1, 0.12], tsm=[0.6, 0.63], vpsn=[0.9, 0.93], vpsn_both=[0.9, 0.9])
    for row in long.values():
        for result in row:
            result |= {"training_loss": 0.5, "training_losses": [[10 * step, 2.0 / step] for step in range(1, 151)]}
    networks, differences = describe_long(short, long).split("\n\n")
    assert [line.split(" | ")[2:5] for line in networks.splitlines()[2:]] == [
        ["**10.0** ± 0.0", "**11.0** ± 1.4", "0.50"],
        ["**40.5** ± 0.7", "**61.5** ± 2.1", "0.50"],
        ["**45.0** ± 21.2", "**91.5** ± 2.1", "0.50"],
        ["", "**90.0** ± 0.0", "0.50"],
    ]
    cells = [line.strip("| ").split(" | ") for line in differences.splitlines()[2:]]
    assert [(each[0], each[1], each[2], each[5], each[6:]) for each in cells] == [
        ("shifting channels in time, over none", "+30.5 ± 6.4", "+50.5 ± 6.4", "agrees", ["stands"]),
        ("synthesizer over TSM", "+4.5 ± 184.3", "+30.0 ± 0.0", "agrees", ["became clear"]),
        ("both losses over none", "", "-1.5 ± 19.1", "not resolved", []),
    ]
    assert draw_long(short, long, tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_motion_and_size_of_a_confusion_matrix() -> None:
    """Two motions in two sizes: samples of (motion, size) taken for (motion, size)."""
    confusion = torch.zeros(4, 4, dtype=torch.int64)
    confusion[0, 0], confusion[0, 1] = 3, 5  # small left: right, and the right motion in the wrong size
    confusion[1, 3], confusion[2, 2], confusion[3, 3] = 2, 6, 4
    assert study._motion_accuracy(confusion) == pytest.approx(18 / 20)
    assert study._accuracy(confusion[0::2], 0) == pytest.approx(9 / 14)
    assert study._accuracy(confusion[1::2], 1) == pytest.approx(4 / 6)


def test_results_page_holds_the_results() -> None:
    """The tables in RESULTS.md are those of the files in docs/experiment."""
    short, long = results.load_results(SHORT), results.load_results(LONG)
    assert short
    tables = {report.PROGRAM: describe(short)} | ({report.LONG_PROGRAM: describe_long(short, long)} if long else {})
    for program, expected in tables.items():
        written = report.PAGE.read_text().split(begin_mark(program))[1].split(END)[0].strip()
        assert written == expected


@pytest.mark.studies
def test_results_are_of_one_experiment() -> None:
    """The same videos, and the settings that the rows have today."""
    fingerprints = set()
    for budget in BUDGETS.values():
        for name, each in results.load_results(budget).items():
            for result in each:
                run, recorded = Run(name, ROWS[name].options, result["seed"], budget), result["config"]
                recorded["model"].pop("num_classes")  # of the videos, which are not here
                assert study.same_settings(recorded, run.config())
                fingerprints.add(json.dumps(result["fingerprints"]))
    assert len(fingerprints) == 1


def test_other_settings_are_told_apart() -> None:
    config = Run("tsn", ROWS["tsn"].options, 0).config()
    recorded = study._settings(config)
    del recorded["train"]["wandb"]  # as if there had been no such option yet
    assert study.same_settings(recorded, config)
    recorded["optimizer"]["learning_rate"] *= 2
    assert not study.same_settings(recorded, config)


@pytest.mark.parametrize("argument", ["--rows=vpns", "--jobs=0", "--seeds=-1", "--budgets=longer"])
def test_mistakes_are_told_before_any_work(argument: str) -> None:
    with pytest.raises((UserError, SystemExit)) as caught:
        study.main([argument])
    if isinstance(caught.value, SystemExit):
        assert caught.value.code == 2


@pytest.mark.slow
def test_runs_go_on_where_results_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = yaml.safe_load(study.CONFIG.read_text())
    config["data"] |= {
        "train": str(tmp_path / "data/packed/train"),
        "num_segments": 2,
        "short_side": 32,
        "crop_size": 32,
    }
    config["train"]["batch_size"] = 4
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
    page = "# Results\n\n" + begin_mark(report.PROGRAM) + "\n" + END + "\nafter\n"
    (tmp_path / "RESULTS.md").write_text(page)
    for module, changes in {
        study: {
            "CONFIG": tmp_path / "small.yaml",
            "DATA": tmp_path / "data",
            "RUNS": tmp_path / "runs",
            "RESULTS": tmp_path / "results",
            "SPLITS": {"train": ("--seed=0", "--num_videos=16"), "val": ("--seed=1", "--num_videos=16")},
            "VIDEOS": ("--num_classes=4", "--num_sizes=2", "--size=32", "--num_frames=4", "--radius=[0.04,0.28]"),
        },
        results: {"RESULTS": tmp_path / "results"},
        report: {
            "RESULTS": tmp_path / "results",
            "PAGE": tmp_path / "RESULTS.md",
            "PICTURE": tmp_path / "picture.png",
        },
    }.items():
        for name, value in changes.items():
            monkeypatch.setattr(module, name, value)
    study.main(["--rows", "tsn", "vpsn", "--budgets=short", "--seeds=0", "--jobs=2"])
    first = tmp_path / "results" / "tsn-0.json"
    before = first.stat().st_mtime_ns
    result = json.loads(first.read_text())
    assert result["samples"] == 16 and 0 <= result["top1"] <= result["motion_top1"] <= 1
    assert np.mean(result["size_top1"]) == pytest.approx(result["top1"])
    (tmp_path / "results" / "vpsn-0.json").unlink()
    shutil.rmtree(tmp_path / "runs")
    study.main(["--rows", "tsn", "vpsn", "--budgets=short", "--seeds=0"])
    assert first.stat().st_mtime_ns == before
    assert (tmp_path / "results" / "vpsn-0.json").exists() and (tmp_path / "picture.png").exists()
    written = (tmp_path / "RESULTS.md").read_text()
    assert "| TSN | 1 |" in written and written.endswith("\nafter\n")
    first.write_text(json.dumps(result | {"fingerprints": {"train": "other", "val": "other"}}))
    with pytest.raises(UserError, match="remove it"):
        study.main(["--rows=tsn", "--budgets=short", "--seeds=0"])


def test_what_is_written_stands_between_the_marks_and_nothing_else_changes():
    begin = begin_mark("me")
    page = f"before\n{begin}\nold\n{END}\nafter\n{begin} again"
    assert with_written(page, "me", "new", "PAGE") == f"before\n{begin}\n\nnew\n\n{END}\nafter\n{begin} again"
    for broken in (page.replace(END, ""), page.replace(begin, ""), f"{END}\n{begin}"):
        with pytest.raises(UserError, match=f"^PAGE: lacks the line {begin}, or {END} below it$"):
            with_written(broken, "me", "new", "PAGE")
