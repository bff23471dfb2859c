"""Moments in Time, on a few lines in the form of the published files."""

from pathlib import Path

import pytest

from sharding.datasets.moments import read_moments
from sharding.errors import UserError
from sharding.records import VideoRecord, check_records
from tests.helpers.annotations import real_annotations

SINGING = "adult+female+singing"
CATEGORIES = f"clapping,0\ndropping,2\n{SINGING},1\n"
TRAIN = f"clapping/flickr-0-2-5_12.mp4,clapping,4,0\n{SINGING}/yt-aB_1.mp4,{SINGING},3,1\n"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    texts = {
        "moments_categories.txt": CATEGORIES,
        "trainingSet.csv": TRAIN,
        "validationSet.csv": "dropping/a.mp4,dropping,2,0\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return [tmp_path / name for name in texts]


def test_lists_and_layouts(files, tmp_path: Path) -> None:
    found = check_records(read_moments(tmp_path / "videos", files, "train"))
    assert found.classes == ("clapping", SINGING, "dropping")
    assert found.records[0] == VideoRecord("clapping-flickr-0-2-5_12", "clapping/flickr-0-2-5_12.mp4", "clapping")
    assert found.records[1].label == SINGING
    folder = tmp_path / "videos" / "training" / "clapping"
    folder.mkdir(parents=True)
    (folder / "flickr-0-2-5_12.webm").write_bytes(b"x")
    sources = [record.source for record in read_moments(tmp_path / "videos", files, "train").records]
    assert sources == ["training/clapping/flickr-0-2-5_12.webm", f"{SINGING}/yt-aB_1.mp4"]
    (record,) = read_moments(tmp_path / "videos", files, "val").records
    assert (record.key, record.label) == ("dropping-a", "dropping")


@pytest.mark.parametrize(
    ("place", "text", "message"),
    [
        (0, "clapping,0\ndropping,0\n", r"categories\.txt, line 2: .*each id once"),
        (0, "clapping,0\ndropping,2\n", r"categories\.txt: ids must be 0 to 1"),
        (0, "", r"categories\.txt: ids must be"),
        (1, "clapping/a.mp4,clapping,4,0\nclapping/b.mp4\n", r"trainingSet\.csv, line 2: 'clapping/b\.mp4': expected"),
        (1, "../a.mp4,clapping,4,0\n", r"line 1: '\.\./a\.mp4"),
        (1, "a/a.mp4,eating,4,0\n", r"line 1: label 'eating' is not among the 3 class names"),
        (1, TRAIN + TRAIN, r"line 3: the key 'clapping-flickr-0-2-5_12' was already used by .*line 1"),
    ],
)
def test_bad_lines_are_named(files, tmp_path: Path, place: int, text: str, message: str) -> None:
    files[place].write_text(text)
    with pytest.raises(UserError, match=message):
        read_moments(tmp_path, files, "train")


def test_published_class_names(tmp_path: Path) -> None:
    folder = real_annotations("moments_in_time")
    (tmp_path / "trainingSet.csv").write_text("clapping/a.mp4,clapping,1,0\n")
    found = read_moments(tmp_path, [folder / "category_momentsv2.txt", tmp_path / "trainingSet.csv"], "train")
    assert len(found.classes) == 305
