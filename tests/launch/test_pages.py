"""The commands of the pages on evaluation and augmentation, as they stand, in a folder with a small run where
`make demo` leaves its own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = [(ROOT / "docs" / f"{name}.md").read_text() for name in ("evaluation", "augmentation")]
BLOCKS = [block for page in PAGES for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)]


@pytest.mark.slow
def test_every_command_of_the_pages_runs(trained, motion, tmp_path):
    for name in ("sharding", "pipeline", "model", "launch"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(trained, tmp_path / "runs" / "demo")
    (tmp_path / "data" / "demo").mkdir(parents=True)
    shutil.copytree(motion / "videos", tmp_path / "data" / "demo" / "videos")
    (tmp_path / "data" / "demo" / "packed").mkdir()
    for split in ("train", "val"):
        shutil.copytree(motion / split, tmp_path / "data" / "demo" / "packed" / split)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = "set -euo pipefail\n" + "\n".join(BLOCKS)
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "does not know 2 of its 3 classes" in done.stderr and "it writes Right as right" in done.stderr
    for folder, name in (
        ("compared", "comparison.csv"),
        ("more/out", "evaluation.json"),
        ("runs/demo_mean", "model.safetensors"),
        ("runs/augmented/checkpoints", "last"),
    ):
        assert (tmp_path / folder / name).is_file(), name
