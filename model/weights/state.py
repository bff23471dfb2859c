"""The state dict in what a file holds: found in its wrappers, without the prefixes that wrapping a module leaves."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model.weights.files import FileTensor, WeightFileError
from model.weights.stand_ins import Inert, Name, TensorRef, printable

# Where training programs put the weights, the most telling first.
WRAPPERS = ("state_dict", "model_state", "model_state_dict", "model", "module", "net", "network", "weights", "params")
# What contrastive pretraining has next to the encoder that is wanted: MoCo, and version 3 of it.
ENCODERS = ("encoder_q", "base_encoder")
_MAX_WRAPPERS, _MAX_PREFIXES, _LONGEST_NAME = 4, 8, 500


@dataclass(frozen=True)
class FoundState:
    """A state dict as it lies in a file."""

    values: Mapping[str, Any]
    """A TensorRef or FileTensor for each name, without `prefix`."""
    wrapper: str
    """The keys that lead to it: "model.state_dict"."""
    prefix: str
    """What all names began with: "module."."""
    notes: tuple[str, ...] = ()
    """What was left out, in words."""


def find_state(root: Any) -> FoundState:
    """Return the state dict in what a file holds.

    Raises:
        WeightFileError: there is none, or several.
    """
    wrappers: list[str] = []
    notes: list[str] = []
    while not _is_state(root) and len(wrappers) < _MAX_WRAPPERS:
        key = _wrapper_of(root)
        if key is None:
            break
        notes += [f"{other} is not taken" for other in ("model_ema", "state_dict_ema") if other in root]
        wrappers.append(key)
        root = root[key]
    if not _is_state(root):
        raise WeightFileError(_describe_other(root, ".".join(wrappers)))
    if longest := max((name for name in root if len(name) > _LONGEST_NAME), default=None):
        raise WeightFileError(f"a name of {len(longest):,} letters, which no network has")
    tensors = {name: value for name, value in root.items() if isinstance(value, (TensorRef, FileTensor))}
    if len(tensors) < len(root):
        notes.append(f"{len(root) - len(tensors)} entries that are no tensors are ignored")
    return FoundState(tensors, ".".join(wrappers), "", tuple(notes))


def strip_prefixes(found: FoundState, own: frozenset[str] = frozenset()) -> FoundState:
    """Return the same without what all names begin with, as module., model., _orig_mod. or the name of an attribute.

    Args:
        own: first parts of names that are the network's own, and so no prefix.
    """
    values, prefix, notes = dict(found.values), found.prefix, list(found.notes)
    for _ in range(_MAX_PREFIXES):
        firsts = {name.partition(".")[0] for name in values}
        if encoder := next((name for name in ENCODERS if name in firsts), None):
            count = len(values)
            projection = f"{encoder}.fc."
            values = {
                name: value
                for name, value in values.items()
                if name.startswith(f"{encoder}.") and not name.startswith(projection)
            }
            firsts = {encoder}
            notes.append(f"{count - len(values)} others of contrastive pretraining are ignored")
        first = next(iter(firsts), "")
        if len(firsts) != 1 or first in own or not all("." in name for name in values) or _is_block(first):
            break
        values = {name.partition(".")[2]: value for name, value in values.items()}
        prefix += f"{first}."
    return FoundState(values, found.wrapper, prefix, tuple(notes))


def _is_block(first: str) -> bool:
    """Return whether a first part says where in a network a tensor is, and so is no prefix."""
    return first.rstrip("0123456789") in ("layer", "s", "blocks", "block", "conv", "bn", "fc") or first.isdecimal()


def _is_state(value: Any) -> bool:
    """Return whether a value is a mapping of which most are tensors, with names."""
    if not isinstance(value, Mapping) or not value or not all(isinstance(name, str) for name in value):
        return False
    count = sum(isinstance(entry, (TensorRef, FileTensor)) for entry in value.values())
    return 2 * count >= len(value)


def _wrapper_of(root: Any) -> str | None:
    """Return the key of a mapping under which its weights are."""
    if not isinstance(root, Mapping):
        return None
    known = next((name for name in WRAPPERS if isinstance(root.get(name), Mapping)), None)
    if known is not None:
        return known
    others = [name for name, value in root.items() if isinstance(name, str) and _is_state(value)]
    if len(others) > 1:
        raise WeightFileError(
            f"it holds several sets of weights ({', '.join(map(printable, others[:4]))}); save the one that is wanted"
        )
    return others[0] if others else None


def _describe_other(root: Any, wrapper: str) -> str:
    """Return why there is no state dict in what a file holds."""
    where = f"its {printable(wrapper)!r} holds" if wrapper else "it holds"
    if isinstance(root, Mapping):
        if "blobs" in root:
            return (
                "weights of Caffe2 (blobs), as SlowFast's zoo has them; take pytorchvideo's SLOW_8x8_R50.pyth or "
                "SLOW_4x16_R50.pyth, or load it with SlowFast and save a .pyth"
            )
        entries = [value for value in root.values() if isinstance(value, (Inert, Name))]
        named = next((name for name in WRAPPERS if isinstance(root.get(name), Inert)), None)
        if named or (entries and len(entries) == len(root)):
            value = root[named] if named else entries[0]
            name = value.name if isinstance(value, Inert) else str(value)
            return f"{where} a whole pickled object ({printable(name)}); {_SAVE_STATE}"
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(map(_kind, root.values())).most_common(3))
        return f"{where} no state dict (a mapping from names to tensors), but {kinds or 'nothing'}"
    if isinstance(root, Inert):
        return f"{where} a whole pickled object ({printable(root.name)}); {_SAVE_STATE}"
    return f"{where} no state dict (a mapping from names to tensors), but {_kind(root)}"


_SAVE_STATE = "its code would have to be run, so save its state_dict() where it was made"


def _kind(value: Any) -> str:
    return printable(value.name, 40) if isinstance(value, Inert) else type(value).__name__
