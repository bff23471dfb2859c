"""UCF101: classInd.txt, trainlist01.txt and testlist01.txt (or 02, 03), videos in class folders."""

from collections.abc import Sequence
from pathlib import Path

from sharding.datasets.common import SourceFinder, choose_file, is_number
from sharding.errors import UserError
from sharding.records import Annotations, UniqueKeys, VideoRecord, key_from_path, read_lines

_LISTS = {"train": "trainlist", "test": "testlist", "val": "testlist"}


def read_ucf101(videos: Path, annotations: Sequence[Path], split: str) -> Annotations:
    """Read the list of a split; label ids are those of classInd.txt less one. val, which has none, is the test list.

    Give the lists of one of the three published splits. The key of a video is its name without its folder.
    """
    if split not in _LISTS:
        raise UserError(f"--split {split}: ucf101 has {', '.join(_LISTS)}")
    path = choose_file(annotations, ["classind"], "the class names")
    numbers = _class_numbers(path)
    classes = tuple(sorted(numbers, key=numbers.__getitem__))
    listed = choose_file(annotations, [_LISTS[split]], f"the list of the split {split!r}, 01, 02 or 03")
    finder, keys = SourceFinder(videos), UniqueKeys()
    records = []
    for number, line in enumerate(read_lines(listed), 1):
        if not line.strip():
            continue
        where = f"{listed}, line {number}"
        source, *label_number = line.split()
        label, _, name = source.rpartition("/")
        if label not in numbers or len(label_number) > 1 or not name:
            raise UserError(f"{where}: {line.strip()!r}: expected is 'CLASS/VIDEO.avi' and the number of the class")
        if label_number and label_number[0] != str(numbers[label]):
            raise UserError(f"{where}: class number {label_number[0]}, but {label} is {numbers[label]} in {path.name}")
        records.append(VideoRecord(keys.add(key_from_path(name), where), finder.locate(source), label))
    return Annotations(records, classes)


def _class_numbers(path: Path) -> dict[str, int]:
    """Map class names to numbers, from 1, as in the lines `1 ApplyEyeMakeup`."""
    numbers: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        fields = line.split()
        if len(fields) != 2 or not is_number(fields[0]) or fields[1] in numbers:
            raise UserError(
                f"{path}, line {number}: {line.strip()!r}: expected is a number and a class name, each once"
            )
        numbers[fields[1]] = int(fields[0])
    if sorted(numbers.values()) != list(range(1, len(numbers) + 1)):
        raise UserError(f"{path}: class numbers must be 1 to {len(numbers)}, each once")
    return numbers
