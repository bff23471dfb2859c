"""The dataset `list`: text files with a line `path label` for each video, the path relative to the folder of videos.

Lists of folders of frames, as mmaction2 writes them, have the number of frames between: `path num_frames label`. Those
of parts, with a heading, or with commas: list_parts.py.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sharding.datasets.common import has_video_suffix, kind_of_path
from sharding.datasets.flip_pairs import mirrored_pairs
from sharding.datasets.list_lines import choose_list, is_comment, plain_labels
from sharding.datasets.list_parts import Line, inside, read_special
from sharding.errors import UserError
from sharding.records import (
    Annotations,
    UniqueKeys,
    VideoRecord,
    key_of_part,
    keys_from_paths,
    plain_numbers,
    read_lines,
    sorted_classes,
)


def read_list(videos: Path, annotations: Sequence[Path], split: str) -> Annotations:
    """Read lines of a path and a label, which is a class name or a number; with a tab between, both may hold blanks.

    A file whose first line is a path and two numbers has frame counts, unless the path is that of a file, or a video
    bears the name of the first two fields. They are not used: frames are counted when packing. Lines that begin with #
    are comments, unless a video there is called so.

    Lines of parts are `path start end label` in seconds (one of them with a decimal point), or mmaction2's `path offset
    num_frames label` of folders of pictures. A heading, `path start end label`, says it for certain; further columns
    in it are further levels of labels, and without the column `label` the videos have none. `path,label` is read too.
    Absolute paths must be inside the folder of videos, which may be /.

    Of several files, the one with the split in its name (`train.txt`) lists the videos; the others are read for their
    classes only, so that every split numbers them alike. Classes are in the order of their names or numbers.
    """
    if not annotations:
        raise UserError("--annotations: the dataset 'list' needs a file with a line 'path label' for each video")
    chosen = choose_list(annotations, split)
    files = [_read(path, videos) for path in annotations]
    lines = _with_numbers([line for found, _ in files for line in found])
    classes = _classes({line.label: line.where for line in lines if line.label is not None})
    levels = _levels(annotations, files)
    lines = _with_plain_levels(lines, len(levels))
    listed = [line for line in lines if line.path == chosen]
    unique = UniqueKeys()
    records = [
        _record(unique, key, line) for key, line in zip(keys_from_paths([line.source for line in listed]), listed)
    ]
    level_classes = [sorted_classes(line.levels[i] for line in lines if line.levels) for i in range(len(levels))]
    return Annotations(records, classes, mirrored_pairs(classes), tuple(zip(levels, level_classes)))


def _levels(paths: Sequence[Path], files: Sequence[tuple[list[Line], tuple[str, ...]]]) -> tuple[str, ...]:
    """Return the names of the further levels. Raises UserError if files with labels differ in them."""
    named = {names: path for path, (lines, names) in zip(paths, files) if lines and lines[0].label is not None}
    if len(named) > 1:
        (one, path), (other, second) = list(named.items())[:2]
        raise UserError(
            f"{second}: further columns {' '.join(other) or 'none'}, but in {path} {' '.join(one) or 'none'}"
        )
    return next(iter(named), ())


def _classes(places: dict[str, str]) -> tuple[str, ...]:
    try:
        return sorted_classes(places)
    except UserError as error:
        raise UserError(f"{places[max(places, key=int)]}: {error}") from None


def _record(unique: UniqueKeys, key: str, line: Line) -> VideoRecord:
    start, end = line.part or (None, None)
    if line.part:
        key = key_of_part(key, *line.numbers, line.source)
    return VideoRecord(unique.add(key, line.where), line.source, line.label, start, end, line.levels)


def _read(path: Path, videos: Path) -> tuple[list[Line], tuple[str, ...]]:
    """Return the lines of a list that are neither empty nor comments, and the names of its further levels."""
    numbered = [(f"{path}, line {number}", line) for number, line in enumerate(read_lines(path), 1)]
    lines = [(where, line) for where, line in numbered if line.strip() and not is_comment(line, videos)]
    special = read_special(path, lines, videos)
    if special:
        return special
    counted = bool(lines) and _has_frame_counts(lines[0][1], videos)
    found = []
    for where, line in lines:
        source, label = _split_counted(line, where) if counted else _split(line, where)
        source = inside(source, videos, where)
        if not counted and "\t" not in line:
            _check_one_label(source, where, line, videos)
        found.append(Line(path, where, source, label))
    return found, ()


def _with_numbers(lines: list[Line]) -> list[Line]:
    """Return the lines with labels such as 3.0 and 03 as 3, if all labels are numbers.

    Raises UserError for a line whose label is none where most are, such as a heading.
    """
    plain = plain_labels([(line.where, (line.label,)) for line in lines if line.label is not None])
    return [line if line.label is None else replace(line, label=plain[line.label]) for line in lines]


def _with_plain_levels(lines: list[Line], num_levels: int) -> list[Line]:
    """Return the lines with labels such as 03 on the further levels as 3, if all of a level are numbers."""
    labelled = [line.levels for line in lines if line.levels]
    plain = [plain_numbers(labels[level] for labels in labelled) for level in range(num_levels)]
    return [replace(line, levels=tuple(of[name] for of, name in zip(plain, line.levels))) for line in lines]


def _check_one_label(source: str, where: str, line: str, videos: Path) -> None:
    """Raise UserError if what was taken for the end of a path is another label, since without it there is a video."""
    path, *numbers = source.split()
    if not numbers or not all(number.isdecimal() for number in numbers) or kind_of_path(videos / source):
        return
    if has_video_suffix(path) or kind_of_path(videos / path) == "file":
        labels = len(numbers) + 1
        raise UserError(
            f"{where}: {line.strip()!r}: {labels} labels of {path!r}; expected is one: 'path label'; videos with "
            "several labels are packed with --dataset list-multilabel"
        )


def _split(line: str, where: str) -> tuple[str, str]:
    parts = [part.strip() for part in (line.rsplit("\t", 1) if "\t" in line else line.rsplit(None, 1))]
    if len(parts) != 2 or not all(parts):
        raise UserError(f"{where}: {line.strip()!r}: expected is 'path label'")
    return parts[0], parts[1]


def _split_counted(line: str, where: str) -> tuple[str, str]:
    fields = line.split()
    if len(fields) != 3 or not (fields[1].isdecimal() and fields[2].isdecimal()):
        raise UserError(
            f"{where}: {line.strip()!r}: expected is 'path num_frames label', with one label; "
            "for several give --dataset list-multilabel"
        )
    return fields[0], fields[2]


def _has_frame_counts(line: str, videos: Path) -> bool:
    path, *numbers = line.split()
    if len(numbers) < 2 or "\t" in line or not all(number.isdecimal() for number in numbers):
        return False
    if has_video_suffix(path) or kind_of_path(videos / path) == "file":
        return False  # a file has no frame count in a list
    return not kind_of_path(videos / " ".join([path, *numbers[:-1]]))
