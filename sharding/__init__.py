"""Packs folders of videos into tar shards, once: annotation files -> VideoRecord -> shards + table + manifest.

    result = pack(PackConfig("folder", videos=Path("videos/train"), out=Path("shards"), split="train"))
    report = verify(result.directory, decode=True)
    dataset = open_dataset(result.directory)

Names are imported when they are first used: importing the package costs nothing and needs nothing.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharding.dataset import PackedDataset
    from sharding.dataset import load_dataset as open_dataset
    from sharding.errors import MediaError, UserError
    from sharding.index import IndexConfig, index
    from sharding.pack import IncompleteError, PackConfig, PackResult, pack
    from sharding.records import Annotations, VideoRecord
    from sharding.stats import Stats, measure
    from sharding.verify import VerifyReport, verify

__all__ = [
    "Annotations",
    "IncompleteError",
    "IndexConfig",
    "MediaError",
    "PackConfig",
    "PackResult",
    "PackedDataset",
    "Stats",
    "UserError",
    "VerifyReport",
    "VideoRecord",
    "index",
    "measure",
    "open_dataset",
    "pack",
    "verify",
]

_HOMES = {
    "Annotations": "sharding.records:Annotations",
    "IncompleteError": "sharding.pack:IncompleteError",
    "IndexConfig": "sharding.index:IndexConfig",
    "MediaError": "sharding.errors:MediaError",
    "PackConfig": "sharding.pack:PackConfig",
    "PackResult": "sharding.pack:PackResult",
    "PackedDataset": "sharding.dataset:PackedDataset",
    "Stats": "sharding.stats:Stats",
    "UserError": "sharding.errors:UserError",
    "VerifyReport": "sharding.verify:VerifyReport",
    "VideoRecord": "sharding.records:VideoRecord",
    "index": "sharding.index:index",
    "measure": "sharding.stats:measure",
    "open_dataset": "sharding.dataset:load_dataset",
    "pack": "sharding.pack:pack",
    "verify": "sharding.verify:verify",
}


class _Package(ModuleType):
    """The package, in which `pack` and `verify` stay the functions: Python would put the modules of these names there
    as soon as anybody imports from them, and `from sharding import pack` would mean one or the other."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __reduce__(self):  # as of any module: functions of users that name it go to worker processes
        return importlib.import_module, (self.__name__,)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    globals()[name] = value = getattr(importlib.import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
