"""A worker process: takes names of samples from a socket, and leaves what the graph wants of them in shared memory.

It is started by pipeline.workers, as a program, so that the user's main module is not imported again. It imports
neither torch nor DALI, and ends when its parent's end of the socket is closed, however that came about.

A task is (slot, generation, epoch, first position, sample ids), as int64; with it come open files of the samples'
shards if the parent opens them (remote datasets). The reply is the same head, the number of samples done, and, if that
is fewer than asked for, what was wrong with the next one.
"""

import contextlib
import json
import mmap
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.buffers import BatchLayout
from pipeline.clip_reader import ClipReader
from pipeline.config import DataConfig
from sharding.dataset import PackedDataset
from sharding.errors import MediaError
from sharding.label_sets import LabelSets
from sharding.manifest import load_manifest

HEAD = 4
"""Numbers before the sample ids of a task, and in a reply: slot, generation, epoch, first position."""
_MAX_FILES = 253
"""Open files that Linux passes with one message."""
MAX_MESSAGE_BYTES = 1 << 16
COLUMNS = (
    *("labels", "num_frames", "widths", "heights", "shards", "media_offsets", "media_bytes"),
    *("index_offsets", "index_bytes", "frame_starts"),
)
"""Of the table, what workers need."""


def main() -> None:
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP"):  # meant for the parent, sent to the group
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    setup = json.loads(sys.stdin.buffer.readline())
    tasks = socket.socket(fileno=setup["socket"])
    layout = BatchLayout(**setup["layout"])
    memory = mmap.mmap(setup["memory"], 0)
    slots = [layout.views(memory, number * setup["slot_bytes"]) for number in range(setup["num_slots"])]
    status = np.ndarray(1, "i8", mmap.mmap(setup["status"], 0), 8 * setup["worker"])
    dataset = open_columns(setup)
    config = DataConfig(**setup["config"])
    reader = ClipReader(dataset, config, setup["decoder"], setup["training"], setup["seed"])
    while message := _receive(tasks):
        numbers, files = message
        reply = _work(reader, numbers, files, slots, status)
        with contextlib.suppress(BrokenPipeError):
            tasks.send(reply)


def share_columns(dataset: PackedDataset) -> tuple[int, list[tuple[str, str, int, int]]]:
    """Put the columns that workers need into memory that they can map.

    Return its file, and of each column (name, dtype, number of rows, offset).
    """
    columns = {name: values for name in COLUMNS if (values := getattr(dataset, name)) is not None}
    if (sets := dataset.label_sets) is not None:
        columns |= {"label_ids": sets.ids, "label_starts": sets.starts}
    file, offset, described = os.memfd_create("vpsn-table"), 0, []
    for name, values in columns.items():
        data = np.ascontiguousarray(values)
        described.append((name, data.dtype.str, len(data), offset))
        os.ftruncate(file, offset + -(-data.nbytes // 64) * 64)
        os.pwrite(file, data.tobytes(), offset)
        offset += -(-data.nbytes // 64) * 64
    if not offset:
        os.ftruncate(file, 64)
    return file, described


def open_columns(setup: dict) -> PackedDataset:
    """Return the dataset whose columns `share_columns` described, without what workers do not need."""
    table = mmap.mmap(setup["table"], 0, access=mmap.ACCESS_READ)
    columns: dict[str, Any] = {
        name: np.ndarray(rows, kind, table, offset) for name, kind, rows, offset in setup["columns"]
    }
    directory = Path(setup["directory"])
    manifest = load_manifest(directory)
    sets = None
    if manifest.multi_label:
        sets = LabelSets(columns.pop("label_ids"), columns.pop("label_starts"), len(manifest.classes))
    return PackedDataset(
        directory=directory,
        manifest=manifest,
        label_sets=sets,
        fps=np.empty(0),
        frame_starts=columns.pop("frame_starts", None),
        **columns,
    )


def _receive(tasks: socket.socket) -> tuple[np.ndarray, list[int]] | None:
    """Return the next task and the open files that came with it; None when there will be none."""
    try:
        data, files, _, _ = socket.recv_fds(tasks, MAX_MESSAGE_BYTES, _MAX_FILES)
    except ConnectionError:
        return None
    return (np.frombuffer(data, "i8"), files) if data else None


def _work(
    reader: ClipReader, numbers: np.ndarray, files: list[int], slots: list[dict[str, np.ndarray]], status: np.ndarray
) -> bytes:
    slot, _, epoch, first = numbers[:HEAD].tolist()
    count, words = 0, b""
    for number, sample_id in enumerate(numbers[HEAD:].tolist()):
        status[0] = sample_id + 1
        try:
            reader.read(sample_id, epoch, slots[slot], first + number, files[number] if files else None)
        except (OSError, MediaError) as error:
            words = str(error).encode()[: MAX_MESSAGE_BYTES // 2]
            break
        except Exception as error:  # a fault of ours, but it must not look like a worker that died
            words = f"{type(error).__name__}: {error}".encode()[: MAX_MESSAGE_BYTES // 2]
            break
        count += 1
    status[0] = 0
    for file in files:
        os.close(file)
    return np.array([*numbers[:HEAD], count], "i8").tobytes() + words


if __name__ == "__main__":
    main()
