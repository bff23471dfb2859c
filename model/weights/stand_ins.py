"""What a pickle describes, as inert values: names, stand-ins for objects, and where in the file tensors are.

`make` is what calling a name gives: a stand-in, unless it is one of the few by which `torch.save` writes tensors and
ordered dictionaries.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class PickleError(ValueError):
    """A pickle that is damaged, or larger than any file of weights."""


@dataclass(frozen=True)
class Name:
    """What a pickle would have imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, eq=False)
class Inert:
    """What a pickle would have made by calling `name`; it holds nothing and does nothing."""

    name: str


@dataclass(frozen=True)
class StorageRef:
    """The bytes that tensors are views of, by their name in the file."""

    key: str
    kind: str
    """As torch names its storages (FloatStorage), or UntypedStorage, which is counted in bytes."""
    length: int
    """Elements."""
    start: int = 0
    """First element, in old files whose storages are parts of others."""


@dataclass(frozen=True)
class TensorRef:
    """A tensor by its place in the file."""

    storage: StorageRef
    offset: int
    """In elements."""
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    kind: str = ""
    """Type of an untyped storage's elements: float32."""


def printable(text: str, most: int = 80) -> str:
    """Return text of a file for a message: one line, not too long, nothing that a terminal would obey.

    >>> printable("conv1\\x1b[31m.weight")
    'conv1?[31m.weight'
    """
    text = "".join(letter if letter.isprintable() else "?" for letter in text[: most + 1])
    return text if len(text) <= most else text[:most] + "…"


def make(called: Any, arguments: Any) -> Any:
    """Return what torch's and the standard library's own constructors would have made, and else a stand-in."""
    name = _label(called)
    known = _CONSTRUCTORS.get(name)
    return known(arguments) if known and isinstance(arguments, tuple) else Inert(name)


def _label(value: Any) -> str:
    """Return a name in words; anything else could be of any size when written."""
    return str(value) if isinstance(value, Name) else "an object"


def make_storage(identifier: Any) -> StorageRef | Inert:
    """Return the storage of a persistent identifier: ("storage", type, key, device, elements[, view])."""
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage":
        return Inert(_label(identifier[1]) if isinstance(identifier, tuple) and len(identifier) > 1 else "an object")
    _, kind, key, _, length, *view = identifier
    start = 0
    if view and view[0] is not None:
        _, start, length = view[0]
    if not isinstance(kind, Name) or not _is_count(length, start) or not isinstance(key, (str, int)):
        raise PickleError("a damaged pickle (a storage without type or length)")
    return StorageRef(str(key), kind.name, length, start)


def _tensor(arguments: tuple) -> TensorRef | Inert:
    """(storage, offset, shape, stride, ...)"""
    storage, offset, shape, stride = arguments[:4]
    if not isinstance(storage, StorageRef):
        return Inert("a tensor of an unknown storage")
    if len(shape) != len(stride) or len(shape) > 8 or not _is_count(offset, *shape, *stride):
        raise PickleError("a damaged pickle (a tensor of an impossible shape)")
    return TensorRef(storage, offset, tuple(shape), tuple(stride))


def _typed_tensor(arguments: tuple) -> TensorRef | Inert:
    """(storage, offset, shape, stride, requires_grad, hooks, dtype, ...)"""
    tensor, kind = _tensor(arguments), arguments[6]
    if isinstance(tensor, Inert) or not isinstance(kind, Name):
        return Inert("a tensor of an unknown type")
    return TensorRef(tensor.storage, tensor.offset, tensor.shape, tensor.stride, kind.name)


def _first(arguments: tuple) -> Any:
    return arguments[0] if isinstance(arguments[0], TensorRef) else Inert("torch.nn.Parameter")


def _with_attributes(arguments: tuple) -> Any:
    """(function that makes the tensor, its type, arguments, attributes)"""
    function, _, inner = arguments[:3]
    is_tensor = isinstance(function, Name) and function.module == "torch._utils" and isinstance(inner, tuple)
    return make(function, inner) if is_tensor else Inert(_label(function))


def _ordered_dict(arguments: tuple) -> dict:
    """Return the dictionary, of the pairs that Python 2 wrote as an argument; they are used up, so that a pickle cannot
    make many of one list."""
    made: dict = {}
    if arguments and isinstance(arguments[0], list):
        pairs = (pair for pair in arguments[0] if isinstance(pair, (list, tuple)) and len(pair) == 2)
        made.update((key, value) for key, value in pairs if is_key(key))
        arguments[0].clear()
    return made


def _size(arguments: tuple) -> tuple | Inert:
    return arguments[0] if isinstance(arguments[0], tuple) else Inert("torch.Size")


def is_key(key: Any) -> bool:
    """Return whether a key is text or a number of ordinary size; others could be made to collide."""
    return isinstance(key, (str, bytes)) or (isinstance(key, int) and abs(key) < 2**53)


def _is_count(*values: Any) -> bool:
    """Return whether all values are whole numbers from 0 to 2^62."""
    return all(type(value) is int and 0 <= value <= 2**62 for value in values)


_CONSTRUCTORS: dict[str, Callable[[tuple], Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": lambda _: {},
    "torch.Size": _size,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _with_attributes,
}
