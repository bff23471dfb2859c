"""What every dataset reader makes of its annotation files: one VideoRecord a video, and the list of classes."""

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sharding.errors import UserError
from sharding.manifest_checks import is_text

MAX_KEY_LENGTH = 90  # with the longest suffix it fits the 100 bytes of a name in a USTAR header
FOLDER_FPS = 12.0  # a folder of frames has no rate; it is that of Something-Something v1
_SURELY_A_LABEL = 1000  # numbers below it are label ids even where few of them occur
_NUMBER = re.compile(r"[0-9]{1,18}")  # what `int` takes without an error
_KEY = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_KEY_LENGTH}}}")


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """One labelled video, or one labelled part of a video, as an annotation file lists it."""

    key: str
    """Name of the sample: letters, digits, `_` and `-`, at most 90; unique in a dataset."""
    source: str
    """Where the video is, relative to the folder of videos; it may be missing."""
    label: str | None = None
    """Name of its class; None where there are `labels`, or if it is not published, as of the test videos of a
    benchmark."""
    start_seconds: float | None = None
    """The part [start, end) of the file that belongs to the sample; None: from the beginning, to the end. Picture i of
    a folder of pictures, counted from 0, is at i / FOLDER_FPS seconds: `picture_times`."""
    end_seconds: float | None = None
    level_labels: tuple[str, ...] = ()
    """Class names on further levels, one for each entry of `Annotations.levels`; none where there is no label."""
    labels: tuple[str, ...] | None = None
    """Instead of `label`: names of all of its classes, each once; () for a video that shows none of them. All records
    of a dataset have one or the other."""
    timed_labels: tuple[tuple[str, float, float], ...] = ()
    """(name of a class, start, end in seconds) where the annotations say when `labels` hold; a name may come again."""


@dataclass(frozen=True)
class Annotations:
    """A dataset as listed: what a reader returns."""

    records: Sequence[VideoRecord]
    classes: tuple[str, ...]
    """Names of the classes; the place of a name is its label id. The same for every split of a dataset."""
    flip_pairs: tuple[tuple[int, int], ...] = ()
    """Pairs of label ids that change places when a video is mirrored."""
    levels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Further levels of labels: (name of the level, names of its classes)."""
    passed_over: tuple[str, ...] = ()
    """Files next to the videos that are none by their names, relative to the folder of videos."""

    @property
    def multi_label(self) -> bool:
        """Whether its records have `labels`."""
        return any(record.labels is not None for record in self.records)

    @property
    def has_labels(self) -> bool:
        """Whether its videos have labels, one or several: all of them or none."""
        return not self.records or self.multi_label or self.records[0].label is not None


def check_key(key: str, where: str) -> str:
    """Return `key`; raise UserError, beginning with `where`, if it is none."""
    if not _KEY.fullmatch(key):
        raise UserError(f"{where}: key {key!r}: a key has 1 to {MAX_KEY_LENGTH} letters, digits, '_' and '-'")
    return key


class UniqueKeys:
    """The keys met so far while an annotation file is read, and where each of them was."""

    def __init__(self):
        self._places: dict[str, str] = {}

    def add(self, key: str, where: str) -> str:
        """Return `key`; raise UserError if it is no key, or was met before."""
        check_key(key, where)
        first = self._places.setdefault(key, where)
        if first is not where:
            raise UserError(f"{where}: the key {key!r} was already used by {first}; rename one, or list it once")
        return key


def key_from_path(path: str) -> str:
    """Make a key from a relative path, for datasets whose file names are free.

    >>> key_from_path("applying makeup/clip_01.mp4")
    'applying_makeup-clip_01'

    Folders are joined with "-", blanks become "_". Where other characters are replaced too, or the end is cut off, the
    first 8 digits of the path's SHA-256 are appended, so that different paths keep different keys.
    """
    folder, _, name = path.rpartition("/")
    stem = name.rsplit(".", 1)[0] if "." in name[1:] else name
    text = f"{folder}/{stem}" if folder else stem
    key = re.sub(r"[^A-Za-z0-9_-]", "_", text.replace("/", "-"))
    if not key or re.search(r"[^A-Za-z0-9_/ -]", text) or len(key) > MAX_KEY_LENGTH:
        return _with_digest(key, path)
    return key


def keys_from_paths(paths: Sequence[str]) -> list[str]:
    """Return the key of each path; where different paths would share one, each gets the digits of its hash.

    >>> keys_from_paths(["a.mp4", "x y.mp4", "x_y.mp4"])
    ['a', 'x_y-827f07fb', 'x_y-bfe8e781']
    """
    keys = {path: key_from_path(path) for path in paths}
    counts = Counter(keys.values())
    return [_with_digest(keys[path], path) if counts[keys[path]] > 1 else keys[path] for path in paths]


def key_of_part(key: str, start: int, end: int, path: str) -> str:
    """Return the key of a part of a video whose own key is `key`, with two numbers that say where it is.

    >>> key_of_part("P01-P01_101", 2860, 3870, "P01/P01_101.MP4")
    'P01-P01_101_2860_3870'

    A key that gets too long loses its end for the digits of the path's SHA-256.
    """
    numbers = f"_{start}_{end}"
    if len(key) + len(numbers) > MAX_KEY_LENGTH:
        key = _with_digest(key, path, MAX_KEY_LENGTH - len(numbers))
    return key + numbers


def picture_times(first: int, end: int) -> tuple[float, float]:
    """Return the seconds [start, end) of the pictures [first, end) of a folder, counted from 0."""
    return first / FOLDER_FPS, end / FOLDER_FPS


def _with_digest(key: str, path: str, length: int = MAX_KEY_LENGTH) -> str:
    digest = hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{key[: length - 9]}-{digest}"


def check_records(annotations: Annotations) -> Annotations:
    """Return `annotations`; raise UserError if they are not such as can be packed.

    Keys that are none or used twice, paths with a zero byte, labels that are not among the classes, names of classes
    that no manifest can hold.
    """
    sources: dict[str, str] = {}
    classes, levels = dict.fromkeys(annotations.classes), [set(names) for _, names in annotations.levels]
    has_labels, multi_label = annotations.has_labels, annotations.multi_label  # which read all records
    has_one_label = has_labels and not multi_label
    check_labels = _check_label_of if has_one_label else _check_labels
    if len(classes) != len(annotations.classes):
        twice = next(name for name in annotations.classes if annotations.classes.count(name) > 1)
        raise UserError(f"class {twice!r} is listed twice")
    for name in (*annotations.classes, *(name for _, names in annotations.levels for name in names)):
        check_text(name, "class")
    if not has_labels and not classes:
        raise UserError(
            "--annotations: the videos have no labels, so the classes must come from elsewhere: give the annotation "
            "files of the other splits too, or --classes FILE"
        )
    for record in annotations.records:
        for name in ("key", "source", "label") if has_one_label else ("key", "source"):
            if type(value := getattr(record, name)) is not str:
                raise UserError(f"{record}: {name} {value!r} is no text; give a str")
        if "\0" in record.source:
            raise UserError(f"{record.source!r}: a path with a zero byte, as no file has; correct it")
        check_key(record.key, record.source)
        if record.key in sources:
            raise UserError(
                f"two videos with the key {record.key!r}: {sources[record.key]} and {record.source}; "
                "rename one, or list it once"
            )
        sources[record.key] = record.source
        if not has_labels:
            if record.label is not None or record.level_labels:
                raise UserError(f"{record.source}: has a label, but {annotations.records[0].source} has none")
            continue
        check_labels(record, classes)
        labels = record.level_labels
        if len(labels) != len(levels) or any(label not in names for label, names in zip(labels, levels)):
            names = ", ".join(name for name, _ in annotations.levels) or "none"
            raise UserError(f"{record.source}: level_labels={labels}: a class of each level is needed; levels: {names}")
    if levels and multi_label:
        raise UserError("levels: a dataset with several labels a video has none; use either")
    for pair in annotations.flip_pairs:
        if not all(0 <= label < len(classes) for label in pair):
            raise UserError(f"flip_pairs: {pair}: label ids from 0 to {len(classes) - 1} are possible")
    return annotations


def check_text(name: str, what: str) -> str:
    """Return the name of `what`; raise UserError if UTF-8 cannot hold it, as is true of some names of folders."""
    if not is_text(name):
        raise UserError(
            f"{what} {name!r}: not valid UTF-8, as the names in and of a packed split must be; rename the folder, or "
            "correct the file, that it comes from"
        )
    return name


def check_inside(annotations: Annotations) -> Annotations:
    """Return what a reader made of annotation files, which may come from anybody.

    Raises UserError if a video is not in the folder of videos: its path is absolute, or has `..` in it.
    """
    for record in annotations.records:
        if record.source.startswith("/") or ".." in record.source.split("/"):
            raise UserError(f"{record.key}: {record.source!r}: a path inside the folder of videos is expected")
    return annotations


def _check_label_of(record: VideoRecord, classes: Collection[str]) -> None:
    _check_label(record.label, record.source, classes)


def _check_label(label: str | None, source: str, classes: Collection[str]) -> None:
    """Raise UserError if a label of the video at `source` is not among the classes."""
    if label not in classes:
        known = f"{len(classes)} classes, such as {next(iter(classes))!r}" if classes else "no classes"
        raise UserError(f"{source}: label {label!r} is not among the {known}; see --classes")


def _check_labels(record: VideoRecord, classes: Collection[str]) -> None:
    """Raise UserError if the several labels of a record are not such."""
    labels = record.labels
    if labels is None:
        raise UserError(
            f"{record.source}: label={record.label!r}, but others of this dataset have several; give labels=(NAME, …), "
            "or labels=() if it shows none of the classes"
        )
    if type(labels) is not tuple or record.label is not None:
        raise UserError(f"{record.source}: label={record.label!r}, labels={labels!r}: give a tuple of names as labels")
    for number, label in enumerate(labels):
        if label in labels[:number]:
            raise UserError(f"{record.source}: label {label!r} is listed twice; list it once")
        _check_label(label, record.source, classes)
    for label, start, end in record.timed_labels:
        if label not in labels:
            raise UserError(f"{record.source}: timed label {label!r} from {start} to {end} s is not among its labels")


def read_classes(path: Path) -> tuple[str, ...]:
    """Return class names from a file, one a line, in the order of their label ids."""
    names = tuple(line.strip() for line in read_lines(path) if line.strip())
    if not names:
        raise UserError(f"{path}: no class names in it; one a line is expected")
    return names


def with_classes(annotations: Annotations, classes: tuple[str, ...]) -> Annotations:
    """Return the same records with the classes in a given order.

    Where the dataset's own labels are numbers (0, 1, 2, ... or 1, 2, 3, ...) and the given names are not, they are
    places in the list, from 1 only if there are just as many names.
    """
    numbers = [int(name) for name in annotations.classes if _NUMBER.fullmatch(name)]
    numbered = numbers in (list(range(len(annotations.classes))), list(range(1, len(annotations.classes) + 1)))
    if numbered and not set(annotations.classes) <= set(classes):
        first = 1 if numbers[0] == 1 and len(classes) == len(numbers) else 0
        if numbers[-1] - first >= len(classes):
            raise UserError(f"labels up to {numbers[-1]}, but only {len(classes)} class names given")
        names = {name: classes[int(name) - first] for name in annotations.classes}
        records = [_renamed(record, names) for record in annotations.records]
        return dataclasses.replace(annotations, records=records, classes=classes)
    if annotations.flip_pairs:
        place = {name: number for number, name in enumerate(classes)}
        pairs = [tuple(annotations.classes[label] for label in pair) for pair in annotations.flip_pairs]
        kept = tuple((place[a], place[b]) for a, b in pairs if a in place and b in place)
        annotations = dataclasses.replace(annotations, flip_pairs=kept)
    return dataclasses.replace(annotations, classes=classes)


def _renamed(record: VideoRecord, names: Mapping[str, str]) -> VideoRecord:
    """Return the record with other names of its classes."""
    if record.labels is None:
        return dataclasses.replace(record, label=record.label and names.get(record.label, record.label))
    labels = tuple(names.get(label, label) for label in record.labels)
    timed_labels = tuple((names.get(label, label), start, end) for label, start, end in record.timed_labels)
    return dataclasses.replace(record, labels=labels, timed_labels=timed_labels)


def sorted_classes(labels: Iterable[str]) -> tuple[str, ...]:
    """Return class names in the order of their ids: by name, or if all are numbers, those from 0 to the greatest.

    Numbers from 1 on of which none is lacking are the classes by themselves.

    Raises:
        UserError: numbers so great that most of the classes would have no video.
    """
    names = set(labels)
    if not names or not all(map(_NUMBER.fullmatch, names)):
        return tuple(sorted(names))
    numbers = set(map(int, names))
    greatest = max(numbers)
    if greatest >= _SURELY_A_LABEL and greatest >= 10 * len(numbers):
        raise UserError(
            f"label {greatest}, but only {len(numbers)} different labels: is it a label? Number the classes from 0, or "
            "write their names"
        )
    first = 1 if 0 not in numbers and len(numbers) == greatest else 0
    return tuple(str(number) for number in range(first, greatest + 1))


def plain_numbers(labels: Iterable[str]) -> dict[str, str]:
    """Map labels to themselves; if all are numbers, to those as `sorted_classes` writes them, without leading zeros.

    >>> plain_numbers(["03", "0"]), plain_numbers(["03", "run"])
    ({'03': '3', '0': '0'}, {'03': '03', 'run': 'run'})
    """
    names = dict.fromkeys(labels)
    are_numbers = all(map(_NUMBER.fullmatch, names))
    return {name: str(int(name)) if are_numbers else name for name in names}


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text file, with or without a byte-order mark."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from error
