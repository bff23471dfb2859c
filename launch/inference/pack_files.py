"""Packs loose video files: how prediction and the measurements get from files to what the loader reads."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.cores import cores_per_rank
from sharding.datasets.common import has_video_suffix
from sharding.errors import UserError
from sharding.manifest import FAILURES, read_json_lines
from sharding.pack import PackConfig, pack


def find_videos(folder: Path) -> list[Path]:
    """Return files below `folder` whose suffix is that of a video, sorted."""
    return sorted(path for path in folder.rglob("*") if has_video_suffix(path.name) and path.is_file())


def list_videos(folder: Path) -> list[Path]:
    """Return what `find_videos` does. Raises UserError if it is nothing."""
    found = find_videos(folder)
    if not found:
        raise UserError(f"--videos {folder}: no videos below it; give a folder of videos")
    return found


def collect_videos(names: Sequence[str]) -> list[Path]:
    """Return the files that names mean, each once: a file itself, the videos below a folder, what a pattern matches,
    sorted.

    Raises:
        UserError: a name means no file.
    """
    found: dict[Path, None] = {}
    for name in names:
        path = Path(name)
        # Path.glob would take no absolute patterns.
        matches = [path] if path.exists() else sorted(map(Path, glob.glob(name, recursive=True)))  # noqa: PTH207
        if not matches:
            raise UserError(f"{name}: no file matches" if glob.has_magic(name) else f"{name}: no such file")
        for match in matches:
            videos = find_videos(match) if match.is_dir() else [match]
            if not videos and match == path:
                raise UserError(f"{name}: no videos below it: no file has the suffix of one, such as .mp4")
            found.update(dict.fromkeys(videos))
    if not found:
        raise UserError(f"{' '.join(names)}: no videos in the folders that match")
    return list(found)


def pack_files(videos: Sequence[Path], folder: Path, **settings: Any) -> tuple[Path, dict[int, str]]:
    """Pack files as the one class "video", in `folder`, which it may fill as it likes.

    Args:
        settings: options of PackConfig.

    Returns:
        The folder of the packed split, and why those files failed that did, by their place in `videos`. If all failed
        the split is empty and cannot be loaded.
    """
    links = folder / "videos"
    links.mkdir()
    for index, video in enumerate(videos):
        # The suffix helps to recognise some formats; a blank in it would end the name in the list.
        suffix = video.suffix if video.suffix[1:].isalnum() else ""
        (links / f"{index:06d}{suffix}").symlink_to(os.path.realpath(video))
    listing = folder / "list.txt"
    listing.write_text("".join(f"{path.name} video\n" for path in sorted(links.iterdir())))
    settings.setdefault("workers", min(len(videos), cores_per_rank()))
    config = PackConfig(
        dataset="list", videos=links, annotations=(listing,), out=folder, split="packed", max_failures=1.0, **settings
    )
    pack(config)
    failures = {
        file_number(line["key"]): f"{line['kind']}: {line['error']}"
        for line in read_json_lines(config.directory / FAILURES)
    }
    return config.directory, failures


def file_number(key: str) -> int:
    """Return the place in `videos` of the file that became the sample `key`."""
    return int(key)
