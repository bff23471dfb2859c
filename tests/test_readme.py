"""Every command of the README and of docs/large_datasets.md, as they stand, in a folder like a fresh checkout.

What the commands take for class folders and Kinetics-400 is a handful of motion videos in their layout, and the recipes
are cut down to a small network and one epoch; of the commands nothing is changed but the name of a clip.
"""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from launch.training.distributed import free_port
from tests.conftest import ROOT, run_command

PAGES = (ROOT / "README.md", ROOT / "docs" / "large_datasets.md")
TEXT = "\n".join(page.read_text() for page in PAGES)
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """The project's folders, recipes cut down, and videos where the pages say they are."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("sharding", "pipeline", "model", "launch"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("own_folder.yaml", "kinetics/kinetics400_8f.yaml"):
        recipe = folder / "launch" / "configs" / name
        values = yaml.safe_load(recipe.read_text())
        values["data"] |= {"short_side": 32, "crop_size": 32}
        values["model"] |= {"depth": 18, "pretrained": None}
        values["train"] |= {"epochs": 1, "batch_size": 4}
        values["schedule"] = {"milestones": []}
        recipe.write_text(yaml.safe_dump(values))
    for split, count in (("train", 12), ("val", 4)):
        videos = folder / "motion"
        flags = ["--num_classes=2", "--num_frames=10", "--size=32", f"--split={split}", f"--num_videos={count}"]
        done = run_command([sys.executable, "-m", "sharding", "motion", f"--out={videos}", *flags])
        assert done.returncode == 0, done.stderr
        (folder / "k400" / split).mkdir(parents=True)
        with (folder / "k400" / f"{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
            for number, video in enumerate(sorted((videos / split).rglob("*.mp4"))):
                name = f"{split}{number:06d}"
                shutil.copy(video, folder / "k400" / split / f"{name}_000001_000011.mp4")
                (folder / "videos" / split / video.parent.name).mkdir(parents=True, exist_ok=True)
                shutil.copy(video, folder / "videos" / split / video.parent.name)
                table.writerow([video.parent.name, name, 1, 11, split])
    (folder / "clips" / "more").mkdir(parents=True)
    one, other, *_ = sorted((folder / "k400" / "val").glob("*.mp4"))
    shutil.copy(one, folder / "some_video.mp4")
    shutil.copy(other, folder / "clips" / "more" / "other.mp4")
    if (ROOT / ".venv").is_dir():  # make setup finds all that it would install
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy2(ROOT / name, folder)  # with its time, which make compares
        (folder / ".venv").symlink_to(ROOT / ".venv")
    return folder


@pytest.mark.slow
def test_every_command_runs(checkout):
    assert len(BLOCKS) >= 4
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    clip = next((checkout / "videos" / "val").rglob("*.mp4")).relative_to(checkout)
    for block in BLOCKS:
        if "make setup" in block and not (checkout / ".venv").exists():
            continue
        block = block.replace("videos/val/CLASS/clip.mp4", str(clip))
        script = f'set -euo pipefail\ndeepspeed() {{ command deepspeed --master_port={free_port()} "$@"; }}\n{block}'
        done = subprocess.run(
            ["bash", "-c", script], cwd=checkout, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    for written in ("model.onnx", "model.json", "drawn/other.mp4", "runs/kinetics400_8f/curves.png"):
        assert any(checkout.rglob(Path(written).name)), written


@pytest.mark.slow
def test_python_runs(checkout):
    """After the commands, whose shards it takes."""
    assert len(PYTHON) >= 2
    for block in PYTHON:
        script = f"import os\nos.chdir({str(checkout)!r})\n{block}"
        done = run_command([sys.executable, "-c", script])
        assert done.returncode == 0, done.stderr
