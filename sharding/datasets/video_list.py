"""The dataset `list`: text files with a line `path label` for each video, the path relative to the folder of videos."""

from collections.abc import Sequence
from pathlib import Path

from sharding.commandline import UserError
from sharding.records import Annotations, UniqueKeys, VideoRecord, key_from_path, read_lines, sorted_classes


def read_list(videos: Path, annotations: Sequence[Path], split: str) -> Annotations:
    """A label is a class name or a number; with a tab between path and label, both may hold blanks.

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
        for number, line in enumerate(read_lines(path), 1):
            if not line.strip():
                continue
            parts = [part.strip() for part in (line.rsplit("\t", 1) if "\t" in line else line.rsplit(None, 1))]
            if len(parts) != 2 or not all(parts):
                raise UserError(f"{path}, line {number}: {line.strip()!r}: expected is 'path label'")
            source, label = parts
            labels.add(label)
            if path in chosen:
                where = f"{path}, line {number}"
                records.append(VideoRecord(keys.add(_key(source, where), where), source, label))
    return Annotations(records, sorted_classes(labels))


def _key(source: str, where: str) -> str:
    if source.startswith("/") or ".." in Path(source).parts:
        raise UserError(f"{where}: {source!r}: a path inside the folder of videos is expected")
    return key_from_path(source)
