"""Class folders: every file (or folder of JPEG frames) in `VIDEOS/CLASS/`, or in `VIDEOS/SPLIT/CLASS/`."""

import os
from collections.abc import Sequence
from pathlib import Path

from sharding.datasets.flip_pairs import mirrored_pairs
from sharding.errors import UserError
from sharding.records import Annotations, VideoRecord, key_from_path


def read_folder(videos: Path, annotations: Sequence[Path], split: str) -> Annotations:
    """The class of a video is the name of its folder; classes are numbered in the order of their names.

    If VIDEOS holds a folder named like the split, the class folders are looked for there, and the classes are those of
    all splits together. Otherwise VIDEOS itself holds the class folders; if another split lacks a class, give --classes
    to both. Hidden files are passed over; anything else in a class folder is taken for a video. Classes whose names
    differ by left and right changing places are flip pairs.
    """
    if annotations:
        raise UserError(f"--annotations {annotations[0]}: the dataset 'folder' has none, its labels are folder names")
    if (videos / split).is_dir():
        root = videos / split
        classes = {name for part in _folders(videos) for name in _folders(videos / part)}
    else:
        root = videos
        classes = set(_folders(videos))
    if not classes:
        raise UserError(f"{videos}: no class folders in it; expected are {videos}/CLASS/VIDEO")
    records = []
    for label in _folders(root):
        for entry in _entries(root / label):
            source = (root / label / entry.name).relative_to(videos).as_posix()
            records.append(VideoRecord(key_from_path(f"{label}/{entry.name}"), source, label))
    names = tuple(sorted(classes))
    return Annotations(records, names, mirrored_pairs(names))


def _entries(folder: Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)


def _folders(folder: Path) -> list[str]:
    return [entry.name for entry in _entries(folder) if entry.is_dir()]
