"""Writes frames.npy: where each frame of each sample is in its media, for readers that want some frames only."""

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow.parquet as pq
from tqdm import tqdm

from sharding.dataset import PackedDataset, load_dataset
from sharding.errors import MediaError, UserError
from sharding.files import file_sha256, replacing, write_atomically
from sharding.manifest import FRAMES, KEYFRAME_INTERVALS, MANIFEST, TABLE
from sharding.video.frame_packets import index_packets

_AGAIN = "pack this split again"


@dataclass
class FrameIndexWriter:
    """Appends samples to frames.npy in the order of the table."""

    file: BinaryIO
    codec_parameters: dict[str, int] = field(default_factory=dict)
    """The parameter sets met so far, in hexadecimal, and their numbers."""
    sha256: str = ""
    """Of the complete file."""
    _count: int = 0

    def add(self, num_frames: int, offsets: np.ndarray | list[int] | None, parameters: str) -> None:
        """Append a sample; without `offsets` it has no index."""
        row = np.full(num_frames + 2, -1, "<i4")
        if offsets is not None:
            row[0] = self.codec_parameters.setdefault(parameters, len(self.codec_parameters))
            row[1:] = offsets
        self.file.write(row.tobytes())
        self._count += len(row)


@contextmanager
def write_frame_index(directory: Path, work: Path | None = None) -> Iterator[FrameIndexWriter]:
    """Write frames.npy of a split; it appears complete, when all went well.

    Args:
        directory: folder of the split.
        work: where it is until then, such as the folder of parts, with which goes what a killed process leaves.
    """
    written = (work or directory) / FRAMES
    with replacing(written) as temporary:
        with temporary.open("r+b") as file:
            writer = FrameIndexWriter(file)
            file.write(_header(0))
            yield writer
            file.seek(0)
            file.write(_header(writer._count))  # NumPy's header has space for any count
        writer.sha256 = file_sha256(temporary)
    written.replace(directory / FRAMES)


def index_of_row(
    directory: Path, row: Mapping[str, Any], shard_name: str, profile: str
) -> tuple[list[int] | None, str]:
    """Return the frame offsets of a sample and its codec's parameters, read from its shard; (None, "") if it has none.

    Raises:
        MediaError: its media are not as its profile writes them, or the row has another number of frames.
    """
    with (directory / shard_name).open("rb") as file:
        if row["index_bytes"]:
            if row["index_bytes"] != 4 * (row["num_frames"] + 1):  # before memory is taken for it
                raise MediaError("decode", f"an index of {row['index_bytes']} bytes for {row['num_frames']} frames")
            data = os.pread(file.fileno(), row["index_bytes"], row["index_offset"])
            return np.frombuffer(data, "<i4").tolist(), ""
        if profile not in KEYFRAME_INTERVALS or row["suffix"] != "mp4":
            return None, ""
        media = os.pread(file.fileno(), row["media_bytes"], row["media_offset"])
    offsets, parameters = index_packets(media, KEYFRAME_INTERVALS[profile])
    if len(offsets) != row["num_frames"] + 1:
        raise MediaError("decode", f"{len(offsets) - 1} frames in it, and {row['num_frames']} in the table")
    return offsets.tolist(), parameters.hex()


def add_frame_index(directory: Path) -> bool:
    """Give a split of format 1 its index of frames; no shard is read beyond its headers, or changed.

    Return whether there was anything to do.

    Raises:
        UserError: the split cannot be opened, or a sample is damaged, or not where the table says.
    """
    dataset = load_dataset(directory)
    manifest = dataset.manifest
    if manifest.frames_sha256:
        return False
    for name in ("key", "suffix"):
        dataset.column(name)  # else no sample could be found
    _check_ranges(dataset)
    names = [shard.name for shard in manifest.shards]
    table = pq.ParquetFile(directory / TABLE)
    try:
        with write_frame_index(directory) as writer, tqdm(total=len(dataset), unit=" samples", disable=None) as bar:
            for batch in table.iter_batches(batch_size=4096):
                for row in batch.to_pylist():
                    writer.add(row["num_frames"], *_found(directory, row, names[row["shard"]], manifest.profile))
                    bar.update()
    except OSError as error:
        raise UserError(f"{directory / FRAMES}: cannot be written: {error.strerror}") from error
    changed = replace(manifest, format_version=2, **manifest_values(writer))
    write_atomically(directory / MANIFEST, changed.to_json())
    return True


def _check_ranges(dataset: PackedDataset) -> None:
    """Check what sizes memory or the index. Raises UserError."""
    path = dataset.directory / TABLE
    sizes = np.array([shard.bytes for shard in dataset.manifest.shards], np.int64)[dataset.shards]
    outside = np.zeros(len(dataset), bool)
    for offsets, num_bytes in (
        (dataset.media_offsets, dataset.media_bytes),
        (dataset.index_offsets, dataset.index_bytes),
    ):
        outside |= (offsets < 0) | (num_bytes < 0) | (num_bytes > sizes) | (offsets > sizes - num_bytes)
    for row in np.flatnonzero(outside)[:1]:
        raise UserError(f"{path}, sample {dataset.key(row)}: its bytes lie outside its shard; {_AGAIN}")
    for row in np.flatnonzero(dataset.num_frames > dataset.media_bytes)[:1]:
        raise UserError(f"{path}, sample {dataset.key(row)}: more frames than its media have bytes; {_AGAIN}")


def _found(directory: Path, row: Mapping[str, Any], shard_name: str, profile: str) -> tuple[list[int] | None, str]:
    """Return what `index_of_row` does. Raises UserError where that raises MediaError."""
    try:
        return index_of_row(directory, row, shard_name, profile)
    except MediaError as error:
        raise UserError(
            f"{directory / shard_name}, sample {row['key']}: damaged ({error.message}); copy it here again, or {_AGAIN}"
        ) from error


def manifest_values(writer: FrameIndexWriter) -> dict[str, Any]:
    """Return the fields of the manifest that say what is in frames.npy."""
    return {"frames_sha256": writer.sha256, "codec_parameters": tuple(writer.codec_parameters)}


def _header(count: int) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<i4", "fortran_order": False, "shape": (count,)})
    return buffer.getvalue()
