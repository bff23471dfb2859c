"""FineGym (Gym99), on a miniature of the published files."""

import json
from pathlib import Path

import pytest

from sharding.datasets.finegym import read_finegym
from sharding.errors import UserError
from sharding.records import check_records

VAULT = "A0xAXXysHUo_E_000147_000152_A_0000_0005"
BEAM = "0LtLS9wROrk_E_002407_002435_A_0003_0005"
TIMES = {
    "0LtLS9wROrk": {
        "E_002407_002435": {
            "event": 3,
            "segments": {"A_0003_0005": {"stages": 1, "timestamps": [[3.45, 5.64]]}},
            "timestamps": [[2407.32, 2435.28]],
        },
        "E_000002_000003": {"event": 2, "segments": None, "timestamps": [[2.0, 3.5]]},
    },
    "A0xAXXysHUo": {
        "E_000147_000152": {
            "event": 1,
            "segments": {"A_0000_0005": {"stages": 3, "timestamps": [[0, 1.4], [1.4, 2.1], [2.1, 5.31]]}},
            "timestamps": [[147.05, 152.4]],
        }
    },
}
CATEGORIES = """\
Clabel:   0; set:  1; Glabel:  20; (VT) round-off, flic-flac on, stretched salto backward with 1 turn off
Clabel:   1; set: 31; Glabel: 228; (BB) switch leap (leap forward with leg change)
Clabel:   2; set: 33; Glabel: 290; (BB) salto backward tucked
Clabel:   3; set: 35; Glabel: 359; (BB) salto backward tucked
Clabel:   4; set: 44; Glabel: 484; (UB) (swing backward) double salto forward tucked
"""
SETS = """\
set: 1; VT-vault
set: 31; BB-leap_jump_hop
set: 33; BB-flight_salto
set: 35; BB-dismounts
set: 44; UB-dismounts
"""


@pytest.fixture
def dataset(tmp_path: Path) -> tuple[Path, list[Path]]:
    videos = tmp_path / "videos"
    videos.mkdir()
    files = {
        "finegym_annotation_info_v1.1.json": json.dumps(TIMES),
        "gym99_train_element_v1.1.txt": f"{VAULT} 0\n{BEAM} 1\n",
        "gym99_val_element.txt": f"{BEAM} 2\n",
        "gym99_categories.txt": CATEGORIES,
        "set_categories.txt": SETS,
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return videos, [tmp_path / name for name in files]


def test_labels_on_three_levels(dataset) -> None:
    found = check_records(read_finegym(*dataset, "train"))
    assert found.classes == (
        "(VT) round-off, flic-flac on, stretched salto backward with 1 turn off",
        "(BB) switch leap (leap forward with leg change)",
        "(BB) salto backward tucked [290]",
        "(BB) salto backward tucked [359]",
        "(UB) (swing backward) double salto forward tucked",
    )
    assert dict(found.levels) == {
        "event": ("vault", "floor exercise", "balance beam", "uneven bars"),
        "set": ("1 VT-vault", "31 BB-leap_jump_hop", "33 BB-flight_salto", "35 BB-dismounts", "44 UB-dismounts"),
    }
    assert [(record.key, record.label, record.level_labels) for record in found.records] == [
        (VAULT, found.classes[0], ("vault", "1 VT-vault")),
        (BEAM, found.classes[1], ("balance beam", "31 BB-leap_jump_hop")),
    ]
    assert [record.label for record in read_finegym(*dataset, "val").records] == [found.classes[2]]


def test_elements_are_cut_out_of_whatever_is_there(dataset) -> None:
    videos, annotations = dataset

    def places() -> list[tuple]:
        records = read_finegym(videos, annotations, "train").records
        return [(record.source, record.start_seconds, record.end_seconds) for record in records]

    # Nothing there, or the whole videos: seconds of the event plus seconds in it; a vault runs over its three stages.
    whole = [("A0xAXXysHUo.mp4", 147.05, 152.36), ("0LtLS9wROrk.mp4", 2410.77, 2412.96)]
    assert places() == whole
    (videos / "0LtLS9wROrk.mkv").write_bytes(b"x")
    assert places() == [whole[0], ("0LtLS9wROrk.mkv", 2410.77, 2412.96)]
    (videos / "0LtLS9wROrk_E_002407_002435.mp4").write_bytes(b"x")
    assert places() == [whole[0], ("0LtLS9wROrk_E_002407_002435.mp4", 3.45, 5.64)]
    (videos / f"{BEAM}.mp4").write_bytes(b"x")
    assert places() == [whole[0], (f"{BEAM}.mp4", None, None)]


def test_sets_without_names_are_numbers(dataset) -> None:
    videos, annotations = dataset
    found = check_records(read_finegym(videos, annotations[:-1], "train"))
    assert dict(found.levels)["set"] == ("1", "31", "33", "35", "44")
    assert found.records[1].level_labels == ("balance beam", "31")


@pytest.mark.parametrize(
    ("place", "text", "message"),
    [
        (1, f"{BEAM} 1\n{BEAM}\n", r"train_element_v1\.1\.txt, line 2: .*expected is 'VIDEO_E_…_A_…' and a label"),
        (1, f"{BEAM} 5\n", r"line 1: .*a label from 0 to 4"),
        (1, "0LtLS9wROrk 1\n", r"line 1: '0LtLS9wROrk 1'"),
        (
            1,
            "0LtLS9wROrk_E_000002_000003_A_0000_0001 1\n",
            r"line 1 .*no times of A_0000_0001 in event E_000002_000003",
        ),
        (1, "AAAAAAAAAAA_E_000002_000003_A_0000_0001 1\n", r"line 1 .*of video AAAAAAAAAAA"),
        (
            3,
            CATEGORIES + "Clabel: 4; set: 1; Glabel: 4; (VT) x\n",
            r"categories\.txt, line 6: label 4, \(VT\): expected is 5",
        ),
        (3, "0 salto\n", r"gym99_categories\.txt, line 1: '0 salto'"),
        (3, "\n", r"gym99_categories\.txt: no categories"),
        (4, "1 vault\n", r"set_categories\.txt, line 1: '1 vault'"),
        (0, "{\n'a': 1}", r"info_v1\.1\.json, line 2: no JSON"),
        (0, "[]", r"info_v1\.1\.json: expected are entries"),
    ],
)
def test_bad_lines_are_named(dataset, place: int, text: str, message: str) -> None:
    videos, annotations = dataset
    annotations[place].write_text(text)
    with pytest.raises(UserError, match=message):
        read_finegym(videos, annotations, "train")


def test_an_element_that_ends_before_it_begins_is_named(dataset) -> None:
    videos, annotations = dataset
    times = json.loads(json.dumps(TIMES))
    times["0LtLS9wROrk"]["E_002407_002435"]["segments"]["A_0003_0005"]["timestamps"] = [[5.64, 3.45]]
    annotations[0].write_text(json.dumps(times))
    with pytest.raises(UserError, match=r"line 2 .*is from 5\.64 to 3\.45 seconds"):
        read_finegym(videos, annotations, "train")
