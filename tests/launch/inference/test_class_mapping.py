"""Splits whose classes are not exactly the network's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from launch.inference.class_mapping import map_classes, read_renamed_classes
from sharding.dataset import PackedDataset, load_dataset
from sharding.errors import UserError

CHECKPOINT = Path("runs/a")
NETWORK = ("jump", "run", "walk", "arm wrestling")


@pytest.fixture
def split(numbered) -> PackedDataset:
    """A split of the classes [walk, jump, skip]: its 13 samples have the labels 0, 1, 2, 0, 1, …"""
    dataset = load_dataset(numbered)
    manifest = replace(dataset.manifest, classes=("walk", "jump", "skip"))
    return replace(dataset, manifest=manifest, labels=(np.arange(13) % 3).astype(np.int32))


def test_labels_become_those_of_the_network(split):
    mapped = map_classes(split, NETWORK, CHECKPOINT, exclude_unknown=True)
    named = {0: 2, 1: 0}  # walk, jump
    for sample_id, label in enumerate(split.labels.tolist()):
        assert mapped.dataset.labels[sample_id] == named.get(label, -1)
    assert mapped.dataset.excluded.tolist() == [2, 5, 8, 11]
    assert mapped.shared.tolist() == [0, 2]
    assert mapped.description == (
        "classes matched by name: the split has 2 of the network's 4; excluded: 4 samples of an unknown class (skip)"
    )
    assert split.labels[0] == 0  # what was given is as it was


def test_the_same_classes_are_left_alone_and_another_order_is_not(split):
    same = map_classes(split, split.manifest.classes, CHECKPOINT)
    assert same.dataset is split and not same.description
    turned = map_classes(split, tuple(reversed(split.manifest.classes)), CHECKPOINT)
    assert turned.dataset.labels.tolist() == (2 - split.labels).tolist()
    assert not len(turned.dataset.excluded)


def test_unknown_classes_are_refused_with_the_remedy(split):
    with pytest.raises(UserError, match=r"does not know 1 of its 3 classes, of 4 samples: skip; .*--exclude-unknown-c"):
        map_classes(split, NETWORK, CHECKPOINT)
    with pytest.raises(UserError, match="its classes are not those that runs/a was trained on"):
        map_classes(split, ("swim",), CHECKPOINT, exclude_unknown=True)


def test_names_written_otherwise_are_pointed_out_and_can_be_given(split, tmp_path):
    written = replace(split, manifest=replace(split.manifest, classes=("walk", "jump", "Arm_wrestling")))
    with pytest.raises(UserError, match=r"it writes Arm_wrestling as arm wrestling: .*--rename-classes FILE"):
        map_classes(written, NETWORK, CHECKPOINT)
    names = tmp_path / "names.txt"
    names.write_text("Arm_wrestling\tarm wrestling\n\n")
    mapped = map_classes(written, NETWORK, CHECKPOINT, renamed=read_renamed_classes(names))
    assert mapped.dataset.labels.tolist() == np.array([2, 0, 3])[split.labels].tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("walk jump\n", "line 1: 'walk jump': use the name in the split, a tab"),
        ("walk\tjump\nwalk\trun\n", "line 2: .*once for each name"),
        ("swim\trun\n", "--rename-classes: swim: no class of"),
        ("walk\tswim\n", "--rename-classes: swim: no class of the network"),
        (None, "names.txt: No such file or directory"),
        (b"\xff\xfe", "not a text file in UTF-8"),
    ],
)
def test_files_of_names_that_are_none(split, tmp_path, content, message):
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        map_classes(split, NETWORK, CHECKPOINT, renamed=read_renamed_classes(path))
