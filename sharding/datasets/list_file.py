"""The dataset `list`: text files with a line `path label` for each video, the path relative to the folder of videos.

Lists of folders of frames, as mmaction2 writes them, have the number of frames between: `path num_frames label`.
"""

from collections.abc import Sequence
from pathlib import Path

from sharding.datasets.flip_pairs import mirrored_pairs
from sharding.errors import UserError
from sharding.records import Annotations, UniqueKeys, VideoRecord, key_from_path, read_lines, sorted_classes


def read_list(videos: Path, annotations: Sequence[Path], split: str) -> Annotations:
    """A label is a class name or a number; with a tab between path and label, both may hold blanks.

    A file whose first line is a path and two numbers has frame counts, unless a video bears the name of the first two
    fields. They are not used: frames are counted when packing.

    Of several files, the one with the split in its name (`train.txt`) lists the videos; the others are read for their
    classes only, so that every split numbers them alike. Classes are in the order of their names or numbers.
    """
    if not annotations:
        raise UserError("--annotations: the dataset 'list' needs a file with a line 'path label' for each video")
    chosen = annotations if len(annotations) == 1 else [path for path in annotations if split in path.stem]
    if not chosen:
        names = ", ".join(path.name for path in annotations)
        raise UserError(f"--annotations {names}: no file has the split {split!r} in its name")
    labels: set[str] = set()
    keys = UniqueKeys()
    records: list[VideoRecord] = []
    for path in annotations:
        lines = [(f"{path}, line {number}", line) for number, line in enumerate(read_lines(path), 1) if line.strip()]
        counted = bool(lines) and _has_frame_counts(lines[0][1], videos)
        for where, line in lines:
            source, label = _split_counted(line, where) if counted else _split(line, where)
            labels.add(label)
            if path in chosen:
                records.append(VideoRecord(keys.add(_key(source, where), where), source, label))
    classes = sorted_classes(labels)
    return Annotations(records, classes, mirrored_pairs(classes))


def _split(line: str, where: str) -> tuple[str, str]:
    parts = [part.strip() for part in (line.rsplit("\t", 1) if "\t" in line else line.rsplit(None, 1))]
    if len(parts) != 2 or not all(parts):
        raise UserError(f"{where}: {line.strip()!r}: expected is 'path label'")
    return parts[0], parts[1]


def _split_counted(line: str, where: str) -> tuple[str, str]:
    fields = line.split()
    if len(fields) != 3 or not (fields[1].isdecimal() and fields[2].isdecimal()):
        raise UserError(f"{where}: {line.strip()!r}: expected is 'path num_frames label', with one label")
    return fields[0], fields[2]


def _has_frame_counts(line: str, videos: Path) -> bool:
    path, *numbers = line.split()
    if len(numbers) < 2 or "\t" in line or not all(number.isdecimal() for number in numbers):
        return False
    return not (videos / " ".join([path, *numbers[:-1]])).exists()


def _key(source: str, where: str) -> str:
    if source.startswith("/") or ".." in Path(source).parts:
        raise UserError(f"{where}: {source!r}: a path inside the folder of videos is expected")
    return key_from_path(source)
