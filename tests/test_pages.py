"""The commands of the pages, as they stand, in a folder like a fresh checkout whose recipes are cut down.

README.md and docs/extending.md have tests for themselves; a page of commands that no test runs is found here too.
"""

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

PAGES = (
    "bottleneck",
    "coming_from",
    "dg_p3d",
    "distillation",
    "export",
    "finetuning",
    "getting_started",
    "hierarchies",
    "optimizers",
    "packing",
    "planning",
    "prediction",
    "recurrent_heads",
    "remote_data",
    "report",
    "resnet_rs",
    "training",
    "troubleshooting",
    "visualization",
)
WITH_PYTHON = ("export", "formats", "models", "packing", "prediction", "sampler")
"""Pages whose Python is run too, after their commands; that of others is a fragment, or run by another test."""
ELSEWHERE = {
    "README.md": "tests/test_readme.py",
    "docs/large_datasets.md": "tests/test_readme.py",
    "CONTRIBUTING.md": "the Makefile, which is what runs the tests",
    "docs/archives.md": "tests/test_archive_pages.py",
    "docs/augmentation.md": "tests/launch/test_pages.py",
    "docs/datasets.md": "tests/test_datasets_page.py",
    "docs/evaluation.md": "tests/launch/test_pages.py",
    "docs/extending.md": "tests/test_extending.py",
    "docs/features.md": "tests/launch/inference/test_long_pages.py",
    "docs/foreign_shards.md": "tests/test_archive_pages.py",
    "docs/long_videos.md": "tests/launch/inference/test_long_pages.py",
    "docs/multilabel.md": "tests/launch/test_multilabel.py",
    "docs/object_storage.md": "tests/sharding/objects/test_page.py",
    "docs/real_videos.md": "tests/launch/studies/test_real.py, with generated clips in place of those that it needs",
    "docs/weights.md": "tests/launch/test_weights_page.py",
}
"""Pages with commands that are run by another test."""


def commands(page: Path, language: str = "sh") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def test_every_page_of_commands_is_tested():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    with_commands = {str(page.relative_to(ROOT)) for page in pages if commands(page)}
    assert with_commands == {f"docs/{name}.md" for name in PAGES} | ELSEWHERE.keys()


def cut_down(recipe: Path) -> None:
    """Make a recipe one of seconds: small pictures, one epoch of few samples, a small network where there is one."""
    values = yaml.safe_load(recipe.read_text())
    values["data"] |= {"short_side": 32, "crop_size": 32}
    values["train"] = values.get("train", {}) | {"batch_size": 4}
    values["model"]["pretrained"] = values["model"].get("pretrained") if values["model"].get("head") else None
    if "phases" not in values:
        values["train"]["epochs"] = 1
        values["schedule"] = {"milestones": []}
    if "plan" in values:
        values["plan"] |= {"patience_epochs": 1, "max_epochs": 2}
        del values["train"]["epochs"]
    recipe.write_text(yaml.safe_dump(values))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """The project's folders, recipes cut down, and few videos where make demo puts its many."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("sharding", "pipeline", "model", "launch", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    configs = folder / "launch" / "configs"
    for kind in ("demo", "hierarchy", "plans"):
        for recipe in (configs / kind).glob("*.yaml"):
            cut_down(recipe)
    cut_down(configs / "own_folder.yaml")
    packed = folder / "data" / "demo" / "packed"
    for split, count in (("train", 16), ("val", 8)):
        options = [f"--split={split}", f"--num-videos={count}", "--size=32", "--num-frames=16"]
        motion = run_command([sys.executable, "-m", "sharding", "motion", f"--out={packed}-videos", *options])
        assert motion.returncode == 0, motion.stderr
        options = [f"--videos={packed}-videos/{split}", f"--split={split}", f"--out={packed}"]
        pack = run_command([sys.executable, "-m", "sharding", "pack", "--dataset=folder", *options])
        assert pack.returncode == 0, pack.stderr
    return folder


@pytest.fixture(scope="module")
def trained(checkout) -> Path:
    """A run where make demo leaves its own, and files to predict."""
    run_in(checkout, "python launch/train.py --config launch/configs/demo/demo.yaml --schedule.warmup_epochs=0")
    one, other, *_ = sorted((checkout / "data" / "demo" / "packed-videos" / "val").rglob("*.mp4"))
    for name in ("some_video.mp4", "clip.mp4", "clips/one.mp4", "more/folder/two.mp4"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(other if name.endswith("two.mp4") else one, checkout / name)
    (checkout / "data" / "demo" / "videos").symlink_to("packed-videos")
    return checkout


def run_in(folder: Path, script: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_every_command_runs(trained, name):
    for block in commands(ROOT / "docs" / f"{name}.md"):
        script = block.replace("--train-videos 150 --val-videos 50", "--train-videos 12 --val-videos 6")
        script = script.replace("train:240 val:80", "train:16 val:8").replace("train:1600 val:400", "train:16 val:8")
        if clips := sorted((trained / "videos" / "val").rglob("*.mp4")):
            script = script.replace("videos/val/CLASS/clip.mp4", str(clips[0].relative_to(trained)))
        script = script.replace("--num-videos 64", "--num-videos 16").replace("--num-videos 32", "--num-videos 8")
        run_in(trained, script.replace("8123", str(free_port())))


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_PYTHON)
def test_python_runs(trained, name):
    if name == "export" and not (trained / "model.onnx").exists():
        run_in(trained, commands(ROOT / "docs" / "export.md")[0])
    for block in commands(ROOT / "docs" / f"{name}.md", "python"):
        (trained / "block.py").write_text(block)
        run_in(trained, "python block.py")
