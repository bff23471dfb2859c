"""Moments in Time, versions 1 and 2: CSV lists of three-second videos in class folders."""

from collections.abc import Sequence
from pathlib import Path

from sharding.datasets.common import SourceFinder, choose_file, is_number, read_csv
from sharding.errors import UserError
from sharding.records import Annotations, UniqueKeys, VideoRecord, keys_from_paths

_WORDS = {"train": "training", "val": "validation"}


def read_moments(videos: Path, annotations: Sequence[Path], split: str) -> Annotations:
    """Read `{training,validation}Set.csv` and `moments_categories.txt`.

    The lists have lines `CLASS/VIDEO.mp4,CLASS,votes for it,votes against it`; the classes are lines `CLASS,id`, or
    `CLASS` alone. Videos are in `training/` and `validation/`, or VIDEOS is that folder itself.
    """
    word = _WORDS.get(split, split)
    classes = _class_names(choose_file(annotations, ["categor"], "the class names"))
    listed = choose_file(annotations, [word], f"the videos of the split {split!r}")
    finder, known, unique = SourceFinder(videos), set(classes), UniqueKeys()
    rows = []
    for where, row in read_csv(listed):
        if len(row) < 2 or not row[0] or row[0].startswith("/") or ".." in Path(row[0]).parts:
            raise UserError(f"{where}: {','.join(row)!r}: expected is 'CLASS/VIDEO.mp4,CLASS'")
        if row[1] not in known:
            raise UserError(f"{where}: label {row[1]!r} is not among the {len(classes)} class names")
        rows.append((where, row[0], row[1]))
    records = []
    for key, (where, path, label) in zip(keys_from_paths([path for _, path, _ in rows]), rows):
        source = finder.find(f"{word}/{path}") or finder.locate(path)
        records.append(VideoRecord(unique.add(key, where), source, label))
    return Annotations(records, classes)


def _class_names(path: Path) -> tuple[str, ...]:
    """Return the names of lines `CLASS,id` in the order of their ids, from 0; of lines `CLASS`, in their order."""
    names: dict[int, str] = {}
    for where, row in read_csv(path):
        number = row[1] if len(row) > 1 else str(len(names))
        if not row[0] or not is_number(number) or int(number) in names:
            raise UserError(f"{where}: {','.join(row)!r}: expected is 'CLASS,id', each id once")
        names[int(number)] = row[0]
    if not names or sorted(names) != list(range(len(names))):
        raise UserError(f"{path}: ids must be 0 to {max(len(names) - 1, 0)}, each once")
    return tuple(names[number] for number in range(len(names)))
