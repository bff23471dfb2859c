"""Files of weights: what is in a .pth, .pt, .tar, .pyth or .safetensors file, and its tensors when they are asked for.

A file of torch.save is a zip archive with a pickle and a member for each storage, or, before version 1.6, several
pickles and the storages one after the other. Names and shapes are known without torch and without reading a tensor, and
only the tensors that are wanted are read: a checkpoint costs what its weights do and not what its optimizer does.
"""

import io
import mmap
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.weights.inert_pickle import read_pickle
from model.weights.stand_ins import PickleError, StorageRef, TensorRef, printable

if TYPE_CHECKING:
    from torch import Tensor

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# Bytes of an element, by the type's name in torch.
ITEM_BYTES = {
    **dict.fromkeys(("float64", "int64", "complex64"), 8),
    **dict.fromkeys(("float32", "int32"), 4),
    **dict.fromkeys(("float16", "bfloat16", "int16"), 2),
    **dict.fromkeys(("int8", "uint8", "bool"), 1),
}
_STORAGES = {
    **{"DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16"},
    **{"LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8"},
    **{"ByteStorage": "uint8", "BoolStorage": "bool", "UntypedStorage": "uint8", "ComplexFloatStorage": "complex64"},
}
_DAMAGED = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, LookupError, struct.error)
"""What zipfile raises."""
_SHARING = 4
"""How many times the bytes of a file its tensors may have together: some share theirs."""


class WeightFileError(ValueError):
    """A file that holds no readable weights; the message says why, without the file's name."""


@dataclass(frozen=True)
class FileTensor:
    """A tensor in a file."""

    shape: tuple[int, ...]
    read: Callable[[], "Tensor"] = field(repr=False)
    """Read it."""


@dataclass(frozen=True)
class WeightFile:
    """A file as data."""

    root: Any
    """What was saved, with a `FileTensor` or `TensorRef` for each tensor."""
    tensor: Callable[[TensorRef], FileTensor] = field(repr=False)
    """What is at the place of a `TensorRef`. Raises WeightFileError if that is impossible."""
    num_bytes: int
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What a .safetensors file says besides its tensors."""

    def tensors(self, state: Mapping[str, Any]) -> dict[str, FileTensor]:
        """Return the tensors of a state dict.

        Raises:
            WeightFileError: one cannot be where it claims to be, or all claim more than the file has.
        """
        found = {name: self.tensor(value) if isinstance(value, TensorRef) else value for name, value in state.items()}
        claimed = sum(_count(value.shape) for value in found.values())
        if claimed > _SHARING * self.num_bytes + 2**20:
            raise WeightFileError(f"its tensors claim {claimed:,} elements, but the file has {self.num_bytes:,} bytes")
        return found


def open_weights(path: Path) -> WeightFile:
    """Return what a file holds; nothing in it is run.

    Raises:
        WeightFileError: it is no such file, or damaged.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(8)
    if path.suffix == ".safetensors" or (start[:1] not in (b"P", b"\x80") and _is_safetensors(path)):
        return _open_safetensors(path)
    if start[:4] == b"PK\x03\x04":
        return _open_zip(path)
    return _open_legacy(path)


def _is_safetensors(path: Path) -> bool:
    """Return whether a file of another name begins as safetensors do: the length of a header, and the header."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] < path.stat().st_size


def _open_safetensors(path: Path) -> WeightFile:
    from safetensors import SafetensorError, safe_open

    def reader(name: str) -> Callable[[], "Tensor"]:
        def read() -> "Tensor":
            with safe_open(path, "pt") as tensors:
                return tensors.get_tensor(name)

        return read

    try:
        with safe_open(path, "np") as tensors:  # names and shapes need no torch
            metadata = dict(tensors.metadata() or {})
            names = tensors.keys()
            root = {name: FileTensor(tuple(tensors.get_slice(name).get_shape()), reader(name)) for name in names}
    except SafetensorError as error:
        raise WeightFileError(f"not a file of safetensors ({printable(str(error))})") from error
    return WeightFile(root, _no_reference, path.stat().st_size, metadata)


def _no_reference(_: TensorRef) -> FileTensor:
    raise WeightFileError("damaged")


def _open_zip(path: Path) -> WeightFile:
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            folder = next((name[: -len("data.pkl")] for name in members if name.endswith("/data.pkl")), None)
            if folder is None or folder.count("/") != 1:
                raise WeightFileError("a zip archive, but not one of torch.save (it has no data.pkl)")
            if any(name.startswith(f"{folder}code/") for name in members):
                raise WeightFileError(
                    "a TorchScript program; load it with torch.jit.load and torch.save its state_dict()"
                )
            if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
                raise WeightFileError("a compressed zip archive, which torch.save never writes; unpack it and zip -0")
            if sum(info.file_size for info in members.values()) > size:
                raise WeightFileError("its members claim more bytes than the file has")
            if f"{folder}byteorder" in members and archive.read(f"{folder}byteorder") != b"little":
                raise WeightFileError("written on a big-endian machine")
            root = read_pickle(io.BytesIO(archive.read(f"{folder}data.pkl")))
    except WeightFileError:
        raise
    except PickleError as error:
        raise WeightFileError(str(error)) from error
    except _DAMAGED as error:
        raise WeightFileError(f"a damaged archive ({printable(str(error))})") from error

    def read(key: str) -> bytearray:
        try:
            with zipfile.ZipFile(path) as archive, archive.open(f"{folder}data/{key}") as member:
                return bytearray(member.read())
        except _DAMAGED as error:  # such as a sum that does not fit
            raise WeightFileError(f"a damaged archive ({printable(str(error))})") from error

    lengths = {name.removeprefix(f"{folder}data/"): info.file_size for name, info in members.items()}
    return WeightFile(root, _tensors_of(lengths, _Storages(read, size)), size)


def _open_legacy(path: Path) -> WeightFile:
    size = path.stat().st_size
    if not size:
        raise WeightFileError("an empty file")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:1] != b"\x80":
            raise WeightFileError("no file of torch.save, nor of safetensors")
        try:
            first = read_pickle(content)
            if first != _LEGACY_MAGIC:  # a plain pickle, such as Caffe2's
                return WeightFile(first, _no_reference, size)
            for _ in range(2):  # the version of the format, and the machine
                read_pickle(content)
            root, keys = read_pickle(content), read_pickle(content)
        except PickleError as error:
            raise WeightFileError(str(error)) from error
        places = _legacy_places(content, keys, _storages_in(root))

    def read(key: str) -> bytearray:
        start, length = places[key]
        with path.open("rb") as file:
            file.seek(start)
            return bytearray(file.read(length))

    lengths = {key: length for key, (_, length) in places.items()}
    return WeightFile(root, _tensors_of(lengths, _Storages(read, size)), size)


def _legacy_places(content: mmap.mmap, keys: Any, storages: Mapping[str, StorageRef]) -> dict[str, tuple[int, int]]:
    """Return where the bytes of each storage begin and how many they are: each follows its number of elements."""
    places, position = {}, content.tell()
    for key in map(str, keys if isinstance(keys, list) else []):
        if key not in storages or position + 8 > len(content):
            raise WeightFileError("damaged: its storages are not those that its tensors are views of")
        (count,) = struct.unpack("<q", content[position : position + 8])
        length = count * _item_bytes(storages[key].kind)
        if not 0 <= length <= len(content) - position - 8:
            raise WeightFileError(f"damaged: a storage claims {count:,} elements, more than the file has")
        places[key] = (position + 8, length)
        position += 8 + length
    return places


def _storages_in(root: Any) -> dict[str, StorageRef]:
    """Return the storages of all tensors at any depth, by key."""
    found, seen, left = {}, set(), [root]
    while left:
        value = left.pop()
        if isinstance(value, TensorRef):
            value = value.storage
        if isinstance(value, StorageRef):
            found[value.key] = value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            left.extend(value.values() if isinstance(value, dict) else value)
    return found


class _Storages:
    """Reads storages by key; the last one is kept, as several tensors may be views of it."""

    def __init__(self, read: Callable[[str], bytearray], file_size: int) -> None:
        self._read, self._left = read, _SHARING * file_size
        self._last: tuple[str, bytearray] = ("", bytearray())

    def __call__(self, key: str) -> bytearray:
        if self._last[0] != key:
            self._last = (key, self._read(key))
            self._left -= len(self._last[1])
            if self._left < 0:
                raise WeightFileError("its tensors share their bytes so that the file would be read again and again")
        return self._last[1]


def _tensors_of(lengths: Mapping[str, int], read: _Storages) -> Callable[[TensorRef], FileTensor]:
    """Return what makes a FileTensor of a reference, where `lengths` are the bytes of each storage."""

    def find(reference: TensorRef) -> FileTensor:
        storage = reference.storage
        kind = reference.kind or _STORAGES.get(storage.kind, "")
        item = ITEM_BYTES.get(kind)
        if item is None:
            raise WeightFileError(f"a tensor of a type that cannot be read ({(kind or storage.kind)[:40]})")
        steps = zip(reference.shape, reference.stride)
        last = reference.offset + sum((size - 1) * stride for size, stride in steps)
        length = lengths.get(storage.key)
        if length is None or storage.length * _item_bytes(storage.kind) > length:
            raise WeightFileError(f"damaged: storage {storage.key[:40]!r} claims more than its {length or 0:,} bytes")
        count, end = _count(reference.shape), storage.start * _item_bytes(storage.kind) + (last + 1) * item
        if count * item > length or (count and end > length):
            raise WeightFileError(f"a tensor of shape {reference.shape} is larger than what the file has of it")
        return FileTensor(reference.shape, lambda: _view(read(storage.key), kind, reference))

    return find


def _view(content: bytearray, kind: str, reference: TensorRef) -> "Tensor":
    import torch

    if not _count(reference.shape):
        return torch.zeros(reference.shape, dtype=getattr(torch, kind))
    first = reference.storage.start + reference.offset
    flat = torch.frombuffer(content, dtype=getattr(torch, kind), count=len(content) // ITEM_BYTES[kind])
    return flat.as_strided(reference.shape, reference.stride, first).clone()


def _item_bytes(storage_kind: str) -> int:
    kind = _STORAGES.get(storage_kind)
    if kind is None:
        raise WeightFileError(f"a storage of a type that cannot be read ({storage_kind[:40]})")
    return ITEM_BYTES[kind]


def _count(shape: Iterable[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
