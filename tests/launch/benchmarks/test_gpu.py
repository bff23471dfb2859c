"""The GPU check: its parts that need no GPU run, each by itself, and what they find is in the report."""

import json
import sys

import pytest

from launch.benchmark import main
from launch.benchmarks.gpu import PARTS, check_gpu
from launch.benchmarks.gpu_parts import Check
from sharding.errors import UserError
from tests.conftest import run_command

SMALL = ["--num-videos=8", "--batch-size=4", "--loader-seconds=0.5", "--depth=18", "--num-steps=6", "--patience=6"]


@pytest.mark.slow
def test_parts_without_a_gpu(numbered_videos, tmp_path):
    out, parts = tmp_path / "gpu.json", ["machine", "pack", "feed.h264.pyav.8", "handover"]
    options = [f"--videos={numbered_videos}", f"--out={out}", f"--work={tmp_path / 'work'}", *SMALL]
    done = run_command([sys.executable, "launch/benchmark.py", "gpu", *options, "--only", *parts])
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert set(report) == {"began", "settings", *parts}
    assert {name: report[name].get("log") for name in parts} == dict.fromkeys(parts)
    assert report["settings"]["num_videos"] == 8 and report["settings"]["depth"] == 18
    assert str(numbered_videos) not in out.read_text()
    assert report["machine"]["cores_per_rank"] >= 1
    assert report["pack"]["h264"]["sizes"] == report["pack"]["jpeg"]["sizes"] != []
    assert report["feed.h264.pyav.8"]["clips_per_second"] > 0 and report["feed.h264.pyav.8"]["cpu_seconds"] > 0
    assert (report["handover"]["batches"], report["handover"]["overwritten"]) == (2, 0)  # 8 videos in a batch, twice
    assert [line.split()[0] for line in done.stdout.splitlines()] == parts


def test_a_part_that_fails_is_in_the_report_and_the_next_one_runs(tmp_path):
    check, out = Check(tmp_path / "work", tmp_path / "none"), tmp_path / "gpu.json"
    report = check_gpu(check, out, 1200, ["machine", "pack"], patience=10)
    assert report == json.loads(out.read_text())
    assert report["pack"]["failed"] == 1 and "no videos below it" in report["pack"]["log"][-1]
    assert "failed" not in report["machine"]
    assert check_gpu(check, out, 5, ["machine"])["machine"] == {"skipped": "no time left"}


def test_what_cannot_be_checked_is_one_line(numbered_videos, tmp_path):
    def complaint(*options: object) -> str:
        with pytest.raises(UserError) as caught:
            main(["gpu", f"--out={tmp_path / 'gpu.json'}", f"--work={tmp_path / 'work'}", *map(str, options)])
        assert "\n" not in str(caught.value)
        return str(caught.value)

    unknown = complaint("--videos", numbered_videos, "--only", "machine", "fed")
    assert unknown.startswith("--only fed: ") and all(name in unknown for name in PARTS)
    (tmp_path / "empty").mkdir()
    assert complaint("--videos", tmp_path / "empty").startswith(f"--videos {tmp_path / 'empty'}: no videos below it")
    (tmp_path / "work").mkdir(exist_ok=True)
    (tmp_path / "work" / "h264").mkdir()
    assert complaint("--videos", numbered_videos).startswith(f"--work {tmp_path / 'work'}: not empty")
