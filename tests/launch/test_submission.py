"""Predictions in the forms of benchmarks: each file against scores worked out by hand, and the command on a split."""

import csv
import json
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from launch.evaluate import main as evaluate_main
from launch.inference.scores import read_scores
from launch.inference.submission_forms import FORMS, SplitScores
from launch.training.builders import load_splits
from launch.training.config_parser import load_config
from sharding.errors import UserError
from sharding.pack import PackConfig, pack
from tests.conftest import run_command
from tests.launch.conftest import run_ranks

LEVELS = {"verb": ("take", "open"), "noun": ("door", "tap:hot", "board")}
SPLIT = SplitScores(
    keys=("P01_101_0", "P01_101_1"),
    sources=("a/x 1.mp4", "a/y.mp4"),
    scores=np.array([[0.1, 0.6, 0.3], [0.5, 0.25, 0.25]], np.float32),
    classes=("take board", "open door", "open tap:hot"),
    levels=LEVELS,
    level_scores={},
)


def written(form: str, folder, split: SplitScores = SPLIT, supervision=()) -> str:
    path = folder / FORMS[form].name
    FORMS[form].write(path, split, supervision)
    return path if path.suffix == ".zip" else path.read_text()


def test_kinetics(tmp_path):
    split = replace(SPLIT, keys=("-3B32lodo2M_000059_000069", "_ab_000001_000011"))
    found = json.loads(written("kinetics", tmp_path, split))
    assert found["version"] == "KINETICS VERSION 1.0" and set(found["external_data"]) == {"used", "details"}
    assert list(found["results"]) == ["-3B32lodo2M", "_ab"]
    assert [row["label"] for row in found["results"]["-3B32lodo2M"]] == ["open door", "open tap:hot", "take board"]
    assert [row["score"] for row in found["results"]["_ab"]] == [0.5, 0.25, 0.25]
    twice = replace(split, keys=("abc_000001_000011", "abc_000021_000031"))
    with pytest.raises(UserError, match="video abc has two clips in the split"):
        written("kinetics", tmp_path, twice)


def test_something_jester_moments_and_csv(tmp_path):
    assert written("something-v1", tmp_path) == "P01_101_0;open door\nP01_101_1;take board\n"
    assert written("jester", tmp_path) == written("something-v1", tmp_path)
    assert written("something-v2", tmp_path) == "P01_101_0;1;2;0\nP01_101_1;0;1;2\n"
    assert written("moments", tmp_path).splitlines()[1] == "y.mp4 take board open door open tap:hot"
    rows = list(csv.DictReader(written("csv", tmp_path).splitlines()))
    assert rows[0]["key"] == "P01_101_0" and rows[0]["class_2"] == "open tap:hot"
    assert float(rows[1]["probability_1"]) == 0.5


def test_epic_kitchens(tmp_path):
    """Verbs and nouns have the sums of their actions, as logarithms: the softmax that the server takes undoes these."""

    def results(split: SplitScores) -> dict:
        with zipfile.ZipFile(written("epic-kitchens", tmp_path, split, (1, 3, 4))) as archive:
            found = json.loads(archive.read("test.json"))
        assert {name: found[name] for name in ("version", "challenge")} == {
            "version": "0.2",
            "challenge": "action_recognition",
        }
        assert [found[f"sls_{name}"] for name in ("pt", "tl", "td")] == [1, 3, 4]
        return found["results"]

    def softmax(scores: dict[str, float]) -> list[float]:
        powers = np.exp(list(scores.values()))
        return (powers / powers.sum()).tolist()

    found = results(SPLIT)
    assert list(found) == list(SPLIT.keys)
    first = found["P01_101_0"]
    assert [list(first[level]) for level in ("verb", "noun")] == [["0", "1"], ["0", "1", "2"]]
    assert softmax(first["verb"]) == pytest.approx([0.1, 0.9], abs=1e-4)
    assert softmax(first["noun"]) == pytest.approx([0.6, 0.3, 0.1], abs=1e-4)
    assert list(first["action"]) == ["1,0", "1,1", "0,2"]
    assert softmax(first["action"]) == pytest.approx([0.6, 0.3, 0.1], abs=1e-4)
    own = {"verb": np.array([[0.75, 0.25], [0.0, 1.0]], np.float32)}
    found = results(replace(SPLIT, level_scores=own))
    assert softmax(found["P01_101_0"]["verb"]) == pytest.approx([0.75, 0.25], abs=1e-4)
    assert all(np.isfinite(list(found["P01_101_1"]["verb"].values())))
    with pytest.raises(UserError, match="packed with --dataset epic-kitchens"):
        written("epic-kitchens", tmp_path, replace(SPLIT, levels={}), (1, 3, 4))


@pytest.fixture(scope="module")
def unlabelled(motion, tmp_path_factory):
    """The validation videos of `motion` once more, packed without their labels."""
    folder = tmp_path_factory.mktemp("unlabelled")
    videos = motion / "videos" / "val"
    paths = sorted(path.relative_to(videos).as_posix() for path in videos.rglob("*.mp4"))
    (folder / "test.txt").write_text("\n".join(["path", *paths]))
    (folder / "classes.txt").write_text("\n".join(sorted({path.split("/")[0] for path in paths})))
    config = PackConfig("list", videos, folder, "test", (folder / "test.txt",), folder / "classes.txt", workers=1)
    pack(config)
    return folder / "test"


@pytest.mark.slow
def test_the_command_on_a_split_without_labels(trained, motion, unlabelled, tmp_path):
    command = [sys.executable, "launch/evaluate.py", f"--checkpoint={trained}", "--batch-size=2"]
    done = run_ranks([*command, f"--data={unlabelled}", f"--out={tmp_path / 'a'}", "--submission=csv"], 2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"predictions for 5 samples of {unlabelled}, which have no labels" in done.stdout
    done = run_command([*command, f"--data={motion / 'val'}", f"--out={tmp_path / 'b'}", "--submission=something-v2"])
    assert "predictions for 5 samples" in done.stdout and "; top-1 " in done.stdout, done.stderr
    found, labelled = (read_scores(tmp_path / name / "scores.parquet") for name in "ab")
    assert set(found.labels.tolist()) == {-1}
    of_key = dict(zip(labelled.keys, labelled.scores))
    for key, scores in zip(found.keys, found.scores):
        np.testing.assert_allclose(scores, of_key[key], atol=0.02)  # bf16, in other batches
    rows = list(csv.DictReader((tmp_path / "a" / "predictions.csv").read_text().splitlines()))
    best = [found.classes[i] for i in found.scores.argmax(1)]
    assert [(row["key"], row["class_1"]) for row in rows] == list(zip(found.keys, best))


def test_what_cannot_be_done_without_labels_is_one_line(trained, small_config, unlabelled, tmp_path):
    with pytest.raises(UserError, match=r"have no labels, so there is no accuracy; .* --submission FORM"):
        evaluate_main([f"--checkpoint={trained}", f"--data={unlabelled}", f"--out={tmp_path}"])
    config = load_config(small_config)
    for data in (replace(config.data, train=str(unlabelled)), replace(config.data, val=str(unlabelled))):
        with pytest.raises(UserError, match=r"test: its videos have no labels, so nothing can be trained or measured"):
            load_splits(replace(config, data=data))
    assert not list(tmp_path.iterdir())


def test_a_form_that_the_split_has_not_got_is_refused_before_anything_is_predicted(trained, unlabelled, monkeypatch):
    monkeypatch.setattr("launch.inference.submission._scores", lambda *_: pytest.fail("predicted"))
    options = ["--submission=epic-kitchens", "--sls", "0", "0", "0"]
    with pytest.raises(UserError, match="this form is of splits packed with --dataset epic-kitchens"):
        evaluate_main([f"--checkpoint={trained}", f"--data={unlabelled}", *options])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--calibration-bins=100000000000"], "--calibration-bins 100000000000: use 1 to 10000"),
        (["--submission=epic-kitchens"], "--submission epic-kitchens: declare its supervision with --sls PT TL TD"),
        (["--submission=epic-kitchens", "--sls", "1", "3", "6"], "--sls 1 3 6: use levels from 0 to 5"),
        (["--submission=kinetics", "--sls", "1", "3", "3"], "--sls 1 3 3: only --submission epic-kitchens"),
        (["--sls", "1", "3", "3"], "--sls 1 3 3: only --submission epic-kitchens"),
        (["--submission=csv", "--tell-levels"], "--tell-levels: predictions for a benchmark"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(UserError, match=message):
        evaluate_main(["--checkpoint=x", "--data=y", *options])
