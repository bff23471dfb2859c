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

from launch import cost
from launch.benchmark import main
from launch.config import parse_config
from launch.cost import (
    Dataset,
    FirstBatch,
    Loading,
    Means,
    Measurements,
    Packing,
    ProfileRates,
    Recipe,
    Training,
    TrainingRate,
    choose_profiles,
    choose_rates,
    load_measurements,
    loader_cores,
    plan_cost,
    write_measurements,
)
from sharding.commandline import UserError
from sharding.profiles import PROFILES
from tests.conftest import ROOT, run_command
from tests.videos import write_numbered_video

SOURCE = {"command": "python some.py", "machine": "a machine", "date": "2026-01-31"}
CLIP, VIEW = "4 segments, short side 64, random crop 56", "4 x 56 x 56"
NETWORK = {"network": "vpsn-18", "clip": VIEW, "precision": "bf16"}
CPU = Training(kind="cpu", device="a CPU of 3", clips_per_second=5, **NETWORK, **SOURCE)
GPU = Training(kind="gpu", device="A Board", clips_per_second=123, **NETWORK, **SOURCE)
FIGURES = Measurements(
    packing=(Packing(profile="h264", kilobytes_per_video=500, seconds_per_video=0.25, workers=4, **SOURCE),),
    loading=(Loading(profile="h264", clip=CLIP, clips_per_second=90, cores=3, **SOURCE),),
    training=(CPU,),
    first_batch=(FirstBatch(videos=1000, seconds=36, **SOURCE),),
)
RECIPE = Recipe("vpsn-18", "bf16", CLIP, VIEW, epochs=3, batch_size=8)


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
    dataset = Dataset("mine", 1001, 200)
    clips = sum(8 for _ in range(3) for _ in range(0, 1001 - 7, 8))  # whole batches of 8
    packing_seconds = sum([0.25 * 4] * 1201)  # of one core
    profiles = choose_profiles(FIGURES, {}, "file")
    rates = (TrainingRate("A Board", 123, "measured"),)
    planned = plan_cost(dataset, RECIPE, profiles, rates, Means(2, (1, 4), 0.02, first_batch_seconds=36))
    [stored], [trained] = planned.profiles, planned.training
    assert planned.clips == clips == 3000
    assert stored.gigabytes == pytest.approx(sum([500e3] * 1201) / 1e9)
    assert stored.packing_core_hours == pytest.approx(packing_seconds / 3600)
    assert stored.packing_hours == pytest.approx(packing_seconds / 2 / 60 / 60)
    assert stored.first_step_hours == pytest.approx((packing_seconds / 2 + 36) / 3600)
    assert stored.loading_core_hours == pytest.approx(clips / 30 / 3600)
    assert trained.device_hours == pytest.approx(clips / 123 / 3600)
    assert trained.hours == pytest.approx((clips / 123 / 3600, clips / 492 / 3600))


@settings(deadline=None)
@given(st.floats(0.1, 500), st.floats(0.1, 1e5), st.floats(0.001, 0.5))
def test_cores_let_gpus_wait_no_longer_than_said_and_one_less_does_not(per_core, needed, max_stall):
    def stall(cores: int) -> float:
        """Time a clip is waited for over the time a clip takes in all, where loading and computing overlap."""
        computing = 1 / needed
        clip_seconds = max(computing, 1 / (cores * per_core)) if cores else math.inf
        return 1 - computing / clip_seconds

    cores = loader_cores(ProfileRates("h264", 1, 1, per_core), needed, max_stall)
    assert cores >= 1
    assert stall(cores) <= max_stall + 1e-9
    assert stall(cores - 1) > max_stall - 1e-9


def test_the_projects_own_figures_are_of_its_recipe():
    """docs/measurements.json has all that the plan of Kinetics needs."""
    recipe = cost.describe_recipe(parse_config("plan", [f"--config={ROOT}/launch/configs/kinetics400_8f.yaml"]))
    assert (recipe.epochs, recipe.batch_size, recipe.training_clip) == (80, 64, "8 x 224 x 224")
    figures = load_measurements(ROOT / "docs" / "measurements.json").of(recipe)
    assert {profile.profile for profile in choose_profiles(figures, {}, "file")} == set(PROFILES)
    assert figures.training and figures.first_batch


def test_measurements_come_back_and_newer_ones_replace_their_like(tmp_path):
    path = tmp_path / "measurements.json"
    again = replace(FIGURES.packing[0], kilobytes_per_video=600.0, date="2026-02-01")
    other = replace(again, profile="jpeg")
    updated = FIGURES.updated(Measurements(packing=(again, other), training=(GPU,)))
    assert updated.packing == (again, other)
    assert updated.training == (*FIGURES.training, GPU)  # another device stands beside
    assert (updated.loading, updated.first_batch) == (FIGURES.loading, FIGURES.first_batch)
    write_measurements(path, updated)
    assert load_measurements(path) == updated


KINDS = {"packing": Packing, "loading": Loading, "training": Training, "first_batch": FirstBatch}
REQUIRED = [
    (section, field.name) for section, kind in KINDS.items() for field in fields(kind) if field.default is MISSING
]


@pytest.mark.parametrize(("section", "field"), REQUIRED)
def test_a_field_that_is_missing_is_named(section, field, tmp_path):
    values = asdict(FIGURES)
    del values[section][0][field]
    path = tmp_path / "measurements.json"
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=rf"{path}: {section}\[0\]: .* required: {field}") as caught:
        load_measurements(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("packing", {"kilobytes_per_video": -1}, r"packing\[0\]: kilobytes_per_video -1: use a number above 0"),
        ("packing", {"seconds_per_video": math.nan}, r"packing\[0\]: seconds_per_video nan: use a number above 0"),
        ("loading", {"cores": 0}, r"loading\[0\]: cores 0: use a number above 0"),
        ("training", {"clips_per_second": "fast"}, r"training\[0\]: .*clips_per_second.*fast"),
        ("training", {"kind": "tpu"}, r"training\[0\]: .*kind.*tpu"),
        ("training", {"date": "yesterday"}, r"training\[0\]: date 'yesterday': use year-month-day"),
        ("first_batch", {"second": 2}, r"first_batch\[0\]: .*'second' is not accepted .*seconds"),
    ],
)
def test_a_field_that_is_wrong_is_named(section, change, message, tmp_path):
    values = asdict(FIGURES)
    values[section][0].update(change)
    path = tmp_path / "measurements.json"
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=message) as caught:
        load_measurements(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file; --measure writes it"),
        ("[1", "not a file of measurements"),
        ("[]", "use lists of records by section"),
        ('{"speeds": []}', "section 'speeds': use packing, loading, training, first_batch"),
        ('{"packing": [3]}', r"packing\[0\]: 3 is no record"),
    ],
)
def test_what_is_no_file_of_measurements_is_refused(text, message, tmp_path):
    path = tmp_path / "measurements.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_measurements(path)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--gpu_clips_per_second=-4", "--gpu_clips_per_second -4: use more than 0"),
        ("--assumed_clips_per_second=[100, -5]", "assumed, not measured: clips_per_second -5: use a number above 0"),
        ("--kilobytes_per_video.h264=-3", "profile h264: kilobytes_per_video -3: use a number above 0"),
        ("--kilobytes_per_video.h265=3", "profile 'h265' is not known; use h264"),
        ("--gpus=[3]", "--gpus 3: use divisors of the recipe's batch of 8"),
        ("--datasets={mine: [7, 0]}", "mine: 7 training videos do not make a batch of 8"),
        ("--videos=/tmp", "--videos /tmp: it is for --measure"),
        ("--out=/proc/no/plan.png", "cannot be written"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(option, message, files):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        main([*files, option])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainingRate("a GPU", math.nan, "given"), "a GPU, given: clips_per_second nan: use a number above 0"),
        (lambda: ProfileRates("h264", 1, 0, 1), "profile h264: core_seconds_per_video 0: use a number above 0"),
        (lambda: Dataset("mine", -7, 0), "mine: -7 training and 0 validation videos: use at least 1 and 0"),
        (lambda: Means(2, (1, -1), 0.02, 1), "--gpus -1: use a number above 0"),
        (lambda: Means(2, (1,), 1.5, 1), "--max_stall 1.5: use more than 0 and less than 1"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(make, message):
    with pytest.raises(UserError, match=re.escape(message)):
        make()


def test_a_rate_that_nobody_measured_is_refused(files, tmp_path):
    with pytest.raises(UserError, match=r"profile h264 has no clips_per_core_second .* --clips_per_core_second\.h264"):
        choose_profiles(replace(FIGURES, loading=()), {}, "f")
    with pytest.raises(UserError, match=r"f: profile jpeg has no kilobytes_per_video .* --kilobytes_per_video\.jpeg"):
        choose_profiles(FIGURES, {"core_seconds_per_video": {"jpeg": 3}}, "f")
    with pytest.raises(UserError, match=r"f: no figures of packing and loading; measure them with --measure"):
        choose_profiles(Measurements(), {}, "f")
    write_measurements(tmp_path / "measurements.json", replace(FIGURES, first_batch=()))
    with pytest.raises(UserError, match=r"no first_batch; .* or give --first_batch_seconds"):
        main(files)


def test_rates_of_another_recipe_do_not_count(files):
    with pytest.raises(UserError, match="profile h264 has no clips_per_core_second"):
        main([*files, "--config=launch/configs/kinetics400_16f.yaml"])
    with pytest.raises(UserError, match="clips of several lengths"):
        main([*files, "--config=launch/configs/planned_kinetics400.yaml"])
    figures = replace(FIGURES, training=(*FIGURES.training, GPU, replace(GPU, clip="16 x 56 x 56", device="Other")))
    assert [rate.device for rate in choose_rates(figures.of(RECIPE), None, None, ())] == ["A Board", "a CPU of 3"]


def test_rates_may_be_given(files, tmp_path, capsys):
    """Every one of them; the file then says nothing."""
    write_measurements(tmp_path / "measurements.json", Measurements())
    values = {"kilobytes_per_video": 1000, "core_seconds_per_video": 7.2, "clips_per_core_second": 50}
    profile = [f"--{name}.jpeg={value}" for name, value in values.items()]
    devices = ["--gpu_clips_per_second=400", "--cpu_clips_per_second=4", "--first_batch_seconds=3.6"]
    main([*files, *profile, *devices])
    found = rows(capsys.readouterr().out)
    # 1,201 videos, 3,000 clips, 2 workers; two digits each
    assert found["jpeg"] == ["1,000", "1.2", "2.4", "1.2", "1.2", "50", "0.017"]
    assert found["a CPU"] == ["given", "4", "0.21", "0.21", "0.052"]
    assert found["a GPU"] == ["given", "400", "8 / 32"]  # 0.98 * 400 / 50 = 7.84


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
    assert "packing, loading, training on a CPU of 3" in output
    assert "python some.py (a machine; 2026-01-31)" in output

    write_measurements(tmp_path / "measurements.json", FIGURES.updated(Measurements(training=(GPU,))))
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
    """Every figure is measured anew; one of another device stays."""
    videos = tmp_path / "videos"
    write_numbered_video(videos / "0.mp4", 150, size=(320, 240))
    for copy in range(1, 60):  # enough that packing them takes longer than its start does now and then
        shutil.copy(videos / "0.mp4", videos / f"{copy}.mp4")
    path = tmp_path / "measurements.json"
    write_measurements(path, replace(FIGURES, training=(GPU,)))
    sizes = ["--sample=60", "--seconds=0.2", "--batch_size=2", "--step_batch_size=1", "--rounds=1"]
    command = ["launch/benchmark.py", *files, "--measure", f"--videos={videos}", *sizes]
    done = run_command([sys.executable, *command])
    assert done.returncode == 0, done.stderr
    measured = load_measurements(path)
    assert {record.profile for record in measured.packing} == set(PROFILES)
    assert {(record.profile, record.clip) for record in measured.loading} == {(profile, CLIP) for profile in PROFILES}
    assert GPU in measured.training and len(measured.training) == 2
    newest = [*measured.packing, *measured.loading, *measured.training[1:], *measured.first_batch]
    assert all("--measure" in record.command and record.date > "2026-01-31" for record in newest)
