"""Dataset readers, one a file: published annotation files -> Annotations.

A reader is a function `(videos: Path, annotations: Sequence[Path], split: str) -> Annotations`. A video that is listed
but not there still becomes a record (its packing fails with the stage `missing`); a line that cannot be understood
raises UserError with the file's name and the line's number. The classes, and so the label ids, must come out the same
for every split of a dataset.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from sharding.datasets.folder import read_folder
from sharding.datasets.kinetics import read_kinetics
from sharding.datasets.video_list import read_list
from sharding.records import Annotations

DATASETS: dict[str, Callable[[Path, Sequence[Path], str], Annotations]] = {
    "folder": read_folder,
    "kinetics": read_kinetics,
    "list": read_list,
}
