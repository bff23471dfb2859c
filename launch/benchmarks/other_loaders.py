"""Loading as it is usually written: video files, or frames extracted from them, and torchvision's transforms.

These are what the packed shards are compared with: the same videos, frames per clip, scaling, crop, normalisation,
batch size and number of threads. decord, torchcodec: pip install 'vpsn[benchmark]'.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as transforms

from pipeline.config import DataConfig
from pipeline.sampling import random_frames
from sharding.errors import UserError

FRAME_NAME, JPEG_QUALITY = "img_{:05d}.jpg", 85  # the quality of the jpeg profile
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

Reader = Callable[[Path, int], torch.Tensor]
"""(S, 3, H, W) uint8 frames, one of each of so many segments of a file."""


def _choose(num_frames: int, num_segments: int) -> list[int]:
    return random_frames(num_frames, np.random.default_rng().random(num_segments)).tolist()


def read_with_decord(path: Path, num_segments: int) -> torch.Tensor:
    import decord  # pyright: ignore[reportMissingImports]  # of the extra `benchmark`

    reader = decord.VideoReader(str(path), num_threads=1)
    frames = reader.get_batch(_choose(len(reader), num_segments)).asnumpy()
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def read_with_torchcodec(path: Path, num_segments: int) -> torch.Tensor:
    from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports, reportPrivateImportUsage]

    decoder = VideoDecoder(str(path), num_ffmpeg_threads=1, seek_mode="approximate")
    return decoder.get_frames_at(_choose(len(decoder), num_segments)).data


def read_with_pyav(path: Path, num_segments: int) -> torch.Tensor:
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        chosen = _choose(stream.frames or 1, num_segments)
        frames = {}
        for number, frame in enumerate(container.decode(stream)):
            if number in chosen:
                frames[number] = frame.to_ndarray(format="rgb24")
            if number >= chosen[-1]:
                break
    clip = np.stack([frames[min(number, max(frames))] for number in chosen])
    return torch.from_numpy(clip).permute(0, 3, 1, 2)


def read_frames(path: Path, num_segments: int) -> torch.Tensor:
    """Return frames of a folder that `extract_frames` wrote."""
    chosen = _choose(sum(1 for _ in path.iterdir()), num_segments)
    files = {number: str(path / FRAME_NAME.format(number)) for number in set(chosen)}
    frames = {number: decode_image(file, mode=ImageReadMode.RGB) for number, file in files.items()}
    return torch.stack([frames[number] for number in chosen])


READERS: dict[str, Reader] = {
    "decord": read_with_decord,
    "torchcodec": read_with_torchcodec,
    "pyav": read_with_pyav,
    "frames": read_frames,
}


def extract_frames(video: Path, folder: Path, short_side: int) -> Path:
    """Write every frame as a JPEG of that short side, but never enlarged, as scripts extract them before training."""
    import av

    folder.mkdir(parents=True)
    with av.open(str(video)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            scale = min(1.0, short_side / min(frame.width, frame.height))
            picture = frame.to_image(width=round(scale * frame.width), height=round(scale * frame.height))
            picture.save(folder / FRAME_NAME.format(number), quality=JPEG_QUALITY)
    return folder


def prepare(name: str, videos: Sequence[Path], scratch: Path, short_side: int) -> list[Path]:
    """Return what a reader reads of each video: the file, or for `frames` a folder below `scratch`, written here.

    Raises:
        UserError: the library is unknown, not installed, or cannot read the first file.
    """
    if name not in READERS:
        raise UserError(f"--compare-with {name}: known are {', '.join(READERS)}")
    try:
        paths = list(videos)
        if name == "frames":
            paths = [extract_frames(path, scratch / str(number), short_side) for number, path in enumerate(videos)]
        READERS[name](paths[0], 1)
    except ImportError as error:
        raise UserError(f"--compare-with {name}: {error}; pip install 'vpsn[benchmark]'") from error
    except Exception as error:
        raise UserError(f"--compare-with {name}: {videos[0]}: {error}") from error
    return paths


def stored_bytes(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def measure_other_loader(
    name: str, videos: list[Path], config: DataConfig, batch_size: int, threads: int, seconds: float
) -> float:
    """Measure clips per second of normalised float32 batches (B, S, 3, crop, crop)."""
    read = READERS[name]
    generator = np.random.default_rng(0)

    def load(path: Path) -> torch.Tensor:
        frames = transforms.resize(read(path, config.frames_per_clip), [config.short_side], antialias=True)
        margin = np.array(frames.shape[-2:]) - config.crop_size
        top, left = (int(generator.integers(0, most + 1)) for most in margin)
        frames = transforms.crop(frames, top, left, config.crop_size, config.crop_size)
        if generator.random() < 0.5:
            frames = transforms.horizontal_flip(frames)
        return transforms.normalize(transforms.to_dtype(frames, torch.float32, scale=True), _MEAN, _STD)

    order = itertools.cycle(generator.permutation(len(videos)).tolist())
    paths = (videos[number] for number in order)
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers of a DataLoader have
    try:
        with ThreadPoolExecutor(threads) as pool:
            began, clips, pending = time.perf_counter(), 0, []
            while (elapsed := time.perf_counter() - began) < seconds or not clips:
                while len(pending) < 4 * batch_size:  # read ahead, as ours does
                    pending.append(pool.submit(load, next(paths)))
                batch, pending = pending[:batch_size], pending[batch_size:]
                clips += len(torch.stack([future.result() for future in batch]))
            for future in pending:
                future.cancel()
        return clips / elapsed
    finally:
        torch.set_num_threads(torch_threads)
