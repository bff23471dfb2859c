"""What training costs: the arithmetic worked out once more step by step, and what each input is called."""

import re
import sys

import pytest

from launch.benchmark import main
from launch.benchmarks.cost import PROFILES, STEPS, describe_loading, describe_training
from launch.training.config_parser import parse_config
from sharding.errors import UserError
from sharding.packing.profiles import PROFILES as PACKED
from tests.conftest import ROOT, run_command

RECIPE = "launch/configs/kinetics/kinetics400_8f.yaml"
SMALL = ["cost", "--datasets={mine: [1001, 200]}"]


def rows(output: str) -> dict[str, list[list[str]]]:
    """The lines of the tables by their first cell."""
    found: dict[str, list[list[str]]] = {}
    for line in output.splitlines():
        first, *rest = re.split(r"\s{2,}", line.strip())
        found.setdefault(first, []).append(rest)
    return found


def test_the_measured_rates_are_of_the_recipe():
    config = parse_config("cost", [f"--config={ROOT / RECIPE}"])
    assert {recipe for recipe, _ in STEPS} == {describe_training(config)}
    assert describe_loading(config) == "8 segments, short side 256, crop 224"
    assert {profile.name for profile in PROFILES} == set(PACKED)


def test_the_measured_rates_are_those_of_the_page():
    text = (ROOT / "BENCHMARKS.md").read_text()
    for profile in PROFILES:
        [row] = re.findall(rf"^\| {profile.name} \| ([\d,]+) \| \d+ \| ([\d.]+) \| (\d+) \|$", text, re.MULTILINE)
        kilobytes, hours, clips = (float(cell.replace(",", "")) for cell in row)
        assert profile.kilobytes_per_video == kilobytes
        assert profile.clips_per_core_second == clips / 2  # of 2 cores
        assert profile.core_seconds_per_video * 260_000 / 3600 / 2 == pytest.approx(hours, abs=0.06)


def test_cost_step_by_step(capsys):
    main([*SMALL, "--clips_per_second=[400]", "--loader_clips_per_second={h264: 30}", "--gpus=[4]"])
    output = capsys.readouterr().out
    found = rows(output)
    clips = sum(64 for _ in range(80) for _ in range(0, 1001 - 63, 64))  # batches of 64, and none incomplete
    assert f"1,001 training and 200 validation videos, {clips:,} clips" in output
    gigabytes, packing = 502e3 * 1201 / 1e9, 0.218 * 1201 / 3600
    assert found["h264"] == [["502", f"{gigabytes:.2g}", f"{packing:.2g}", "30", f"{clips / 30 / 3600:.2g}"]]
    alone = f"{clips / 400 / 3600:.2g}"
    cores = ["14", "4", "7", "31"]  # 13.3, 3.7, 6.6 and 30.8 of h264, jpeg, dense and copy
    assert found["a GPU"] == [["given", "400", alone, f"{clips / 1600 / 3600:.2g}"], ["given", "400", *cores]]


def test_each_input_is_called_measured_given_or_assumed(capsys):
    main(SMALL)
    output = capsys.readouterr().out
    gpus = [row for row in rows(output)["a GPU"] if len(row) == 5]
    assert [row[:2] for row in gpus] == [["assumed", rate] for rate in ("100", "200", "400", "800")]
    assert rows(output)["2 cores of an AMD EPYC"][0][:2] == ["measured", "2.275"]
    assert "assumed: clips/s of other GPUs" in output
    assert "measured: kB, packing and loading of 4 videos of 716 kB (2 cores of an AMD EPYC" in output

    main([*SMALL, "--clips_per_second=[400]", "--loader_clips_per_second={h264: 30}"])
    output = capsys.readouterr().out
    assert "assumed: clips/s" not in output
    assert "given: clips/s of a GPU" in output and "given: loading under h264" in output


def test_a_recipe_that_was_not_measured_takes_given_rates(capsys):
    config = "--config=launch/configs/kinetics/kinetics400_16f.yaml"
    main([*SMALL, config, "--loader_clips_per_second={jpeg: 50}"])
    output = capsys.readouterr().out
    assert "clips of 16 x 224 x 224" in output
    assert set(rows(output)) & set(PACKED) == {"jpeg"}
    assert "2 cores of an AMD EPYC" not in rows(output)
    assert "measured: clips/s" not in output


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--datasets={mine: [63, 0]}", "mine: 63 training videos do not fill a batch of 64"),
        ("--datasets={}", "--datasets={}: give"),
        ("--loader_clips_per_second={mpeg: 3}", "mpeg: known profiles are h264, jpeg, dense, copy"),
        ("--config=launch/configs/kinetics/kinetics400_16f.yaml", "not for 16 segments"),
        ("--config=launch/configs/kinetics/planned_kinetics400.yaml", "clips of several lengths"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(option, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        main([*SMALL, option])
    assert "\n" not in str(caught.value)


def test_the_page_shows_what_the_command_prints():
    done = run_command([sys.executable, "launch/benchmark.py", "cost"])
    assert done.returncode == 0, done.stderr
    assert f"```\n{done.stdout}```\n" in (ROOT / "BENCHMARKS.md").read_text()
