"""docs/long_videos.md and docs/features.md: every command, as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launch.training.distributed import free_port
from tests.conftest import ROOT
from tests.helpers.videos import write_numbered_video


@pytest.fixture(scope="module")
def folder(trained, motion, tmp_path_factory) -> Path:
    """A folder where the pages' files are what they say."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "runs").mkdir()
    (folder / "data" / "demo").mkdir(parents=True)
    for name, target in (("launch", ROOT / "launch"), ("runs/demo", trained), ("data/demo/packed", motion)):
        (folder / name).symlink_to(target)
    write_numbered_video(folder / "match.mp4", 100, fps=10)
    write_numbered_video(folder / "untrimmed" / "a" / "x.mp4", 50, fps=10)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["long_videos", "features"])
def test_every_command_runs(folder, name):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / f"{name}.md").read_text(), re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        script = f'set -euo pipefail\ndeepspeed() {{ command deepspeed --master_port={free_port()} "$@"; }}\n{block}'
        script = script.replace("--minutes 2", "--minutes 0.2 --compare-minutes 0.1")
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
