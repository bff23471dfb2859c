"""The study on real videos: folds without leaks, intervals, what the tables say, and all of it on generated clips."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from launch.studies.marks import END, begin_mark
from launch.studies.real import report, rows
from launch.studies.real import run as study
from launch.studies.real.clips import COLUMNS, make_folds, read_clips, read_index, write_index
from launch.studies.real.data import symmetric_frames
from launch.studies.real.folds import clip_of, groups_of_samples, parse_row
from launch.studies.real.rows import EXPERIMENTS, SETS, TUNING, Row
from launch.studies.real.statistics import Accuracy, accuracy_of, compare, sign_test
from pipeline.sampling import middle_frames
from sharding.errors import UserError
from tests.conftest import ROOT
from tests.helpers.videos import write_numbered_video

HEADING = "path,set,sequence,label\n"
PAGE = ROOT / "docs" / "real_videos.md"


def write_clips(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.fixture
def index(tmp_path) -> Path:
    folder = tmp_path / "ut_interaction"
    write_clips(folder, ["a.avi", "b.avi"])
    return folder / "index.csv"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n", r"line 1: 'path,label': expected is the line path,set,sequence,label"),
        (HEADING + "a.avi,1,1\n", r"line 2: 'a.avi,1,1': expected are values of path,set,sequence,label"),
        (HEADING + "a.avi,1, ,push\n", r"line 2: .*expected are values"),
        (HEADING + "a.avi,1,1,push\n\nc.avi,1,1,hug\n", r"line 4: .*c.avi: no such file"),
        (HEADING + "../a.avi,1,1,push\n", r"line 2: ../a.avi: leads out of"),
        (HEADING + "a.avi,1,1,push\na.avi,1,2,hug\n", r"line 3: a.avi is in line 2 already"),
        (HEADING, r"no clips in it"),
    ],
)
def test_what_is_wrong_in_an_index_is_reported_with_its_line(index, text, message):
    index.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_index(index, COLUMNS["ut_interaction"])
    assert "\n" not in str(caught.value) and str(index) in str(caught.value)


def test_a_missing_index_says_where_the_clips_come_from(tmp_path):
    for name, videos in SETS.items():
        with pytest.raises(UserError, match="write-index") as caught:
            read_clips(tmp_path, videos)
        assert rows.SOURCES[videos.folder] in str(caught.value), name


def test_an_index_of_names_as_published(tmp_path):
    names = ["segmented_set1/0_1_4.avi", "segmented_set1/8_2_0.avi", "segmented_set2/8_12_5.avi"]
    write_clips(tmp_path / "ut_interaction", [*names, "segmented_set2/9_11_1.avi"])
    write_clips(tmp_path / "weizmann", ["walk/lena_walk2.avi", "walk/lena_walk1.avi", "ido_wave2.avi"])
    assert write_index(tmp_path / "ut_interaction") == 4 and write_index(tmp_path / "weizmann") == 3
    clips = {each.name: read_clips(tmp_path, each) for each in SETS.values()}
    assert [(clip.path, clip.group, clip.label) for clip in clips["ut1"]] == [
        ("segmented_set1/0_1_4.avi", "1", "punch"),
        ("segmented_set1/8_2_0.avi", "2", "handshake"),
    ]
    assert [(clip.group, clip.label) for clip in clips["ut2"]] == [("12", "push"), ("11", "hug")]
    assert [(clip.group, clip.label) for clip in clips["weizmann"]] == [
        ("ido", "wave2"),
        ("lena", "walk"),
        ("lena", "walk"),
    ]
    write_clips(tmp_path / "weizmann", ["holiday.avi"])
    with pytest.raises(UserError, match=r"holiday.avi: expected is a name such as daria_walk.avi"):
        write_index(tmp_path / "weizmann")


@pytest.mark.parametrize("num_folds", [None, 2, 3])
def test_folds_part_the_groups(num_folds):
    groups = [str(number) for number in (11, 12, 13, 14, 15, 9, 9, 11)]
    folds = make_folds(groups, num_folds)
    assert len(folds) == (num_folds or 6)
    assert sorted(name for fold in folds for name in fold.groups) == sorted(set(groups))
    assert len({fold.name for fold in folds}) == len(folds)


def test_both_directions_of_a_clip_are_of_its_group():
    groups = {"bend-daria": "daria", "walk-ido": "ido"}
    keys = np.array(["forward-bend-daria", "reversed-walk-ido", "reversed-bend-daria", "walk-ido"], object)
    assert groups_of_samples(keys, groups).tolist() == ["daria", "ido", "daria", "ido"]
    with pytest.raises(UserError, match=r"jump-ido: not in index\.csv"):
        groups_of_samples(np.array(["jump-ido"], object), groups)


@pytest.mark.parametrize("stored", [8, 20, 24, 31, 39, 40, 64, 100])
def test_a_test_looks_at_the_same_pictures_in_both_directions(stored):
    kept = symmetric_frames(stored)
    assert (np.diff(kept) > 0).all() and kept.min() >= 0 and kept.max() < stored
    looked_at = middle_frames(len(kept), 8)
    assert kept[looked_at].tolist() == kept[::-1][looked_at][::-1].tolist()
    config = yaml.safe_load((ROOT / rows.CONFIG).read_text())
    assert config["data"]["num_segments"] == 8


@pytest.mark.parametrize(
    ("right", "clips", "low", "high"),
    [  # the examples of Newcombe, Two-sided confidence intervals for the single proportion, 1998, Table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (8, 10, 0.4902, 0.9433),
    ],
)
def test_wilson_intervals(right, clips, low, high):
    assert Accuracy(right, clips).interval == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize(
    ("better", "worse", "p"),
    [  # tails of Pascal's triangle: 2 * (10 + 1) / 1024, 2 * (455 + 105 + 15 + 1) / 32768, 2 / 64
        (9, 1, 0.021484375),
        (1, 9, 0.021484375),
        (5, 5, 1.0),
        (0, 0, 1.0),
        (12, 3, 0.03515625),
        (6, 0, 0.03125),
    ],
)
def test_sign_test(better, worse, p):
    assert sign_test(better, worse) == pytest.approx(p)


def test_a_difference_is_of_the_clips_that_both_have():
    one = {"a": 1.0, "b": 1.0, "c": 0.0, "d": 0.5, "only": 1.0}
    other = {"a": 0.0, "b": 1.0, "c": 0.0, "d": 1.0, "else": 0.0}
    difference = compare(one, other)
    assert (difference.value, difference.better, difference.worse) == (0.125, 1, 1)
    # differences 1 0 0 -0.5: standard deviation 0.6292, over the root of 4 clips
    assert difference.margin == pytest.approx(1.959964 * 0.629153 / 2, abs=1e-5)


def made_result(experiment: str, videos: str, network: str, right: dict[str, bool], seed: int = 0) -> dict:
    predictions = {key: ["push", "push" if good else "hug"] for key, good in right.items()}
    fold = {"seconds": 30.0, "training_top1": 0.9, "predictions": predictions}
    return {"experiment": experiment, "set": videos, "network": network, "seed": seed, "folds": {"1": fold}}


def test_tables_say_what_the_results_do(tmp_path):
    clips = [f"clip{number}" for number in range(20)]
    halves = {f"{way}-{clip}": way == "forward" for clip in clips for way in rows.DIRECTIONS}
    found = {
        ("action", "ut1", "tsn"): [made_result("action", "ut1", "tsn", {clip: clip < "clip12" for clip in clips})],
        ("action", "ut1", "vpsn"): [made_result("action", "ut1", "vpsn", dict.fromkeys(clips, True))],
        ("direction", "ut1", "tsn"): [made_result("direction", "ut1", "tsn", halves)],
        ("direction", "ut1", "vpsn"): [made_result("direction", "ut1", "vpsn", dict.fromkeys(halves, True))],
        ("tune_sgd_0.01", "ut2", "tsn"): [made_result("tune_sgd_0.01", "ut2", "tsn", dict.fromkeys(clips, True))],
    }
    right = sum(clip < "clip12" for clip in clips)
    assert accuracy_of(report.scores_of(found["direction", "ut1", "tsn"])) == Accuracy(10.0, 20)
    text = report.describe(found)
    assert f"**found**: VPSN over TSN, actions ({5 * (20 - right):+.1f} points" in text
    assert "not found: TSN knows forward from reversed (50.0 (30 to 70)" in text
    assert "**found**: VPSN knows forward from reversed (100.0 (84 to 100)" in text
    assert "|  |  | 90 | 30 |" in text  # in training, and seconds
    assert "| TSN | 1 |  | " + f"{5 * right:.1f} (" in text  # nothing of Weizmann yet, and so not of all
    assert "| sgd 0.01 | 100.0 (84 to 100) |  |" in text
    assert "pretrained over" not in text
    assert report.draw(found, tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    tuning = {key: each for key, each in found.items() if key[0].startswith("tune")}
    assert report.draw(tuning, tmp_path / "tuning.png").read_bytes().startswith(b"\x89PNG")


def test_seeds_of_a_clip_count_once():
    results = [made_result("action", "ut1", "tsn", {"a": good, "b": True}, seed) for seed, good in enumerate([1, 0])]
    assert report.scores_of(results) == {"ut1/a": 0.5, "ut1/b": 1.0}


def test_the_page_holds_the_results():
    results = report.load_results()
    written = PAGE.read_text().split(begin_mark(report.PROGRAM))[1].split(END)[0].strip()
    assert written == (report.describe(results) if results else "")


def test_rows_have_names_that_lead_back_to_them():
    for experiment in (EXPERIMENTS | TUNING).values():
        row = Row(experiment, SETS["ut2"], "tsn", 3)
        assert parse_row(row.name) == row
    with pytest.raises(UserError, match="--row action-ut3-tsn-0: expected is"):
        parse_row("action-ut3-tsn-0")
    assert clip_of("forward-x") == clip_of("reversed-x") == clip_of("x") == "x"


@pytest.mark.parametrize(
    "arguments",
    [["--sets", "ut3"], ["--networks", "vpns"], ["--experiments", "x"], ["--jobs", "0"], ["--seeds", "-1"], []],
)
def test_mistakes_are_told_before_any_work(arguments):
    with pytest.raises((UserError, SystemExit)) as caught:
        study.main(arguments)
    if isinstance(caught.value, SystemExit):
        assert caught.value.code == 2


CLASSES = (0, 5)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """The project's folders with trainings of seconds, and clips that are named like those of UT-Interaction."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("sharding", "pipeline", "model"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "launch", folder / "launch", ignore=shutil.ignore_patterns("__pycache__"))
    for recipe in (folder / "launch" / "configs" / "real").glob("*.yaml"):
        values = yaml.safe_load(recipe.read_text())
        values["data"] |= {"short_side": 32, "crop_size": 32}
        values["train"] |= {"epochs": 2, "batch_size": 4}
        values["schedule"]["warmup_epochs"] = 0
        recipe.write_text(yaml.safe_dump(values))
    table = folder / "launch" / "studies" / "real" / "rows.py"
    text = re.sub(r"--train.epochs=\d+", "--train.epochs=2", table.read_text())
    text = re.sub(r"--schedule.warmup_epochs=\d+", "--schedule.warmup_epochs=0", text)
    table.write_text(text)
    motion = folder / "launch" / "studies" / "ablation" / "rows.py"
    motion.write_text(motion.read_text().replace("--num_videos=4800", "--num_videos=16"))
    (folder / "docs").mkdir()
    before, after = PAGE.read_text().split(begin_mark(report.PROGRAM))[0], PAGE.read_text().split(END)[1]
    (folder / "docs" / PAGE.name).write_text(f"{before}{begin_mark(report.PROGRAM)}\n{END}{after}")
    clips = folder / "videos" / "real" / "ut_interaction" / "segmented_set2"
    for sequence in (18, 19, 20):
        for number in range(4):
            name = f"{number}_{sequence}_{CLASSES[number % 2]}.avi"
            write_numbered_video(clips / name, 30, codec="mpeg4", size=(64, 48), first_number=100 * number)
    return folder


@pytest.mark.slow
def test_every_command_of_the_page_runs(checkout):
    """Of one set, actions and directions, and pretraining; then a fold is without its clips in training, and a network
    that is blind to order has half of the directions right."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL):
        script = block.replace("videos/real --write-index", "videos/real --sets ut2 --write-index")
        script = re.sub(r"videos/real\n", "videos/real --sets ut2 --networks tsn vpsn\n", script)
        command = ["bash", "-euo", "pipefail", "-c", script]
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=1200)
        logs = [log.read_text()[-2000:] for log in checkout.glob("runs/real/**/study.log")]
        assert done.returncode == 0, f"{block}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}\n{logs}"
    results = {file.stem: json.loads(file.read_text()) for file in (checkout / "docs" / "real").glob("*.json")}
    tuned = {f"{experiment}-ut2-{name}-100" for experiment in TUNING for name in ("tsn", "vpsn")}
    trained = {f"{name}-ut2-{network}-0" for name in EXPERIMENTS for network in ("tsn", "vpsn")}
    assert results.keys() == tuned | trained | {f"direction-ut2-{network}-1" for network in ("tsn", "vpsn")}
    for name, result in results.items():
        samples = 24 if name.startswith("direction") else 12
        assert len(result["folds"]) == (2 if name.startswith("tune") else 3)
        seen: list[str] = []
        for fold, found in result["folds"].items():
            held_out = {key.split("_")[-2] for key in found["predictions"]}
            assert held_out == set(map(str, range(int(fold[:2]), int(fold[-2:]) + 1)))
            assert found["training_samples"] == samples - len(found["predictions"])
            seen += found["predictions"]
        assert len(seen) == len(set(seen)) == samples
    blind = report.scores_of([results["direction-ut2-tsn-0"]])
    assert set(blind.values()) == {0.5} and len(blind) == 12
    page = (checkout / "docs" / PAGE.name).read_text()
    assert "### Forward or reversed?" in page and "TSN knows forward from reversed (50.0" in page
    assert (checkout / "docs" / "real_videos.png").exists() and "## Limits" in page
    again = subprocess.run(
        [sys.executable, "-m", "launch.studies.real", "--data=videos/real", "--sets=ut2", "--networks=tsn"],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0 and "launch.studies.real.folds" not in again.stdout + again.stderr
