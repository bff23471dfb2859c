"""docs/weights.md: its commands, as they stand, on files with the names and shapes of the real ones."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from model.weights.families import FAMILIES
from tests.conftest import ROOT
from tests.launch.conftest import pack_motion
from tests.model.weights import layouts

PAGE = (ROOT / "docs" / "weights.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


def test_every_architecture_of_a_family_is_in_the_table():
    table = "".join(line for line in PAGE.splitlines() if line.startswith("|"))
    for family in FAMILIES:
        assert all(f"`{arch}`" in table for arch in family.archs), family.name


@pytest.mark.slow
def test_every_command_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(layouts, "COUNTS", (3, 4, 6, 3))
    monkeypatch.setattr(layouts, "CLASSES", 174)
    tsm = layouts.torchvision_names("base_model.", "new_fc", "shift").make()
    tsm = {f"module.{name}": value for name, value in tsm.items()}
    torch.save({"epoch": 50, "state_dict": tsm}, tmp_path / "TSM_something_RGB_resnet50.pth.tar")
    torch.save({"model_state": layouts.slowfast_names().make()}, tmp_path / "SLOW_8x8_R50.pyth")
    for name in ("sharding", "pipeline", "model", "launch"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    motion = pack_motion(tmp_path / "motion", size=32)
    recipe = tmp_path / "launch" / "configs" / "own_folder.yaml"
    values = yaml.safe_load(recipe.read_text())
    values["data"] |= {"train": f"{motion}/train", "val": f"{motion}/val", "short_side": 32, "crop_size": 32}
    values["train"] |= {"epochs": 1}
    values["schedule"] = {"milestones": []}
    recipe.write_text(yaml.safe_dump(values))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    assert len(BLOCKS) == 2
    for block in BLOCKS:
        command = ["bash", "-c", f"set -euo pipefail\n{block}"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{block}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    log = (tmp_path / "runs" / "tuned" / "logs" / "rank-0.log").read_text()
    assert "320 tensors of TSM (its authors'), depth 50" in log and "classifier of 174 classes replaced" in log
    again = torch.load(tmp_path / "tsm_mmaction2.pth", weights_only=True)["state_dict"]
    assert torch.equal(again["cls_head.fc_cls.bias"], tsm["module.new_fc.bias"])
