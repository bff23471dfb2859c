"""Files of others, made wrong at random: whatever they say, one line is the answer, and no traceback.

VPSN_FUZZ_EXAMPLES=2000 pytest -m slow tests/test_fuzz.py
"""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from launch.training.checkpoint import CheckpointInfo, load_checkpoint, read_info, write_checkpoint
from launch.training.config import Config
from launch.training.config_parser import load_config
from model import ModelConfig, build_model
from pipeline.loader import VideoLoader
from pipeline.reading import SampleError
from sharding.dataset import load_dataset
from sharding.datasets import DATASETS
from sharding.errors import MediaError, UserError
from sharding.packing.frame_index import add_frame_index
from sharding.records import check_records
from sharding.verify import verify
from tests.helpers.clips import thread_config
from tests.helpers.manifests import edit_manifest
from tests.helpers.mutations import mutate_array, mutate_bytes, mutate_json, mutate_lines, mutate_table, mutate_values
from tests.sharding.datasets import (
    test_activitynet,
    test_charades,
    test_diving48,
    test_epic_kitchens,
    test_finegym,
    test_kinetics,
    test_moments,
    test_something,
)

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("VPSN_FUZZ_EXAMPLES", "100"))
fuzzed = settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
chances = given(seed=st.integers(0, 2**32))


@contextmanager
def one_line_at_most() -> Iterator[None]:
    """Let nothing out but the errors that a user gets as one line; they must be one."""
    try:
        yield
    except (UserError, SampleError, MediaError) as error:
        if len(str(error).splitlines()) != 1:
            raise AssertionError(f"not one line: {error}") from error


def use_split(split: Path) -> None:
    """Open a split as training does and make a batch; then check it as verify does."""
    with one_line_at_most():
        config = thread_config(num_segments=2, short_side=32, crop_size=32, num_workers=1)
        with closing(VideoLoader(load_dataset(split), config, training=True, micro_batch_size=4)) as loader:
            next(iter(loader))
    with one_line_at_most():
        verify(split, decode=True)


@pytest.fixture(params=["numbered", "numbered_jpeg", "several_labels"])
def split(request, tmp_path) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def fuzz_split(split, tmp_path) -> Callable[[Callable[[Path], None]], None]:
    """Change a copy of a split, put its hashes right or not, and use it."""

    def run(change: Callable[[Path], None], mend: bool, upgrade: bool = False) -> None:
        copy = tmp_path / "split"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(split, copy)
        change(copy)
        if mend:
            edit_manifest(copy)
        use_split(copy)
        if upgrade:
            edit_manifest(copy, format_version=1, frames_sha256="", codec_parameters=[])
            with suppress(UserError):
                add_frame_index(copy)

    return run


@fuzzed
@chances
def test_manifests(fuzz_split, seed):
    chance = random.Random(seed)

    def change(copy: Path) -> None:
        path = copy / "manifest.json"
        if chance.random() < 0.2:
            path.write_bytes(mutate_json(chance, path.read_bytes()))
            return
        values = mutate_values(chance, json.loads(path.read_bytes()))
        path.write_text(json.dumps(values))
        if isinstance(values, dict):
            edit_manifest(copy)

    fuzz_split(change, mend=False)


@fuzzed
@example(seed=374402)  # a damaged page of a column of text
@example(seed=648971)  # frames without a height
@example(seed=13102)  # no column that says what a sample's media are
@chances
def test_tables(fuzz_split, seed):
    chance = random.Random(seed)
    fuzz_split(lambda copy: mutate_table(chance, copy / "samples.parquet"), chance.random() < 0.9, upgrade=True)


@fuzzed
@chances
def test_frame_indexes(fuzz_split, seed):
    chance = random.Random(seed)
    fuzz_split(lambda copy: mutate_array(chance, copy / "frames.npy"), mend=chance.random() < 0.9)


@fuzzed
@example(seed=2046069709)  # a video whose packets cannot be read
@chances
def test_shards_and_their_offsets(fuzz_split, seed):
    """The bytes of a shard, without its length: media, KEY.offsets, KEY.json, headers of the tar."""
    chance = random.Random(seed)

    def change(copy: Path) -> None:
        [path] = copy.glob("*.tar")
        data = bytearray(path.read_bytes())
        for _ in range(chance.randint(1, 20)):
            place, length = chance.randrange(len(data)), chance.choice([1, 4, 100])
            data[place : place + length] = chance.randbytes(len(data[place : place + length]))
        path.write_bytes(data)

    fuzz_split(change, mend=False, upgrade=True)


@fuzzed
@chances
def test_quarantines(fuzz_split, seed):
    chance = random.Random(seed)

    def change(copy: Path) -> None:
        lines = b"".join(
            json.dumps({"key": str(key), "reason": "x"}).encode() + b"\n" for key in load_dataset(copy).keys[:3]
        )
        path = copy / "quarantine.jsonl"
        if chance.random() < 0.5:
            path.write_bytes(mutate_bytes(chance, lines))
        else:
            path.write_bytes(b"".join(mutate_json(chance, line) + b"\n" for line in lines.splitlines()))

    fuzz_split(change, mend=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "step-00000001"
    folder.mkdir()
    config = Config(model=ModelConfig(depth=18, num_classes=2))
    info = CheckpointInfo(
        step=1,
        epoch=1,
        classes=("a", "b"),
        packing={"profile": "h264"},
        train_fingerprint="0" * 64,
        metrics={"top1": 0.5},
    )
    torch.manual_seed(0)
    write_checkpoint(folder, build_model(config.model), info, config)
    return folder


@fuzzed
@chances
def test_checkpoint_descriptions(checkpoint, tmp_path, seed):
    (tmp_path / "checkpoint.json").write_bytes(
        mutate_json(random.Random(seed), (checkpoint / "checkpoint.json").read_bytes())
    )
    with one_line_at_most():
        read_info(tmp_path)


@fuzzed
@chances
def test_configurations(checkpoint, tmp_path, seed):
    chance, path = random.Random(seed), tmp_path / "config.yaml"
    text = (checkpoint / "config.yaml").read_text()
    if chance.random() < 0.3:
        path.write_bytes(mutate_bytes(chance, text.encode()))
    else:
        path.write_bytes(json.dumps(mutate_values(chance, yaml.safe_load(text))).encode())
    with one_line_at_most():
        load_config(path)


@settings(fuzzed, max_examples=max(10, EXAMPLES // 5))
@chances
def test_checkpoints(checkpoint, tmp_path, seed):
    chance, copy = random.Random(seed), tmp_path / "checkpoint"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(checkpoint, copy)
    name = chance.choice(["model.safetensors", "config.yaml", "checkpoint.json"])
    data = (copy / name).read_bytes()
    if name == "config.yaml":
        values = yaml.safe_load(data)
        values["model"] = mutate_values(chance, values["model"])
        (copy / name).write_text(json.dumps(values))
    else:
        (copy / name).write_bytes(mutate_bytes(chance, data[:4000]) + data[4000:])
    with one_line_at_most():
        load_checkpoint(copy)


def annotations_of(dataset: str, folder: Path) -> list[Path]:
    """Write small annotation files as they are published, and return them."""
    if dataset == "diving48":
        return test_diving48.write(folder, "_V2")
    texts: dict[str, dict[str, str]] = {
        "finegym": {
            "finegym_annotation_info_v1.1.json": json.dumps(test_finegym.TIMES),
            "gym99_categories.txt": test_finegym.CATEGORIES,
            "set_categories.txt": test_finegym.SETS,
            "gym99_train_element.txt": f"{test_finegym.VAULT} 0\n{test_finegym.BEAM} 1\n",
        },
        "kinetics": {
            "train.csv": test_kinetics.PUBLISHED["400"][0].format(train="train"),
        },
        "charades": {
            "Charades_v1_train.csv": test_charades.HEAD + test_charades.row("46GP8", "c001 1.90 21.20;c000 0.00 12.60"),
            "Charades_v1_classes.txt": "c000 Holding some clothes\nc001 Putting clothes somewhere\n",
        },
        "list-multilabel": {"train.txt": "a/b.mp4 0 2\nc d.mp4 1\n", "val.txt": "e.mp4\t1\t0\n"},
        "list": {"train.txt": "a/b.mp4 0\nc d.mp4 1\n", "val.txt": "e.mp4\t1\n"},
        "something-v1": {
            "something-something-v1-labels.csv": "\n".join(test_something.CLASSES),
            "something-something-v1-train.csv": f"100218;{test_something.CLASSES[3]}\n7;{test_something.CLASSES[0]}\n",
        },
        "something-v2": {
            "labels.json": json.dumps({name: str(i) for i, name in enumerate(test_something.CLASSES)}),
            "train.json": json.dumps(
                [{"id": "1", "label": "x", "template": "Holding [something]", "placeholders": ["x"]}]
            ),
        },
        "ucf101": {"classInd.txt": "1 YoYo\r\n2 Hand\r\n", "trainlist01.txt": "YoYo/v_YoYo_g01_c01.avi 1\r\n"},
        "activitynet": {"anet.json": json.dumps({"database": test_activitynet.DATABASE})},
        "hacs": {"anet_anno_train.json": json.dumps({"v_a": test_activitynet.LONG})},
        "epic-kitchens": test_epic_kitchens.FILES,
        "moments": {"moments_categories.txt": test_moments.CATEGORIES, "trainingSet.csv": test_moments.TRAIN},
        "jester": {
            "jester-v1-labels.csv": "Swiping Left\nStop Sign\n",
            "jester-v1-train.csv": "7;Stop Sign\n8;Stop Sign\n",
        },
        "hmdb51": {"clap_test_split1.txt": "a.avi 1 \nb.avi 2 \n", "brush_hair_test_split1.txt": "c.avi 1 \n"},
    }
    for name, text in texts[dataset].items():
        (folder / name).write_text(text)
    return [folder / name for name in texts[dataset]]


@pytest.mark.parametrize("dataset", sorted(set(DATASETS) - {"folder"}))
@fuzzed
@chances
def test_annotation_files(tmp_path_factory, dataset, seed):
    chance, folder = random.Random(seed), tmp_path_factory.mktemp("annotations")
    (folder / "videos").mkdir()
    paths = annotations_of(dataset, folder)
    with one_line_at_most():
        check_records(DATASETS[dataset](folder / "videos", paths, "train"))
    path = chance.choice(paths)
    mutate = mutate_json if path.suffix == ".json" else mutate_lines
    path.write_bytes(mutate(chance, path.read_bytes()))
    with one_line_at_most():
        check_records(DATASETS[dataset](folder / "videos", paths, "train"))
    shutil.rmtree(folder)
