"""Packed shards in DALI's own reader of WebDataset files: of each video the middle frame, scaled, in batches.

    python examples/dali_reader.py shards_jpeg/train --batch-size 4

    labels [0, 0, 1, 1], frames (4, 224, 224, 3)
    labels [0, 1, 0, 0], frames (4, 224, 224, 3)
    labels [0, 1, 1, 0], frames (4, 224, 224, 3)
    labels [1], frames (1, 224, 224, 3)

Under the profile jpeg a sample is KEY.jpgs, all its frames in a row; KEY.offsets, int32, where each of them begins, and
the end; KEY.cls, the label in digits. The indices next to the shards (.idx) spare DALI a first pass over them. Shards
of the profile h264 can be read in the same way, but DALI decodes H.264 on a GPU only.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from nvidia.dali import fn, pipeline_def, types


@pipeline_def(num_threads=2, device_id=None)
def middle_frames(shards: list[Path], size: int):
    """Return the middle frames (size, size, 3) uint8, and the bytes of the labels."""
    jpegs, offsets, label = fn.readers.webdataset(
        paths=[str(path) for path in shards],
        index_paths=[str(path.with_suffix(".idx")) for path in shards],
        ext=["jpgs", "offsets", "cls"],
        missing_component_behavior="error",
        name="shards",
    )
    offsets = fn.reinterpret(offsets, dtype=types.INT32)
    middle = (offsets.shape()[0] - 1) // 2
    jpeg = jpegs[offsets[middle] : offsets[middle + 1]]
    return fn.resize(fn.decoders.image(jpeg), size=[size, size]), label


def read(shards: Path, batch_size: int, size: int) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield labels and frames (N, size, size, 3) uint8, each sample once; the last batch may be smaller."""
    pipeline = middle_frames(sorted(shards.glob("*.tar")), size, batch_size=batch_size)
    pipeline.build()
    remaining = pipeline.epoch_size("shards")
    while remaining > 0:  # the reader itself begins again and fills the last batch
        frames, labels = pipeline.run()
        count = min(remaining, batch_size)
        yield [int(bytes(labels.at(n))) for n in range(count)], frames.as_array()[:count]
        remaining -= count


def main() -> None:
    parser = argparse.ArgumentParser(description="Read packed shards with DALI's reader.")
    parser.add_argument("shards", type=Path, help="folder of a split packed with --profile jpeg")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="side in pixels to which frames are scaled")
    options = parser.parse_args()
    for labels, frames in read(options.shards, options.batch_size, options.size):
        print(f"labels {labels}, frames {frames.shape}")


if __name__ == "__main__":
    main()
