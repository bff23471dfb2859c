"""What the readers share."""

from pathlib import Path

import pytest

from sharding.datasets.common import SourceFinder, choose_file, read_csv, read_json
from sharding.errors import UserError


def test_sources_are_found_by_stem(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("one.avi", "one.mp4", "two.webm", "a/three.mkv"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "frames").mkdir()
    finder = SourceFinder(tmp_path)
    assert finder.find("one.mp4") == "one.mp4"
    assert finder.find("one.webm") == "one.avi"
    assert finder.find("two.mp4") == "two.webm"
    assert finder.find("a/three.mp4") == "a/three.mkv"
    assert finder.find("frames.mp4") == "frames"
    assert finder.find("a/two.mp4") is finder.find("b/two.mp4") is None
    assert finder.locate("b/two.mp4") == "b/two.mp4"


@pytest.mark.parametrize("companion", ["gif", "jpg", "json", "m3u8", "mp3", "m4a", "avif", "info.json", "part", "a"])
def test_companions_of_a_video_do_not_win(tmp_path: Path, companion: str) -> None:
    for name in (f"key.{companion}", "key.webm"):
        (tmp_path / name).write_bytes(b"x")
    finder = SourceFinder(tmp_path)
    assert finder.find("key.mp4") == "key.webm"
    (tmp_path / "key.webm").unlink()
    assert SourceFinder(tmp_path).find("key.mp4") is None


def test_choose_file_ignores_case_and_wants_one() -> None:
    paths = [Path("X/LABELS.json"), Path("labels/train.json")]
    assert choose_file(paths, ["labels"], "names") == paths[0]
    with pytest.raises(UserError, match=r"names: one file with 'val' or 'test' in its name is needed; given: LABELS"):
        choose_file(paths, ["val", "test"], "names")
    with pytest.raises(UserError, match=r"not 2: LABELS\.json, train\.json"):
        choose_file(paths, ["json"], "names")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.json").write_bytes('{"a": "é"}'.encode("latin-1"))
    (tmp_path / "marked.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    for name in ("latin.json", "absent.json"):
        with pytest.raises(UserError, match=rf"{name}: cannot be read as UTF-8 text"):
            read_json(tmp_path / name)
    assert read_json(tmp_path / "marked.json") == {"a": 1}


def test_csv_lines_are_counted_as_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('a, b\n\n"c;d",e\n')
    assert list(read_csv(path)) == [(f"{path}, line 1", ["a", "b"]), (f"{path}, line 3", ["c;d", "e"])]
