"""Class folders: every video, or folder of numbered pictures, in `VIDEOS/CLASS/` or in `VIDEOS/SPLIT/CLASS/`."""

import os
from collections.abc import Sequence
from pathlib import Path

from sharding.datasets.common import may_be_video
from sharding.datasets.flip_pairs import mirrored_pairs
from sharding.errors import UserError
from sharding.records import Annotations, VideoRecord, keys_from_paths


def read_folder(videos: Path, annotations: Sequence[Path], split: str) -> Annotations:
    """Take the name of its folder as the class of a video; classes are numbered in the order of their names.

    If VIDEOS holds a folder named like the split, the class folders are looked for there, and the classes are those of
    all splits together. Otherwise VIDEOS itself holds the class folders; if another split lacks a class, give --classes
    to both. Files in a class folder that are no videos by their suffix are passed over, hidden ones silently. Classes
    whose names differ by left and right changing places are flip pairs.
    """
    if annotations:
        raise UserError(f"--annotations {annotations[0]}: the dataset 'folder' has none, its labels are folder names")
    if not videos.is_dir():
        raise UserError(f"--videos {videos}: no such folder; expected is {_LAYOUT}")
    root = videos / split if (videos / split).is_dir() else videos
    _check_layout(root, videos)
    parts = [videos / name for name in _folders(videos)] if root != videos else [videos]
    classes = {name for part in parts for name in _folders(part)}
    found = [(label, entry) for label in _folders(root) for entry in _entries(root / label)]
    videos_found = [(label, entry) for label, entry in found if _is_taken(entry)]
    if found and not videos_found:
        raise UserError(
            f"{root}: no videos in its class folders, only files such as {found[0][0]}/{found[0][1].name}; expected "
            "are files with a suffix of videos (.mp4, .webm, .avi, ...), or folders of numbered JPEG or PNG files"
        )
    inside = root.relative_to(videos)
    keys = keys_from_paths([f"{label}/{entry.name}" for label, entry in videos_found])
    records = [
        VideoRecord(key, (inside / label / entry.name).as_posix(), label)
        for key, (label, entry) in zip(keys, videos_found)
    ]
    passed_over = tuple((inside / label / entry.name).as_posix() for label, entry in found if not _is_taken(entry))
    names = tuple(sorted(classes))
    return Annotations(records, names, mirrored_pairs(names), passed_over=passed_over)


_LAYOUT = "VIDEOS/CLASS/FILE, or VIDEOS/SPLIT/CLASS/FILE"


def _check_layout(folder: Path, videos: Path) -> None:
    """Raise UserError if `folder`, which is to hold class folders, is one level too high or too low."""
    names = _folders(folder)
    files = [entry.name for entry in _entries(folder) if not entry.is_dir()]
    if not names and any(map(may_be_video, files)):
        hint = f"did you mean --videos {videos.parent}?" if folder == videos else "put them into class folders"
        raise UserError(f"{folder}: holds files and no class folders; expected is {_LAYOUT}; {hint}")
    if not names:
        raise UserError(f"{folder}: no class folders in it; expected is {_LAYOUT}")
    deeper = [name for name in names if _holds_class_folders(folder / name)]
    if len(deeper) == len(names):
        meant = folder / deeper[0] if len(deeper) == 1 or folder != videos else None
        choice = f"--videos {meant}" if meant else f"--split {deeper[0]}, or --videos {folder / deeper[0]}"
        raise UserError(f"{folder}: its folders hold folders of videos; expected is {_LAYOUT}; did you mean {choice}?")


def _holds_class_folders(folder: Path) -> bool:
    """Return whether there are videos one level below `folder`, and none in it; JPEG frames are not looked at."""
    if any(not entry.is_dir() for entry in _entries(folder)):
        return False
    return any(may_be_video(entry.name) for name in _folders(folder) for entry in _entries(folder / name))


def _is_taken(entry: os.DirEntry) -> bool:
    return may_be_video(entry.name) or entry.is_dir()


def _entries(folder: Path) -> list[os.DirEntry]:
    """Return what is in a folder, by name, without what is hidden. Raises UserError if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}; make it readable, or take it away") from error


def _folders(folder: Path) -> list[str]:
    return [entry.name for entry in _entries(folder) if entry.is_dir()]
