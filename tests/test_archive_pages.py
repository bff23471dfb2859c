"""docs/foreign_shards.md and docs/archives.md: every command, as it stands, in a folder that is not the project's."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import webdataset
import yaml

from launch.training.distributed import free_port
from tests.conftest import ROOT
from tests.helpers.videos import write_numbered_video

PAGES = ("foreign_shards.md", "archives.md")


@pytest.fixture
def folder(tmp_path) -> Path:
    """What the pages take for granted: shards, downloads, a list of classes, and a recipe, which is cut down."""
    names = []
    for number in range(24):
        names.append(f"{('run', 'jump')[number % 2]}/v{number:02d}.mp4")
        write_numbered_video(tmp_path / "videos" / names[-1], 12, size=(32, 32))
    (tmp_path / "web").mkdir()
    with webdataset.ShardWriter(str(tmp_path / "web" / "%05d.tar"), maxcount=8, verbose=0) as writer:
        for number, name in enumerate(names):
            sample = {"mp4": (tmp_path / "videos" / name).read_bytes(), "cls": number % 2}
            writer.write({"__key__": f"{number:09d}", "json": {"meta": {"action": name.split("/")[0]}}} | sample)
    (tmp_path / "classes.txt").write_text("run\njump\n")
    (tmp_path / "downloads" / "parts").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "downloads" / "UCF101.zip", "w") as archive:
        for part in range(2):
            with tarfile.open(tmp_path / "downloads" / "parts" / f"part_{part}.tar.gz", "w:gz") as tar:
                for name in names[part::2]:
                    tar.add(tmp_path / "videos" / name, name)
                    archive.write(tmp_path / "videos" / name, f"UCF-101/{name}")
    recipe = yaml.safe_load((ROOT / "launch" / "configs" / "own_folder.yaml").read_text())
    recipe["data"] = {"short_side": 32, "crop_size": 32, "num_segments": 4}
    recipe["model"] = {"arch": "tsn", "depth": 18}
    recipe["train"] = {"epochs": 1, "batch_size": 4}
    recipe["schedule"]["warmup_epochs"] = 0
    (tmp_path / "launch" / "configs").mkdir(parents=True)
    (tmp_path / "launch" / "train.py").symlink_to(ROOT / "launch" / "train.py")
    (tmp_path / "launch" / "configs" / "own_folder.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_command_runs(page, folder):
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    assert blocks
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for block in blocks:
        script = f'set -euo pipefail\ndeepspeed() {{ command deepspeed --master_port={free_port()} "$@"; }}\n{block}'
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
        )
        print(block, done.stdout, done.stderr)
        assert done.returncode == 0, f"{block}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
