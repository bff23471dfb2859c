"""What the readers share: which annotation file is which, JSON, and where a named video really is."""

import csv
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from sharding.errors import UserError
from sharding.files import parse_json
from sharding.records import read_lines

# What a file of a video is called. Others next to it (pictures, texts, sound) are not of the dataset.
VIDEO_SUFFIXES = {
    ".3g2", ".3gp", ".264", ".265", ".amv", ".asf", ".av1", ".avc", ".avi", ".divx", ".dv", ".f4v", ".flv",
    ".h264", ".h265", ".hevc", ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv",
    ".mod", ".mov", ".mp4", ".mp4v", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nut", ".obu", ".ogm",
    ".ogv", ".ogx", ".qt", ".rm", ".rmvb", ".tod", ".trp", ".ts", ".vob", ".webm", ".wmv", ".wtv", ".xvid",
    ".y4m",
}  # fmt: skip


_TIME = re.compile(r"(?:(?:(?P<hours>[0-9]{1,4}):)?(?P<minutes>[0-9]{1,2}):)?(?P<seconds>[0-9]{1,9}(?:\.[0-9]*)?)")
_TEXTS = {"readme", "license", "licence", "copying", "changelog", "md5sums", "sha256sums", "makefile"}


def has_video_suffix(name: str) -> bool:
    return PurePath(name).suffix.lower() in VIDEO_SUFFIXES


def may_be_video(name: str) -> bool:
    """Return whether a file of this name may be a video: by its suffix, or since it has none, as in some copies."""
    return has_video_suffix(name) or (not PurePath(name).suffix and name.lower() not in _TEXTS)


def choose_file(annotations: Sequence[Path], words: Sequence[str], what: str) -> Path:
    """Return the one annotation file with one of `words` in its name, case aside.

    Raises UserError, which says `what` was looked for, if there is none or more than one.
    """
    chosen = [path for path in annotations if any(word in path.name.lower() for word in words)]
    if len(chosen) == 1:
        return chosen[0]
    expected = f"{what}: one file with {' or '.join(map(repr, words))} in its name"
    if not chosen:
        given = ", ".join(path.name for path in annotations) or "none"
        raise UserError(f"--annotations: {expected} is needed; given: {given}")
    raise UserError(f"--annotations: {expected}, not {len(chosen)}: {', '.join(path.name for path in chosen)}")


def splits_in_name(path: Path) -> set[str]:
    """Return which of train, val and test begin a word of a file's name, case aside.

    >>> splits_in_name(Path("k400_Validate.csv")), splits_in_name(Path("latest.csv"))
    ({'val'}, set())
    """
    return set(re.findall("(?<![a-z])(train|val|test)", path.stem.lower()))


def is_number(text: str) -> bool:
    """Whether a text is a whole number, of plain digits and not absurdly many: what `int` takes without an error."""
    return re.fullmatch("[0-9]{1,18}", text) is not None


def read_csv(path: Path, delimiter: str = ",") -> Iterator[tuple[str, list[str]]]:
    """Yield ("FILE, line N", fields without blanks around them) of every line that is not empty."""
    rows = csv.reader(read_lines(path), delimiter=delimiter)
    try:
        for row in rows:
            if row:
                yield f"{path}, line {rows.line_num}", [field.strip() for field in row]
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: {error}") from error


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield ("FILE, line N", {column: field}) of every row of a CSV file with a heading.

    Raises UserError if one of `columns` is not in the heading, or a row has another number of fields.
    """
    rows = read_csv(path)
    where, names = next(rows, (f"{path}, line 1", []))
    lacking = [column for column in columns if column not in names]
    if lacking:
        raise UserError(f"{where}: no column {lacking[0]!r}; expected are {', '.join(columns)}")
    for where, fields in rows:
        if len(fields) != len(names):
            raise UserError(f"{where}: {len(fields)} fields, but {len(names)} columns in the heading")
        yield where, dict(zip(names, fields))


def read_seconds(text: str, where: str) -> float:
    """Return the seconds of "83.5", "01:23.5" or "00:01:23.50". Raises UserError, beginning with `where`.

    >>> read_seconds("00:01:23.50", "list.csv, line 1")
    83.5
    """
    parts = _TIME.fullmatch(text)
    if not parts:
        raise UserError(f"{where}: time {text!r}: expected are seconds, such as 83.5, or HH:MM:SS.ss")
    return int(parts["hours"] or 0) * 3600 + int(parts["minutes"] or 0) * 60 + float(parts["seconds"])


def read_json(path: Path) -> Any:
    """Return what a file holds. Raises UserError with the file and, where the JSON breaks off, the line."""
    try:
        return parse_json(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: no JSON: {error.msg}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    except ValueError as error:
        raise UserError(f"{path}: no JSON: {error}") from error


def kind_of_path(path: Path) -> str:
    """Return "file" or "folder"; nothing where there is neither, or no file could have such a name."""
    try:
        return "folder" if path.is_dir() else "file" if path.exists() else ""
    except (OSError, ValueError):
        return ""


class SourceFinder:
    """Finds videos by the path an annotation gives them, whatever their suffix is in this copy of the dataset."""

    def __init__(self, videos: Path) -> None:
        self._videos = videos
        self._names: dict[str, dict[str, str]] = {}

    def find(self, path: str) -> str | None:
        """Return the relative path that is there: `path` itself, or the first video or folder of its stem; else None.

        >>> SourceFinder(Path("copies")).find("Archery/v_Archery_g01_c01.avi")  # doctest: +SKIP
        'Archery/v_Archery_g01_c01.mp4'
        """
        folder, _, name = path.rpartition("/")
        names = self._listing(folder)
        if name in names:
            return path
        found = names.get(PurePath(name).stem)
        return found and (f"{folder}/{found}" if folder else found)

    def locate(self, path: str) -> str:
        """Return what `find` finds, else `path`: a record whose packing fails with the kind `missing`."""
        return self.find(path) or path

    def _listing(self, folder: str) -> dict[str, str]:
        """Map the names of what is in `folder`, and the stems of the videos and folders in it, to the name."""
        if folder not in self._names:
            entries = list_folder(self._videos / folder)
            videos = [entry.name for entry in entries if may_be_video(entry.name) or entry.is_dir()]
            listing = {PurePath(name).stem: name for name in reversed(videos)}
            listing.update({entry.name: entry.name for entry in entries})
            self._names[folder] = listing
        return self._names[folder]


def list_folder(folder: Path) -> list[os.DirEntry]:
    """Return what is in a folder, by name; nothing if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (OSError, ValueError):  # a name that none can have, such as one with a zero byte
        return []


def find_videos(videos: Path) -> dict[str, list[str]]:
    """Map names without suffix to paths in `videos`, of the videos in it and in its folders, linked ones too."""
    found: dict[str, list[str]] = {}
    visited: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(videos, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in visited:  # a link to a folder above it, or to one that was read
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders.sort()
        inside = os.path.relpath(folder, videos)
        for name in sorted(names):
            if may_be_video(name):
                path = name if inside == "." else f"{inside}/{name}"
                found.setdefault(name.rpartition(".")[0] or name, []).append(path)
    return found
