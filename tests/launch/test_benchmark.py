"""The measurements run and print what they say they do; what the figures are is no matter here."""

import math
import re
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from launch.benchmark import main
from launch.benchmarks.loader import diagnosis
from launch.benchmarks.loader_cost import _cpu
from launch.benchmarks.loader_stages import LoaderSpeed, LoaderStep
from launch.benchmarks.other_loaders import prepare, read_frames, stored_bytes
from launch.benchmarks.packing import measure_cost
from launch.benchmarks.packing_profiles import Candidate, choose_sample, measure_candidates, recommend
from pipeline.config import DataConfig
from pipeline.cores import cores_per_rank
from sharding.errors import UserError
from tests.conftest import run_command
from tests.helpers.videos import read_number, write_numbered_video


def benchmark(*arguments: object) -> str:
    done = run_command([sys.executable, "launch/benchmark.py", *arguments])
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(output: str) -> dict[str, list[str]]:
    """The lines of a table by their first word."""
    return {line.split()[0]: line.split()[1:] for line in output.splitlines() if line.split()}


@pytest.mark.parametrize("fixture", ["numbered", pytest.param("numbered_jpeg", marks=pytest.mark.slow)])
def test_loader(request, fixture):
    sizes = ["--seconds=0.2", "--num_segments=2", "--crop_size=32", "--batch_size=4", "--clips_per_second=0.5"]
    output = benchmark("loader", f"--data={request.getfixturevalue(fixture)}", *sizes)
    found = rows(output)
    for stage in ("plan", "read", "workers", "graph", "together"):
        assert float(found[stage][0]) > 0
    assert found["network"] == ["0.5"]
    assert "the network binds" in output


@pytest.mark.slow
def test_the_loader_at_each_number_of_workers(numbered):
    sizes = ["--seconds=0.2", "--num_segments=2", "--crop_size=32", "--batch_size=4", "--clips_per_second=0.5"]
    output = benchmark("loader", f"--data={numbered}", *sizes, "--scaling", "--rounds=1")
    numbers = [int(line.split()[0]) for line in output.splitlines() if re.match(r"\s*\d+\s+\d+\.\d\s+\d\.\d\d$", line)]
    assert numbers == list(range(1, cores_per_rank() + 1))
    assert "extrapolated to more cores for a GPU: " in output and " with 24" in output


def test_loader_against_the_usual_one(numbered, numbered_videos):
    sizes = ["--seconds=0.2", "--num_segments=2", "--crop_size=32", "--batch_size=4", "--rounds=2", "--threads=1"]
    output = benchmark(
        "loader", f"--data={numbered}", f"--videos={numbered_videos}", "--compare-with", "pyav", "frames", *sizes
    )
    found = rows(output)
    assert found["ours"][-1] == "1.0"
    assert float(found["pyav"][2]) > 0 and float(found["frames"][4]) > 0


def test_extracted_frames_are_those_of_the_video(tmp_path):
    video = write_numbered_video(tmp_path / "v.mp4", 12)
    [folder] = prepare("frames", [video], tmp_path / "frames", short_side=1000)
    assert [read_number(read_frames(folder, 12)[number].permute(1, 2, 0).numpy()) for number in range(12)] == [
        *range(12)
    ]
    assert stored_bytes(folder) == sum(file.stat().st_size for file in folder.iterdir()) > 0


@pytest.mark.slow
def test_memory_of_the_loader_is_flat(numbered, numbered_jpeg):
    """Over nine epochs, after the first: less than 50 MB more."""
    for folder in (numbered, numbered_jpeg):
        output = benchmark("loader", f"--data={folder}", "--epochs=10", "--crop_size=64", "--short_side=64")
        assert float(re.search(r"growth .* (-?[\d.]+) MB", output)[1]) < 50


def test_diagnosis_names_what_binds():
    stages = [LoaderStep("read", 900.0), LoaderStep("workers", 50.0), LoaderStep("graph", 400.0)]
    assert diagnosis(stages, 45.0, 30.0).startswith("the network binds: the loader gives 1.5 times")
    assert diagnosis(stages, 45.0, 100.0).startswith("workers binds, at 0.5 times what training takes: pack under")


@pytest.mark.slow
def test_step():
    sizes = ["--depth=18", "--size=64", "--num_segments=2", "--batch_size=1"]
    found = rows(benchmark("step", *sizes, "--rounds=1", "--archs=[tsn]", "--usual=true"))
    assert found["tsn-18"][3] == "1.000"
    for name in ("tsn-18", "tsn_usual-18"):
        assert all(float(figure.rstrip("%")) > 0 for figure in (found[name][0], *found[name][2:]))


@pytest.mark.slow
def test_ranks(tmp_path, numbered):
    config = tmp_path / "small.yaml"
    config.write_text(
        "data: {num_segments: 2, short_side: 32, crop_size: 32}\nmodel: {arch: tsn, depth: 18}\n"
        "train: {batch_size: 2, precision: fp32}\n"
    )
    output = benchmark("ranks", f"--data={numbered}", f"--config={config}", "--numbers=[1,2]")
    found = rows(output)
    assert found["1"][1] == "1.00" and float(found["2"][0]) > 0


def test_advise(numbered_videos):
    sizes = ["--sample=3", "--seconds=0.2", "--num_segments=2", "--crop_size=32", "--batch_size=2", "--workers=1"]
    output = benchmark("advise", f"--videos={numbered_videos}", "--clips_per_second=0.001", *sizes)
    assert "3 of 13 videos, for 13" in output
    found = rows(output)
    measured = {profile: float(found[profile][0]) for profile in ("h264", "jpeg", "dense", "copy")}
    assert min(measured.values()) > 0
    assert "recommended: --profile h264" in output  # every profile is fast enough, and no saving is worth another


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the ffmpeg program is not installed")
def test_pack(numbered_videos):
    output = benchmark("pack", f"--videos={numbered_videos}", "--rounds=1", "--workers=1", "--records=1000")
    assert "planning 1,000 records" in output
    assert "h264 / ffmpeg" in output
    assert "copy / tar" in output


@pytest.mark.slow
def test_archives(numbered_videos):
    output = benchmark("archives", f"--videos={numbered_videos}", "--rounds=1", "--workers=1")
    for name in (
        "pack all.tar / folder",
        "pack all.tar.gz / folder",
        "pack all.zip / folder",
        "pack s3 to s3 / folder",
        "index / decode",
    ):
        assert name in output


def test_memory_of_a_process_is_its_own():
    held = np.ones(300 << 17)  # 300 MB
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'b = bytearray([1]) * (100 << 20)'])"
    assert 100 << 20 < measure_cost([sys.executable, "-c", code]).peak_bytes < 200 << 20 < held.nbytes


def test_recommendation():
    small = Candidate("small", 1, 100, 1, clips_per_second=50)
    large = Candidate("large", 3, 300, 1, clips_per_second=200)
    assert recommend([small, large], 40) is small
    assert recommend([small, large], 45) is large  # 50 is less than 1.2 * 45
    assert recommend([small, large], 1000) is large


def test_samples_are_different_and_repeatable():
    videos = list(range(100))
    chosen = choose_sample(videos, 10)
    assert len(set(chosen)) == 10
    assert chosen == choose_sample(videos, 10)
    assert choose_sample(videos, 1000) == videos


@pytest.mark.parametrize(
    ("command", "option", "allowed"),
    [
        ("loader", "--batch_size=0", "more than 0"),
        ("loader", "--clips_per_second=0", "more than 0"),
        ("loader", "--epochs=-1", "0 or more"),
        ("step", "--rounds=0", "more than 0"),
        ("advise", "--num_videos=-5", "more than 0"),
    ],
)
def test_numbers_that_measure_nothing_are_refused(command, option, allowed, tmp_path):
    place = {"loader": [f"--data={tmp_path}"], "advise": [f"--videos={tmp_path}"], "step": []}[command]
    with pytest.raises(UserError, match=f"{option.split('=')[0].replace('_', '-')} .*: use {allowed}"):
        main([command, *place, option])


def test_loader_takes_the_recipe(numbered, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"data: {{train: {numbered}, num_segments: 2, short_side: 48, crop_size: 32}}\n"
        "model: {arch: tsn, depth: 18}\ntrain: {batch_size: 4}\n"
    )
    output = benchmark("loader", f"--config={recipe}", "--seconds=0.2", "--clips-per-second=0.5")
    assert "4 x 2 x 32 x 32" in output


@pytest.mark.slow
def test_loader_measures_the_network_of_the_recipe(numbered, tmp_path):
    """Frames of a clip are segments times frames of a segment; frozen stages need no file that they come from."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"data: {{train: {numbered}, num_segments: 2, frames_per_segment: 2, short_side: 48, crop_size: 32}}\n"
        "model: {arch: tsn, depth: 18, pretrained: imagenet, frozen_stages: 1}\ntrain: {batch_size: 4}\n"
    )
    output = benchmark("loader", f"--config={recipe}", "--seconds=0.2")
    assert "4 x 4 x 32 x 32" in output


def test_a_small_dataset_gets_the_default_profile():
    h264 = Candidate("h264", 2e6, 120e6, 1, clips_per_second=50)
    dense = Candidate("dense", 1e6, 60e6, 1, clips_per_second=50)
    assert recommend([h264, dense], 10) is h264
    many = [Candidate(c.profile, c.bytes_per_video, c.bytes_per_video * 200_000, 1, 50) for c in (h264, dense)]
    assert recommend(many, 10) is many[1]
    assert recommend([h264, dense], 100) is h264


def test_a_thread_that_has_ended_has_used_no_time():
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert _cpu(Path(f"/proc/self/task/{thread.native_id}/stat")) == 0
    assert _cpu(Path("/proc/self/stat")) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["step", "--precision=fp8"], "fp8"),
        (["scale", "--samples=100", "--data={0}"], "--samples 100: a batch is "),
        (["loader", "--data={0}", "--compare-with", "opencv", "--videos={0}"], "--compare-with opencv: known are "),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line(numbered, arguments, message):
    with pytest.raises((UserError, SystemExit)) as caught:
        main([argument.format(numbered) for argument in arguments])
    if isinstance(caught.value, SystemExit):
        assert caught.value.code == 2
    else:
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_hours_of_packing_are_those_of_all_workers(numbered, monkeypatch):
    """A video takes a second of one of 16 workers, and their start takes ten: 1,600 videos take 100 s."""

    def timed_pack(videos, folder, profile, workers):
        return 10 + math.ceil(len(videos) / workers), numbered, {}

    monkeypatch.setattr("launch.benchmarks.packing_profiles._timed_pack", timed_pack)
    monkeypatch.setattr(
        "launch.benchmarks.packing_profiles.measure_loader", lambda *_, device: LoaderSpeed(1.0, 0.0, 1, 1.0)
    )
    found = list(measure_candidates([Path("a.mp4")], 1600, DataConfig(), 16, 1.0, 2, torch.device("cpu")))
    assert found and [candidate.packing_hours for candidate in found] == [pytest.approx(100 / 3600)] * len(found)
