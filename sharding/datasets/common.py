"""What the readers share: which annotation file is which, JSON, and where a named video really lies."""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from sharding.errors import UserError
from sharding.records import read_lines


def choose_file(annotations: Sequence[Path], words: Sequence[str], what: str) -> Path:
    """The one annotation file with one of `words` in its name, case aside.

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


def read_csv(path: Path, delimiter: str = ",") -> Iterator[tuple[str, list[str]]]:
    """Yields ("FILE, line N", fields without blanks around them) of every line that is not empty."""
    rows = csv.reader(read_lines(path), delimiter=delimiter)
    try:
        for row in rows:
            if row:
                yield f"{path}, line {rows.line_num}", [field.strip() for field in row]
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: {error}") from error


def read_json(path: Path) -> Any:
    """Raises UserError with the file and, where the JSON breaks off, the line."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: no JSON: {error.msg}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from error


class SourceFinder:
    """Finds videos by the path an annotation gives them, whatever their suffix is in this copy of the dataset."""

    def __init__(self, videos: Path) -> None:
        self._videos = videos
        self._names: dict[str, dict[str, str]] = {}

    def find(self, path: str) -> str | None:
        """The relative path that is there: `path` itself, or the first other file or folder of its stem; else None.

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
        """What `find` finds, else `path`: a record whose packing fails with the kind `missing`."""
        return self.find(path) or path

    def _listing(self, folder: str) -> dict[str, str]:
        """Stems and names of what lies in `folder` -> its name."""
        if folder not in self._names:
            try:
                with os.scandir(self._videos / folder) as entries:
                    names = sorted((entry.name for entry in entries), reverse=True)
            except OSError:
                names = []
            listing = {PurePath(name).stem: name for name in names}
            listing.update({name: name for name in names})
            self._names[folder] = listing
        return self._names[folder]
