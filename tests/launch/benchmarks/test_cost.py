"""What training costs: the arithmetic worked out once more step by step, the file of measurements, the command."""

import json
import math
import re
import shutil
import sys
from dataclasses import MISSING, asdict, fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.benchmark import main
from launch.benchmarks.cost import (
    Cost,
    Means,
    Rate,
    Recipe,
    choose_figures,
    choose_rates,
    describe_recipe,
    loader_cores,
)
from launch.benchmarks.measurements import (
    FirstBatch,
    Measurements,
    Profile,
    Training,
    load_measurements,
    write_measurements,
)
from launch.training.config import parse_config
from sharding.errors import UserError
from sharding.packing.profiles import PROFILES
from tests.conftest import ROOT, run_command
from tests.helpers.videos import write_numbered_video

SOURCE = {"command": "python some.py", "machine": "a machine", "date": "2026-01-31"}
RECIPE = Recipe("vpsn-18, clips of 4 x 56 x 56, bf16", "4 segments, short side 64, random crop 56", 3, batch_size=8)
H264 = Profile(
    profile="h264",
    recipe=RECIPE.loading,
    kilobytes_per_video=500,
    core_seconds_per_video=1,
    clips_per_core_second=30,
    **SOURCE,
)
CPU = Training(kind="cpu", device="a CPU of 3", recipe=RECIPE.training, clips_per_second=5, **SOURCE)
GPU = Training(kind="gpu", device="A Board", recipe=RECIPE.training, clips_per_second=123, **SOURCE)
FIGURES = Measurements((H264,), (CPU,), (FirstBatch(videos=1000, seconds=36, **SOURCE),))


@pytest.fixture
def files(tmp_path) -> list[str]:
    """Options for the command: FIGURES in a file, and the recipe they are of."""
    write_measurements(tmp_path / "measurements.json", FIGURES)
    config = tmp_path / "recipe.yaml"
    config.write_text(
        "data: {num_segments: 4, short_side: 64, crop_size: 56}\n"
        "model: {arch: vpsn, depth: 18}\n"
        "train: {epochs: 3, batch_size: 8}\n"
    )
    sets = ["--datasets={mine: [1001, 200]}", "--gpus=[1, 4]", "--workers=2"]
    return ["plan", f"--measurements={tmp_path / 'measurements.json'}", f"--config={config}", *sets]


def rows(output: str) -> dict[str, list[str]]:
    """The lines of the tables by their first cell; the last of each name."""
    cells = [re.split(r"\s{2,}", line.strip()) for line in output.splitlines()]
    return {first: rest for first, *rest in cells}


def test_cost_step_by_step():
    board = Rate("gpu", "A Board", 123, "measured")
    cost = Cost(Means(RECIPE, FIGURES, (board,), workers=2, gpus=(1, 4), max_stall=0.02), "mine", 1001, 200)
    clips = sum(8 for _ in range(3) for _ in range(0, 1001 - 7, 8))  # whole batches of 8
    packing_seconds = sum([1] * 1201)  # of one core
    assert cost.clips == clips == 3000
    assert cost.gigabytes(H264) == pytest.approx(sum([500e3] * 1201) / 1e9)
    assert cost.packing_core_hours(H264) == pytest.approx(packing_seconds / 3600)
    assert cost.packing_hours(H264) == pytest.approx(packing_seconds / 2 / 60 / 60)
    assert cost.first_step_hours(H264) == pytest.approx((packing_seconds / 2 + 36) / 3600)
    assert cost.loading_core_hours(H264) == pytest.approx(clips / 30 / 3600)
    assert cost.training_hours(board) == pytest.approx(clips / 123 / 3600)
    assert cost.training_hours(board, 4) == pytest.approx(clips / 492 / 3600)


@settings(deadline=None)
@given(st.floats(0.1, 500), st.floats(0.1, 1e5), st.floats(0.001, 0.5))
def test_cores_let_gpus_wait_no_longer_than_said_and_one_less_does_not(per_core, needed, max_stall):
    def stall(cores: int) -> float:
        """Time a clip is waited for over the time a clip takes in all, where loading and computing overlap."""
        computing = 1 / needed
        clip_seconds = max(computing, 1 / (cores * per_core)) if cores else math.inf
        return 1 - computing / clip_seconds

    cores = loader_cores(per_core, needed, max_stall)
    assert cores >= 1
    assert stall(cores) <= max_stall + 1e-9
    assert stall(cores - 1) > max_stall - 1e-9


def test_the_projects_own_figures_are_of_its_recipe():
    """docs/measurements.json has all that the plan of Kinetics needs."""
    recipe = describe_recipe(parse_config("plan", [f"--config={ROOT}/launch/configs/kinetics/kinetics400_8f.yaml"]))
    assert (recipe.epochs, recipe.batch_size, recipe.training) == (80, 64, "vpsn-50, clips of 8 x 224 x 224, bf16")
    figures = choose_figures(load_measurements(ROOT / "docs" / "measurements.json"), recipe, "file")
    assert {record.profile for record in figures.profiles} == set(PROFILES)
    assert figures.training


def test_measurements_come_back_and_the_last_of_the_recipe_hold(tmp_path):
    path = tmp_path / "measurements.json"
    again, other = replace(H264, kilobytes_per_video=600.5), replace(H264, profile="jpeg")
    elsewhere = replace(again, recipe="16 segments")
    slower = replace(CPU, clips_per_second=4)
    last = replace(FIGURES.first_batch[0], seconds=3)
    written = Measurements(
        (H264, other, again, elsewhere), (CPU, GPU, slower, replace(GPU, recipe="tsn")), (*FIGURES.first_batch, last)
    )
    write_measurements(path, written)
    assert load_measurements(path) == written
    chosen = choose_figures(written, RECIPE, "file")
    assert chosen == Measurements((again, other), (slower, GPU), (last,))
    assert choose_rates(chosen, None, None, (7,)) == (
        Rate("gpu", "A Board", 123, "measured"),
        Rate("cpu", "a CPU of 3", 4, "measured"),
    )


KINDS = {"profiles": Profile, "training": Training, "first_batch": FirstBatch}
REQUIRED = [
    (section, field.name) for section, kind in KINDS.items() for field in fields(kind) if field.default is MISSING
]


@pytest.mark.parametrize(("section", "field"), REQUIRED)
def test_a_field_that_is_missing_is_named(section, field, tmp_path):
    values = asdict(FIGURES)
    del values[section][0][field]
    path = tmp_path / "measurements.json"
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=rf'{path}: .*"{section}".* {field} is required$') as caught:
        load_measurements(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("profiles", {"kilobytes_per_video": -1}, "kilobytes_per_video.*-1"),
        ("profiles", {"core_seconds_per_video": math.nan}, "core_seconds_per_video.*NaN"),
        ("profiles", {"clips_per_core_second": math.inf}, "clips_per_core_second.*Infinity"),
        ("training", {"clips_per_second": "fast"}, "clips_per_second.*fast"),
        ("training", {"kind": "tpu"}, "kind.*tpu"),
        ("training", {"date": "yesterday"}, "date.*yesterday"),
        ("first_batch", {"second": 2}, "'second' is not accepted"),
    ],
)
def test_a_field_that_is_wrong_is_named(section, change, message, tmp_path):
    values = asdict(FIGURES)
    values[section][0].update(change)
    path = tmp_path / "measurements.json"
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=rf'{path}: .*"{section}".*{message}') as caught:
        load_measurements(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file; plan --measure writes it"),
        ("[1", "not a file of measurements"),
        ("[]", "not a file of measurements"),
        ('{"speeds": []}', "'speeds' is not accepted"),
        ('{"profiles": [3]}', "profiles.* 3"),
        ('{"profiles": 3}', "profiles.* 3"),
        ("\xff", "not a file of measurements"),
        ("", "not a file of measurements"),
    ],
)
def test_what_is_no_file_of_measurements_is_refused_in_one_line(text, message, tmp_path):
    path = tmp_path / "measurements.json"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message) as caught:
        load_measurements(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--gpus=[3]", "--gpus 3: use divisors of the recipe's batch of 8"),
        ("--datasets={mine: [7, 0]}", "mine: 7 training videos do not make a batch of 8"),
        ("--datasets={}", "--datasets: none"),
        ("--gpu_clips_per_second=-4", "--gpu-clips-per-second -4: use more than 0"),
        ("--cpu_clips_per_second=.nan", "--cpu-clips-per-second nan: use more than 0, and finite"),
        ("--gpu_clips_per_second=.inf", "--gpu-clips-per-second inf: use more than 0, and finite"),
        ("--videos=/tmp", "--videos /tmp: it is for --measure"),
        ("--out=/proc/no/plan.png", "cannot be written"),
        ("--config=launch/configs/kinetics/kinetics400_16f.yaml", "no figures of loading 16 segments"),
        ("--config=launch/configs/kinetics/planned_kinetics400.yaml", "clips of several lengths"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(option, message, files):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        main([*files, option])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "option",
    [
        "--assumed_clips_per_second=[100, -5]",
        "--datasets={mine: [-7, 0]}",
        "--gpus=[1, -1]",
        "--max_stall=1.5",
    ],
)
def test_numbers_that_mean_nothing_are_refused_in_one_line(option, files, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*files, option])
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert option[2:].split("=")[0] in line


def test_figures_that_nobody_measured_are_asked_for():
    for lacking, message in (("profiles", "loading 4 segments"), ("first_batch", "a first batch")):
        with pytest.raises(UserError, match=f"f: no figures of {message}.*; measure them with --measure --videos DIR"):
            choose_figures(replace(FIGURES, **{lacking: ()}), RECIPE, "f")


def test_rates_of_devices_may_be_given(files, capsys):
    """They hold before what the file says."""
    main([*files, "--gpu_clips_per_second=400", "--cpu_clips_per_second=4"])
    found = rows(capsys.readouterr().out)
    # 1,201 videos, 3,000 clips, 2 workers, 36 s to the first batch; two digits each
    assert found["h264"] == ["500", "0.6", "0.33", "0.17", "0.18", "30", "0.028"]
    assert found["a CPU"] == ["given", "4", "0.21", "0.21", "0.052"]
    assert found["a GPU"] == ["given", "400", "14 / 53"]  # 0.98 * 400 / 30 = 13.07


def test_what_no_gpu_measured_is_called_assumed(files, tmp_path, capsys):
    main([*files, "--assumed_clips_per_second=[100, 300]"])
    output = capsys.readouterr().out
    assert "No GPU's rate of training was measured or given" in output
    assert "GPU-hours = 0.83 / (clips/s of one GPU)" in output  # 3,000 clips
    lines = [line for line in output.splitlines() if line.startswith("a GPU")]
    assert len(lines) == 4
    assert all("assumed, not measured" in line for line in lines)
    assert rows(output)["a CPU of 3"] == ["measured", "5", "0.17", "0.17", "0.042"]
    for assumption in ("videos as long", "linear over devices", "3 epochs in batches of 8", "training and validation"):
        assert assumption in output.split("Assumed\n")[1]
    for subject in ("packing, loading", "training on a CPU of 3", "first batch of 1,000 videos"):
        assert f"- {subject}: python some.py (a machine; 2026-01-31)" in output

    write_measurements(tmp_path / "measurements.json", replace(FIGURES, training=(CPU, GPU)))
    main(files)
    output = capsys.readouterr().out
    assert rows(output)["A Board"] == ["measured", "123", "5 / 17"]  # 0.98 * 123 / 30 = 4.02
    assert "assumed, not measured" not in output
    assert "No GPU's" not in output


def test_plan_as_a_user_runs_it(tmp_path):
    """The project's own file and recipe, and the picture."""
    picture = tmp_path / "plan.png"
    done = run_command([sys.executable, "launch/benchmark.py", "plan", f"--out={picture}"])
    assert done.returncode == 0, done.stderr
    found = rows(done.stdout)
    assert set(PROFILES) <= set(found)
    assert "Kinetics-400: 240,000 training and 20,000 validation videos" in done.stdout
    assert "Kinetics-700: 545,000 training and 35,000 validation videos" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_measuring(files, tmp_path):
    """Every figure is measured anew, behind what the file held."""
    videos = tmp_path / "videos"
    write_numbered_video(videos / "0.mp4", 150, size=(320, 240))
    for copy in range(1, 60):  # enough that packing them takes longer than its start does now and then
        shutil.copy(videos / "0.mp4", videos / f"{copy}.mp4")
    path = tmp_path / "measurements.json"
    sizes = ["--sample=60", "--seconds=0.2", "--batch_size=2", "--step_batch_size=1", "--rounds=1"]
    command = ["launch/benchmark.py", *files, "--measure", f"--videos={videos}", *sizes]
    done = run_command([sys.executable, *command])
    assert done.returncode == 0, done.stderr
    measured = load_measurements(path)
    sections = [(measured.profiles, FIGURES.profiles), (measured.training, FIGURES.training)]
    for records, before in (*sections, (measured.first_batch, FIGURES.first_batch)):
        assert records[: len(before)] == before
        newest = records[len(before) :]
        assert newest and all("--measure" in record.command and record.date > "2026-01-31" for record in newest)
    assert {record.profile for record in measured.profiles[1:]} == set(PROFILES)
    assert {record.recipe for record in measured.profiles} == {RECIPE.loading}
    assert {record.recipe for record in measured.training} == {RECIPE.training}
