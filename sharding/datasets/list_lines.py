"""What both readers of lists share: which file lists a split, what is a comment, which labels are numbers."""

import re
from collections.abc import Sequence
from pathlib import Path

from sharding.datasets.common import kind_of_path
from sharding.errors import UserError

_NUMBER = re.compile(r"[0-9]{1,18}(\.0+)?")


def choose_list(annotations: Sequence[Path], split: str) -> Path:
    """Return the only file, or of several the one with the split in its name.

    If it is a word of its own in some (`train.txt`), those are meant, not others that contain it (`pretrain.txt`).

    Raises UserError if there is none or more than one.
    """
    if len(annotations) == 1:
        return annotations[0]
    word = re.compile(rf"(?<![A-Za-z]){re.escape(split)}(?![A-Za-z])")
    named = [path for path in annotations if split in path.stem]
    chosen = [path for path in named if word.search(path.stem)] or named
    if len(chosen) == 1:
        return chosen[0]
    if not chosen:
        names = ", ".join(path.name for path in annotations)
        raise UserError(f"--annotations {names}: no file has the split {split!r} in its name")
    names = ", ".join(path.name for path in chosen)
    raise UserError(
        f"--annotations {names}: {len(chosen)} files have the split {split!r} in their names, which one lists; join "
        "them, or rename those that are read for their classes"
    )


def is_comment(line: str, videos: Path) -> bool:
    """Whether a line begins with #, and not with the path of a video that is there."""
    if not line.lstrip().startswith("#"):
        return False
    paths = {*line.split(None, 1)[:1], *line.rsplit(None, 1)[:1]}
    paths |= {field for sign in ("\t", ",") for field in (line.split(sign, 1)[0], line.rsplit(sign, 1)[0])}
    return not any(kind_of_path(videos / path.strip()) for path in paths)


def plain_labels(lines: Sequence[tuple[str, Sequence[str]]]) -> dict[str, str]:
    """Map the labels of lines, given as (where, labels), to themselves, or if all are numbers 3.0 and 03 to 3.

    Raises UserError for a line with a label that is none where those of most lines are, such as a heading.
    """
    words = [(where, label) for where, labels in lines for label in labels if not _NUMBER.fullmatch(label)]
    if not words:
        return {label: str(int(label.partition(".")[0])) for _, labels in lines for label in labels}
    where, label = words[0]
    num_lines = len({where for where, _ in words})
    if num_lines < len(lines) - num_lines:
        raise UserError(
            f"{where}: label {label!r} is no number, but the labels of most lines are; correct it, or remove the line "
            "if it is a heading"
        )
    return {label: label for _, labels in lines for label in labels}
