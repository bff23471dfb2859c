"""Dataset readers, one a file: published annotation files -> Annotations.

A reader is a function `(videos: Path, annotations: Sequence[Path], split: str) -> Annotations`. A video that is listed
but not there still becomes a record (its packing fails with the kind `missing`); a line that cannot be understood
raises UserError with the file's name and the line's number. The classes, and so the label ids, must come out the same
for every split of a dataset.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from sharding.errors import UserError
from sharding.records import Annotations

Reader = Callable[[Path, Sequence[Path], str], Annotations]


class _Readers(Mapping[str, Reader]):
    """Readers by the names of their datasets, each imported when it is wanted."""

    _HOMES: Mapping[str, str] = {
        "activitynet": "activitynet:read_activitynet",
        "charades": "charades:read_charades",
        "diving48": "diving48:read_diving48",
        "epic-kitchens": "epic_kitchens:read_epic_kitchens",
        "finegym": "finegym:read_finegym",
        "folder": "folder:read_folder",
        "hacs": "activitynet:read_activitynet",
        "hmdb51": "hmdb51:read_hmdb51",
        "jester": "something:read_jester",
        "kinetics": "kinetics:read_kinetics",
        "list": "list_file:read_list",
        "list-multilabel": "list_multilabel:read_list_multilabel",
        "moments": "moments:read_moments",
        "something-v1": "something:read_something_v1",
        "something-v2": "something:read_something_v2",
        "ucf101": "ucf101:read_ucf101",
    }

    def __getitem__(self, dataset: str) -> Reader:
        module, _, name = self._HOMES[dataset].partition(":")
        return getattr(importlib.import_module(f"{__name__}.{module}"), name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._HOMES)

    def __len__(self) -> int:
        return len(self._HOMES)


DATASETS: Mapping[str, Reader] = _Readers()


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
