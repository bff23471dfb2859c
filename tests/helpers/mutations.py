"""Valid files made wrong in the ways of an attacker or a broken disk, from one source of chance."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31 - 1, 2**31, 2**63, 10**30, 0.5, float("nan"), float("inf")),
    *("", "../x", "/etc/passwd", "a\nb", "\ud800", "\0", "x" * 5000, "99999999999", "*a", "!!int x", "zz"),
    *([], {}, [[]], {"a": 1}, [1, 2], ["a", "b", "c"], {"key": []}),
)


def mutate_values(chance: random.Random, values: Any) -> Any:
    """Return plain values with one to three places changed, taken out, doubled, or put one level deeper."""
    root = [copy.deepcopy(values)]
    for _ in range(chance.randint(1, 3)):
        container, place = chance.choice(list(_places(root)))
        kind = chance.randrange(6)
        if kind == 0 and container is not root:
            del container[place]
        elif kind == 1:
            container[place] = [container[place]]
        elif kind == 2 and isinstance(container, list) and container is not root:
            container.append(copy.deepcopy(container[place]))
        elif kind == 3 and isinstance(container, dict):
            container[chance.choice(["a", "", "key", place + "x"])] = container.pop(place)
        else:
            container[place] = copy.deepcopy(chance.choice(VALUES))
    return root[0]


def _places(container: Any):
    for place in list(range(len(container))) if isinstance(container, list) else list(container):
        yield container, place
        if isinstance(container[place], (list, dict)):
            yield from _places(container[place])


def mutate_bytes(chance: random.Random, data: bytes) -> bytes:
    """Return bytes with some changed, cut off, put in, or repeated; rarely others altogether."""
    data = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place, length = chance.randrange(len(data) + 1), chance.choice([1, 1, 2, 8, 100])
        kind = chance.randrange(6)
        if kind == 0:
            data[place : place + length] = chance.randbytes(length)
        elif kind == 1:
            del data[place:]
        elif kind == 2:
            data[place:place] = chance.choice(
                [b"[" * 3000, b'{"a":' * 3000, b"\0", b"\xff", b"\n", b"9" * 5000, b"\r", b'"']
            )
        elif kind == 3:
            data[place:place] = data[: 10 * length]
        elif kind == 4:
            del data[place : place + length]
        else:
            data[place : place + 1] = bytes([chance.randrange(256)])
    return bytes(data)


def mutate_json(chance: random.Random, text: bytes) -> bytes:
    """Return JSON of other values, or text that may be none."""
    if chance.random() < 0.25:
        return mutate_bytes(chance, text)
    return json.dumps(mutate_values(chance, json.loads(text))).encode()


def mutate_lines(chance: random.Random, text: bytes) -> bytes:
    """Return lines with fields of other values, of other lines, or no text."""
    if chance.random() < 0.3:
        return mutate_bytes(chance, text)
    lines = text.decode().split("\n")
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(lines))
        words = lines[place].split(chance.choice([" ", ",", ";", ":", "\t"]))
        words[chance.randrange(len(words))] = str(chance.choice([*VALUES, *words]))
        lines[place] = chance.choice([" ", ",", ";", ": ", "\t"]).join(words)
    return "\n".join(lines).encode(errors="surrogatepass")


def mutate_table(chance: random.Random, path: Path) -> None:
    """Give a Parquet file other numbers, kinds of columns, names or rows, or damage it."""
    if chance.random() < 0.2:
        path.write_bytes(mutate_bytes(chance, path.read_bytes()))
        return
    table = pq.read_table(path)
    for _ in range(chance.randint(1, 3)):
        name = chance.choice(table.column_names)
        place, kind = table.column_names.index(name), chance.randrange(8)
        if kind == 0 and table.num_columns > 1:
            table = table.drop_columns([name])
        elif kind == 1:
            table = table.rename_columns([old + "x" if old == name else old for old in table.column_names])
        elif kind == 2:
            table = pa.concat_tables([table, table.slice(0, chance.randrange(3))])
        else:
            table = table.set_column(place, name, _other_column(chance, table.column(name), kind))
    pq.write_table(table, path)


def _other_column(chance: random.Random, column: pa.ChunkedArray, kind: int) -> pa.Array:
    values = column.to_pylist()
    if kind == 3:
        return pa.array([str(value) for value in values], pa.string())
    if kind == 4:
        return pa.array([float(len(str(value))) for value in values], pa.float64())
    for _ in range(chance.randint(1, 3)):
        if values:
            values[chance.randrange(len(values))] = _other_cell(chance, column.type)
    return pa.array(values, column.type)


def _other_cell(chance: random.Random, kind: pa.DataType) -> Any:
    if kind == pa.string():
        return chance.choice([None, "", "../x", "a.b", "a\nb", "jpgs", "mp4", "x" * 3000])
    if pa.types.is_list(kind):
        return chance.choice([None, [], [0, 0], [1, 0], [-1], [None], [0, 1, 2], [10**6], list(range(100))])
    if pa.types.is_floating(kind):
        return chance.choice([None, 0.0, -1.0, float("nan"), float("inf"), 1e300])
    largest = 2 ** (kind.bit_width - 1) - 1
    return chance.choice([None, 0, 1, -1, 512, 4096, -largest - 1, largest, largest // 2, 10**6])


def mutate_array(chance: random.Random, path: Path) -> None:
    """Give a .npy file other numbers, another kind or shape, or damage it."""
    kind = chance.randrange(5)
    if kind == 0:
        path.write_bytes(mutate_bytes(chance, path.read_bytes()))
        return
    array = np.load(path)
    if kind == 1:
        array = chance.choice([array.astype("i8"), array.astype("f4"), array[None], array[:-1], array.astype("S4")])
    for _ in range(chance.randint(1, 5)):
        if kind > 1:
            array[chance.randrange(len(array))] = chance.choice([0, -1, -2, 1, 2**31 - 1, -(2**31), 4000])
    np.save(path, array)
