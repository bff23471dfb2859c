"""Charades: videos of people at home with all actions that occur in them, from the published CSV files."""

import re
from collections.abc import Sequence
from pathlib import Path

from sharding.datasets.common import SourceFinder, choose_file, read_csv
from sharding.errors import UserError
from sharding.records import Annotations, UniqueKeys, VideoRecord, read_lines

NUM_CLASSES = 157
_COLUMNS = ("id", "actions")
_FILES = {"train": "_train", "val": "_test", "test": "_test"}
_ACTION = re.compile(r"(c[0-9]{3}) ([0-9]+(?:\.[0-9]+)?) ([0-9]+(?:\.[0-9]+)?)")
_CLASS = re.compile(r"(c[0-9]{3})\s+(\S.*)")


def read_charades(videos: Path, annotations: Sequence[Path], split: str) -> Annotations:
    """Read `Charades_v1_train.csv` or `Charades_v1_test.csv` (also for the split val), and the names of the classes.

    A video is `<id>.mp4`; its labels are the classes of its column `actions` ("c092 11.90 21.20;c147 0.00 12.60"), each
    once, its timed labels all of them as published. One without any action is a sample without labels. The names are
    those of `Charades_v1_classes.txt`, or if that is not given c000 to c156.
    """
    if split not in _FILES:
        raise UserError(f"--split {split}: charades has {', '.join(_FILES)}; val and test are the same videos")
    named = [path for path in annotations if "classes" in path.name.lower()]
    rest = [path for path in annotations if path not in named]
    path = choose_file(rest, [_FILES[split]], f"the videos of the split {split!r}")
    names = _read_names(choose_file(named, ["classes"], "the names of the classes")) if named else {}
    names = names or {f"c{number:03d}": f"c{number:03d}" for number in range(NUM_CLASSES)}
    finder, keys, records = SourceFinder(videos), UniqueKeys(), []
    rows = read_csv(path)
    where, columns = next(rows, (f"{path}, line 1", []))
    if lacking := [column for column in _COLUMNS if column not in columns]:
        raise UserError(f"{where}: no column {lacking[0]!r}; expected are those of Charades_v1_train.csv")
    for where, fields in rows:
        if len(fields) != len(columns):
            raise UserError(f"{where}: {len(fields)} fields, but {len(columns)} columns")
        row = dict(zip(columns, fields))
        key, timed = keys.add(row["id"], where), _parse_actions(row["actions"], names, where)
        labels = tuple(sorted({label for label, _, _ in timed}))
        records.append(VideoRecord(key, finder.locate(f"{key}.mp4"), labels=labels, timed_labels=timed))
    return Annotations(records, tuple(names.values()))


def _parse_actions(text: str, names: dict[str, str], where: str) -> tuple[tuple[str, float, float], ...]:
    """Return (class, start, end in seconds) of each action, in the order of the text."""
    timed = []
    for action in text.split(";") if text else ():
        parts = _ACTION.fullmatch(action.strip())
        if not parts:
            raise UserError(
                f"{where}: action {action!r}: expected is a class and two times, such as 'c092 11.90 21.20'"
            )
        if parts[1] not in names:
            raise UserError(f"{where}: class {parts[1]}, but there are {len(names)}, from c000 on")
        timed.append((names[parts[1]], float(parts[2]), float(parts[3])))
    return tuple(timed)


def _read_names(path: Path) -> dict[str, str]:
    """Map c000, c001, … to the names, from lines `c000 Holding some clothes`."""
    names: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        parts, expected = _CLASS.fullmatch(line.strip()), f"c{len(names):03d}"
        if not parts or parts[1] != expected or parts[2] in names.values():
            raise UserError(f"{path}, line {number}: {line.strip()!r}: expected is '{expected} NAME', a name only once")
        names[parts[1]] = parts[2]
    return names
