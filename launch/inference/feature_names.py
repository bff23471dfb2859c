"""By what names the features of video files go."""

import os
from collections.abc import Sequence
from pathlib import Path

from launch.inference.feature_files import RESERVED
from launch.inference.pack_files import collect_videos
from sharding.errors import UserError


def name_videos(arguments: Sequence[str]) -> dict[str, Path]:
    """Return the files that arguments mean, by name, sorted: of a file in a folder that was given its path from there,
    of others the file's own name; without suffix.

    Raises:
        UserError: an argument means no file, or two files would go by one name.
    """
    named: dict[str, Path] = {}
    for argument in arguments:
        root = Path(argument)
        for video in collect_videos([argument]):
            short = video.relative_to(root).with_suffix("").as_posix() if root.is_dir() else video.stem
            if os.path.realpath(named.setdefault(short, video)) != os.path.realpath(video):
                raise UserError(
                    f"{named[short]} and {video} would both be {short}.npy; give the folder that holds both, or two "
                    "--out"
                )
            if short == RESERVED:
                raise UserError(f"{video}: the name {RESERVED} is taken by what describes the folder; rename it")
    return dict(sorted(named.items()))
