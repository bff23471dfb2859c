"""Diving48 V1 and V2, on a miniature of the published files."""

import json
from pathlib import Path

import pytest

from sharding.datasets.diving48 import read_diving48
from sharding.errors import UserError
from sharding.records import VideoRecord, check_records

VOCABULARY = [["Back", "15som", "05Twis", "FREE"], ["Back", "15som", "15Twis", "FREE"], ["Forward", "25som", "PIKE"]]


def clip(name: str, label: int) -> dict:
    return {"vid_name": name, "label": label, "start_frame": 0, "end_frame": 48}


def write(folder: Path, version: str) -> list[Path]:
    files = {
        "Diving48_vocab.json": VOCABULARY,
        f"Diving48{version}_train.json": [clip("-mmq0PT-u8k_00155", 0), clip("2x00lRzlTVQ_00000", 2)],
        f"Diving48{version}_test.json": [clip("_8Vy3dlHg2w_00000", 1)],
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return [folder / name for name in files]


@pytest.mark.parametrize("version", ["", "_V2"])
def test_both_versions(tmp_path: Path, version: str) -> None:
    videos = tmp_path / "rgb"
    videos.mkdir()
    (videos / "2x00lRzlTVQ_00000.webm").write_bytes(b"x")
    annotations = write(tmp_path, version)
    found = check_records(read_diving48(videos, annotations, "train"))
    assert found.classes == ("Back 15som 05Twis FREE", "Back 15som 15Twis FREE", "Forward 25som PIKE")
    assert list(found.records) == [
        VideoRecord("-mmq0PT-u8k_00155", "-mmq0PT-u8k_00155.mp4", found.classes[0]),
        VideoRecord("2x00lRzlTVQ_00000", "2x00lRzlTVQ_00000.webm", found.classes[2]),
    ]
    for split in ("val", "test"):
        assert [record.key for record in read_diving48(videos, annotations, split).records] == ["_8Vy3dlHg2w_00000"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([clip("a", 0), {"vid_name": "b"}], r"train\.json, entry 2: no 'vid_name' or no 'label'"),
        ([clip("a", 3)], r"train\.json, entry 1: label 3: allowed are 0 to 2"),
        ([clip("a", "0")], r"train\.json, entry 1: label '0'"),
        ([clip("a.b", 0)], r"train\.json, entry 1: key 'a\.b'"),
        ({"a": 1}, r"train\.json: expected is a list"),
    ],
)
def test_bad_entries_are_named(tmp_path: Path, content, message: str) -> None:
    annotations = write(tmp_path, "_V2")
    annotations[1].write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_diving48(tmp_path, annotations, "train")


def test_bad_vocabulary_is_named(tmp_path: Path) -> None:
    annotations = write(tmp_path, "_V2")
    annotations[0].write_text('["Back", "Forward"]')
    with pytest.raises(UserError, match=r"vocab\.json: expected is a list of dives"):
        read_diving48(tmp_path, annotations, "train")
