"""The wheel holds everything that an installation needs, and nothing else, and works outside the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("sharding", "pipeline", "model", "launch")
DATA = {".yaml", ".sh", ".typed", ".css", ".js"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the checkout, since building leaves folders there."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*PACKAGES, "tests", "examples", "docs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", f"--wheel-dir={out}"]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [path] = out.glob("vpsn-*.whl")
    return path


@pytest.mark.slow
def test_it_holds_the_packages_and_their_data(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix == ".py" or path.suffix in DATA
    }
    assert held == expected
    assert {f"{package}/py.typed" for package in PACKAGES} | {
        "launch/slurm.sh",
        "launch/configs/demo/demo.yaml",
    } <= held


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["-m", "sharding", "--help"],
        ["-m", "launch.train", "--help"],
        ["-c", "from sharding import pack; from pipeline import VideoLoader; from launch import Predictor"],
        [
            "-c",
            "from importlib.resources import files; assert (files('launch') / 'configs/demo/demo.yaml').read_text()",
        ],
    ],
)
def test_it_works_outside_the_checkout(wheel, tmp_path, command):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    where = "import sharding, sys; assert sharding.__file__.startswith(sys.argv[1]), sharding.__file__"
    for arguments in (["-c", where, tmp_path / "site"], command):
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
