"""The table of packed shards as a Hugging Face dataset: rows to filter and map, and each video where it lies.

    pip install datasets
    python examples/hugging_face.py shards/train --frames 4

On 13 videos of 1 to 40 frames:

    13 rows; 5 of them have 20 frames or more
    even-video12_40: label 0, frames [0, 13, 26, 39] of 40, (4, 64, 96, 3)
    ...

A row says which bytes of which shard are its video, so that nothing is unpacked or copied.
"""

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from datasets import Dataset


def read_table(split: Path) -> Dataset:
    """Return the table of a split, with the path of each row's shard."""
    shards = [shard["name"] for shard in json.loads((split / "manifest.json").read_text())["shards"]]
    table = Dataset.from_parquet(str(split / "samples.parquet"), keep_in_memory=True)
    return table.add_column("path", [str(split / shards[number]) for number in table["shard"]])


def read_frames(row: dict[str, Any], numbers: list[int]) -> np.ndarray:
    """Return frames of these numbers, ascending, of a row's video: (T, H, W, 3) uint8."""
    with Path(row["path"]).open("rb") as shard:
        shard.seek(row["media_offset"])
        media = io.BytesIO(shard.read(row["media_bytes"]))
    with av.open(media) as container:
        frames = enumerate(container.decode(video=0))
        return np.stack([frame.to_ndarray(format="rgb24") for n, frame in frames if n in numbers])


def clips(table: Dataset, num_frames: int) -> Iterator[tuple[dict[str, Any], list[int], np.ndarray]]:
    """Yield each row, the numbers of its frames that were taken, and these frames."""
    for row in table:
        numbers = sorted({round(number) for number in np.linspace(0, row["num_frames"] - 1, num_frames)})
        yield row, numbers, read_frames(row, numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description="Read the table of packed shards with Hugging Face datasets.")
    parser.add_argument("split", type=Path, help="folder of a split packed as h264, dense or copy, or indexed")
    parser.add_argument("--frames", type=int, default=8, help="frames taken of each video, evenly spaced")
    parser.add_argument("--min-frames", type=int, default=20, help="videos with fewer are left out")
    options = parser.parse_args()
    table = read_table(options.split)
    long = table.filter(lambda row: row["num_frames"] >= options.min_frames)
    print(f"{len(table)} rows; {len(long)} of them have {options.min_frames} frames or more")
    for row, numbers, frames in clips(long, options.frames):
        print(f"{row['key']}: label {row['label']}, frames {numbers} of {row['num_frames']}, {frames.shape}")


if __name__ == "__main__":
    main()
