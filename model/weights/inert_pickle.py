"""Pickles as data: tensors, plain values, and inert stand-ins for everything else. Nothing in the file is ever called.

A pickle is a program for a small machine, and what makes it dangerous are the instructions that import a name and call
it. This machine imports nothing: a name is a `Name`, calling one makes an `Inert`, and only the few by which
`torch.save` writes tensors and ordered dictionaries are understood. So argparse.Namespace, numpy's scalars, a whole
module or os.system are all the same: a stand-in that says what it would have been.

Memory is bounded by the length of the file: nothing is taken on the word of a number in it.
"""

import mmap
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, cast

MAX_INSTRUCTIONS = 5_000_000
"""A file of a ResNet-101, its optimizer and its average has some hundred thousand."""


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


def read_pickle(file: IO[bytes] | mmap.mmap, limit: int = MAX_INSTRUCTIONS) -> Any:
    """Return what the next pickle of a file describes.

    Raises:
        PickleError: it is damaged, or has more than `limit` instructions.
    """
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], file))):
            if count >= limit:
                raise PickleError(f"more than {limit:,} instructions, which no file of weights has")
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except PickleError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise PickleError(f"a damaged pickle ({reason or type(error).__name__})") from error
    raise PickleError("a damaged pickle (it does not end)")


_MARK = Inert("mark")
# Instructions that push their argument as it is.
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list, "EMPTY_TUPLE": tuple}
_NOTHING = {"PROTO", "FRAME", "READONLY_BUFFER"}


class _Machine:
    """The stack and memo of a pickle; `step` follows one instruction."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                items = self.stack[place + 1 :]
                del self.stack[place:]
                return items
        raise PickleError("a damaged pickle (no mark)")

    def step(self, name: str, argument: Any) -> None:
        if name in _NOTHING:
            return
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        else:
            method = getattr(self, f"_{name.lower()}", None)
            if method is None:
                raise PickleError(f"an instruction that files of weights do not have ({name})")
            method(argument)

    # The stack itself

    def _mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def _pop(self, _: Any) -> None:
        self.stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self.pop_to_mark()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _put(self, place: Any) -> None:
        self.memo[int(place)] = self.stack[-1]

    def _get(self, place: Any) -> None:
        self.stack.append(self.memo[int(place)])

    _binput = _long_binput = _put
    _binget = _long_binget = _get

    # Tuples, lists, dictionaries, sets; what is no list or dictionary takes nothing in

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    def _tuple1(self, _: Any) -> None:
        self._last_as_tuple(1)

    def _tuple2(self, _: Any) -> None:
        self._last_as_tuple(2)

    def _tuple3(self, _: Any) -> None:
        self._last_as_tuple(3)

    def _last_as_tuple(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(items)

    def _list(self, _: Any) -> None:
        self.stack.append(self.pop_to_mark())

    def _append(self, _: Any) -> None:
        item = self.pop()
        self._extend([item])

    def _appends(self, _: Any) -> None:
        self._extend(self.pop_to_mark())

    _additems = _appends

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def _frozenset(self, _: Any) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    def _dict(self, _: Any) -> None:
        items = self.pop_to_mark()
        self.stack.append({})
        self._set(items)

    def _setitem(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self._set([key, value])

    def _setitems(self, _: Any) -> None:
        self._set(self.pop_to_mark())

    def _set(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], dict):
            pairs = zip(items[::2], items[1::2])
            self.stack[-1].update((key, value) for key, value in pairs if _is_key(key))

    # Names and calls

    def _global(self, argument: Any) -> None:
        module, _, name = str(argument).partition(" ")
        self.stack.append(Name(module, name))

    def _stack_global(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise PickleError("a damaged pickle (a name that is no text)")
        self.stack.append(Name(module, name))

    def _reduce(self, _: Any) -> None:
        arguments, called = self.pop(), self.pop()
        self.stack.append(_call(called, arguments))

    _newobj = _reduce

    def _newobj_ex(self, _: Any) -> None:
        self.stack.pop()  # the keyword arguments
        self._reduce(None)

    def _obj(self, _: Any) -> None:
        called, *arguments = self.pop_to_mark()
        self.stack.append(_call(called, tuple(arguments)))

    def _inst(self, argument: Any) -> None:
        self._global(argument)
        called = self.pop()
        self.stack.append(_call(called, tuple(self.pop_to_mark())))

    def _build(self, _: Any) -> None:
        self.stack.pop()  # what would have become attributes

    def _persid(self, identifier: Any) -> None:
        self.stack.append(Inert("persistent object"))

    def _binpersid(self, _: Any) -> None:
        self.stack.append(_storage(self.pop()))


def _call(called: Any, arguments: Any) -> Any:
    """Return what torch's and the standard library's own constructors would have made, and else a stand-in."""
    name = _label(called)
    known = _CONSTRUCTORS.get(name)
    return known(arguments) if known and isinstance(arguments, tuple) else Inert(name)


def _label(value: Any) -> str:
    """Return a name in words; anything else could be of any size when written."""
    return str(value) if isinstance(value, Name) else "an object"


def _storage(identifier: Any) -> StorageRef | Inert:
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
    return _call(function, inner) if is_tensor else Inert(_label(function))


def _ordered_dict(arguments: tuple) -> dict:
    """Return the dictionary, of the pairs that Python 2 wrote as an argument; they are used up, so that a pickle cannot
    make many of one list."""
    made: dict = {}
    if arguments and isinstance(arguments[0], list):
        pairs = (pair for pair in arguments[0] if isinstance(pair, (list, tuple)) and len(pair) == 2)
        made.update((key, value) for key, value in pairs if _is_key(key))
        arguments[0].clear()
    return made


def _size(arguments: tuple) -> tuple | Inert:
    return arguments[0] if isinstance(arguments[0], tuple) else Inert("torch.Size")


def _is_key(key: Any) -> bool:
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
