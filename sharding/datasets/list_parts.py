"""Lists of more than a path and a label: with a heading that names the columns, or as other projects write them.

path start end label              seconds of a video
path offset num_frames label      pictures of a folder, as mmaction2 has them without the heading
path label                        SlowFast, VideoMAE: absolute paths, commas or blanks between
"""

import csv
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sharding.datasets.common import has_video_suffix, is_number, kind_of_path, read_seconds
from sharding.errors import UserError
from sharding.records import picture_times

_COLUMNS = ("path", "label", "start", "end", "offset", "num_frames")
_QUOTED = re.compile(r'(?:^|,)\s*"')


@dataclass(frozen=True)
class Line:
    """One video, or a part of it, as a list has it."""

    path: Path
    """The list."""
    where: str
    source: str
    label: str | None
    part: tuple[float, float] | None = None
    """Start and end in seconds."""
    numbers: tuple[int, int] = (0, 0)
    """The same for the key: in milliseconds; of pictures, the first and how many."""
    levels: tuple[str, ...] = ()
    """Labels on the levels that a heading names."""


Numbered = Sequence[tuple[str, str]]  # where a line is, and its text
Parser = Callable[[str, str], dict[str, str]]  # (line, where) -> fields by their columns


def read_special(path: Path, lines: Numbered, videos: Path) -> tuple[list[Line], tuple[str, ...]] | None:
    """Return the lines of a list of one of the forms above, and the names of its further levels of labels.

    None if it is of another form. Raises UserError for a line that is not of the form that the first one shows.
    """
    columns = _heading(lines[0][1]) if lines else None
    if columns:
        _check_heading(columns, lines[0][0])
        levels = tuple(column for column in columns if column not in _COLUMNS)
        parse, lines = _by_heading(columns, _delimiter(lines[0][1])), lines[1:]
    elif lines and (found := _without_heading(lines, videos)):
        levels, parse = (), found
    else:
        return None
    return list(_read(path, lines, videos, parse, levels)), levels


def inside(source: str, videos: Path, where: str) -> str:
    """Return a listed path relative to the folder of videos. Raises UserError if it is not inside of it."""
    if ".." in Path(source).parts:
        raise UserError(f"{where}: {source!r}: a path inside the folder of videos is expected")
    if not source.startswith("/"):
        return source
    for folder in _absolute(videos):
        if source.startswith(folder) and source != folder:
            return source.removeprefix(folder).lstrip("/")
    raise UserError(
        f"{where}: {source!r}: a path inside the folder of videos is expected, but it is not in {videos}; give "
        "--videos a folder that all listed paths begin with, / if there is no other"
    )


@functools.cache
def _absolute(videos: Path) -> tuple[str, ...]:
    """Return what absolute paths in a folder begin with, as it was given and without links."""
    return tuple(f"{str(folder).rstrip('/')}/" for folder in (videos.absolute(), videos.resolve()))


def _read(path: Path, lines: Numbered, videos: Path, parse: Parser, levels: tuple[str, ...]) -> Iterator[Line]:
    for where, text in lines:
        row = parse(text, where)
        source = inside(row["path"], videos, where)
        part, numbers = None, (0, 0)
        if "start" in row:
            start, end = (read_seconds(row[column], where) for column in ("start", "end"))
            part, numbers = (start, end), (round(start * 1000), round(end * 1000))
        elif "offset" in row:
            offset, count = numbers = _pictures(row, where, videos / source)
            part = picture_times(offset, offset + count)
        yield Line(path, where, source, row.get("label"), part, numbers, tuple(row[level] for level in levels))


def _pictures(row: dict[str, str], where: str, source: Path) -> tuple[int, int]:
    """Return the number of the first picture, from 0, and how many there are."""
    offset, count = row["offset"], row["num_frames"]
    if not is_number(offset) or not is_number(count):
        raise UserError(f"{where}: offset {offset!r}, num_frames {count!r}: two numbers are expected")
    if kind_of_path(source) == "file":
        raise UserError(f"{where}: {row['path']!r}: offset and num_frames are of folders of pictures; of a file give "
                        "start and end in seconds, below the heading 'path start end label'")  # fmt: skip
    return int(offset), int(count)


def _delimiter(heading: str) -> str | None:
    return next((sign for sign in ("\t", ",") if sign in heading), None)


def _fields(line: str, delimiter: str | None, strict: bool = False) -> list[str]:
    try:
        if delimiter is None:
            return line.split()
        fields = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=strict), [])
    except csv.Error:  # too long to be one, or a quote that does not end
        return []
    return [field.strip() for field in fields]


def _heading(line: str) -> tuple[str, ...] | None:
    """Return the columns that a first line names: path alone, or one more that is known at least."""
    names = [name.lower() for name in _fields(line, _delimiter(line))]
    return tuple(names) if names[:1] == ["path"] and (not names[1:] or set(names[1:]) & set(_COLUMNS)) else None


def _check_heading(columns: tuple[str, ...], where: str) -> None:
    if len(set(columns)) < len(columns) or not all(column.isidentifier() for column in columns):
        raise UserError(f"{where}: heading {' '.join(columns)!r}: names of letters, each once, are expected")
    for one, other in (("start", "end"), ("end", "start"), ("offset", "num_frames")):
        if one in columns and other not in columns:
            raise UserError(f"{where}: heading {' '.join(columns)!r}: {one} is nothing without {other}")
    if "start" in columns and "offset" in columns:
        raise UserError(f"{where}: heading {' '.join(columns)!r}: start and end, or offset and num_frames, not both")
    further = set(columns) - set(_COLUMNS)
    if further and "label" not in columns:
        raise UserError(f"{where}: heading {' '.join(columns)!r}: further levels of labels need the column label")


def _by_heading(columns: tuple[str, ...], delimiter: str | None) -> Parser:
    def parse(line: str, where: str) -> dict[str, str]:
        fields = _fields(line, delimiter) if len(columns) > 1 else [line.strip()]
        if len(fields) != len(columns) or not all(fields):
            raise UserError(f"{where}: {line.strip()!r}: {len(columns)} fields are expected: {', '.join(columns)}")
        return dict(zip(columns, fields))

    return parse


def _without_heading(lines: Numbered, videos: Path) -> Parser | None:
    first = lines[0][1]
    if "\t" in first:
        return None
    at_comma = _at_comma(first)
    if len(at_comma) > 1 and (has_video_suffix(at_comma[0]) or kind_of_path(videos / at_comma[0])):
        return _split_at_comma
    fields = [line.split() for _, line in lines]
    if any(len(each) != 4 or not each[3].isdecimal() for each in fields):
        return None
    names = [each[0] for each in fields]
    if not has_video_suffix(names[0]) and kind_of_path(videos / names[0]) != "file":
        numbers = all(is_number(number) for each in fields for number in each[1:3])
        fits = int(fields[0][1]) + int(fields[0][2]) <= _num_entries(videos / names[0]) if numbers else False
        return _by_heading(("path", "offset", "num_frames", "label"), None) if fits else None
    if any("." in number for each in fields for number in each[1:3]):
        return _by_heading(("path", "start", "end", "label"), None)
    return None


def _num_entries(folder: Path) -> float:
    """Return how many files are in a folder; infinitely many if it is not there, so that nothing speaks against it."""
    return sum(1 for _ in folder.iterdir()) if kind_of_path(folder) == "folder" else float("inf")


def _split_at_comma(line: str, where: str) -> dict[str, str]:
    fields = _at_comma(line)
    if len(fields) != 2 or not all(fields):
        raise UserError(f"{where}: {line.strip()!r}: expected is 'path,label', as in the first line")
    return dict(zip(("path", "label"), fields))


def _at_comma(line: str) -> list[str]:
    """Return path and label: around the last comma, or where one is in quotes, as CSV has them.

    >>> _at_comma("salsa, at night.mp4,dancing"), _at_comma('c.mp4,"stop, then go"')
    (['salsa, at night.mp4', 'dancing'], ['c.mp4', 'stop, then go'])
    """
    return _fields(line, ",", strict=True) if _QUOTED.search(line) else [part.strip() for part in line.rsplit(",", 1)]
