"""Dataset readers, one a file: published annotation files -> Annotations.

A reader is a function `(videos: Path, annotations: Sequence[Path], split: str) -> Annotations`. A video that is listed
but not there still becomes a record (its packing fails with the kind `missing`); a line that cannot be understood
raises UserError with the file's name and the line's number. The classes, and so the label ids, must come out the same
for every split of a dataset.
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

from sharding.datasets.charades import read_charades
from sharding.datasets.diving48 import read_diving48
from sharding.datasets.finegym import read_finegym
from sharding.datasets.folder import read_folder
from sharding.datasets.hmdb51 import read_hmdb51
from sharding.datasets.kinetics import read_kinetics
from sharding.datasets.list_file import read_list
from sharding.datasets.list_multilabel import read_list_multilabel
from sharding.datasets.something import read_something_v1, read_something_v2
from sharding.datasets.ucf101 import read_ucf101
from sharding.errors import UserError
from sharding.records import Annotations

Reader = Callable[[Path, Sequence[Path], str], Annotations]

DATASETS: dict[str, Reader] = {
    "charades": read_charades,
    "diving48": read_diving48,
    "finegym": read_finegym,
    "folder": read_folder,
    "hmdb51": read_hmdb51,
    "kinetics": read_kinetics,
    "list": read_list,
    "list-multilabel": read_list_multilabel,
    "something-v1": read_something_v1,
    "something-v2": read_something_v2,
    "ucf101": read_ucf101,
}


def find_reader(dataset: str) -> Reader:
    """Return the reader of a dataset known here, or of another: MODULE:FUNCTION, imported from the Python path.

    Raises:
        UserError: neither.
    """
    if dataset in DATASETS:
        return DATASETS[dataset]
    module, _, name = dataset.partition(":")
    if module.endswith(".py") or not all(part.isidentifier() for part in [*module.split("."), name]):
        known = ", ".join(sorted(DATASETS))
        raise UserError(
            f"--dataset {dataset}: known are {known}, or a function of your own as MODULE:FUNCTION (mine:read for read "
            "in mine.py)"
        )
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"--dataset {dataset}: {error}; install it, or put its folder on the Python path: export PYTHONPATH=FOLDER"
        ) from error
    reader: Reader | None = getattr(imported, name, None)
    if not callable(reader):
        raise UserError(f"--dataset {dataset}: no function {name} in {getattr(imported, '__file__', module)}")
    return reader
