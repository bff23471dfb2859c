"""HMDB51: a file for each class and split, `CLASS_test_split1.txt`; videos in class folders."""

import re
from collections.abc import Sequence
from pathlib import Path

from sharding.datasets.common import SourceFinder
from sharding.errors import UserError
from sharding.records import Annotations, UniqueKeys, VideoRecord, key_from_path, read_lines

_PARTS = {"train": "1", "test": "2", "val": "2"}


def read_hmdb51(videos: Path, annotations: Sequence[Path], split: str) -> Annotations:
    """Read lines `VIDEO.avi 1` of the train split, 2 of the test split, 0 of neither; val is the test split.

    Give the 51 files of one of the three published splits (`*_test_split1.txt`). Classes are in the order of their
    names. Names of videos hold all kinds of characters, so keys are made from them.
    """
    if split not in _PARTS:
        raise UserError(f"--split {split}: hmdb51 has {', '.join(_PARTS)}")
    files = _class_files(annotations)
    finder, keys = SourceFinder(videos), UniqueKeys()
    records = []
    for label, path in files.items():
        for number, line in enumerate(read_lines(path), 1):
            if not line.strip():
                continue
            name, _, part = line.strip().rpartition(" ")
            where = f"{path}, line {number}"
            if not name.strip() or part not in ("0", "1", "2") or "/" in name:
                raise UserError(f"{where}: {line.strip()!r}: expected is 'VIDEO.avi' and 0, 1 or 2")
            if part == _PARTS[split]:
                source = f"{label}/{name.strip()}"
                records.append(VideoRecord(keys.add(key_from_path(source), where), finder.locate(source), label))
    return Annotations(records, tuple(files))


def _class_files(annotations: Sequence[Path]) -> dict[str, Path]:
    """Map class names to their files, in the order of the names."""
    remedy = "give the files of one split, SPLITS/*_test_split1.txt"
    if not annotations:
        raise UserError(f"--annotations: none; {remedy}")
    files: dict[str, Path] = {}
    numbers = set()
    for path in annotations:
        named = re.fullmatch(r"(.+)_test_split([123])\.txt", path.name)
        if not named:
            raise UserError(f"--annotations {path}: not named like CLASS_test_split1.txt; {remedy}")
        numbers.add(named[2])
        files[named[1]] = path
    if len(numbers) > 1:
        raise UserError(f"--annotations: files of the splits {' and '.join(sorted(numbers))} together; {remedy}")
    return dict(sorted(files.items()))
