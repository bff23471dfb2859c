"""HMDB51, on a miniature of the published split files."""

from pathlib import Path

import pytest

from sharding.datasets.hmdb51 import read_hmdb51
from sharding.errors import UserError
from sharding.records import check_key, check_records


@pytest.fixture
def dataset(tmp_path: Path) -> tuple[Path, list[Path]]:
    videos = tmp_path / "videos"
    (videos / "clap").mkdir(parents=True)
    (videos / "clap" / "#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi").write_bytes(b"x")
    files = {  # published with a blank at the end of each line
        "clap_test_split1.txt": "#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi 1 \n"
        "20_Rhythm_clap_u_nm_np1_fr_goo_0.avi 1 \n(Who's_who)_clap_u_cm_np1_fr_med_0.avi 0 \n",
        "brush_hair_test_split1.txt": "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1 \nbrush_hair_2.avi 2 \n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return videos, [tmp_path / name for name in files]


def test_one_is_train_two_is_test_zero_is_neither(dataset) -> None:
    found = check_records(read_hmdb51(*dataset, "train"))
    assert found.classes == ("brush_hair", "clap")
    assert [(record.source, record.label) for record in found.records] == [
        ("brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "brush_hair"),
        ("clap/#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi", "clap"),
        ("clap/20_Rhythm_clap_u_nm_np1_fr_goo_0.avi", "clap"),
    ]
    for split in ("test", "val"):
        assert [record.source for record in read_hmdb51(*dataset, split).records] == ["brush_hair/brush_hair_2.avi"]


def test_keys_of_odd_names_are_keys_and_differ(dataset) -> None:
    keys = [check_key(record.key, "test") for record in read_hmdb51(*dataset, "train").records]
    assert len(set(keys)) == 3


@pytest.mark.parametrize("line", ["a.avi", "a.avi 3", "../a.avi 1", "a.avi one"])
def test_bad_lines_are_named(dataset, line: str) -> None:
    videos, paths = dataset
    paths[0].write_text(f"b.avi 1 \n{line} \n")
    with pytest.raises(UserError, match=r"clap_test_split1\.txt, line 2: .*expected is 'VIDEO\.avi' and 0, 1 or 2"):
        read_hmdb51(videos, paths, "train")


def test_files_of_one_split_only(dataset) -> None:
    videos, paths = dataset
    for others, message in (
        ([*paths, paths[0].with_name("clap_test_split2.txt")], "files of the splits 1 and 2 together"),
        ([paths[0].parent], "not named like CLASS_test_split1.txt"),
        ([], "--annotations: none"),
    ):
        with pytest.raises(UserError, match=message):
            read_hmdb51(videos, others, "train")
    with pytest.raises(UserError, match="--split all: hmdb51 has"):
        read_hmdb51(videos, paths, "all")
