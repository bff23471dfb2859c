"""docs/object_storage.md: every command, as it stands, with a bucket of the name that it takes for granted."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_every_command_runs(bucket, class_folders, tmp_path):
    bucket.direct.mkdir("clips")
    names = [path.relative_to(class_folders).as_posix() for path in class_folders.rglob("*.mp4")]
    names = sorted(name for name in names if " " not in name and "v7" not in name)
    for name in names:
        bucket.direct.put_file(str(class_folders / name), f"clips/videos/{name}")
    bucket.direct.pipe_file("clips/lists/train.txt", "".join(f"{name} {name[0]}\n" for name in names).encode())
    shutil.copytree(class_folders, tmp_path / "videos")
    (tmp_path / "videos" / "b" / "v7.mp4").unlink()
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "object_storage.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    for block in blocks:
        script = f"set -euo pipefail\n{block}"
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stderr}"
    for name in ("packed", "from_disk"):
        assert bucket.direct.exists(f"clips/{name}/train/manifest.json")
    assert not list((tmp_path / "scratch").iterdir())
