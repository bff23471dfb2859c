"""Packs loose video files: how prediction and the measurements get from files to what the loader reads."""

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path

from sharding.manifest import FAILURES, read_json_lines
from sharding.pack import PackConfig, pack

VIDEO_SUFFIXES = {".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}


def find_videos(folder: Path) -> list[Path]:
    """Files below `folder` whose suffix is that of a video, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())


def pack_files(videos: Sequence[Path], folder: Path, **settings) -> tuple[Path, dict[int, str]]:
    """Packs files as the one class "video", in `folder`, which it may fill as it likes.

    Args:
        settings: options of PackConfig.

    Returns:
        The folder of the packed split, and why those files failed that did, by their place in `videos`. If all failed
        the split is empty and cannot be loaded.
    """
    links = folder / "videos"
    links.mkdir()
    for index, video in enumerate(videos):
        (links / f"{index:06d}{video.suffix}").symlink_to(video.resolve())
    listing = folder / "list.txt"
    listing.write_text("".join(f"{path.name} video\n" for path in sorted(links.iterdir())))
    settings = {"workers": min(len(videos), os.cpu_count() or 1)} | settings
    config = PackConfig(
        dataset="list", videos=links, annotations=(listing,), out=folder, split="packed", max_failures=1.0, **settings
    )
    with contextlib.redirect_stdout(io.StringIO()):
        pack(config)
    failures = {
        file_number(line["key"]): f"{line['stage']}: {line['error']}"
        for line in read_json_lines(config.directory / FAILURES)
    }
    return config.directory, failures


def file_number(key: str) -> int:
    """The place in `videos` of the file that became the sample `key`."""
    return int(key)
