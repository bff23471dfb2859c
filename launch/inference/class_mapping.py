"""A packed split in the classes of a network: matched by name, since another split may hold fewer, more, or others."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sharding.dataset import PackedDataset
from sharding.errors import UserError
from sharding.manifest import describe_class_difference

_NAMED = 5


@dataclass(frozen=True)
class MappedSplit:
    """A split whose labels are class ids of the network."""

    dataset: PackedDataset
    """Samples whose class the network does not know have the label -1 and are among `excluded`."""
    shared: np.ndarray
    """(S,) ids of the network's classes that the split has, sorted."""
    description: str
    """How the classes were matched; empty where they are the same."""


def map_classes(
    dataset: PackedDataset,
    classes: tuple[str, ...],
    checkpoint: Path,
    exclude_unknown: bool = False,
    renamed: Mapping[str, str] | None = None,
) -> MappedSplit:
    """Return the split with the class ids of a network, its classes matched by name.

    A network of [jump, run, walk] and a split of [walk, jump]: label 0 becomes 2, and label 1 becomes 0.

    Args:
        classes: of the network.
        checkpoint: what errors call the network.
        exclude_unknown: leave out samples whose class the network does not know, instead of refusing the split.
        renamed: the network's names of classes that the split calls otherwise.

    Raises:
        UserError: the split has no class of the network, or without `exclude_unknown` one that it does not know; or
            `renamed` names a class that there is not.
    """
    renamed = renamed or {}
    _check_renamed(renamed, dataset, classes)
    found = dataset.manifest.classes
    if found == classes:
        return MappedSplit(dataset, np.arange(len(classes)), "")
    ids = {name: number for number, name in enumerate(classes)}
    new_ids = np.array([ids.get(renamed.get(name, name), -1) for name in found], np.int64)
    unknown = [name for name, new_id in zip(found, new_ids) if new_id < 0]
    if len(unknown) == len(found):
        raise UserError(
            f"{dataset.location}: its classes are not those that {checkpoint} was trained on: "
            f"{describe_class_difference(found, classes)}; {_remedy(unknown, classes)}"
        )
    labels = new_ids[dataset.labels]
    excluded = np.flatnonzero(labels < 0)
    if len(excluded) == len(labels) > 0:
        raise UserError(f"{dataset.location}: not one of its samples is of a class that {checkpoint} was trained on")
    if unknown and not exclude_unknown:
        raise UserError(
            f"{dataset.location}: {checkpoint} does not know {len(unknown)} of its {len(found)} classes, of "
            f"{len(excluded)} samples: {_some(unknown)}; {_remedy(unknown, classes)}; or leave these samples out with "
            "--exclude-unknown-classes"
        )
    shared = np.unique(new_ids[new_ids >= 0])
    description = f"classes matched by name: the split has {len(shared)} of the network's {len(classes)}"
    if unknown:
        kind = "an unknown class" if len(unknown) == 1 else f"{len(unknown)} unknown classes"
        description += f"; excluded: {len(excluded)} samples of {kind} ({_some(unknown)})"
    mapped = replace(dataset, labels=labels.astype(dataset.labels.dtype), excluded=excluded.astype(np.int64))
    return MappedSplit(mapped, shared, description)


def read_renamed_classes(path: Path) -> dict[str, str]:
    """Return the lines "name in the split, tab, name in the network" of a file as a dictionary, without blank ones.

    Raises:
        UserError: it cannot be read, or a line is none of that kind.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file in UTF-8"
        raise UserError(f"--rename-classes {path}: {reason}; give a text file") from error
    renamed: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        names = [name.strip() for name in line.split("\t")]
        if len(names) != 2 or not all(names) or names[0] in renamed:
            raise UserError(
                f"{path}, line {number}: {line[:80]!r}: use the name in the split, a tab, and the name in the network, "
                "once for each name in the split"
            )
        renamed[names[0]] = names[1]
    return renamed


def _check_renamed(renamed: Mapping[str, str], dataset: PackedDataset, classes: tuple[str, ...]) -> None:
    for names, known, where in (
        (renamed.keys(), dataset.manifest.classes, dataset.location),
        (renamed.values(), classes, "the network"),
    ):
        missing = sorted(set(names) - set(known))
        if missing:
            raise UserError(f"--rename-classes: {_some(missing)}: no class of {where}; give names as they are there")


def _remedy(unknown: list[str], classes: tuple[str, ...]) -> str:
    """Return what to do about names that the network does not know, with those that it writes otherwise."""
    written = {_letters(name): name for name in classes}
    alike = [f"{name} as {written[_letters(name)]}" for name in unknown if _letters(name) in written]
    otherwise = f"it writes {_some(alike)}: " if alike else ""
    return (
        f"{otherwise}where only the names differ, list them with --rename-classes FILE (name in the split, tab, name "
        "in the network)"
    )


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
