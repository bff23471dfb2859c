"""Something-Something v1 and Jester (CSV, folders of numbered JPEGs), Something-Something v2 (JSON, WebM)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sharding.datasets.common import SourceFinder, choose_file, read_csv, read_json
from sharding.datasets.flip_pairs import mirrored_pairs
from sharding.errors import UserError
from sharding.records import Annotations, UniqueKeys, VideoRecord, read_classes


def read_something_v1(videos: Path, annotations: Sequence[Path], split: str) -> Annotations:
    """Read `something-something-v1-{labels,train,validation}.csv`; video 7 is the folder `VIDEOS/7` of JPEGs.

    labels.csv has a class a line, in the order of their ids; the others have lines `id;label`. The test videos have
    no labels: `something-something-v1-test.csv` has lines `id`.
    """
    classes = read_classes(choose_file(annotations, ["labels"], "the class names"))
    listed = choose_file(annotations, [split], f"the videos of the split {split!r}")
    return _annotations(_rows(listed, labelled=split != "test"), classes, SourceFinder(videos), suffix="")


def read_jester(videos: Path, annotations: Sequence[Path], split: str) -> Annotations:
    """Read `jester-v1-{labels,train,validation,test}.csv`, as those of Something-Something v1; likewise its folders.

    Mirrored, "Swiping Left" is "Swiping Right", and clockwise is counterclockwise: these classes are flip pairs.
    """
    return read_something_v1(videos, annotations, split)


def read_something_v2(videos: Path, annotations: Sequence[Path], split: str) -> Annotations:
    """Read `[something-something-v2-]{labels,train,validation}.json`; the video of an id is `VIDEOS/ID.webm`.

    A class is a template without its brackets, its id that of labels.json. Test videos have no templates: they are
    packed without labels, or with those of `test-answers.csv` (lines `id;label`) where that file is given instead of
    `test.json`, or beside it.
    """
    names = choose_file(annotations, ["labels"], "the class names")
    classes = _class_names(names)
    if split == "test" and any("answers" in path.name for path in annotations):
        rows = _rows(choose_file(annotations, ["answers"], "the labels of the test videos"))
    else:
        listed = choose_file(annotations, [split], f"the videos of the split {split!r}")
        rows = _entries(listed, labelled=split != "test")
    return _annotations(rows, classes, SourceFinder(videos), suffix=".webm")


Row = tuple[str, str, str | None]  # where it is, id, label


def _annotations(rows: Iterator[Row], classes: tuple[str, ...], finder: SourceFinder, suffix: str) -> Annotations:
    known = set(classes)
    keys = UniqueKeys()
    records = []
    for where, video, label in rows:
        if label is not None and label not in known:
            raise UserError(f"{where}: label {label!r} is not among the {len(classes)} class names")
        name = f"{keys.add(video, where)}{suffix}"
        records.append(VideoRecord(video, finder.locate(name), label))
    return Annotations(records, classes, mirrored_pairs(classes))


def _rows(path: Path, labelled: bool = True) -> Iterator[Row]:
    """Yield the lines `id;label` of a CSV file without a heading; or `id` alone, if they may be without a label."""
    for where, row in read_csv(path, delimiter=";"):
        if not labelled and row[0] and not any(row[1:]):
            yield where, row[0], None
            continue
        if len(row) != 2 or not all(row):
            raise UserError(f"{where}: {';'.join(row)!r}: expected is 'id;label'")
        yield where, row[0], _plain(row[1])


def _entries(path: Path, labelled: bool) -> Iterator[Row]:
    """Yield the entries of a JSON list of {"id": …, "template": "Putting [something] on [something]", …}."""
    entries = read_json(path)
    if not isinstance(entries, list):
        raise UserError(f'{path}: expected is a list of {{"id": …, "template": …}}')
    for number, entry in enumerate(entries, 1):
        where = f"{path}, entry {number}"
        if not isinstance(entry, dict) or "id" not in entry:
            raise UserError(f"{where}: no 'id' in {str(entry)[:200]!r}")
        if not isinstance(entry.get("template", ""), str):
            raise UserError(f"{where}: its 'template' is no text")
        if labelled and not entry.get("template"):
            raise UserError(f"{where}: video {entry['id']}: no 'template', so no label, as in the test split alone")
        yield where, str(entry["id"]), _plain(entry["template"]) if entry.get("template") else None


def _class_names(path: Path) -> tuple[str, ...]:
    """Return the names in labels.json, {"Approaching something with your camera": "0", …}, in order of their ids."""
    labels = read_json(path)
    try:
        names = {int(label): _plain(name) for name, label in labels.items()}
    except (AttributeError, ValueError, TypeError, OverflowError):
        raise UserError(f'{path}: expected are entries "class name": "label id"') from None
    if sorted(names) != list(range(len(labels))):
        raise UserError(f"{path}: label ids must be 0 to {len(labels) - 1}, each once")
    return tuple(names[label] for label in range(len(names)))


def _plain(template: str) -> str:
    return template.replace("[", "").replace("]", "").strip()
