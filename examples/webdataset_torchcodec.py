"""Packed shards without this project: read with webdataset, decoded with torchcodec, or without it with PyAV.

    python examples/webdataset_torchcodec.py shards/train --frames 4

    decoded with torchcodec
    even-video04_8: label 0 (even), frames [0, 2, 5, 7] of 8, (4, 3, 64, 96)
    odd-video09_25: label 1 (odd), frames [0, 8, 16, 24] of 25, (4, 3, 64, 96)
    ...

Under the profile h264 every frame is a keyframe, so that asking for a few of them is cheap. torchcodec: pip install
'vpsn[benchmark]'; it also needs the libraries of FFmpeg 4 to 8.
"""

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import torch
import webdataset

try:
    from torchcodec.decoders import VideoDecoder
except (ImportError, RuntimeError, OSError):  # not installed, or no FFmpeg that it knows
    VideoDecoder = None


def decode(media: bytes, numbers: list[int]) -> torch.Tensor:
    """Return the frames of these numbers, ascending, of a video: (T, 3, H, W) uint8."""
    if VideoDecoder is not None:
        return VideoDecoder(media, seek_mode="approximate").get_frames_at(numbers).data
    with av.open(io.BytesIO(media)) as container:
        frames = [frame.to_ndarray(format="rgb24") for n, frame in enumerate(container.decode(video=0)) if n in numbers]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def read(shards: Path, num_frames: int) -> Iterator[tuple[dict, list[int], torch.Tensor]]:
    """Yield what is known of each sample, the numbers of its frames that were taken, and these frames."""
    for sample in webdataset.WebDataset([str(path) for path in sorted(shards.glob("*.tar"))], shardshuffle=False):
        about = json.loads(sample["json"])  # key, label, label_name, num_frames, fps, width, height, …
        last = about["num_frames"] - 1
        numbers = sorted({round(number) for number in np.linspace(0, last, num_frames)})
        media = next(value for name, value in sample.items() if name[0] != "_" and name not in ("json", "cls"))
        yield about, numbers, decode(media, numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description="Read packed shards with webdataset.")
    parser.add_argument("shards", type=Path, help="folder of a split packed as h264, dense or copy")
    parser.add_argument("--frames", type=int, default=8, help="frames taken of each video, evenly spaced")
    options = parser.parse_args()
    print(f"decoded with {'PyAV' if VideoDecoder is None else 'torchcodec'}")
    for about, numbers, clip in read(options.shards, options.frames):
        what = f"label {about['label']} ({about['label_name']})"
        print(f"{about['key']}: {what}, frames {numbers} of {about['num_frames']}, {tuple(clip.shape)}")


if __name__ == "__main__":
    main()
