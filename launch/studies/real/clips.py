"""index.csv: which clips there are, what they show, and which are left out together."""

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from launch.studies.real.rows import SOURCES, VideoSet
from sharding.errors import UserError
from sharding.files import write_atomically
from sharding.records import keys_from_paths, read_lines

INDEX = "index.csv"
COLUMNS = {"weizmann": ("path", "person", "label"), "ut_interaction": ("path", "set", "sequence", "label")}
"""Of the index in each folder."""
UT_CLASSES = ("handshake", "hug", "kick", "point", "punch", "push")  # by the last number of a file's name
WEIZMANN_CLASSES = ("bend", "jack", "jump", "pjump", "run", "side", "skip", "walk", "wave1", "wave2")
_MOST_SEQUENCES = 10  # of set 1; those of set 2 follow


@dataclass(frozen=True)
class Clip:
    """A line of index.csv."""

    key: str
    """Name of its sample in the packed set."""
    path: str
    """Relative to the folder of the index."""
    group: str
    """The person or sequence."""
    label: str


@dataclass(frozen=True)
class Fold:
    """The groups that are left out of training together, and tested."""

    name: str
    groups: frozenset[str]


def read_clips(data: Path, videos: VideoSet) -> list[Clip]:
    """Return the clips of a set, in the order of its index.

    Raises:
        UserError: there is no index, or a line of it is not as it must be.
    """
    folder = data / videos.folder
    rows = read_index(folder / INDEX, COLUMNS[videos.folder])
    chosen = [row for row in rows if not videos.part or row["set"] == videos.part]
    if not chosen:
        raise UserError(f"{folder / INDEX}: no line of set {videos.part}; leave it out with --sets")
    if len({row[videos.group] for row in chosen}) < 2:
        raise UserError(f"{folder / INDEX}: {videos.title} has one {videos.group}; two or more are needed for folds")
    keys = keys_from_paths([row["path"] for row in chosen])
    return [Clip(key, row["path"], row[videos.group], row["label"]) for key, row in zip(keys, chosen)]


def read_index(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Return the lines of an index by its columns. Raises UserError, with the line's number, for what is wrong."""
    heading = ",".join(columns)
    if not path.is_file():
        source = SOURCES.get(path.parent.name, "")
        raise UserError(
            f"{path}: no such file; unpack the clips from {source} into {path.parent}, then add --write-index, which "
            f"writes it: a line {heading}, then a line for each clip"
        )
    lines = csv.reader(read_lines(path))
    first = next(lines, [])
    if tuple(first) != columns:
        raise UserError(f"{path}, line 1: {','.join(first)[:80]!r}: expected is the line {heading}")
    rows, places = [], {}
    for values in lines:
        where = f"{path}, line {lines.line_num}"
        if not values:
            continue
        if len(values) != len(columns) or not all(value.strip() for value in values):
            raise UserError(f"{where}: {','.join(values)[:80]!r}: expected are values of {heading}")
        row = dict(zip(columns, (value.strip() for value in values)))
        _check_path(row["path"], path.parent, where)
        if first_place := places.get(row["path"]):
            raise UserError(f"{where}: {row['path']} is in line {first_place} already; list it once")
        places[row["path"]] = lines.line_num
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: no clips in it; a line for each is expected")
    return rows


def _check_path(name: str, folder: Path, where: str) -> None:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise UserError(f"{where}: {name}: leads out of {folder}; expected is a path in it")
    if not (folder / name).is_file():
        raise UserError(f"{where}: {folder / name}: no such file; correct the path, or remove the line")


def make_folds(groups: Iterable[str], num_folds: int | None = None) -> list[Fold]:
    """Return a fold for each group, or `num_folds` of groups that follow each other.

    >>> [fold.name for fold in make_folds(["10", "9", "9", "8"])]
    ['8', '9', '10']
    >>> [sorted(fold.groups) for fold in make_folds(["a", "b", "c"], 2)]
    [['a', 'b'], ['c']]
    """
    names = sorted(set(groups), key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
    if num_folds is None:
        return [Fold(name, frozenset([name])) for name in names]
    size = -(-len(names) // num_folds)
    parts = [names[begin : begin + size] for begin in range(0, len(names), size)]
    return [Fold(f"{part[0]}-{part[-1]}", frozenset(part)) for part in parts]


def write_list(clips: Iterable[Clip], path: Path) -> None:
    """Write the annotation list that `python -m sharding pack --dataset list` reads: path, tab, label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(f"{clip.path}\t{clip.label}\n" for clip in clips))


def write_index(folder: Path) -> int:
    """Write index.csv for the clips in a folder, from their names as they were published; return how many there are.

    Raises:
        UserError: there are none, or a name is none of those.
    """
    describe = _DESCRIBE[folder.name]
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.avi")) if folder.is_dir() else []
    if not paths:
        raise UserError(f"{folder}: no .avi files in it; unpack the clips from {SOURCES[folder.name]} there")
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, COLUMNS[folder.name], lineterminator="\n")
    table.writeheader()
    for path in paths:
        table.writerow({"path": path} | describe(path))
    write_atomically(folder / INDEX, text.getvalue())
    return len(paths)


def describe_weizmann(path: str) -> dict[str, str]:
    """Return what the name of a Weizmann clip says.

    >>> describe_weizmann("walk/lena_walk2.avi"), describe_weizmann("daria_wave2.avi")
    ({'person': 'lena', 'label': 'walk'}, {'person': 'daria', 'label': 'wave2'})
    """
    person, _, action = PurePosixPath(path).stem.partition("_")
    label = action if action in WEIZMANN_CLASSES else action.rstrip("12")
    if not person or label not in WEIZMANN_CLASSES:
        raise UserError(f"{path}: expected is a name such as daria_walk.avi, of {', '.join(WEIZMANN_CLASSES)}")
    return {"person": person, "label": label}


def describe_ut(path: str) -> dict[str, str]:
    """Return what the name of a segmented UT-Interaction clip says: number_sequence_class.

    >>> describe_ut("segmented_set2/8_12_5.avi")
    {'set': '2', 'sequence': '12', 'label': 'push'}
    """
    match = re.fullmatch(r"[0-9]+_([0-9]{1,2})_([0-5])", PurePosixPath(path).stem)
    if match is None:
        raise UserError(f"{path}: expected is a name such as 8_12_5.avi: number, sequence, class from 0 to 5")
    sequence = int(match[1])
    number = "1" if sequence <= _MOST_SEQUENCES else "2"
    return {"set": number, "sequence": str(sequence), "label": UT_CLASSES[int(match[2])]}


_DESCRIBE = {"weizmann": describe_weizmann, "ut_interaction": describe_ut}
