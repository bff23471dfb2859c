"""Files made to do harm, or damaged: nothing in them runs, none takes more than its length, each is one line."""

import contextlib
import io
import os
import pickle
import struct
import sys
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from model import ModelConfig, build_model
from model.pretrained import read_weights
from model.weights.files import WeightFileError, open_weights
from model.weights.inert_pickle import read_pickle
from model.weights.source import read_weights_file
from model.weights.stand_ins import Inert, Name, PickleError, TensorRef

MARK = f"{tempfile.mkdtemp(prefix='vpsn-hostile-')}/mark"


class Reduced:
    """Pickled as a call."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


CALLS = {
    "os.system": Reduced(os.system, f"touch {MARK}"),
    "eval": Reduced(eval, f"open({MARK!r}, 'w')"),
    "exec": Reduced(exec, f"open({MARK!r}, 'w')"),
    "getattr of a module": Reduced(getattr, Reduced(__import__, "os"), "system"),
    "import": Reduced(__import__, "antigravity"),
    "another pickle": Reduced(pickle.loads, pickle.dumps(Reduced(os.system, f"touch {MARK}"))),
    "torch.load": Reduced(torch.load, MARK),
    "a write": Reduced(Path.write_text, Path(MARK), "x"),
}


@pytest.fixture(autouse=True)
def _nothing_runs():
    Path(MARK).unlink(missing_ok=True)
    before = set(sys.modules)
    yield
    assert not Path(MARK).exists()
    assert "antigravity" not in set(sys.modules) - before


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", CALLS)
def test_what_would_run_is_a_stand_in(name, legacy, tmp_path):
    """In an entry of its own, within the state dict, and as the complete file."""
    good = OrderedDict({"layer1.0.conv1.weight": torch.ones(2, 2, 1, 1), "conv1.weight": torch.ones(3)})
    options = {"_use_new_zipfile_serialization": not legacy}
    path = tmp_path / "weights.pth"
    torch.save({"args": CALLS[name], "state_dict": good}, path, **options)
    assert torch.equal(read_weights(str(path), 50).load()["conv1.weight"], torch.ones(3))
    torch.save({"state_dict": good | {"x": CALLS[name]}}, path, **options)
    weights = read_weights(str(path), 50)
    assert weights.tensors.keys() == good.keys() and weights.notes == ("1 entries that are no tensors are ignored",)
    torch.save(CALLS[name], path, **options)
    refusal = r"^model\.pretrained='.*weights\.pth': it holds a whole pickled object"
    with pytest.raises(ValueError, match=refusal) as caught:
        read_weights(str(path), 50)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


class Touching(dict):
    """A class that runs code when it is made, filled and given its state."""

    def __setitem__(self, key, value):
        Path(MARK).touch()
        super().__setitem__(key, value)

    def __setstate__(self, state):
        Path(MARK).touch()


def test_no_class_is_filled_or_given_a_state():
    made = Touching()
    dict.__setitem__(made, "a", 1)
    made.attribute = 2
    for protocol in range(2, 6):
        read = read_pickle(io.BytesIO(pickle.dumps([made, "after"], protocol)))
        assert isinstance(read[0], Inert) and read[1] == "after" and read[0].name.endswith("Touching")


def save_pickle(path: Path, content: bytes, storages: dict[str, bytes] | None = None) -> Path:
    """A zip archive as torch.save writes it, of any pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", b"3\n")
        for key, value in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", value)
    return path


def tensor(key: str = "0", length: int = 4, offset: int = 0, shape: tuple = (4,), stride: tuple = (1,)) -> bytes:
    """A pickle of {"conv1.weight": such a tensor}, as its instructions."""

    def number(value: int) -> bytes:
        size = value.bit_length() // 8 + 1
        return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    sizes, steps = (b"(" + b"".join(map(number, values)) + b"t" for values in (shape, stride))
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(length) + b"tQ"
    arguments = b"(" + storage + number(offset) + sizes + steps + b"\x89}t"
    return b"\x80\x02}" + text("conv1.weight") + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


def test_the_instructions_of_these_tests_are_those_of_torch(tmp_path):
    path = save_pickle(tmp_path / "weights.pth", tensor(), {"0": struct.pack("<4f", 1, 2, 3, 4)})
    assert torch.equal(torch.load(path, weights_only=True)["conv1.weight"], torch.tensor([1.0, 2, 3, 4]))
    assert torch.equal(read_weights_file(path).load()["conv1.weight"], torch.tensor([1.0, 2, 3, 4]))


IMPOSSIBLE = {
    "a storage of 2^60 elements": tensor(length=2**60, shape=(2**60,)),
    "a view of 2^60 elements": tensor(shape=(2**60,)),
    "a view that repeats one element": tensor(shape=(2**20, 2**20), stride=(0, 0)),
    "a product that overflows": tensor(shape=(2**40, 2**40, 2**40), stride=(0, 0, 0)),
    "beyond the end": tensor(offset=1),
    "far apart": tensor(shape=(2,), stride=(2**61,)),
    "before the beginning": tensor(offset=-1),
    "a negative size": tensor(shape=(-4,)),
    "a storage that is not there": tensor(key="../../etc/passwd"),
    "more sizes than strides": tensor(shape=(2, 2)),
    "nine dimensions": tensor(shape=(1,) * 9, stride=(1,) * 9),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_tensor_that_cannot_be_is_refused(name, tmp_path):
    path = save_pickle(tmp_path / "weights.pth", IMPOSSIBLE[name], {"0": bytes(16)})
    with pytest.raises(WeightFileError) as caught:
        read_weights_file(path)
    assert "\n" not in str(caught.value)


LONG = struct.pack("<Q", 2**62)
PICKLES = {
    "text that claims 2^62 bytes": b"\x80\x04\x8d" + LONG,
    "bytes that claim 2^62 bytes": b"\x80\x04\x8e" + LONG,
    "a frame that claims 2^62 bytes": b"\x80\x04\x95" + LONG,
    "a number of 2^31 - 1 bytes": b"\x80\x02\x8b\xff\xff\xff\x7f",
    "a number of 100,000 digits": b"I" + b"9" * 100_000 + b"\n.",
    "a memo never written": b"\x80\x02j\xff\xff\xff\xff.",
    "nothing on the stack": b"\x80\x02R.",
    "no end": b"\x80\x02}",
    "an extension's code": b"\x80\x02\x82\x01.",
    "no pickle": b"\x80\x02\xff\xff.",
    "a mark that is missing": b"\x80\x02}t.",
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_damaged_pickle_is_refused(name, tmp_path):
    with pytest.raises(PickleError) as caught:
        read_pickle(io.BytesIO(PICKLES[name]))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    with pytest.raises(WeightFileError):
        open_weights(save_pickle(tmp_path / "weights.pth", PICKLES[name]))
    (tmp_path / "legacy.pth").write_bytes(PICKLES[name])
    with pytest.raises(WeightFileError):
        open_weights(tmp_path / "legacy.pth")


def test_a_memo_of_a_huge_number_takes_no_memory():
    """To C's unpickler the number is an index of an array."""
    assert read_pickle(io.BytesIO(b"\x80\x02}r\xff\xff\xff\x7f.")) == {}


def test_nesting_is_not_recursion():
    depth = 200_000
    read = read_pickle(io.BytesIO(b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."))
    for _ in range(depth - 1):
        [read] = read
    assert read == []
    itself = read_pickle(io.BytesIO(b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s."))  # {"model": itself}
    assert itself["model"] is itself


def test_a_mapping_that_holds_itself_is_no_state_dict(tmp_path):
    path = save_pickle(tmp_path / "weights.pth", b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.")
    with pytest.raises(WeightFileError, match="no state dict"):
        read_weights_file(path)


def test_shared_tuples_as_keys_are_not_hashed():
    """A tuple of two that are the same tuple of two and so on: hashing it takes 2^n steps."""
    doubled = b"\x80\x02}(" + b")" + b"2\x86" * 200 + b"K\x01u."
    assert read_pickle(io.BytesIO(doubled)) == {}


def test_such_tuples_are_not_written_out_either():
    doubled = b")" + b"2\x86" * 200
    for content in (
        b"\x80\x04" + doubled + doubled + b"\x93.",
        b"\x80\x02" + doubled + b")R.",
        b"\x80\x02(" + doubled * 2 + b"tQ.",
    ):
        with contextlib.suppress(PickleError):
            assert isinstance(read_pickle(io.BytesIO(content)), Inert)


def test_there_is_a_limit_of_instructions():
    with pytest.raises(PickleError, match="more than 1,000 instructions"):
        read_pickle(io.BytesIO(b"\x80\x02" + b"]" * 2000 + b"."), limit=1000)


def test_torch_save_of_everything_plain_is_read_as_it_was(tmp_path):
    values = {"a": [1, 2.5, True, None, "text", b"bytes", (1, (2,)), {"b": -(2**40)}], 7: torch.Size([2, 3])}
    torch.save(values, tmp_path / "plain.pth")
    read = open_weights(tmp_path / "plain.pth").root
    assert read["a"][:5] == values["a"][:5] and read["a"][6:] == values["a"][6:] and read[7] == (2, 3)
    simple = ["x", 1, {"y": (2.0, [3])}]
    for protocol in range(6):
        assert read_pickle(io.BytesIO(pickle.dumps(simple, protocol))) == simple


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_every_type_and_view_of_tensors_is_read_exactly(legacy, tmp_path):
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = {
        "transposed": base.T,
        "part": base[1:3, 2:5],
        "parameter": torch.nn.Parameter(base + 1),
        "channels last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "number": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    }
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool):
        state[str(dtype)] = base.to(dtype)
    torch.save(state, tmp_path / "weights.pth", _use_new_zipfile_serialization=not legacy)
    read = read_weights_file(tmp_path / "weights.pth").load()
    assert read.keys() == state.keys()
    for name, value in state.items():
        assert read[name].dtype == value.dtype and torch.equal(read[name], value.detach()), name


def test_an_archive_that_claims_more_than_it_has_is_refused(tmp_path):
    state = {"conv1.weight": torch.ones(1000)}
    torch.save(state, tmp_path / "weights.pth")
    content = bytearray((tmp_path / "weights.pth").read_bytes())
    place = content.rindex(b"PK\x01\x02", 0, content.rindex(b"data/0"))
    content[place + 20 : place + 28] = struct.pack("<II", 2**31 - 1, 2**31 - 1)
    (tmp_path / "large.pth").write_bytes(content)
    with pytest.raises(WeightFileError, match="more bytes than the file has"):
        read_weights_file(tmp_path / "large.pth")
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"]" * 10_000_000 + b".")
    with pytest.raises(WeightFileError, match="compressed"):
        read_weights_file(tmp_path / "bomb.pth")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_damaged_files_are_refused_in_one_line(legacy, tmp_path):
    """Cut anywhere, or with a byte changed anywhere in the first part: refused, or read; never another error."""
    saved = {"state_dict": {"conv1.weight": torch.ones(64)}}
    torch.save(saved, tmp_path / "x", _use_new_zipfile_serialization=not legacy)
    content = (tmp_path / "x").read_bytes()
    changed = [content[:length] for length in range(0, len(content), 13)]
    for place in range(0, min(len(content), 600)):
        changed.append(content[:place] + bytes([content[place] ^ 0x15]) + content[place + 1 :])
    messages = []
    for damaged in changed:
        (tmp_path / "damaged.pth").write_bytes(damaged)
        try:
            read_weights_file(tmp_path / "damaged.pth").load()
        except WeightFileError as error:
            messages.append(str(error))
    assert len(messages) > len(changed) / 3
    assert all(message.isprintable() and len(message) < 300 for message in messages)


def test_names_of_a_file_cannot_write_to_the_terminal(tmp_path):
    state = {"layer1.0.conv1.weight": torch.ones(1), "\x1b[2Jnew\nline": torch.ones(1), "x" * 300: torch.ones(1)}
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="unknown keys") as caught:
        build_model(ModelConfig("tsn", 18, 5, 2, pretrained=str(tmp_path / "weights.pth")))
    message = str(caught.value)
    assert message.isprintable() and "x" * 100 not in message


def test_a_name_is_never_imported():
    read = read_pickle(io.BytesIO(b"\x80\x04\x8c\x0bantigravity\x8c\x03fly\x93."))
    assert read == Name("antigravity", "fly")
    assert isinstance(read_pickle(io.BytesIO(tensor().replace(b"Q", b"Q", 1)))["conv1.weight"], TensorRef)
