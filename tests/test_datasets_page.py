"""The commands of docs/datasets.md, as they stand, on a few made videos in the layout of each dataset."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from sharding.dataset import load_dataset
from tests.conftest import ROOT, run_command
from tests.helpers.videos import draw_number, write_numbered_video
from tests.sharding.datasets import test_epic_kitchens as epic

BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "datasets.md").read_text(), re.DOTALL)
KINETICS = "label,youtube_id,time_start,time_end,split\n"
DIVES = [["Back", "15som", "05Twis", "FREE"], ["Front", "Dive", "NoTwis", "PIKE"]]
ANET = {
    "database": {
        "abc": {"subset": "training", "annotations": [{"segment": [0.2, 0.6], "label": "Archery"}]},
        "def": {"subset": "validation", "annotations": [{"segment": [0.0, 0.4], "label": "Surfing"}]},
    }
}
GYM = {
    "abc": {"E_000000_000001": {"timestamps": [[0.0, 1.0]], "segments": {"A_0000_0001": {"timestamps": [[0.1, 0.5]]}}}}
}
SOMETHING = ["Holding something", "Opening something"]
TEXTS = {
    "k400/train.csv": KINETICS + "".join(f"{'ab'[n % 2]},train{n},1,11,train\n" for n in range(4)),
    "k400/val.csv": KINETICS + "a,val0,1,11,val\n",
    "k400/test.csv": "youtube_id,time_start,time_end,split\ntest0,1,11,test\n",
    "sthv2/labels.json": json.dumps({name: str(label) for label, name in enumerate(SOMETHING)}),
    "sthv2/train.json": json.dumps([{"id": str(n), "template": SOMETHING[n % 2]} for n in range(4)]),
    "sthv2/validation.json": json.dumps([{"id": "4", "template": SOMETHING[0]}]),
    "sthv2/test.json": json.dumps([{"id": "5"}]),
    "jester/jester-v1-labels.csv": "Swiping Left\nSwiping Right\n",
    "jester/jester-v1-train.csv": "1;Swiping Left\n",
    "jester/jester-v1-validation.csv": "2;Swiping Right\n",
    "jester/jester-v1-test.csv": "3\n",
    "anet/activity_net.v1-3.min.json": json.dumps(ANET),
    "hacs/HACS_segments_v1.1.1.json": json.dumps(ANET),
    "moments/moments_categories.txt": "clapping,0\ndropping,1\n",
    "moments/trainingSet.csv": "clapping/a.mp4,clapping,3,0\n",
    "moments/validationSet.csv": "dropping/b.mp4,dropping,3,0\n",
    "ucf101/classInd.txt": "1 YoYo\n",
    "ucf101/trainlist01.txt": "YoYo/v_YoYo_g01_c01.avi 1\n",
    "ucf101/testlist01.txt": "YoYo/v_YoYo_g02_c01.avi\n",
    "hmdb51/splits/clap_test_split1.txt": "a.avi 1\n",
    "diving48/Diving48_vocab.json": json.dumps(DIVES),
    "diving48/Diving48_V2_train.json": json.dumps([{"vid_name": "x_00001", "label": 0}]),
    "diving48/Diving48_V2_test.json": "[]",
    "finegym/finegym_annotation_info_v1.1.json": json.dumps(GYM),
    "finegym/gym99_categories.txt": "Clabel: 0; set: 1; Glabel: 3; (VT) salto\n",
    "finegym/gym99_train_element_v1.1.txt": "abc_E_000000_000001_A_0000_0001 0\n",
    "finegym/gym99_val_element.txt": "abc_E_000000_000001_A_0000_0001 0\n",
    "finegym/set_categories.txt": "set: 1; VT-vault\n",
} | {f"epic/{name}": text for name, text in epic.FILES.items()}  # fmt: skip
VIDEOS = [
    *(f"k400/train/train{number}_000001_000011.mp4" for number in range(4)),
    *("k400/val/val0_000001_000011.mp4", "k400/test/test0_000001_000011.mp4"),
    *(f"sthv2/videos/{number}.mp4" for number in range(6)),
    *(f"{name}/videos/v_{video}.mp4" for name in ("anet", "hacs") for video in ("abc", "def")),
    *("moments/training/clapping/a.mp4", "moments/validation/dropping/b.mp4", "ucf101/UCF-101/YoYo/v_YoYo_g01_c01.mp4"),
    *("hmdb51/videos/clap/a.mp4", "diving48/rgb/x_00001.mp4", "finegym/videos/abc.mp4"),
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("sharding", "pipeline", "model", "launch"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in TEXTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for name in VIDEOS:
        write_numbered_video(folder / name, 20)
    write_numbered_video(folder / "videos/kitchen/monday.mp4", 50)
    for video in ("P01/videos/P01_01.MP4", "P01/videos/P01_02.MP4", "P02/videos/P02_101.MP4"):
        write_numbered_video(folder / "epic/EPIC-KITCHENS" / video, 200, fps=50)
    grab = epic.GRAB.replace("00:01:00", "00:00:01").replace("01:00:01.50", "00:00:01.50")  # the videos are short
    (folder / "epic/EPIC_100_validation.csv").write_text(epic.HEADING + grab)
    more = epic.OPEN.replace("P01_01_0", "P01_01_8") + epic.TAKE.replace("P01_01_1", "P01_01_9")
    (folder / "epic/EPIC_100_train.csv").write_text(epic.HEADING + epic.OPEN + epic.TAKE + more)
    for video in "123":
        frames = folder / "jester/20bn-jester-v1" / video
        frames.mkdir(parents=True)
        for number in range(1, 5):
            Image.fromarray(draw_number(number, (64, 48))).save(frames / f"{number:05d}.jpg")
    return folder


@pytest.mark.slow
def test_every_command_runs(checkout):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    *packing, submitting = BLOCKS
    for block in packing:
        run(block, checkout, environment)
    complete = {path.parent.relative_to(checkout / "shards").as_posix() for path in checkout.rglob("manifest.json")}
    assert len(complete) == 23
    for name in complete:
        assert not load_dataset(checkout / "shards" / name).manifest.failures, name
    for run_dir, data in (("kinetics400_8f", "k400"), ("something_v2_8f", "sthv2"), ("epic_kitchens_100_8f", "epic")):
        train(checkout, f"runs/{run_dir}", f"shards/{data}")
    run(submitting, checkout, environment)
    names = {path.name for path in checkout.glob("runs/**/submission.*")}
    assert names == {"submission.json", "submission.csv", "submission.zip"}


def run(script: str, folder: Path, environment: dict[str, str]) -> None:
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def train(folder: Path, run_dir: str, shards: str) -> None:
    options = [f"--data.train={folder / shards / 'train'}", f"--run_dir={folder / run_dir}", "--train.batch_size=4"]
    options += ["--data.short_side=32", "--data.crop_size=32", "--data.num_segments=4", "--model.depth=18"]
    done = run_command([sys.executable, "launch/train.py", *options, "--train.epochs=1"])
    assert done.returncode == 0, done.stdout + done.stderr
