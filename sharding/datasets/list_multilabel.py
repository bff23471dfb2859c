"""The dataset `list-multilabel`: lines `path label label …`, and mmaction2's `path num_frames label label …`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sharding.datasets.common import has_video_suffix, kind_of_path
from sharding.datasets.flip_pairs import mirrored_pairs
from sharding.datasets.list_lines import choose_list, is_comment, plain_labels
from sharding.datasets.list_parts import inside
from sharding.errors import UserError
from sharding.records import Annotations, UniqueKeys, VideoRecord, keys_from_paths, read_lines, sorted_classes

_EXPECTED = "expected is 'path label label …', one label or more"


def read_list_multilabel(videos: Path, annotations: Sequence[Path], split: str) -> Annotations:
    """Read lines of a path and all labels of the video, which are class names or numbers.

    A path with blanks ends at its suffix (`.mp4`); with tabs between the fields, path and names may hold blanks.
    A file whose first line is a path that is no file's and two numbers or more has frame counts after the paths, which
    are not used: frames are counted when packing. Lines that begin with # are comments, unless a video there is called
    so.

    Of several files, the one with the split in its name lists the videos; the others are read for their classes only,
    so that every split numbers them alike. Classes are in the order of their names or numbers.
    """
    if not annotations:
        raise UserError(
            "--annotations: the dataset 'list-multilabel' needs a file with a line 'path label label …' each"
        )
    chosen = choose_list(annotations, split)
    lines = _with_numbers([line for path in annotations for line in _read(path, videos)])
    places = {label: line.where for line in lines for label in line.labels}
    try:
        classes = sorted_classes(places)
    except UserError as error:
        raise UserError(f"{places[max(places, key=int)]}: {error}") from None
    listed = [line for line in lines if line.path == chosen]
    unique = UniqueKeys()
    records = [
        VideoRecord(unique.add(key, line.where), line.source, labels=line.labels)
        for key, line in zip(keys_from_paths([line.source for line in listed]), listed)
    ]
    return Annotations(records, classes, mirrored_pairs(classes))


@dataclass(frozen=True)
class _Line:
    path: Path
    where: str
    source: str
    labels: tuple[str, ...]


def _read(path: Path, videos: Path) -> list[_Line]:
    """Return the lines of a list that are neither empty nor comments."""
    numbered = [(f"{path}, line {number}", line) for number, line in enumerate(read_lines(path), 1)]
    lines = [(where, line) for where, line in numbered if line.strip() and not is_comment(line, videos)]
    counted = bool(lines) and _has_frame_counts(lines[0][1], videos)
    found = []
    for where, line in lines:
        source, labels = _split(line, videos)
        if counted and (len(labels) < 2 or not labels[0].isdecimal()):
            raise UserError(f"{where}: {line.strip()!r}: expected is 'path num_frames label label …'")
        labels = labels[1:] if counted else labels
        if not source or not labels or not all(labels):
            raise UserError(f"{where}: {line.strip()!r}: {_EXPECTED}")
        found.append(_Line(path, where, inside(source, videos, where), labels))
    return found


def _split(line: str, videos: Path) -> tuple[str, tuple[str, ...]]:
    """Return the path and what follows it.

    >>> _split("old film.mp4 0 3", Path("videos")), _split("clip\\tplaying the lute\\tsinging", Path("videos"))
    (('old film.mp4', ('0', '3')), ('clip', ('playing the lute', 'singing')))
    """
    if "\t" in line:
        source, *labels = (field.strip() for field in line.strip().split("\t"))
        return source, tuple(labels)
    words = line.split()
    ends = (end for end in range(1, len(words)) if has_video_suffix(words[end - 1]))
    there = (end for end in range(len(words) - 1, 0, -1) if kind_of_path(videos / " ".join(words[:end])))
    end = next(ends, None) or next(there, 1)
    return " ".join(words[:end]), tuple(words[end:])


def _has_frame_counts(line: str, videos: Path) -> bool:
    """Whether the first line of a list is one of a folder of frames, whose number comes before the labels."""
    source, labels = _split(line, videos)
    if "\t" in line or len(labels) < 2 or not all(label.isdecimal() for label in labels):
        return False
    return not has_video_suffix(source) and kind_of_path(videos / source) != "file"


def _with_numbers(lines: list[_Line]) -> list[_Line]:
    """Return the lines with labels such as 3.0 and 03 as 3, if all labels are numbers.

    Raises UserError for a line with a label that is none where those of most lines are, or with a label twice.
    """
    plain = plain_labels([(line.where, line.labels) for line in lines])
    lines = [replace(line, labels=tuple(plain[label] for label in line.labels)) for line in lines]
    for line in lines:
        twice = [label for number, label in enumerate(line.labels) if label in line.labels[:number]]
        if twice:
            raise UserError(f"{line.where}: label {twice[0]!r} is listed twice; list it once")
    return lines
