"""Lists of parts, with headings, commas and absolute paths, as mmaction2, SlowFast and VideoMAE write them."""

from pathlib import Path

import pytest
from PIL import Image

from sharding.datasets.list_file import read_list
from sharding.errors import UserError
from sharding.records import FOLDER_FPS, check_records
from tests.helpers.annotations import real_annotations
from tests.helpers.videos import draw_number, write_numbered_video
from tests.sharding.datasets.test_list_file import pairs, read
from tests.sharding.datasets.test_packing import numbers, packed


def parts(folder: Path, text: str) -> list[tuple]:
    records = read(folder, text).records
    return [(record.key, record.source, record.label, record.start_seconds, record.end_seconds) for record in records]


def test_seconds_with_and_without_a_heading(tmp_path: Path) -> None:
    lines = "a/x.mp4 0 1.5 3\na/x.mp4 2 4 5\n"
    expected = [("a-x_0_1500", "a/x.mp4", "3", 0.0, 1.5), ("a-x_2000_4000", "a/x.mp4", "5", 2.0, 4.0)]
    assert parts(tmp_path, lines) == expected
    assert parts(tmp_path, f"path start end label\n{lines}") == expected
    assert parts(tmp_path, f"path,start,end,label\n{lines.replace(' ', ',')}") == expected
    heading = "Path\tstart\tend\tlabel\n"
    assert parts(tmp_path, f"{heading}old film.mp4\t00:01:02.5\t00:01:03\tturn left\n") == [
        ("old_film_62500_63000", "old film.mp4", "turn left", 62.5, 63.0)
    ]


def test_whole_numbers_may_be_labels_so_they_are_no_times(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 1: 'x\.mp4 0 2 4': 3 labels"):
        read(tmp_path, "x.mp4 0 2 4\n")
    assert parts(tmp_path, "path start end label\nx.mp4 0 2 4\n") == [("x_0_2000", "x.mp4", "4", 0.0, 2.0)]


def test_pictures_by_offsets(tmp_path: Path) -> None:
    expected = [
        ("imgs_2_5", "imgs", "127", 2 / FOLDER_FPS, 7 / FOLDER_FPS),
        ("imgs_10_4", "imgs", "3", 10 / FOLDER_FPS, 14 / FOLDER_FPS),
    ]
    assert parts(tmp_path, "imgs 2 5 127\nimgs 10 4 3\n") == expected
    assert parts(tmp_path, "path offset num_frames label\nimgs 2 5 127\nimgs 10 4 3\n") == expected
    folder = tmp_path / "videos" / "five"
    folder.mkdir(parents=True)
    for number in range(5):
        (folder / f"img_{number:05d}.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match=r"line 1: 'five 5 3 5': expected is 'path num_frames label', with one label"):
        read(tmp_path, "five 5 3 5\n")


def test_frames_of_parts_are_exact(tmp_path: Path) -> None:
    """Pictures [3, 7) of a folder numbered from 1 are the numbers 4 to 7; [0.2, 0.4) s at 25 frames/s are 5 to 9."""
    folder = tmp_path / "videos" / "imgs"
    folder.mkdir(parents=True)
    for number in range(1, 13):
        Image.fromarray(draw_number(number, (96, 64))).save(folder / f"img_{number:05d}.png")
    write_numbered_video(tmp_path / "videos" / "x.mp4", 40)
    (tmp_path / "train.txt").write_text("imgs 3 4 0\nimgs 0 2 1\nimgs 10 9 1\nimgs 5 0 1\n")
    offsets = packed("list", tmp_path / "videos", [tmp_path / "train.txt"], tmp_path / "a", max_failures=0.5)
    assert {key: numbers(offsets, key) for key in offsets.keys} == {"imgs_3_4": [4, 5, 6, 7], "imgs_0_2": [1, 2]}
    failures = (offsets.directory / "failures.jsonl").read_text()
    assert (
        "its part is from frame 10 to frame 19, but the video ends at frame 12" in failures
        and "a part ends after it begins" in failures
    )
    (tmp_path / "train.txt").write_text("x.mp4 0.2 0.4 0\nx.mp4 1.0 1.2 0\n")
    seconds = packed("list", tmp_path / "videos", [tmp_path / "train.txt"], tmp_path / "b")
    assert {key: numbers(seconds, key) for key in seconds.keys} == {
        "x_200_400": list(range(5, 10)),
        "x_1000_1200": list(range(25, 30)),
    }
    (folder / "img_00002.png").unlink()
    (tmp_path / "train.txt").write_text("imgs 3 4 0\nimgs 0 2 1\n")
    gaps = packed("list", tmp_path / "videos", [tmp_path / "train.txt"], tmp_path / "c", max_failures=1.0)
    assert gaps.manifest.failures == 2
    assert "of its frames 1 to 12 there are 1 lacking" in (gaps.directory / "failures.jsonl").read_text()


def test_further_columns_are_levels(tmp_path: Path) -> None:
    found = read(tmp_path, "path,verb,noun,label\na.mp4,open,door,open door\nb.mp4,close,door,close door\n")
    assert found.classes == ("close door", "open door")
    assert found.levels == (("verb", ("close", "open")), ("noun", ("door",)))
    assert [record.level_labels for record in found.records] == [("open", "door"), ("close", "door")]
    lists = [tmp_path / "train.txt", tmp_path / "val.txt", tmp_path / "test.txt"]
    lists[2].write_text("path\nc.mp4\n")
    lists[1].write_text("path,verb,noun,label\nc.mp4,shut,box,shut box\n")
    found = check_records(read_list(tmp_path / "videos", lists, "test"))
    assert (len(found.classes), found.levels[0]) == (3, ("verb", ("close", "open", "shut")))
    lists[1].write_text("c.mp4 open door\n")
    with pytest.raises(UserError, match=r"val\.txt: further columns none, but in .*train\.txt verb noun"):
        read_list(tmp_path / "videos", lists, "train")


def test_commas_and_absolute_paths(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    (videos / "frames").mkdir(parents=True)
    lines = f"{videos}/a b.mp4,riding a bike\n{videos}/c.mp4,archery\n"
    expected = [("a b.mp4", "riding a bike"), ("c.mp4", "archery")]
    assert pairs(read(tmp_path, lines)) == expected
    assert pairs(read(tmp_path, lines.replace(",", "\t"))) == expected
    assert pairs(read(tmp_path, f"{videos}/c.mp4 7\n{videos}/d.mp4 0\n")) == [("c.mp4", "7"), ("d.mp4", "0")]
    assert pairs(read(tmp_path, "frames,x\n")) == [("frames", "x")]
    assert pairs(read(tmp_path, "a.mp4 salsa,dancing\n")) == [("a.mp4", "salsa,dancing")]
    with pytest.raises(UserError, match=r"line 1: '.*/videos/\.\./x\.mp4': a path inside"):
        read(tmp_path, f"{videos}/../x.mp4 0\n")
    with pytest.raises(UserError, match=r"line 1: '/data/k400/a\.mp4': .* not in .*videos; give --videos a folder"):
        read(tmp_path, "/data/k400/a.mp4 0\n")


def test_quotes_are_those_of_csv(tmp_path: Path) -> None:
    lines = 'a.mp4,run\nb.mp4,"pick up"\nc.mp4, "stop, then go"\n"d, e.mp4",run\n"""f"".mp4",run\nthe "g".mp4,run\n'
    expected = [
        ("a.mp4", "run"),
        ("b.mp4", "pick up"),
        ("c.mp4", "stop, then go"),
        ("d, e.mp4", "run"),
        ('"f".mp4', "run"),
        ('the "g".mp4', "run"),
    ]
    assert pairs(read(tmp_path, lines)) == expected
    assert pairs(read(tmp_path, f"path,label\n{lines}")) == expected
    assert pairs(read(tmp_path, '"d, e.mp4","stop, then go"\n')) == [("d, e.mp4", "stop, then go")]
    assert pairs(read(tmp_path, "h, i.mp4,run\n")) == [("h, i.mp4", "run")]


def test_numbers_of_levels_may_have_leading_zeros(tmp_path: Path) -> None:
    found = read(tmp_path, "path,verb,noun,label\na.mp4,01,x,7\nb.mp4,02,03,07\nc.mp4,2,x,007\n")
    assert found.levels == (("verb", ("1", "2")), ("noun", ("03", "x")))
    assert [record.level_labels for record in found.records] == [("1", "x"), ("2", "03"), ("2", "x")]
    assert {record.label for record in found.records} == {"7"}


def test_a_list_without_labels(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a.mp4 run\nb.mp4 walk\n")
    (tmp_path / "test.txt").write_text("path\tstart\tend\nx.mp4\t1\t2\n")
    found = read_list(tmp_path, [tmp_path / "train.txt", tmp_path / "test.txt"], "test")
    assert [(record.key, record.label) for record in found.records] == [("x_1000_2000", None)]
    assert found.classes == ("run", "walk")
    (tmp_path / "test.txt").write_text("path\nold film.mp4\n")
    (record,) = read_list(tmp_path, [tmp_path / "train.txt", tmp_path / "test.txt"], "test").records
    assert (record.key, record.source, record.label) == ("old_film", "old film.mp4", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path start label\na.mp4 1 2\n", r"line 1: heading 'path start label': start is nothing without end"),
        ("path start end offset num_frames\n", r"line 1: .*not both"),
        ("path label label\n", r"line 1: .*each once"),
        ("path start end verb\n", r"line 1: .*need the column label"),
        ("path start end label\na.mp4 1 x 2\n", r"line 2: time 'x': expected are seconds"),
        ("path start end label\na.mp4 1 2\n", r"line 2: 'a\.mp4 1 2': 4 fields are expected: path, start, end, label"),
        ("path start end label\n../a.mp4 1 2 x\n", r"line 2: '\.\./a\.mp4': a path inside"),
        ("path offset num_frames label\na x 2 x\n", r"line 2: offset 'x', num_frames '2': two numbers"),
        ("path offset num_frames label\nclip 1 2 x\n", r"line 2: 'clip': offset and num_frames are of folders"),
        ("a.mp4,x\nb.mp4\n", r"line 2: 'b\.mp4': expected is 'path,label', as in the first line"),
        ('a.mp4,"x', r"line 1: 'a\.mp4,\"x': expected is 'path label'"),
        ('a.mp4,x\nb.mp4,"x', r"line 2: 'b\.mp4,\"x': expected is 'path,label', as in the first line"),
        ('a.mp4,x\nb,c.mp4,"x"', r"line 2: 'b,c\.mp4,\"x\"': expected is 'path,label', as in the first line"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "clip").write_bytes(b"x")
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)


def test_published_lists(tmp_path: Path) -> None:
    folder = real_annotations("something_something_v2")
    text = (folder / "something-something-v2-validation-processed.txt").read_text()
    found = read(tmp_path, text)
    assert (len(found.records), len(found.classes)) == (24777, 174)
