"""Pickles as data: tensors, plain values, and inert stand-ins for everything else. Nothing in the file is ever called.

A pickle is a program for a small machine, and what makes it dangerous are the instructions that import a name and call
it. This machine imports nothing: a name is a `Name`, calling one makes an `Inert`, and only the few by which
`torch.save` writes tensors and ordered dictionaries are understood. So argparse.Namespace, numpy's scalars, a whole
module or os.system are all the same: a stand-in that says what it would have been.

Memory is bounded by the length of the file: nothing is taken on the word of a number in it.
"""

import mmap
import pickletools
import struct
from collections.abc import Callable
from typing import IO, Any, cast

from model.weights.stand_ins import Inert, Name, PickleError, is_key, make, make_storage, printable

MAX_INSTRUCTIONS = 5_000_000
"""A file of a ResNet-101, its optimizer and its average has some hundred thousand."""


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
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, struct.error) as error:
        raise PickleError(f"a damaged pickle ({printable(str(error)) or type(error).__name__})") from error
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
            self.stack[-1].update((key, value) for key, value in pairs if is_key(key))

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
        self.stack.append(make(called, arguments))

    _newobj = _reduce

    def _newobj_ex(self, _: Any) -> None:
        self.stack.pop()  # the keyword arguments
        self._reduce(None)

    def _obj(self, _: Any) -> None:
        called, *arguments = self.pop_to_mark()
        self.stack.append(make(called, tuple(arguments)))

    def _inst(self, argument: Any) -> None:
        self._global(argument)
        called = self.pop()
        self.stack.append(make(called, tuple(self.pop_to_mark())))

    def _build(self, _: Any) -> None:
        self.stack.pop()  # what would have become attributes

    def _persid(self, identifier: Any) -> None:
        self.stack.append(Inert("persistent object"))

    def _binpersid(self, _: Any) -> None:
        self.stack.append(make_storage(self.pop()))
