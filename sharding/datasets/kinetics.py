"""Kinetics-400, -600, -700 and -700-2020: the official CSV files, and videos in class folders or all in one."""

from collections.abc import Sequence
from pathlib import Path

from sharding.datasets.common import find_videos, read_csv, splits_in_name
from sharding.errors import UserError
from sharding.records import Annotations, UniqueKeys, VideoRecord

COLUMNS = ("label", "youtube_id", "time_start", "time_end")
_SPLITS = {"validate": "val", "validation": "val", "training": "train", "testing": "test"}


def read_kinetics(videos: Path, annotations: Sequence[Path], split: str) -> Annotations:
    """Read rows of the split; a video is `<id>_<start:06d>_<end:06d>.*`, else `<id>.*`, both taken as already cut.

    The classes are the labels of all files given, in the order of their names: give the files of all splits every time
    (rows of other splits are not packed), or --classes, where one split may lack a class. Of several copies of a video
    the one in the folder of its class is taken, however that is spelt ("arm_wrestling", "Arm wrestling"). The test
    split may lack the column `label`; its videos are then packed without labels. Of several files, rows that do not say
    their split are of the one in the file's name; those of a single file are of any.
    """
    if not annotations:
        raise UserError("--annotations: the dataset 'kinetics' needs its CSV files")
    wanted = _SPLITS.get(split, split)
    found = find_videos(videos)
    keys = UniqueKeys()
    labels: set[str] = set()
    records: list[VideoRecord] = []
    splits_seen: set[str] = set()
    for path in annotations:
        rows = read_csv(path)
        where, names = next(rows, (f"{path}, line 1", []))
        _check_columns(names, where)
        for where, fields in rows:
            if len(fields) < len(names):
                raise UserError(f"{where}: {len(fields)} fields, but {len(names)} columns: {', '.join(names)}")
            row = dict(zip(names, fields))
            if not row.get("label", "none is published"):
                raise UserError(f"{where}: no label for {row['youtube_id']!r}")
            labels.update([row["label"]] if "label" in row else [])
            row_split = row.get("split") or _split_of_file(path, where, split, annotations)
            splits_seen.add(row_split)
            if _SPLITS.get(row_split, row_split) == wanted:
                if "label" not in row and wanted != "test":
                    raise UserError(f"{where}: no column 'label', which the test split alone may lack, not {split!r}")
                records.append(_record(row, where, found, keys))
    if not records:
        known = ", ".join(sorted(splits_seen)) or "none"
        raise UserError(f"--split {split}: no rows of it in {annotations[0]}; there are {known}")
    return Annotations(records, tuple(sorted(labels)))


def _split_of_file(path: Path, where: str, split: str, annotations: Sequence[Path]) -> str:
    """Return the split of rows that do not say theirs. Raises UserError, beginning with `where`, if it is unknown."""
    if len(annotations) == 1:
        return split
    if split not in {*_SPLITS, *_SPLITS.values()} and split.lower() in path.stem.lower():
        return split
    named = splits_in_name(path)
    if len(named) != 1:
        raise UserError(
            f"{where}: of which split? There is no column 'split', and not one of train, val and test in the file's "
            "name; add the column, or rename the file"
        )
    return named.pop()


def _check_columns(names: list[str], where: str) -> None:
    lacking = [column for column in COLUMNS if column not in names and column != "label"]
    if lacking:
        raise UserError(f"{where}: no column {lacking[0]!r}; expected are {', '.join(COLUMNS)} and split")


def _record(row: dict[str, str], where: str, found: dict[str, list[str]], keys: UniqueKeys) -> VideoRecord:
    name, label = row["youtube_id"], row.get("label")
    try:
        start, end = int(float(row["time_start"])), int(float(row["time_end"]))
    except (ValueError, OverflowError):
        raise UserError(
            f"{where}: time_start {row['time_start']!r}, time_end {row['time_end']!r}: seconds are expected"
        ) from None
    if not name:
        raise UserError(f"{where}: no youtube_id")
    key = keys.add(f"{name}_{start:06d}_{end:06d}", where)
    candidates = found.get(key) or found.get(name) or [f"{label}/{key}.mp4" if label else f"{key}.mp4"]
    folder = _spelling(label or "")
    source = next((path for path in candidates if _spelling(path.rpartition("/")[0]) == folder), candidates[0])
    return VideoRecord(key, source, label)


def _spelling(name: str) -> str:
    """Return what class folders of different copies have in common: 'arm_wrestling' is 'arm wrestling'."""
    return "".join(letter for letter in name.lower() if letter.isalnum())
